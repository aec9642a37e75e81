"""Flags at stage ends, signals that stop, and a metrics.jsonl that any program can read."""

import json
import math
import signal
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState

from yxanul.run_folder import RunFolder
from yxanul.training import callbacks
from yxanul.training.callbacks import CurriculumCallback, Record, StopSignals, cut_lines


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def flags(small_config, run):
    """`flags(step, stop_step, eval_steps)`: what is set at a step's end; stages end at 12 and 20."""

    def make(step, stop_step=20, **changes):
        config, control = small_config(**changes), TrainerControl()
        callback = CurriculumCallback(SimpleNamespace(plan=config.plan(), config=config, run=run), stop_step)
        callback.on_step_end(None, TrainerState(global_step=step), control)
        return {name for name, value in vars(control).items() if value}

    return make


def test_a_stages_end_is_logged_evaluated_and_saved(flags):
    assert flags(12) == {"should_log", "should_evaluate", "should_save"}
    assert flags(11) == flags(13) == set()


@pytest.mark.parametrize("stop_step, step", [(20, 20), (12, 12)])
def test_the_run_ends_where_it_should(flags, stop_step, step):
    assert flags(step, stop_step) == {"should_log", "should_evaluate", "should_save", "should_training_stop"}


def test_eval_steps_evaluate_and_save_nothing(flags):
    assert flags(8, eval_steps=4) == {"should_evaluate"}
    assert flags(9, eval_steps=4) == set()


class Stopping:
    """Stands for the trainer: one process, which notes that it was stopped."""

    def __init__(self):
        self.ranks = SimpleNamespace(is_first=True, raised_a_step_ago=lambda flag: flag)
        self.codes = []

    def stop(self, code):
        self.codes.append(code)


@pytest.fixture
def stopping(monkeypatch):
    """A trainer whose process gets signals for real, at times that the test sets; left at once with an exit code."""
    trainer = Stopping()
    earlier = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    trainer.callback, trainer.now, trainer.left_at_once = StopSignals(trainer), 100.0, []
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: trainer.now)
    monkeypatch.setattr(callbacks.os, "_exit", trainer.left_at_once.append)
    yield trainer
    for number, handler in earlier.items():
        signal.signal(number, handler)


def end_step(trainer):
    trainer.callback.on_step_end(None, TrainerState(), TrainerControl())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_at_the_steps_end_and_not_before(stopping, number, capsys):
    end_step(stopping)
    signal.raise_signal(number)
    assert stopping.codes == stopping.left_at_once == []
    end_step(stopping)
    assert stopping.codes == [4] and stopping.left_at_once == []
    assert f"{number.name}: saving at the end of this step" in capsys.readouterr().err


def test_a_second_ctrl_c_leaves_at_once_but_not_the_echo_of_the_first(stopping):
    signal.raise_signal(signal.SIGINT)
    stopping.now += 1
    signal.raise_signal(signal.SIGINT)
    assert stopping.left_at_once == []
    stopping.now += 1
    signal.raise_signal(signal.SIGINT)
    assert stopping.left_at_once == [4]


def test_a_second_sigterm_lets_the_save_finish(stopping):
    signal.raise_signal(signal.SIGTERM)
    stopping.now += 60
    signal.raise_signal(signal.SIGTERM)
    assert stopping.left_at_once == []


def test_a_log_is_a_line_of_json_with_step_and_tokens_and_null_for_what_is_no_number(run):
    seen = []
    trainer = SimpleNamespace(run=run, tokens=512)
    record = Record(trainer, SimpleNamespace(log=seen.append), SimpleNamespace(wake=lambda: seen.append("woken")))
    for step, loss in ((1, 4.5), (2, math.nan), (3, math.inf)):
        record.on_log(None, TrainerState(global_step=step), None, {"loss": loss, "stage": "language"})
    lines = [json.loads(line, parse_constant=pytest.fail) for line in run.metrics.read_text().splitlines()]
    assert [(line["step"], line["tokens"], line["loss"]) for line in lines] == [
        (1, 512, 4.5),
        (2, 512, None),
        (3, 512, None),
    ]
    assert len(seen) == 6 and seen[1] == "woken" and seen[0]["loss"] == 4.5


def test_lines_of_steps_that_come_again_are_cut_with_a_half_line_at_the_end(run):
    lines = ['{"step": 1, "loss": 2.0}\n', '{"step": 2, "loss": null}\n', '{"step": 2, "eval_bits_per_byte": 1.0}\n']
    run.metrics.write_text("".join(lines) + '{"step": 3, "loss": 1.5}\n{"step": 4, "lo')
    cut_lines(run.metrics, 2)
    assert run.metrics.read_text() == "".join(lines)
    assert [file.name for file in run.path.iterdir()] == ["metrics.jsonl"]


def test_a_run_that_begins_anew_has_no_lines_of_an_earlier_one(run):
    run.metrics.write_text('{"step": 0, "eval_bits_per_byte": 3.0}\n')
    cut_lines(run.metrics, -1)
    assert run.metrics.read_text() == ""


def test_without_metrics_there_is_nothing_to_cut(run):
    cut_lines(run.metrics, 5)
    assert not run.metrics.exists()
