"""The way through Docker or Podman, with a tool of our own in their place: what it is told, and what comes back."""

import shutil
import subprocess
import sys

import pytest

from yxanul.evaluation.sandbox import SandboxUnavailable, container, level, run_program

IMAGE = "python:3.12-slim"
FAKE = """#!{python}
import os, signal, sys
from pathlib import Path
folder, words = Path({folder!r}), sys.argv[1:]
with open(folder / "log", "a") as log:
    print(*[word if len(word) < 100 else "CODE" for word in words], file=log)
if words[:2] == ["image", "inspect"]:
    sys.exit(words[2] != {image!r})
if words[0] == "rm":
    os.kill(int((folder / words[-1]).read_text()), signal.SIGKILL)
    sys.exit()
(folder / words[2]).write_text(str(os.getpid()))
os.execv({python!r}, [{python!r}, *words[words.index({image!r}) + 1:]])
"""


@pytest.fixture
def docker(tmp_path, monkeypatch):
    tool = tmp_path / "docker"
    tool.write_text(FAKE.format(python=sys.executable, folder=str(tmp_path), image=IMAGE))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    container._tool.cache_clear()
    yield tmp_path
    container._tool.cache_clear()


@pytest.mark.parametrize(
    "program, passed, reason",
    [
        ("assert 1 + 1 == 2", True, "passed"),
        ("print('noise')", True, "passed"),
        ("assert 1 + 1 == 3, 'no'", False, "failed: AssertionError: no"),
        ("import os; os._exit(0)", False, "failed: it left before its end"),
        ("print('PASS 0')\nimport os; os._exit(0)", False, "failed: it left before its end"),
        (
            "import os\nfor f in range(3, 9):\n  try: os.write(f, b'x' * 9999)\n  except OSError: 0",
            False,
            "failed: it wrote too much in the place of its verdict",
        ),
        ("import os; os._exit(137)", False, "killed: memory"),
        ("import os; os._exit(139)", False, "killed: SIGSEGV"),
    ],
)
def test_a_container_gives_the_same_verdicts(program, passed, reason, docker):
    assert run_program(program, 20.0, container=IMAGE) == (passed, reason)


def test_a_container_that_takes_too_long_is_removed(docker):
    assert run_program("while True: pass", 0.2, container=IMAGE) == (False, "timed out")
    assert "rm --force yxanul-" in (docker / "log").read_text()


def test_a_container_gets_no_network_no_rights_and_is_never_fetched(docker):
    run_program("x = 1", 20.0, container=IMAGE)
    (told,) = [line for line in (docker / "log").read_text().splitlines() if line.startswith("run ")]
    for words in ("--network none", "--read-only", "--cap-drop ALL", "no-new-privileges", "--memory 512m", "--rm"):
        assert words in told
    assert "--pids-limit 64" in told and "--pull never" in told and "--user 65534:65534" in told
    assert "no network" in level(container=IMAGE)


def test_an_image_that_is_not_there_is_refused_with_the_command_that_fetches_it(docker):
    with pytest.raises(
        SandboxUnavailable, match="docker is not running or has no image other:1; try `docker pull other:1`"
    ):
        run_program("x = 1", container="other:1")


def test_without_docker_and_podman_it_is_refused(docker, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SandboxUnavailable, match="needs Docker or Podman"):
        level(container=IMAGE)


def test_a_real_container_runs_and_blocks():
    tool = next(filter(None, map(shutil.which, container.TOOLS)), None)
    if tool is None or subprocess.run([tool, "image", "inspect", IMAGE], capture_output=True).returncode:
        pytest.skip(f"no Docker or Podman with {IMAGE}")
    assert run_program("assert 1 + 1 == 2", 20.0, container=IMAGE).passed
    attacks = "open('/x', 'w')", "import socket; socket.create_connection(('1.1.1.1', 53), 2)", "x = bytearray(10**9)"
    assert not any(run_program(attack, 20.0, container=IMAGE).passed for attack in attacks)
