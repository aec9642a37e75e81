"""`data prepare` as blocks of a datatrove pipeline: documents from any of its readers and filters become a token bin.

    parts = [ParquetReader("s3://bucket/books"), TokenParts("bins/books", "gpt2", held_out=0.01)]
    LocalPipelineExecutor(parts, tasks=64, workers=8, logging_dir="logs/parts").run()
    LocalPipelineExecutor([TokenBins("bins/books")], tasks=1, logging_dir="logs/bins").run()

Every task writes one part, at a place that all machines see; then one task lays the parts one behind the other, task 0
first, and drops exact duplicates. On the same documents in the same order the bins are those of `data prepare`, but
for the source's name. Not here: datatrove (extra `scale`), its Slurm and Ray executors (docs/data-at-scale.md).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep

from yxanul.bad_input import BadInput
from yxanul.data.decontamination import Contaminated
from yxanul.data.documents import Finding, Part
from yxanul.data.part_files import Job, Preparer, Task
from yxanul.data.prepare import PARTS, SETTINGS, SHARD_TOKENS, check, give_name, make_bins
from yxanul.data.tokenizers import load_tokenizer
from yxanul.data.whole_files import write_json

SOURCE = "datatrove"  # in the manifest; what was read and filtered stands in datatrove's own logs


@dataclass(frozen=True)
class _Stream:
    """Reads a pipeline's documents, once."""

    documents: Iterable[Document]

    def findings(self) -> Iterator[Finding]:
        return (Finding(document.text, document.id) for document in self.documents)


class TokenParts(PipelineStep):
    """Consumes a task's documents. A task whose part is there already does nothing."""

    name, type = "Yxanul part", "TOKENIZER"

    def __init__(
        self,
        out: str | Path,
        tokenizer: str,
        held_out: float = 0.0,
        min_tokens: int = 0,
        decontaminate: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        check(Path(out), held_out, None, 1, min_tokens)
        self.parts = _partial(Path(out)) / PARTS
        self.settings: dict[str, Any] = {
            "tokenizer": tokenizer,
            "fingerprint": load_tokenizer(tokenizer).fingerprint,
            "held_out": held_out,
            "min_tokens": min_tokens,
            "decontaminate": list(decontaminate),
        }

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        self.parts.mkdir(parents=True, exist_ok=True)
        folder, note = self.parts / f"{rank:06d}", self.parts / f"{rank:06d}.json"
        settings = self.settings | {"tasks": world_size}
        if note.exists() and json.loads(note.read_text(encoding="utf-8")) != settings:
            raise BadInput(f"{self.parts} was begun with other settings ({note.name}): repeat them, or remove it.")
        write_json(note, settings)
        if not folder.exists():
            contaminated = Contaminated(settings["decontaminate"]) if settings["decontaminate"] else None
            task = Task(folder.name, SOURCE, Part(_Stream(data)), None)
            Preparer(_job(settings, contaminated)).write(task, folder, self._report)

    def _report(self, documents: int, tokens: int) -> None:
        self.stat_update("documents", value=documents)
        self.stat_update("tokens", value=tokens)


class TokenBins(PipelineStep):
    """Alone in its pipeline, with one task, after all tasks of TokenParts."""

    name, type = "Yxanul bins", "TOKENIZER"

    def __init__(self, out: str | Path, pack: int | None = None, shard_tokens: int = SHARD_TOKENS) -> None:
        super().__init__()
        check(Path(out), 0.0, pack, 1, 0)
        self.out, self.pack, self.shard_tokens = Path(out).absolute(), pack, shard_tokens

    def run(self, data: None = None, rank: int = 0, world_size: int = 1) -> None:
        if world_size != 1:
            raise BadInput(f"TokenBins writes one bin: give its executor tasks=1, not {world_size}.")
        partial = _partial(self.out)
        if (partial / PARTS).exists() or not partial.exists():
            settings, folders = _finished(partial / PARTS)
            write_json(partial / SETTINGS, settings)
            make_bins(partial, [(SOURCE, folders)], _job(settings, None), self.pack, self.shard_tokens)
        give_name(partial, self.out)


def _partial(out: Path) -> Path:
    return out.absolute().with_name(f"{out.name}.partial")


def _job(settings: dict[str, Any], contaminated: Contaminated | None) -> Job:
    tokenizer = load_tokenizer(settings["tokenizer"])
    if tokenizer.fingerprint != settings["fingerprint"]:
        raise BadInput(f"the tokenizer {tokenizer.name} is another one here than where the pipeline was begun.")
    return Job(tokenizer, settings["held_out"], settings["min_tokens"], contaminated)


def _finished(parts: Path) -> tuple[dict[str, Any], list[Path]]:
    """What all tasks agree on, and every task's part."""
    notes = [json.loads(note.read_text(encoding="utf-8")) for note in sorted(parts.glob("*.json"))]
    if not notes:
        raise BadInput(f"there are no parts in {parts}: run TokenParts first.")
    if any(note != notes[0] for note in notes):
        raise BadInput(f"the parts in {parts} were made with different settings: remove it and make all again.")
    folders = [parts / f"{rank:06d}" for rank in range(notes[0]["tasks"])]
    missing = [folder.name for folder in folders if not folder.exists()]
    if missing:
        what = f"{len(missing)} of {len(folders)} parts are not finished ({missing[0]} first)"
        raise BadInput(f"{what}: run TokenParts again.")
    return notes[0], folders
