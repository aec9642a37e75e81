"""`yxanul track`: sends what a tracker lacks, once, and says what came of it."""

import json
import sys

import pytest

from yxanul.__main__ import main
from yxanul.run_folder import RunFolder
from yxanul.training import trackers as module


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.config.write_text("model: tiny\n")
    folder.metrics.write_text("".join(f'{{"step": {step}, "time": {step}.5, "loss": 1.5}}\n' for step in (1, 2, 3)))
    return folder


@pytest.fixture
def arrived(monkeypatch):
    """What came through; `arrived.fails_at` is a step that is refused."""

    class Arrived(list):
        fails_at = None
        rows = None

        def send(self, step, when, figures):
            if step == self.fails_at:
                raise ConnectionError("reset by https://me:hunter2@example.org")
            self.append((step, when, figures))

        def close(self):
            pass

    arrived = Arrived()
    monkeypatch.setitem(module.NAMES, "wandb", lambda reader: arrived)
    return arrived


def test_it_sends_what_is_missing_and_the_second_time_nothing(folder, arrived, capsys):
    assert main(["track", str(folder.path), "--to", "wandb"]) == 0
    assert arrived == [(step, step + 0.5, {"train/loss": 1.5}) for step in (1, 2, 3)]
    assert main(["track", str(folder.path), "--to", "wandb"]) == 0
    assert len(arrived) == 3 and capsys.readouterr().out == "wandb has all 3 lines of metrics.jsonl.\n" * 2


def test_after_a_failure_the_same_command_goes_on(folder, arrived, capsys):
    arrived.fails_at = 3
    assert main(["track", str(folder.path), "--to", "wandb"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("wandb: ConnectionError: reset by https://***@example.org. wandb may lack the last ")
    assert f"`yxanul track {folder.path} --to wandb` sends them." in said
    arrived.fails_at = None
    assert main(["track", str(folder.path), "--to", "wandb"]) == 0
    assert [step for step, _, _ in arrived][-1] == 3 and {step for step, _, _ in arrived} == {1, 2, 3}


def test_it_replays_what_the_run_could_not_send(folder, arrived, capsys):
    arrived.fails_at = 2
    trackers = module.Trackers(folder, ["wandb"], "demo")
    trackers.start()
    trackers.finish()
    command = capsys.readouterr().err.split("`")[1].split()
    arrived.fails_at = None
    assert command[0] == "yxanul" and main(command[1:]) == 0
    assert [step for step, _, _ in arrived] == [1, 2, 3]
    assert json.loads(folder.trackers.read_text())["wandb"]["name"] == "demo"  # the run's name, not the folder's


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nowhere", "--to", "wandb"], "nowhere has no metrics.jsonl: give the folder of a run."),
        (["RUN", "--to", "wnadb"], "unknown tracker 'wnadb': did you mean wandb?"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, arguments, message, capsys):
    assert main(["track", *[str(folder.path) if word == "RUN" else word for word in arguments]]) == 2
    assert capsys.readouterr().err == f"yxanul: {message}\n"


def test_a_missing_package_is_bad_input(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "trackio", None)
    assert main(["track", str(folder.path), "--to", "trackio"]) == 2
    assert capsys.readouterr().err == "yxanul: trackio needs the package trackio: pip install trackio.\n"
