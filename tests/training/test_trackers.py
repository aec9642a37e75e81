"""Trackers: whatever a client does, the run goes on, and every line arrives in order."""

import json
import sys
import threading
import time

import pytest

from yxanul.bad_input import BadInput
from yxanul.run_folder import RunFolder
from yxanul.training import trackers as module
from yxanul.training.trackers import Reader, Trackers, describe, numbers


class Server:
    """What arrived on the other side, and how it behaves: `trouble(session, line)` may raise or block."""

    def __init__(self):
        self.arrived, self.sessions, self.closed = [], [], 0
        self.trouble = lambda session, line: None
        self.says_rows = False

    def open(self, reader):
        self.sessions.append((reader.id, reader.run_name, reader.step, reader.config))
        self.trouble(len(self.sessions), None)
        return Client(self, len(self.sessions))

    @property
    def steps(self):
        return [step for step, _, _ in self.arrived]


class Client:
    def __init__(self, server, session):
        self.server, self.session = server, session
        self.rows = len(server.arrived) if server.says_rows else None

    def send(self, step, when, figures):
        self.server.trouble(self.session, step)
        self.server.arrived.append((step, when, figures))

    def close(self):
        self.server.trouble(self.session, "close")
        self.server.closed += 1


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setitem(module.NAMES, "wandb", server.open)
    return server


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "a run")
    folder.path.mkdir()
    folder.config.write_text("model: tiny\n")
    return folder


@pytest.fixture
def clock(monkeypatch):
    """Waiting between two tries takes no time; `clock` lists how long it would have been."""
    waits = []

    class Event(type(threading.Event())):
        def wait(self, timeout=None):
            if timeout is not None and timeout >= 1:
                waits.append(timeout)
                timeout = 0.001
            return super().wait(timeout)

    monkeypatch.setattr(module.threading, "Event", Event)
    return waits


def log(folder, *steps, **figures):
    with folder.metrics.open("a") as file:
        for step in steps:
            line = {"step": step, "tokens": 8 * step, "time": 1e9 + step, "stage": "math", "loss": 1 / step} | figures
            file.write(json.dumps(line) + "\n")


def cursor(folder, name="wandb"):
    return json.loads(folder.trackers.read_text())[name]["lines"]


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def run(folder, *steps, names=("wandb",)):
    """A run that logs these steps."""
    trackers = Trackers(folder, list(names), "demo")
    trackers.start()
    for step in steps:
        log(folder, step)
        trackers.wake()
    trackers.finish()


def test_every_line_arrives_once_and_in_order(folder, server, capsys):
    log(folder, 1, 2)
    run(folder, 3, 4, 5)
    assert server.arrived[2] == (3, 1e9 + 3, {"train/tokens": 24, "train/loss": 1 / 3})
    assert server.steps == [1, 2, 3, 4, 5] and server.closed == 1 and cursor(folder) == 5
    assert capsys.readouterr() == ("", "")


def test_lines_arrive_while_the_run_goes_on(folder, server):
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    for step in (1, 2, 3):
        log(folder, step)
        trackers.wake()
        until(lambda step=step: server.steps == list(range(1, step + 1)))
    trackers.finish()


def test_a_tracker_that_has_everything_sleeps(folder, server, monkeypatch):
    reads = []
    whole_lines = Reader._whole_lines
    monkeypatch.setattr(Reader, "_whole_lines", lambda self, place: reads.append(place) or whole_lines(self, place))
    log(folder, 1)
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    trackers.wake()
    until(lambda: server.arrived)
    time.sleep(0.1)
    assert len(reads) < 10
    trackers.finish()


def test_half_a_line_waits_for_its_other_half(folder, server, capsys):
    log(folder, 1)
    trackers = Trackers(folder, ["wandb"], None)
    with folder.metrics.open("a") as file:
        file.write('{"step": 2, "time": 0')
        file.flush()
        trackers.start()
        until(lambda: server.steps)
        file.write("}\n")
    trackers.finish()
    assert server.steps == [1, 2] and not capsys.readouterr().err


def test_a_client_that_cannot_be_opened_for_a_while_gets_everything(folder, server, clock, capsys):
    def trouble(session, line):
        if session < 9:
            raise ConnectionError("no route to host")

    server.trouble = trouble
    log(folder, 1, 2, 3)
    trackers = Trackers(folder, ["wandb"], "demo")
    trackers.start()
    until(lambda: len(server.sessions) == 9)
    trackers.finish()
    assert server.steps == [1, 2, 3] and clock == [1, 2, 4, 8, 16, 32, 60, 60]
    said = capsys.readouterr().err
    assert said == "yxanul: wandb: ConnectionError: no route to host. The run goes on; wandb is tried again.\n"


