"""Benchmarks x one model: OUT/results.json, and OUT/samples/TASK.jsonl with every prompt, output and score.

What is done is written batch by batch; the same command goes on after a kill, with the figures of an undisturbed run,
for the batches do not depend on what was done. Under `accelerate launch` each process takes every n-th batch. What
could not be run says so; it is never a zero. Not here: the command line (evaluate_command.py).
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import Progress, say
from yxanul.data.whole_files import write_json, write_whole
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.metrics import load_metric
from yxanul.evaluation.scoring import Score, Scorer
from yxanul.evaluation.task import SHOTS_SEED, Choices, Request, Task, TaskData
from yxanul.evaluation.text_model import TextModel


@dataclass(frozen=True)
class Settings:
    out: Path
    shots: int | None = None
    rows: int | None = None  # of a batch; None: as many as fit
    run_program: Callable[[str], Any] | None = None  # the sandbox, where generated code may run

    def shots_of(self, task: Task) -> int:
        return task.shots if self.shots is None or task.example is None else self.shots


class Results:
    """OUT/results.json, written by process 0 whenever a task is done."""

    def __init__(self, out: Path, facts: dict[str, Any]) -> None:
        self._file = out / "results.json"
        self.content: dict[str, Any] = facts | {"tasks": {}}
        if self._file.exists():
            before = json.loads(self._file.read_text(encoding="utf-8"))
            for key in ("model", "revision"):
                if before[key] != facts[key]:
                    raise BadInput(
                        f"{self._file} is of {key} {before[key]}, and this is {facts[key]}: give another --out."
                    )
            self.content["tasks"] = before["tasks"]

    def of(self, task: str) -> dict[str, Any]:
        return self.content["tasks"].get(task, {})

    def add(self, task: str, entry: dict[str, Any]) -> None:
        self.content["tasks"][task] = entry
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._file, self.content)


def run_tasks(
    subject: TextModel, tasks: list[tuple[Task, TaskData]], settings: Settings, results: Results, state: Any
) -> None:
    """`state`: accelerate's PartialState, or None for one process."""
    for task, data in tasks:
        began = time.monotonic()
        entry = _facts(subject, task, data, settings)
        room = [request.tokens for request in data.requests if isinstance(request, Prompt)]
        if room and room[0] >= subject.longest:
            reason = f"it generates {room[0]} tokens, and the model takes {subject.longest} with the prompt"
            outputs = None
            entry |= {"status": "not run", "reason": reason}
        else:
            engine, items = engine_of(subject, data.requests, rows=settings.rows)
            entry["fingerprint"] = _fingerprint(entry, engine)
            if results.of(task.name).get("fingerprint") == entry["fingerprint"]:
                continue
            batches = _Unfinished(settings.out, task.name, entry["fingerprint"], state).run(engine)
            outputs = _outputs(engine, items, batches)
            entry["cut"] = len({number for number, own in enumerate(items) if engine.cut.intersection(own)})
        if state is None or state.is_main_process:
            if outputs is not None:
                found, _ = judged_samples(task, data, outputs, settings.run_program)
                samples = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in found["samples"]]
                write_whole(settings.out / "samples" / f"{task.name}.jsonl", samples)
                entry["metrics"] = found["metrics"]
            entry["seconds"] = round(time.monotonic() - began, 1)
            results.add(task.name, entry)
            for file in (settings.out / "samples").glob(f"{task.name}.partial-*"):
                file.unlink()
        if state is not None:
            state.wait_for_everyone()


def _facts(subject: TextModel, task: Task, data: TaskData, settings: Settings) -> dict[str, Any]:
    return {
        "task": task.name,
        "version": task.version,
        "status": "done",
        "shots": settings.shots_of(task),
        "shots_seed": SHOTS_SEED,
        "n": len(data.documents),
        "data": data.place,
        "boundary": subject.boundary,
        "main": list(task.main),
        "chance": dict(task.chance),
        "claims": dict(task.claims),
    }


def engine_of(subject: TextModel, requests: list[Request], **how: Any) -> tuple[Any, list[list[int]]]:
    """What answers the requests, and which of its items belong to each request."""
    items: list[list[int]] = []
    pairs: list[Any] = []
    for request in requests:
        begin = len(pairs)
        if isinstance(request, Choices):
            pairs += [subject.pair(request.context, continuation) for continuation in request.continuations]
        else:
            pairs.append(request if isinstance(request, Prompt) else subject.text(request.text))
        items.append(list(range(begin, len(pairs))))
    if isinstance(requests[0], Prompt):
        return Writer(subject, pairs, **how), items
    return Scorer(subject, pairs, **how), items


