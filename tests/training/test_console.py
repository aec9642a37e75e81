"""The console: plain lines in a pipe, a panel on a terminal, and no figure that breaks either."""

import io
import math
import re
import threading

import pytest

from yxanul.training.console import BLOCKS, Console, duration, sparkline

STAGES = ["language", "math"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """`terminal(columns)`: a stream that rich takes for one."""

    def make(columns):
        for name in ("NO_COLOR", "TTY_INTERACTIVE", "FORCE_COLOR", "JUPYTER_COLUMNS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(Terminal, "encoding", "utf-8")
        return Terminal()

    return make


def training(step, **changes):
    line = {"step": step, "tokens": step * 100, "time": 1000.0 + step, "loss": 3.4994, "perplexity": 33.1}
    line |= {"grad_norm": 1.0, "learning_rate": 2e-3, "stage": "math", "length": 256, "rows": 16}
    return line | {"tokens_per_second": 12_000.0, "skipped_steps": 0} | changes


def evaluation(step):
    scores = {"eval_language_bits_per_byte": 2.314, "eval_math_bits_per_byte": 0.62, "eval_bits_per_byte": 1.47}
    return {"step": step, "tokens": step * 100, "time": 1000.0 + step, "eval_math_loss": 1.0} | scores


def plain(*lines):
    stream = io.StringIO()
    with Console(400, 40_000, STAGES, "demo", stream) as console:
        for line in lines:
            console.log(line)
    return stream.getvalue().splitlines()


def last_panel(stream):
    return "╭" + stream.getvalue().split("╭")[-1]


def test_in_a_pipe_every_log_is_one_plain_line():
    assert plain(training(200), evaluation(200), training(210, skipped_steps=1)) == [
        "step 200/400  math      loss 3.499  lr 2.0e-03  ctx  256   12.0k tok/s  eta 0m02s",
        "step 200/400  | language 2.31 math 0.62 bits/byte",
        "step 210/400  math      loss 3.499  lr 2.0e-03  ctx  256   12.0k tok/s  eta 3m10s  1 step skipped",
    ]


def test_a_line_may_hold_both_and_one_with_neither_is_not_shown():
    (line,) = plain(training(10) | evaluation(10), {"step": 10, "tokens": 1000, "time": 1.0, "train_runtime": 5.0})
    assert line.startswith("step  10/400  math") and line.endswith("  | language 2.31 math 0.62 bits/byte")


def test_time_left_counts_tokens_since_the_start_of_this_process():
    first = training(100, tokens=30_000, time=50.0, tokens_per_second=1e3)  # resumed; then steps grow shorter
    later = training(110, tokens=31_000, time=150.0, tokens_per_second=1e3)
    assert [line.split("eta ")[1] for line in plain(first, later)] == ["0m10s", "15m00s"]


@pytest.mark.parametrize(
    "seconds, text", [(0.4, "0m00s"), (80, "1m20s"), (3599.6, "1h00m"), (math.inf, "?"), (-2, "0m00s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_speed_of_zero_and_a_loss_that_is_no_number_are_shown_as_such():
    (line,) = plain(training(10, loss=math.nan, tokens_per_second=0.0))
    assert "loss   nan" in line and "eta ?" in line


@pytest.mark.parametrize(
    "values, width, expected",
    [
        ([1.0], 9, BLOCKS[0]),
        ([2.0, 2.0], 9, BLOCKS[0] * 2),
        ([0.0, 1.0, 2.0], 9, BLOCKS[0] + BLOCKS[3] + BLOCKS[7]),
        ([0.0, 0.0, 8.0, 8.0], 2, BLOCKS[0] + BLOCKS[7]),
        ([0.0, math.nan, math.inf, 1.0], 9, BLOCKS[0] + "  " + BLOCKS[7]),
        ([0.0, math.nan, -math.inf, 1.0], 2, BLOCKS[0] + BLOCKS[7]),
        ([math.nan, math.nan], 9, "  "),
    ],
)
def test_the_sparkline_averages_what_is_finite(values, width, expected):
    assert sparkline(values, width) == expected


@pytest.mark.parametrize("columns", [40, 60, 96, 200])
def test_on_a_terminal_of_any_width_one_panel_holds_everything(terminal, columns):
    stream = terminal(columns)
    with Console(400, 40_000, STAGES, "demo", stream) as console:
        console.log(evaluation(0))  # before the first training line there is nothing to draw a panel from
        for step in range(10, 210, 10):
            console.log(training(step, loss=math.nan if step == 50 else 5 - step / 100, skipped_steps=3))
        console.log(evaluation(200))
    panel = last_panel(stream)
    assert all(text in panel for text in ("200/4", "2.31", "0.62", "3 steps skipped"))
    visible = [line for line in panel.split("\x1b[?25h")[0].splitlines() if line]
    assert {len(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line)) for line in visible} == {
        min(columns - 3, 96)
    }  # an echoed ^C must not wrap


def test_the_panel_is_drawn_anew_in_place_and_a_line_goes_above_it(terminal):
    stream = terminal(100)
    with Console(400, 40_000, STAGES, "demo", stream) as console:
        console.log(training(10))
        console.say("[stage] math begins")
        console.log(training(20))
    text = stream.getvalue()
    assert "\x1b[1A" in text  # the cursor goes up: the panel before is overwritten
    assert "[stage] math begins" in text and "[stage]" not in last_panel(stream)


def test_a_line_that_is_longer_than_the_terminal_stays_one_line_in_a_pipe(monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert len(plain(training(10))) == 1


def test_a_terminal_without_unicode_gets_plain_lines(terminal, monkeypatch):
    stream = terminal(100)
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    with Console(400, 40_000, STAGES, "demo", stream) as console:
        console.log(training(10))
    assert stream.getvalue().isascii() and "step  10/400" in stream.getvalue()


def test_no_thread_is_started(terminal):
    before = threading.active_count()
    with Console(400, 40_000, STAGES, "demo", terminal(100)) as console:
        console.log(training(10))
        assert threading.active_count() == before


@pytest.mark.parametrize("columns", [None, 80])
def test_an_alert_is_a_line_of_its_own(terminal, columns):
    stream = terminal(columns) if columns else io.StringIO()
    with Console(400, 40_000, STAGES, "demo", stream) as console:
        console.log(training(20, alerts=["gradient norm 40.0 is 12 times its mean"]))
        console.log(training(21))
    assert stream.getvalue().count("step 20: gradient norm 40.0 is 12 times its mean") == 1
