"""What a benchmark is: its documents, what the model is asked about each, and what the answers are judged by.

A file of evaluation/tasks/ holds TASKS, a tuple of these; docs/extending.md shows how to add one. Documents come from
the Hub through `datasets`, or from a file with the public columns. Few-shot examples are lm-eval's: drawn anew for
every document, in their order, by one generator. Not here: scores, metrics, results (runner.py).
"""

import importlib
import json
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.formats import open_bytes, open_parquet
from yxanul.evaluation.generation import Prompt

SHOTS_SEED = 1234

Document = dict[str, Any]


class Choices(NamedTuple):
    """Continuations to be scored: those of a question, or the one gold answer."""

    context: str
    continuations: tuple[str, ...]


class Text(NamedTuple):
    """To be scored from its first token to its last."""

    text: str


Request = Choices | Text | Prompt


@dataclass(frozen=True)
class Source:
    """A data set of the Hub."""

    name: str
    config: str | None
    split: str
    shots_split: str | None = None
    data_files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    name: str
    version: float  # lm-eval's, where it has the task
    columns: tuple[str, ...]  # that a document needs
    request: Callable[[Document], Request]
    # (document, answer, and `run` if it runs code): the metric's columns, and more
    judged: Callable[..., dict[str, Any]]
    metric: str
    main: tuple[str, ...]  # the metric's figures that the table shows
    source: Source | None = None
    documents: Callable[[], list[Document]] | None = None  # where there is no source
    example: Callable[[Document], str] | None = None  # a solved document; without it the task takes no shots
    shots: int = 0
    shots_differ: bool = False  # an example that equals the document is not shown
    chance: Mapping[str, float] = field(default_factory=dict)
    claims: Mapping[str, str] = field(default_factory=dict)  # SPEC.md's, by system
    runs_code: bool = False


def gold_answer(
    name: str,
    columns: tuple[str, ...],
    question: Callable[[Document], str],
    answer: Callable[[Document], str],
    **more: Any,
) -> Task:
    """Bits per byte of the right answer behind its question."""

    def request(document: Document) -> Choices:
        text = question(document)
        bare = text.rstrip()  # as lm-eval, which scores the whitespace between both
        return Choices(bare, (text[len(bare) :] + answer(document),))

    def judged(document: Document, nats: list[float]) -> dict[str, Any]:
        text = request(document).continuations[0]
        return {"predictions": nats[0], "references": len(text.encode()), "words": len(text.split())}

    main = ("bits_per_byte",)
    return Task(name, 1.0, columns, request, judged, metric="bits_per_byte", main=main, **more)


def all_tasks() -> dict[str, Task]:
    from yxanul.evaluation import tasks

    names = [module.name for module in pkgutil.iter_modules(tasks.__path__)]
    modules = [importlib.import_module(f"{tasks.__name__}.{name}") for name in names]
    return {task.name: task for module in modules for task in module.TASKS}


def find_tasks(names: Sequence[str]) -> list[Task]:
    known = all_tasks()
    for name in names:
        if name not in known:
            raise unknown_name("task", name, known)
    return [known[name] for name in dict.fromkeys(names)]


class TaskData(NamedTuple):
    documents: list[Document]
    requests: list[Request]
    place: str  # where they are from, with the revision
    shots: int


def read_data(task: Task, files: Mapping[str, str], shots: int | None = None, limit: int | None = None) -> TaskData:
    """`files`: those that are given, by TASK and TASK.shots. All that can be wrong with documents is found here."""
    shots = task.shots if shots is None or task.example is None else shots
    if task.source is None:
        assert task.documents is not None
        documents, place = task.documents(), "built in"
    else:
        documents, place = _read(task, task.source.split, task.name, files)
    documents = documents[:limit]
    if not documents:
        raise BadInput(f"{task.name}: {place} holds no document: give a file that has some.")
    pool: Sequence[Document] = []
    if shots:
        assert task.source is not None and task.source.shots_split is not None
        pool, _ = _read(task, task.source.shots_split, f"{task.name}.shots", files)
        if len(pool) <= shots:
            raise BadInput(f"{task.name}: {shots} shots need more than {len(pool)} solved examples to be drawn from.")
    requests: list[Request] = []
    draw = Random(SHOTS_SEED)
    for number, document in enumerate(documents):
        try:
            request: Any = task.request(document)
            if shots:
                assert task.example is not None
                shown = "".join(f"{task.example(shot)}\n\n" for shot in _shots(draw, pool, shots, document, task))
                request = request._replace(**{request._fields[0]: shown + request[0]})  # context or text
        except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
            raise BadInput(f"{task.name}: document {number} of {place} is not as it should be: {error!r}.") from None
        requests.append(request)
    _check_answers(task, documents, requests, place)
    return TaskData(documents, requests, place, shots)