def test_a_client_that_fails_in_the_middle_goes_on_where_it_was(folder, server, clock, capsys):
    def trouble(session, line):
        if (session < 4 and line == 3) or (session == 4 and line == 5):
            raise ConnectionError("lost")

    server.trouble = trouble
    log(folder, *range(1, 7))
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    until(lambda: len(server.arrived) == 6)
    trackers.finish()
    assert server.steps == [1, 2, 3, 4, 5, 6] and server.closed == 5
    assert len({session[0] for session in server.sessions}) == 1  # all of them one run of the tracker's
    assert [session[2] for session in server.sessions] == [-1, 2, 2, 2, 4]
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_client_kept_when_it_broke_is_sent_again(folder, server, clock):
    def trouble(session, line):
        if session == 1 and line in (3, "close"):
            raise BrokenPipeError

    server.trouble = trouble
    log(folder, 1, 2, 3, 4)
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    until(lambda: len(server.arrived) == 6)
    trackers.finish()
    assert server.steps == [1, 2, 1, 2, 3, 4]


def test_after_a_success_the_next_failure_is_tried_again_at_once(folder, server, clock):
    def trouble(session, line):
        if (session, line) in [(1, 1), (2, 1), (3, 2), (4, 3)]:
            raise ConnectionError

    server.trouble = trouble
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    for step in (1, 2, 3):
        log(folder, step)
        trackers.wake()
        until(lambda step=step: len(server.arrived) == step)
    trackers.finish()
    assert clock == [1, 2, 1, 1] and server.steps == [1, 2, 3]


