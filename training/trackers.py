"""A run's figures on TensorBoard, W&B and trackio, none of which can stop or hang the run.

    trackers = Trackers(folder, ["wandb"], run_name)        on process 0; config.yaml is there
    trackers.start()    trackers.wake()  after each line of metrics.jsonl    trackers.finish()  at the end

A tracker is a reader of metrics.jsonl with a cursor, in a daemon thread of its own. What fails in it is said once; it
is tried again after 1, 2, 4 ... 60 seconds and goes on from its cursor, so a lost connection is made up for. Numbers
are sent and nothing else (so not the stage's name), as train/... and eval/...

trackers.json has each tracker's cursor and the id of its run there. A client keeps lines for a while before they are
written or sent, so the cursor on disk is SETTLE seconds behind, and exact after an orderly end: what a killed run's
client kept is sent again. TensorBoard hides what it had beyond the cursor (`purge_step`), W&B says how many lines it
has, and trackio draws such a point twice, at the same step of the same run. A run resumed from an earlier checkpoint
has a shorter metrics.jsonl, and a cursor beyond its end goes back to the end: TensorBoard then hides the steps that
are done again, W&B and trackio draw the new figures over the old.
Not here: writing metrics.jsonl; sending what is missing after a run (track_command.py).
"""

import json
import os
import re
import shlex
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.progress import insist
from yxanul.run_folder import RunFolder
from yxanul.strict_yaml import read_yaml

PROJECT = "yxanul"
SETTLE = 10.0  # seconds; every client has written or sent a line after half of that
LONGEST_WAIT = 60.0
FINISH = 10.0  # seconds for all trackers at the end of a run
PATIENCE = 8.0  # seconds that closing one may take
SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), r"\1 ***"),
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (re.compile(r"(?i)([\w-]*(?:key|token|secret|passw|auth|credential|signature)[\w-]*\W{0,3}[=:]\W{0,2})\w[^\s'\"&,;]*"),
     r"\1***"),
    (re.compile(r"(?=[\w-]*\d)[\w-]{30,}"), "***"),
)  # fmt: skip


class Client(Protocol):
    rows: int | None  # lines that have arrived in this tracker's run, ever; None: it cannot say

    def send(self, step: int, when: float, numbers: dict[str, float]) -> None: ...
    def close(self) -> None: ...  # returns when all that was sent has arrived, or raises


class TensorBoard:
    rows: int | None = None

    def __init__(self, reader: "Reader") -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = str(reader.folder.path / "tensorboard")
        self.writer = SummaryWriter(folder, purge_step=reader.step + 1, flush_secs=int(SETTLE / 2))

    def send(self, step: int, when: float, numbers: dict[str, float]) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step, walltime=when)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    def __init__(self, reader: "Reader") -> None:
        import wandb

        with suppress(Exception):
            wandb.teardown()  # after a failure its service process is dead, or keeps the run's id in use
        if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
            raise BadInput("W&B knows no key: run `wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline.")
        # without limits it waits for a network that is gone for as long as it takes
        limits = {"init_timeout": 20, "finish_timeout": reader.patience, "finish_timeout_raises": True}
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=reader.id,
            name=reader.run_name,
            config=reader.config,
            dir=str(reader.folder.path),
            resume="allow",
            reinit="create_new",  # else wandb.run is set, and stands in the way of the next one
            settings=wandb.Settings(console="off", quiet=True, **limits),
        )
        self.rows: int | None = None if self.run.offline else self.run.starting_step
        # an axis of our own: on W&B's, a second line of one step is dropped
        self.run.define_metric("*", step_metric="step")

    def send(self, step: int, when: float, numbers: dict[str, float]) -> None:
        self.run.log({"step": step, "_timestamp": when, **numbers})

    def close(self) -> None:
        self.run.finish()


class Trackio:
    rows: int | None = None

    def __init__(self, reader: "Reader") -> None:
        import trackio

        name = f"{reader.run_name}-{reader.id}"  # trackio finds the run to go on with by its name
        self.run = trackio.init(project=PROJECT, name=name, config=reader.config, resume="allow", embed=False)

    def send(self, step: int, when: float, numbers: dict[str, float]) -> None:
        self.run.log(numbers, step=step)

    def close(self) -> None:
        self.run.finish()


NAMES: dict[str, Callable[["Reader"], Client]] = {  # each as pip knows it
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}


