"""Where generated code runs, or is refused: no file, no network, no other process; Linux on x86-64 and aarch64.

    level()                              # what this kernel gives; SandboxUnavailable where that is too little
    run_program("assert 1 + 1 == 2")     # Verdict(passed=True, reason="passed")
    run_program(program, timeout=10.0, container="python:3.12-slim")      # in Docker or Podman instead

A program has passed when its end was reached: then a random word is written that it cannot guess. It sees the standard
library alone. From several threads, programs run at the same time. docs/evaluation-sandbox.md lists what was tried.
Not here: a defence against a program that forges its own pass inside its own process; it harms its score alone.
"""

import json
import os
import platform
import secrets
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from yxanul.evaluation.sandbox import container as containers
from yxanul.evaluation.sandbox.verdict import INSTEAD, MOST_BYTES, SandboxUnavailable, Verdict, judge

__all__ = ["SandboxUnavailable", "Verdict", "level", "run_program"]

FLAGS = ("-P", "-s", "-S", "-B")
ENVIRONMENT = {"LANG": "C.UTF-8", "PYTHONHASHSEED": "0"}  # no token of the user's; sets have one order
TIMEOUT = 3.0  # seconds of wall time, as in `code_eval`
# Without one of the layers, one of these would do what it must not
PROBE = """
import os, socket

def blocked(attack, *arguments):
    try:
        attack(*arguments)
    except PermissionError:
        return True

assert blocked(os.listdir, "/")
assert blocked(os.kill, os.getpid(), 0)
assert blocked(socket.socket)
"""
PROBE_SECONDS = 60.0  # a busy machine is no reason to refuse


def run_program(program: str, timeout: float = TIMEOUT, container: str | None = None) -> Verdict:
    """In a fresh process; `container`: in a fresh container of this image."""
    if container is not None:
        return containers.run_program(program, timeout, container)
    return _server().run(program, timeout)


def level(container: str | None = None) -> str:
    """What keeps a program from the machine."""
    return _server().level if container is None else containers.level(container)


class _ForkServer:
    """This side of fork_server.py."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        command = [sys.executable, *FLAGS, str(Path(__file__).with_name("fork_server.py")), str(theirs.fileno())]
        closed: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        with theirs:
            self._process = subprocess.Popen(command, cwd="/", env=ENVIRONMENT, pass_fds=(theirs.fileno(),), **closed)
        self.level = ""
        probe = self.run(PROBE, PROBE_SECONDS)
        if not probe.passed:
            raise SandboxUnavailable(f"an attack was not blocked by this kernel ({probe.reason}); {INSTEAD}")

    def __del__(self) -> None:
        self._control.close()  # at which it ends
        self._process.wait()

    def run(self, program: str, seconds: float) -> Verdict:
        nonce = secrets.token_hex(16)
        reader, writer = os.pipe()
        job = os.memfd_create("job")
        try:
            os.write(job, json.dumps([program, nonce]).encode())
            os.lseek(job, 0, os.SEEK_SET)
            socket.send_fds(self._control, [struct.pack("d", seconds)], [job, writer])
        except OSError as error:
            raise SandboxUnavailable(f"the sandbox's process is gone ({error}).") from None
        finally:
            os.close(job)
            os.close(writer)
        with open(reader, "rb") as answers:
            written = answers.read(MOST_BYTES)
        report = self._control.recv(8)
        if not report:
            raise SandboxUnavailable("the sandbox's process is gone.")
        self.level = written.partition(b"\n")[0].decode().removeprefix("READY ")
        return judge(written, nonce, *struct.unpack("?i", report))


_servers = threading.local()


def _server() -> _ForkServer:
    """This thread's; it ends with the thread."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        here = f"{sys.platform} on {platform.machine()}"
        raise SandboxUnavailable(f"the sandbox needs Linux on x86-64 or aarch64, and this is {here}; {INSTEAD}")
    if not hasattr(_servers, "own"):
        os.register_at_fork(after_in_child=lambda: _servers.__dict__.clear())  # two processes must not share one
        _servers.own = _ForkServer()
    return _servers.own
