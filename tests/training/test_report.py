"""A run's page shows what its folder holds: every domain, gate, sample and alert, and nothing from elsewhere."""

import fcntl
import json
import re
from html.parser import HTMLParser

import pytest

from yxanul.__main__ import main
from yxanul.run_folder import RunFolder
from yxanul.training import report
from yxanul.training.line_chart import Line, _thinned, chart, figure
from yxanul.training.report import read_report

HARMFUL = "<script>alert('x')</script>"


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "small")
    run.path.mkdir()
    lines = [{"step": 0, "tokens": 0, "time": 100.0, "eval_code_bits_per_byte": 4.0, "eval_bits_per_byte": 4.0}]
    for step in range(1, 21):
        stage = "code" if step <= 10 else "math"
        line = {"step": step, "tokens": 64 * step, "time": 100.0 + step, "stage": stage, "loss": 7.0 - step / 10}
        line |= {"gradient/norm/all": 1.0 / step, "layers/dead_neurons": [0.0, step / 100], "mfu": None}
        lines.append(line)
        if step % 10 == 0:
            scores = {"eval_code_bits_per_byte": 4 - step / 10, "eval_bits_per_byte": 4 - step / 10}
            lines.append({"step": step, "tokens": 64 * step, "time": 100.5 + step} | scores)
    lines[5]["alerts"] = [f"the gradient is {HARMFUL}"]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run.samples.write_text(
        json.dumps({"step": 10, "domain": "code", "prompt": "def ", "continuation": HARMFUL}) + "\n"
    )
    finding = {"domain": "code", "role": "taught", "before": 4.0, "after": 3.0, "upper": -0.5, "limit": -0.4}
    findings = [finding | {"passed": True}, finding | {"upper": -0.1, "passed": False}]
    run.gates.write_text(json.dumps({"code": {"step": 10, "passed": False, "time": 1, "findings": findings}}))
    run.config.write_text("model: tiny\nseed: 17\n")
    start = {"time": 0, "python": "3.11", "packages": {"torch": "2.13.0"}, "platform": "Linux", "processes": 2}
    run.environment.write_text(json.dumps([start | {"device": "cpu", "threads": "1", "command": ["pretrain", "x"]}]))
    return run


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.open = [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def written(run, *more):
    assert main(["report", str(run.path), *more]) == 0
    return (run.path / "report.html").read_text()


def test_figures_that_were_no_numbers_leave_gaps(run):
    """As of a run that diverged: null alone, and in the list of the layers."""
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    lines[3] |= {"loss": None, "layers/dead_neurons": [None, 0.5]}
    lines[4]["layers/dead_neurons"] = [None, None]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    written(run)
    (curve,) = read_report(str(run.path)).curves("(layers/dead_neurons)")
    assert curve.values[2] == 0.5 and len(curve.values) == 19


def test_a_page_holds_everything_of_its_run(run):
    text = written(run)
    for words in ("at the start", "after code", "after math", "gate of code", "failed", "seed: 17", "pretrain x"):
        assert words in text
    for figures in ("4.000", "3.000", "2.000", "the upper bound of the change is -0.500, allowed -0.400"):
        assert figures in text
    assert "step 20" in text and "1,280 tokens" in text and "2 x cpu" in text
    assert re.search(r'aria-label="Training loss: loss from 6.9 to 5"', text)
    assert "layers/dead_neurons from 0.01 to 0.2" in text
    assert "Share of the device" not in text, "nothing was measured"


def test_what_models_wrote_is_text_and_nothing_is_fetched(run):
    text = written(run)
    tags = Tags()
    tags.feed(text)
    assert "script" not in {tag for tag, _ in tags.found} and HARMFUL not in text
    addresses = {name for _, attributes in tags.found for name in attributes} & {"src", "href"}
    assert not addresses and "url(" not in text and "@import" not in text


def test_stages_begin_where_the_one_before_ended(run):
    stages = read_report(str(run.path)).stages
    assert [(stage.name, stage.begin, stage.end) for stage in stages] == [("code", 0, 640), ("math", 640, 1280)]


def test_several_runs_stand_side_by_side_under_their_names(run, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(run.path)
    assert main(["report", str(run.path), str(other), "--out", str(tmp_path / "both.html")]) == 0
    text = (tmp_path / "both.html").read_text()
    assert "small: loss from" in text and "other: loss from" in text


def test_it_is_written_anew_until_the_run_ends(run, monkeypatch):
    lock = run.lock.open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    pages = []

    def sleep(seconds):
        pages.append((run.path / "report.html").read_text())
        if len(pages) == 2:
            lock.close()

    monkeypatch.setattr(report.time, "sleep", sleep)
    last = written(run, "--watch")
    assert len(pages) == 2 and all("http-equiv=refresh" in page and ": running" in page for page in pages)
    assert "http-equiv=refresh" not in last and ": not finished" in last


@pytest.mark.parametrize("seconds, is_running", [(5, True), (5_000, False)])
def test_without_locks_a_run_that_wrote_not_long_ago_is_running(run, seconds, is_running, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    run.lock.touch()
    monkeypatch.setattr(report.fcntl, "flock", flock)
    now = run.metrics.stat().st_mtime + seconds
    monkeypatch.setattr(report.time, "time", lambda: now)
    assert read_report(str(run.path)).is_running == is_running


def test_what_is_no_run_is_refused_by_name(tmp_path, run, capsys):
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "has no metrics.jsonl: give the folder of a run" in capsys.readouterr().err
    assert main(["report", str(run.path), "--out", str(tmp_path)]) == 2
    assert "is a folder: name the file, such as" in capsys.readouterr().err
    assert main(["report", str(run.path), str(run.path)]) == 2
    assert "say where it goes with --out FILE" in capsys.readouterr().err


def test_long_lines_are_thinned_to_their_means():
    line = Line("loss", list(range(1, 1001)), [float(value) for value in range(1000)])
    thin = _thinned(line)
    assert len(thin.values) <= 240 and thin.tokens[-1] == 1000
    assert thin.values[0] == sum(range(5)) / 5


@pytest.mark.parametrize("values", [[0.0], [0.0, 0.0], [-1.0, 5.0], [1e-9, 1e9], [2.5, 2.5]])
@pytest.mark.parametrize("is_log", [False, True])
def test_every_line_lies_within_its_chart(values, is_log):
    drawn = chart("x", "", [Line("a", list(range(1, len(values) + 1)), values)], [], is_log)
    for points in re.findall(r'points="([^"]*)"', drawn):
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 640 and 0 <= y <= 250


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (2.3456, "2.35"), (1234, "1234"), (51_200, "51.2 k"), (2e6, "2 M"), (1e-5, "1.0e-05")],
)
def test_figures_are_short(value, text):
    assert figure(value) == text