class Reader:
    """Reads metrics.jsonl on from the cursor into one tracker's client; one thread at a time may use it."""

    lock = threading.Lock()  # trackers.json is one file for all of them

    def __init__(self, name: str, folder: RunFolder, run_name: str | None, patience: float = PATIENCE) -> None:
        if name not in NAMES:
            raise unknown_name("tracker", name, NAMES)
        self.name, self.folder, self.run_name = name, folder, run_name or folder.path.name
        self.patience = patience
        self.wake = threading.Event()
        self.client: Client | None = None
        self.lines = self.settled = self.marked = self.lines_before = self.place = 0
        self.step, self.marked_at = -1, 0.0
        self.done_again: int | None = None

    def begin(self) -> None:
        """Before anything is added to metrics.jsonl: a cursor beyond its end is brought back, on disk too."""
        self._go_to(self._note()["lines"])
        self._note(lines=self.lines)
        self.lines_before = len(self._whole_lines(0))

    def send(self) -> None:
        """Send every whole line behind the cursor."""
        client = self.client = self.client or self._open()
        for line in self._whole_lines(self.place):
            metrics = json.loads(line)
            client.send(metrics["step"], metrics["time"], numbers(metrics))
            self.lines, self.place, self.step = self.lines + 1, self.place + len(line), metrics["step"]
            if client.rows is None and time.monotonic() - self.marked_at >= SETTLE:
                self.settled, self.marked, self.marked_at = self.marked, self.lines, time.monotonic()
                self._note(lines=self.settled)

    def close(self) -> None:
        client, self.client = self.client, None
        if client:
            client.close()
            self._note(lines=self.lines)
            self.settled = self.lines

    def _go_to(self, lines: int) -> None:
        """Sets the cursor behind so many lines, or behind all there are."""
        whole = self._whole_lines(0)[:lines]
        self.lines = self.settled = self.marked = len(whole)
        self.place, self.marked_at = sum(map(len, whole)), time.monotonic()
        self.step = json.loads(whole[-1])["step"] if whole else -1

    def missing(self) -> str:
        """One sentence, or nothing: what has not arrived for certain, and the command that sends it."""
        total = len(self._whole_lines(0))
        count = total - self.settled
        if not count:
            return ""
        command = f"yxanul track {shlex.quote(str(self.folder.path))} --to {self.name}"
        return f"{self.name} may lack the last {count} of {total} lines of metrics.jsonl: `{command}` sends them."

    def _open(self) -> Client:
        self.config, noted = read_yaml(self.folder.config), self._note()
        self.id, self.run_name = noted["id"], noted["name"]
        self._go_to(noted["lines"])
        try:
            client = NAMES[self.name](self)
        except ModuleNotFoundError as error:
            raise BadInput(f"{self.name} needs the package {error.name}: pip install {self.name}.") from None
        if client.rows is not None:  # then nothing is sent twice: the run there has our lines, and those done again
            if self.done_again is None:
                self.done_again = max(noted.get("done_again", 0), client.rows - self.lines_before)
            self._go_to(max(0, client.rows - self.done_again))
            self._note(lines=self.lines, done_again=self.done_again)
        return client

    def _note(self, **changes: int) -> dict[str, Any]:
        """This tracker's entry in trackers.json, changed; made where there is none."""
        file = self.folder.trackers
        with self.lock:
            entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
            entry = {"id": uuid.uuid4().hex[:8], "name": self.run_name, "lines": 0} | entries.get(self.name, {})
            entries[self.name] = entry | changes
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
            os.replace(partial, file)
            return entries[self.name]

    def _whole_lines(self, place: int) -> list[bytes]:
        if not self.folder.metrics.exists():
            return []
        with self.folder.metrics.open("rb") as file:
            file.seek(place)
            return [line for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]


class Trackers:
    def __init__(self, folder: RunFolder, names: list[str], run_name: str | None) -> None:
        self.stopping = threading.Event()
        self.readers = [Reader(name, folder, run_name) for name in names]
        self.threads = [threading.Thread(target=self._follow, args=[reader], daemon=True) for reader in self.readers]

    def start(self) -> None:
        for reader, thread in zip(self.readers, self.threads, strict=True):
            with suppress(OSError):  # a full disk: the thread will meet it, and say so
                reader.begin()
            thread.start()

    def wake(self) -> None:
        for reader in self.readers:
            reader.wake.set()

    def finish(self, seconds: float = FINISH) -> None:
        """Wait, so long in all, until everything has arrived; say what has not."""
        self.stopping.set()
        self.wake()
        deadline = time.monotonic() + seconds
        for reader, thread in zip(self.readers, self.threads, strict=True):
            thread.join(max(0.0, deadline - time.monotonic()))
            if missing := reader.missing():
                insist(f"yxanul: {missing}")

    def _follow(self, reader: Reader) -> None:
        said: set[type[Exception]] = set()
        wait = 1.0
        while True:
            reader.wake.clear()
            is_last = self.stopping.is_set()  # asked before reading: all lines of the run are there
            try:
                reader.send()
                if is_last:
                    return reader.close()
            except Exception as error:
                if type(error) not in said:
                    then = "" if is_last else f" The run goes on; {reader.name} is tried again."
                    insist(f"yxanul: {reader.name}: {describe(error)}{then}")
                said.add(type(error))
                with suppress(Exception):  # a client that can still be closed has delivered what it took
                    reader.close()
                if is_last:
                    return
                self.stopping.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                wait = 1.0
                reader.wake.wait()


def numbers(metrics: dict[str, Any]) -> dict[str, float]:
    """What a tracker gets of a line of metrics.jsonl; of a list, as figures by layer are, a number for each entry."""
    named = []
    for key, value in metrics.items():
        entries = enumerate(value) if isinstance(value, list) else []
        named += [(f"{key}/{place:02d}", entry) for place, entry in entries] or [(key, value)]
    return {
        f"eval/{key[5:]}" if key.startswith("eval_") else f"train/{key}": value
        for key, value in named
        if key not in ("step", "time") and isinstance(value, int | float)
    }


def describe(error: Exception) -> str:
    """An error of a tracker in one sentence without the secrets that such errors quote."""
    if isinstance(error, BadInput):
        return str(error)
    text = " ".join(str(error).split())
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return f"{type(error).__name__}: {text[:200]}".rstrip(" .:") + "."
