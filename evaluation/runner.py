"""Benchmarks x one model: OUT/results.json, and OUT/samples-TASK.jsonl with every prompt, output and score.

What is done is written batch by batch; the same command goes on after a kill, with the figures of an undisturbed run,
for the batches do not depend on what was done. Under `accelerate launch` each process takes every n-th batch. What
could not be run says so; it is never a zero. Not here: the command line (evaluate_command.py).
"""

import hashlib
import json
import time
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object

from yxanul.data.progress import Progress, say
from yxanul.data.whole_files import write_json, write_whole
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.metrics import load_metric
from yxanul.evaluation.sandbox import SandboxUnavailable
from yxanul.evaluation.scoring import NOTHING, Score, Scorer
from yxanul.evaluation.task import SHOTS_SEED, Choices, Request, Task, TaskData
from yxanul.evaluation.text_model import TextModel, processes


def run_tasks(
    subject: TextModel,
    tasks: list[tuple[Task, TaskData]],
    out: Path,
    results: dict[str, Any],
    *,
    rows: int | None = None,
    run_program: Any = None,
    refused: str = "",
) -> None:
    """Adds to `results`, and writes it. `run_program` takes programs to the sandbox; `refused`: why there is none."""
    state = processes()
    out.mkdir(parents=True, exist_ok=True)
    results["tasks"] = broadcast_object_list([results["tasks"]])[0]  # another machine may not see this one's folder
    for task, data in tasks:
        began, stem = time.monotonic(), out / f"samples-{task.name}"
        entry: dict[str, Any] = {
            **{"task": task.name, "version": task.version, "status": "done", "n": len(data.documents)},
            **{"shots": data.shots, "seed": SHOTS_SEED, "data": data.place, "boundary": subject.boundary},
            **{"main": list(task.main), "chance": dict(task.chance), "claims": dict(task.claims)},
        }
        reason = _too_long(subject, data)
        if not reason:
            engine, items = engine_of(subject, data.requests, rows=rows)
            model = f"{subject.revision} {subject.model.dtype}"
            content = model + json.dumps(entry) + repr(engine.batches) + repr(data.requests) + repr(data.documents)
            entry["fingerprint"] = hashlib.sha256(content.encode()).hexdigest()[:16]
            if results["tasks"].get(task.name, {}).get("fingerprint") == entry["fingerprint"]:
                continue
            reason = refused if task.runs_code else ""
        if not reason:
            found = _run_batches(engine, stem, entry["fingerprint"], state)
            entry["cut"] = sum(bool(engine.cut.intersection(own)) for own in items)
        if state.is_main_process:
            if not reason:
                try:
                    entry["metrics"], samples = judge(task, data, _answers(data.requests, items, found), run_program)
                except SandboxUnavailable as error:  # what was generated stays, for another start
                    reason = str(error)
                else:
                    lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples]
                    write_whole(Path(f"{stem}.jsonl"), lines)
                    for file in out.glob(f"{stem.name}.partial-*"):
                        file.unlink()
            if reason:
                entry |= {"status": "not run", "reason": reason, "fingerprint": ""}
            entry |= {name: results[name] for name in ("command", "date") if name in results}
            results["tasks"][task.name] = entry | {"seconds": round(time.monotonic() - began, 1)}
            write_json(out / "results.json", results)
        state.wait_for_everyone()


def _too_long(subject: TextModel, data: TaskData) -> str:
    first = data.requests[0]
    if isinstance(first, Prompt) and first.tokens >= subject.longest:
        return f"it generates {first.tokens} tokens behind each prompt, and the model takes {subject.longest} in all"
    return ""


