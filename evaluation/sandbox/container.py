"""One program in one fresh container of Docker or Podman, for systems whose kernel gives no sandbox of ours.

Run: through run_program(..., container=IMAGE); the image needs nothing but `python`, and is never fetched from here.
Not here: trust in an image, speed (a container for each program), limits that the container's daemon does not keep.
"""

import functools
import json
import os
import secrets
import select
import shutil
import subprocess
import time
from pathlib import Path

from yxanul.evaluation.sandbox.verdict import MOST_BYTES, SandboxUnavailable, Verdict, judge

TOOLS = ("docker", "podman")
START_SECONDS = 60.0
ISOLATION = (
    "--rm --interactive --pull never --network none --ipc none --read-only --cap-drop ALL --log-driver none "
    "--security-opt no-new-privileges --user 65534:65534 --workdir / --memory 512m --memory-swap 512m "
    "--pids-limit 64 --ulimit core=0 --ulimit fsize=0 --ulimit nofile=64 --env PYTHONHASHSEED=0 --entrypoint python"
)


def level(image: str) -> str:
    return f"a container of {Path(_tool(image)).name} ({image}): no network, no capabilities, read-only, limits"


def run_program(program: str, timeout: float, image: str) -> Verdict:
    tool, nonce, name = _tool(image), secrets.token_hex(16), f"yxanul-{secrets.token_hex(8)}"
    inside = Path(__file__).with_name("candidate.py").read_text()
    with subprocess.Popen(
        [tool, "run", "--name", name, *ISOLATION.split(), image, "-I", "-S", "-B", "-c", inside],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps({"program": program, "nonce": nonce}).encode())
            process.stdin.close()
        except BrokenPipeError:
            pass  # its exit code tells
        try:
            answers, late = _read(process.stdout.fileno(), timeout)
        except SandboxUnavailable:
            _remove(tool, name)
            process.kill()
            raise
        if late or len(answers) >= MOST_BYTES:  # to end the client would leave the container alone
            _remove(tool, name)
        process.stdout.close()
        code = process.wait()
    return judge(answers, nonce, late, 128 - code if code > 128 else code)  # as a shell tells of signals


def _remove(tool: str, name: str) -> None:
    subprocess.run([tool, "rm", "--force", name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _read(descriptor: int, timeout: float) -> tuple[bytes, bool]:
    """What was written, and whether time ran out; the program's time begins with the first line."""
    answers, deadline = b"", time.monotonic() + START_SECONDS
    while len(answers) < MOST_BYTES:
        if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            if b"\n" not in answers:
                raise SandboxUnavailable(f"no container began in {START_SECONDS:.0f} s.")
            return answers, True
        chunk = os.read(descriptor, MOST_BYTES)
        if not chunk:
            break
        if b"\n" in chunk and b"\n" not in answers:
            deadline = time.monotonic() + timeout
        answers += chunk
    return answers, False


@functools.cache
def _tool(image: str) -> str:
    """The first of the tools that has the image."""
    tools = [path for path in map(shutil.which, TOOLS) if path]
    for tool in tools:
        if subprocess.run([tool, "image", "inspect", image], capture_output=True).returncode == 0:
            return tool
    if not tools:
        raise SandboxUnavailable("--sandbox container needs Docker or Podman, found neither.")
    name = Path(tools[0]).name
    raise SandboxUnavailable(f"{name} is not running or has no image {image}; try `{name} pull {image}`.")