def test_a_line_counts_on_disk_when_it_had_time_to_arrive(folder, server, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    reader = Reader("wandb", folder, None)
    reader.send()
    for step, seconds, counted in [(1, 9, 0), (2, 2, 0), (3, 9, 0), (4, 2, 2), (5, 1, 2), (6, 9, 4)]:
        now[0] += seconds
        log(folder, step)
        reader.send()
        assert cursor(folder) == counted, step
    reader.close()
    assert cursor(folder) == 6


def test_a_run_that_was_killed_sends_the_rest_to_the_same_run(folder, server):
    first = Reader("wandb", folder, "demo")
    log(folder, 1, 2)
    first.send()  # and no close
    run(folder, 3)
    assert server.steps == [1, 2, 1, 2, 3]
    run(folder, 4)
    assert server.steps[5:] == [4]
    assert {session[:2] for session in server.sessions} == {(server.sessions[0][0], "demo")}
    assert server.sessions[-1][2:] == (3, {"model": "tiny"})


def test_a_server_that_says_what_it_has_gets_nothing_twice(folder, server, monkeypatch):
    monkeypatch.setattr(module, "SETTLE", 0.0)  # time proves nothing there
    server.says_rows = True
    first = Reader("wandb", folder, None)
    log(folder, 1, 2, 3)
    first.send()  # killed
    assert cursor(folder) == 0
    run(folder, 4)
    assert server.steps == [1, 2, 3, 4]
    lost = server.arrived.pop()  # it had said so, and it was not true
    run(folder, 5)
    assert server.steps == [1, 2, 3, lost[0], 5]


def cut(folder, lines):
    folder.metrics.write_text("".join(folder.metrics.read_text().splitlines(keepends=True)[:lines]))


@pytest.mark.parametrize("says_rows", [False, True])
def test_after_a_resume_from_an_earlier_checkpoint_the_steps_are_sent_again(folder, server, says_rows):
    server.says_rows = says_rows
    run(folder, 1, 2, 3, 4, 5)
    cut(folder, 2)
    run(folder, 3, 4)
    cut(folder, 3)
    run(folder, 4, 5, 6, 7, 8, 9, 10)
    run(folder, 11)
    assert server.steps == [1, 2, 3, 4, 5, 3, 4, 4, 5, 6, 7, 8, 9, 10, 11]
    assert [session[2] for session in server.sessions] == [-1, 2, 3, 10]  # where TensorBoard hides what came after


@pytest.mark.parametrize("says_rows", [False, True])
def test_a_cut_is_noted_before_the_run_adds_lines(folder, server, says_rows):
    server.says_rows = says_rows
    run(folder, 1, 2, 3, 4)
    cut(folder, 2)
    opening = threading.Event()
    server.trouble = lambda session, line: opening.wait() if line is None else None
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    assert cursor(folder) == 2  # a run that is killed here goes on from there
    log(folder, 3, 4, 5)
    opening.set()
    trackers.finish()
    assert server.steps == [1, 2, 3, 4, 3, 4, 5]


@pytest.mark.parametrize("moment", [None, 2, "close"])
def test_a_client_that_hangs_does_not_hang_the_run(folder, server, moment, capsys):
    release = threading.Event()
    server.trouble = lambda session, line: release.wait() if line == moment else None
    log(folder, 1, 2, 3)
    trackers = Trackers(folder, ["wandb"], None)
    trackers.start()
    assert trackers.threads[0].daemon  # the process can end without it
    for _ in range(100_000):
        trackers.wake()
    start = time.monotonic()
    trackers.finish(seconds=0.3)
    assert 0.25 < time.monotonic() - start < 2
    command = f"`yxanul track '{folder.path}' --to wandb` sends them."
    assert capsys.readouterr().err == f"yxanul: wandb may lack the last 3 of 3 lines of metrics.jsonl: {command}\n"
    release.set()
    trackers.threads[0].join()


def test_the_time_to_finish_is_shared(folder, server, monkeypatch, capsys):
    release = threading.Event()
    server.trouble = lambda session, line: release.wait()
    monkeypatch.setitem(module.NAMES, "trackio", server.open)
    log(folder, 1)
    trackers = Trackers(folder, ["wandb", "trackio"], None)
    trackers.start()
    start = time.monotonic()
    trackers.finish(seconds=0.3)
    assert time.monotonic() - start < 0.55 and capsys.readouterr().err.count("may lack the last 1 of 1 lines") == 2
    release.set()
    for thread in trackers.threads:
        thread.join()


def test_a_client_that_never_works_costs_one_last_try(folder, server, capsys):
    def trouble(session, line):
        raise OSError(28, "No space left on device")

    server.trouble = trouble
    start = time.monotonic()
    run(folder, 1, 2)
    assert time.monotonic() - start < 5 and not server.arrived
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "OSError: [Errno 28] No space left on device." in said[0] and "2 of 2 lines" in said[1]


def test_one_tracker_in_trouble_leaves_the_others_alone(folder, server, monkeypatch):
    def fail(reader):
        raise RuntimeError

    monkeypatch.setitem(module.NAMES, "trackio", fail)
    run(folder, *range(1, 30), names=("trackio", "wandb"))
    assert server.steps == list(range(1, 30)) and cursor(folder) == 29 and cursor(folder, "trackio") == 0


def test_two_threads_keep_both_cursors(folder, monkeypatch):
    servers = {name: Server() for name in module.NAMES}
    monkeypatch.setattr(module, "SETTLE", 0.0)  # every line is noted
    for name, server in servers.items():
        monkeypatch.setitem(module.NAMES, name, server.open)
    run(folder, *range(1, 101), names=servers)
    assert {name: cursor(folder, name) for name in servers} == dict.fromkeys(servers, 100)
    assert len({server.sessions[0][0] for server in servers.values()}) == 3


@pytest.mark.parametrize("name, package", [("tensorboard", "tensorboard"), ("wandb", "wandb"), ("trackio", "trackio")])
def test_a_missing_package_is_named_and_the_run_goes_on(folder, name, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    run(folder, 1, names=[name])
    said = capsys.readouterr().err
    assert f"yxanul: {name}: {name} needs the package {package}: pip install {package}. The run goes on" in said


def test_an_unknown_tracker_is_refused_at_once(folder):
    with pytest.raises(BadInput, match="unknown tracker 'wnadb': did you mean wandb?"):
        Trackers(folder, ["wnadb"], None)


def test_without_a_tracker_nothing_is_written(folder):
    run(folder, 1, 2, names=[])
    assert not folder.trackers.exists()


def test_only_numbers_are_sent_under_names_that_group(folder):
    line = {"step": 3, "time": 1.0, "tokens": 5, "loss": None, "stage": "math", "eval_math_bits_per_byte": 0.5}
    assert numbers(line) == {"train/tokens": 5, "eval/math_bits_per_byte": 0.5}


def test_figures_by_layer_are_sent_as_one_number_for_each():
    line = {
        "step": 3,
        "layers/gradient_norm": [0.5, None, *range(2, 11)],
        "alerts": ["gradient/nan is 1"],
        "mfu": None,
    }
    assert numbers(line) == {
        "train/layers/gradient_norm/00": 0.5,
        **{f"train/layers/gradient_norm/{layer:02d}": layer for layer in range(2, 11)},
    }


@pytest.mark.parametrize(
    "text, shown",
    [
        ("401 for https://api.example.org/x?key=hunter2&run=7", "401 for https://api.example.org/x?key=***&run=7"),
        ("https://me:hunter2@example.org/x", "https://***@example.org/x"),
        ('{"api_key": "hunter2", "run": 7}', '{"api_key": "***", "run": 7}'),
        ("WANDB_API_KEY=hunter2 is wrong", "WANDB_API_KEY=*** is wrong"),
        ("write_token: hunter2", "write_token: ***"),
        ("Authorization: Bearer hunter2", "Authorization: *** ***"),
        ("bad login " + "0123456789" * 4, "bad login ***"),
        ("hf_" + "aBc4" * 9 + " was refused", "*** was refused"),
        ("a\n  b", "a b"),
        ("x " * 300 + "0123456789" * 4, "x " * 99 + "x"),
        ("y" * 190 + " token=hunter2hunter2hunter2", "y" * 190 + " token=***"),
    ],
)
def test_secrets_in_an_error_are_not_printed(text, shown):
    assert describe(ValueError(text)) == f"ValueError: {shown}."
    assert "hunter2" not in describe(ValueError(text))


def test_an_error_without_words_is_its_class():
    assert describe(TimeoutError()) == "TimeoutError."


def test_tensorboard_has_every_step_once_after_a_kill_and_a_cut(folder):
    reason = "the real TensorBoard is read back; pip install tensorboard"
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)
    log(folder, 1, 2, 3)
    killed = Reader("tensorboard", folder, None)
    killed.send()
    killed.client.writer.flush()
    run(folder, 4, 5, names=["tensorboard"])
    cut(folder, 3)
    run(folder, 4, names=["tensorboard"])
    events = accumulator.EventAccumulator(str(folder.path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.wall_time) for event in events.Scalars("train/loss")] == [
        (step, 1e9 + step) for step in (1, 2, 3, 4)
    ]


class Recorder:
    """Stands for a tracker's package: lists what is called on it."""

    def __init__(self, **answers):
        self.calls, self.answers = [], answers

    def __getattr__(self, name):
        if name in self.answers:
            return self.answers[name]

        def call(*words, **options):
            self.calls.append((name, *words, *options.items()))
            return self

        return call


def test_tensorboard_hides_what_comes_after_the_cursor(folder, monkeypatch):
    writer = Recorder()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", writer)
    run(folder, 1, names=["tensorboard"])
    run(folder, 2, names=["tensorboard"])
    opened = [call for call in writer.calls if call[0] == "SummaryWriter"]
    assert [dict(call[2:])["purge_step"] for call in opened] == [0, 2]
    assert ("add_scalar", "train/loss", 0.5, 2, ("walltime", 1e9 + 2)) in writer.calls


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_run_that_goes_on_is_the_same_run_there(folder, name, monkeypatch):
    online = Recorder(mode="online")
    package = Recorder(settings=online, offline=True, login=lambda **options: True)
    monkeypatch.setitem(sys.modules, name, package)
    run(folder, 1, names=[name])
    run(folder, 2, names=[name])
    one, other = ([part for part in call if part[0] != "settings"] for call in package.calls if call[0] == "init")
    assert one == other and ("resume", "allow") in one and ("config", {"model": "tiny"}) in one
    own = json.loads(folder.trackers.read_text())[name]["id"]
    assert (("id", own) if name == "wandb" else ("name", f"demo-{own}")) in one
    assert [call for call in package.calls if call[0] == "finish"] == [("finish",)] * 2


def test_without_a_key_w_and_b_does_not_ask_at_the_terminal(folder, monkeypatch, capsys):
    asked = []
    package = Recorder(settings=Recorder(mode="online"), login=lambda **options: asked.append(options))
    monkeypatch.setitem(sys.modules, "wandb", package)
    run(folder, 1)
    assert asked[0]["prompt"] is False and not [call for call in package.calls if call[0] == "init"]
    assert "yxanul: wandb: W&B knows no key: run `wandb login`, or set WANDB_API_KEY, or" in capsys.readouterr().err