def engine_of(subject: TextModel, requests: list[Request], **how: Any) -> tuple[Any, list[list[int]]]:
    """What answers the requests, and which of its items belong to each request."""
    items: list[list[int]] = []
    inputs: list[Any] = []
    for request in requests:
        begin = len(inputs)
        if isinstance(request, Choices):
            inputs += [subject.pair(request.context, continuation) for continuation in request.continuations]
        else:
            inputs.append(request if isinstance(request, Prompt) else subject.text(request.text))
        items.append(list(range(begin, len(inputs))))
    kind: Any = Writer if isinstance(requests[0], Prompt) else Scorer
    return kind(subject, inputs, **how), items


def _run_batches(engine: Any, stem: Path, fingerprint: str, state: Any) -> dict[int, list]:
    """What came of every batch, on every process; what is done lies in STEM.partial-PROCESS.jsonl until all are."""
    done = broadcast_object_list([_done_before(stem, fingerprint) if state.is_main_process else None])[0]
    own: dict[int, list] = {}
    stem.parent.mkdir(parents=True, exist_ok=True)  # on another machine
    with (
        open(f"{stem}.partial-{state.process_index}.jsonl", "a", encoding="utf-8") as file,
        Progress(stem.name.removeprefix("samples-"), len(engine.batches), len(done)) as progress,
    ):
        for number in range(state.process_index, len(engine.batches), state.num_processes):
            if number not in done:
                own[number] = engine.run(engine.batches[number])
                file.write(json.dumps([fingerprint, number, own[number]]) + "\n")
                file.flush()
                progress.end_part()
    return {number: found for part in [done, *gather_object([own])] for number, found in part.items()}


def _done_before(stem: Path, fingerprint: str) -> dict[int, list]:
    """Of however many processes, gathered into the file of the first."""
    done, files = {}, list(stem.parent.glob(f"{stem.name}.partial-*"))
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            of, number, found = json.loads(line) if line.endswith("\n") else ("half a line, of a kill", 0, [])
            if of == fingerprint:
                done[number] = found
    lines = [json.dumps([fingerprint, number, found]) + "\n" for number, found in done.items()]
    gathered = Path(f"{stem}.partial-0.jsonl")
    write_whole(gathered, lines)
    for file in files:
        if file != gathered:
            file.unlink()
    if done:
        say(f"{stem.name.removeprefix('samples-')}: {len(done):,} batches are done already.")
    return done


def _answers(requests: list[Request], items: list[list[int]], batches: dict[int, list]) -> list[Any]:
    """Log-likelihoods of choices, or of a text (its parts added in their order), or what was written."""
    values: dict[int, Any] = {}
    for number in sorted(batches):
        for item, value in batches[number]:
            value = value if isinstance(value, str) else Score(*value)
            values[item] = values[item] + value if item in values else value
    answers: list[Any] = []
    for request, own in zip(requests, items, strict=True):
        found = [values[item] if isinstance(request, Prompt) else values.get(item, NOTHING).nats for item in own]
        answers.append(found if isinstance(request, Choices) else found[0])
    return answers


def judge(
    task: Task, data: TaskData, answers: list[Any], run_program: Any = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metric's figures with their standard errors; and every sample with its scores."""
    metric = load_metric(task.metric)
    more = [run_program] if task.runs_code else []
    judged = [task.judged(*pair, *more) for pair in zip(data.documents, answers, strict=True)]
    columns = {name: [found[name] for found in judged] for name in metric.features}
    figures = metric.compute(**columns, per_sample=True)
    scores = figures.pop("per_sample")
    samples = [
        {"id": number, "prompt": request[0], "output": answer, "expected": judged[number]["references"]}
        | {name: judged[number][name] for name in ("choices", "reason") if name in judged[number]}
        | {"metrics": {name: values[number] for name, values in scores.items()}}
        for number, (request, answer) in enumerate(zip(data.requests, answers, strict=True))
    ]
    more_is_better = {"higher_is_better": task.metric != "bits_per_byte"}
    found = {
        name: {"value": figures[name], "stderr": figures[f"{name}_stderr"]} | more_is_better
        for name in figures
        if f"{name}_stderr" in figures
    }
    return found, samples
