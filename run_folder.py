"""Names and formats of what a run leaves behind, and the exit codes of a run; no torch, no other file of the package.

RUN/config.yaml          the resolved recipe, every default written out
    environment.json     versions, devices, command; one entry for each start
    metrics.jsonl        one line for each log, written by process 0; samples.jsonl, one for each evaluation
    gates.json           the verdict on every gated stage; scores/ holds what they rest on
    checkpoints/checkpoint-N/     model, optimizer, state; with COMPLETE in it, or it does not exist
    stages/1-language/   the checkpoint at a stage's end, kept whatever rotation does
    final/               loads with from_pretrained
"""

import json
import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

DONE, BAD_INPUT, GATE_FAILED, STOPPED, FAILED = 0, 2, 3, 4, 5
COMPLETE = "COMPLETE"


class RunFolder:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.config = self.path / "config.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.jsonl"
        self.trackers = self.path / "trackers.json"
        self.lock = self.path / "lock"
        self.gates = self.path / "gates.json"
        self.scores = self.path / "scores"
        self.checkpoints = self.path / "checkpoints"
        self.stages = self.path / "stages"
        self.final = self.path / "final"

    def checkpoint(self, step: int) -> Path:
        return self.checkpoints / f"checkpoint-{step}"

    def stage(self, index: int, name: str) -> Path:
        """`index` counts from 0; people count from 1."""
        return self.stages / f"{index + 1}-{name}"


def read_metrics(file: Path, containing: str = "", last: int | None = None) -> Iterator[dict[str, Any]]:
    """Whole lines, for a kill may leave half of one at the end; `last`: so many of them. A long run has 100 MB."""
    if not file.exists():
        return
    with file.open(encoding="utf-8") as lines:
        wanted = (line for line in lines if containing in line and line.endswith("\n"))
        for line in wanted if last is None else deque(wanted, maxlen=last):
            yield json.loads(line)


def bits_per_byte(line: dict[str, Any]) -> dict[str, float]:
    """The held-out figure of each domain in a line of metrics.jsonl; their mean is none of them."""
    found = {re.fullmatch("eval_(.+)_bits_per_byte", key): value for key, value in line.items()}
    return {match[1]: value for match, value in found.items() if match and value is not None}


def flaw(folder: Path) -> str | None:
    """Why this is no complete checkpoint."""
    try:
        sizes = read_marker(folder)["files"]
    except (ValueError, KeyError):
        return f"its {COMPLETE} cannot be read"
    except OSError:
        return f"it has no {COMPLETE}, so its save was cut off"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size:,} bytes, not {size:,}"
    return None


def read_marker(folder: Path) -> dict[str, Any]:
    return json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