def _fingerprint(entry: dict[str, Any], engine: Any) -> str:
    content = json.dumps(entry, sort_keys=True) + repr(engine.batches) + repr(getattr(engine, "prompts", ""))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Unfinished:
    """The batches of a task that are done, in samples/TASK.partial-PROCESS.jsonl until all are."""

    def __init__(self, out: Path, task: str, fingerprint: str, state: Any) -> None:
        self._task, self._fingerprint, self._state = task, fingerprint, state
        self._folder = out / "samples"
        self._rank, self._processes = (state.process_index, state.num_processes) if state else (0, 1)

    def run(self, engine: Any) -> dict[int, list]:
        """What came of every batch."""
        done = self._shared(self._resumed() if self._rank == 0 else None)
        mine = [number for number in range(len(engine.batches)) if number % self._processes == self._rank]
        mine = [number for number in mine if number not in done]
        found: dict[int, list] = {}
        with (
            self._file(self._rank).open("a", encoding="utf-8") as file,
            Progress(self._task, len(engine.batches), len(done)) as progress,
        ):
            for number in mine:
                found[number] = engine.run(engine.batches[number])
                file.write(json.dumps([self._fingerprint, number, found[number]]) + "\n")
                file.flush()
                progress.end_part()
        if self._state is None:
            return done | found
        from accelerate.utils import gather_object

        parts = gather_object([found])  # every process's, on every process
        return {number: batch for part in [done, *parts] for number, batch in part.items()}

    def _resumed(self) -> dict[int, list]:
        """Of the batches that earlier processes finished, however many they were; into one file."""
        self._folder.mkdir(parents=True, exist_ok=True)
        done = {}
        for file in self._folder.glob(f"{self._task}.partial-*"):
            for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
                if line.endswith("\n"):  # a kill may leave half of one
                    fingerprint, number, found = json.loads(line)
                    if fingerprint == self._fingerprint:
                        done[number] = [
                            (item, value if isinstance(value, str) else Score(*value)) for item, value in found
                        ]
            file.unlink()
        lines = [json.dumps([self._fingerprint, number, found]) + "\n" for number, found in done.items()]
        write_whole(self._file(0), lines)
        if done:
            say(f"{self._task}: {len(done):,} batches are done already.")
        return done

    def _shared(self, done: dict[int, list] | None) -> dict[int, list]:
        if self._state is None:
            return done or {}
        from accelerate.utils import broadcast_object_list

        box = broadcast_object_list([done])
        self._folder.mkdir(parents=True, exist_ok=True)  # on another machine
        return box[0]

    def _file(self, rank: int) -> Path:
        return self._folder / f"{self._task}.partial-{rank}.jsonl"


def _outputs(engine: Any, items: list[list[int]], found: dict[int, list]) -> list[Any]:
    """Of every request: log-likelihoods, or the text; the parts of a long text added in their order."""
    values: dict[int, Any] = {}
    for number in range(len(engine.batches)):
        for item, value in found[number]:
            values[item] = values[item] + value if item in values else value
    return [[values[item] for item in own] for own in items]


def judged_samples(
    task: Task, data: TaskData, outputs: list[list[Any]], run_program: Any = None
) -> tuple[dict[str, Any], dict[str, list]]:
    """The metric's figures, with the samples; and each sample's scores by figure."""
    metric = load_metric(task.metric)
    judged, samples = [], []
    for number, (document, request, output) in enumerate(zip(data.documents, data.requests, outputs, strict=True)):
        said = _said(request, output)
        columns = task.judged(document, said, *([run_program] if task.runs_code else []))
        judged.append(columns)
        more = {name: value for name, value in columns.items() if name != "predictions"}
        samples.append({"id": number, "prompt": request[0], "output": said, **more})
    columns = {name: [entry[name] for entry in judged] for name in metric.features}
    figures = metric.compute(**columns, per_sample=True)
    scores = figures.pop("per_sample")
    for name, values in scores.items():
        for sample, value in zip(samples, values, strict=True):
            sample[name] = value
    names = [name for name in figures if name != "n" and not name.endswith("_stderr")]
    found = {name: {"value": figures[name], "stderr": figures[f"{name}_stderr"]} for name in names}
    return {"metrics": found, "samples": samples}, scores


def _said(request: Request, output: list[Any]) -> Any:
    if isinstance(request, Choices):
        return [score.nats for score in output]
    return output[0] if isinstance(request, Prompt) else output[0].nats