def _check_answers(task: Task, documents: list[Document], requests: list[Request], place: str) -> None:
    """The metric judges made-up answers, so that nothing proves wrong when all the work is done."""
    from yxanul.evaluation.metrics import load_metric

    if task.runs_code:
        return
    metric, judged = load_metric(task.metric), []
    try:
        for document, request in zip(documents, requests, strict=True):
            answer: Any = "" if isinstance(request, Prompt) else -1.0
            judged.append(task.judged(document, [-1.0] * len(request[1]) if isinstance(request, Choices) else answer))
        columns = {name: [found[name] for found in judged] for name in metric.features}
        figures = metric.compute(**columns, per_sample=True)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError, AssertionError) as error:
        of = f"document {len(judged)} of {place}" if len(judged) < len(documents) else place
        raise BadInput(f"{task.name}: {of} cannot be judged: {' '.join(str(error).split())}.") from None
    for name in task.main:
        if f"{name}_stderr" not in figures:
            raise BadInput(
                f"{task.name}: its metric {task.metric} gives no {name}_stderr: a figure needs its standard error "
                "beside it, or None."
            )


def _shots(draw: Random, pool: Sequence[Document], count: int, document: Document, task: Task) -> list[Document]:
    if not task.shots_differ:
        return draw.sample(pool, count)
    found = [shot for shot in draw.sample(pool, count + 1) if shot != document][:count]
    if len(found) < count:  # the pool holds the document more than once
        found = draw.sample([shot for shot in pool if shot != document], count)
    return found


def _read(task: Task, split: str, name: str, files: Mapping[str, str]) -> tuple[list[Document], str]:
    documents, place = _from_file(files[name]) if name in files else _from_hub(task, split, name)
    for number, document in enumerate(documents):
        missing = [name for name in task.columns if document.get(name) is None]
        if missing:
            raise BadInput(
                f"{task.name}: document {number} of {place} has no {' and no '.join(missing)}; there are "
                f"{', '.join(document)}, and the task needs {', '.join(task.columns)}."
            )
    return documents, place


def _from_file(path: str) -> tuple[list[Document], str]:
    if path.endswith(".parquet"):
        with open_parquet(path) as file:
            return file.read().to_pylist(), path
    documents = []
    with open_bytes(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                document = json.loads(line)
            except ValueError as error:
                raise BadInput(f"{path}, line {number} is not JSON: {error}; a file is .jsonl or .parquet.") from None
            if not isinstance(document, dict):
                raise BadInput(f"{path}, line {number} holds no record of columns.")
            documents.append(document)
    return documents, path


def _from_hub(task: Task, split: str, name: str) -> tuple[list[Document], str]:
    source = task.source
    assert source is not None
    try:
        import datasets

        files = {"data_files": source.data_files, "verification_mode": "no_checks"} if source.data_files else {}
        found = datasets.load_dataset(source.name, source.config, split=split, **files)
    except ImportError:
        raise BadInput('data sets of the Hub need the package datasets: pip install "yxanul[evaluate]".') from None
    except Exception as error:  # the library's errors have no common class
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadInput(
            f"{task.name}: {source.name} cannot be read from the Hub ({reason}); without a network give its split "
            f"{split} as jsonl or parquet, with the columns {', '.join(task.columns)}: --data {name}=FILE."
        ) from None
    commits = re.findall(r"/([0-9a-f]{40})/", " ".join(file["filename"] for file in found.cache_files))
    return found.to_list(), f"{source.name}, {split}, revision {commits[0] if commits else 'unknown'}"
