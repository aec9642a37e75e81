"""The whole way, as a new user goes it: stopped in the middle and started again. With full training: slow."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from yxanul import demo
from yxanul.__main__ import main

COMMAND = [sys.executable, "-m", "yxanul", "demo"]


def test_the_quick_demo_goes_on_where_it_was_stopped(tmp_path):
    whole = {"cwd": tmp_path, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen([*COMMAND, "--quick"], **whole) as stopped:
        lines = iter(stopped.stdout.readline, "")
        next(line for line in lines if line.startswith("step  40/240"))
        stopped.send_signal(signal.SIGTERM)
        rest = "".join(lines)
    assert stopped.returncode == 4, rest
    assert "the same `yxanul demo` goes on" in rest

    done = subprocess.run([*COMMAND, "--quick"], **whole)
    assert done.returncode == 0, done.stdout
    assert "from step 0 of 240" not in done.stdout and "of 240, evaluated" in done.stdout
    folder = tmp_path / "yxanul-demo-quick"
    assert verdicts(folder / "runs/demo/gates.json") == {"language", "code", "reasoning", "math"}
    bits = [
        json.loads((folder / "results" / when / "results.json").read_text())["tasks"]["builtin_instructions"]
        for when in ("before", "after")
    ]
    assert all(task["status"] == "done" for task in bits)
    for target in ("llama", "gguf", "onnx"):
        rows = json.loads((folder / "exports" / target / "verification.json").read_text())["rows"]
        assert rows and all(row["passed"] for row in rows)
    for run in ("demo", "sft"):
        assert f"<h1>{run}" in (folder / "runs" / run / "report.html").read_text()
    assert done.stdout.count("\n#### ") >= 1, "the chat has answered"


def verdicts(gates: Path) -> set[str]:
    return {stage for stage, verdict in json.loads(gates.read_text()).items() if verdict["passed"]}


def test_what_the_last_steps_need_is_asked_for_before_the_first(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(demo.NEEDS, "no_such_package", "export")
    assert main(["demo"]) == 2
    assert capsys.readouterr().err == (
        'yxanul: the demo\'s last steps need no_such_package: pip install "yxanul[export]".\n'
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_whole_demo_solves_half_of_its_new_sums(tmp_path):
    done = subprocess.run(COMMAND, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    before, after = (line for line in done.stdout.splitlines() if line.startswith("sums, new questions: "))
    assert int(before.split()[3]) >= 20, before
    assert int(after.split()[3]) >= 36, after
