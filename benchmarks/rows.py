"""Rows of the GPU benchmarks: each is a process of its own over the same bin, ours through `yxanul pretrain`.

Run: not by itself; throughput.py, memory.py, fp8.py and scaling.py import it, and gpu.sh runs those.
A process, ours or a peer, writes a line into metrics.jsonl for every few steps, and waits for the device there. The
first line of every length is warm-up: it compiles and allocates. The rows take turns, so a slow minute meets all of
them. What cannot run says why; nothing that was not measured is a number.
Not here: what the peers do (peers/), what is printed (tables.py), timing inside of one process (measuring.py).
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

NOT_MEASURED = "not measured"
BEGAN = time.monotonic()  # of the slice
SECONDS_TO_START = 20  # with less left of a slice no row is begun
BINS = {  # of text that every Python carries: for figures that depend on what is learnt
    "text": ["builtin:language", "builtin:code"],
    "small text": ["builtin:language,limit=400"],
}


@dataclass(frozen=True)
class Row:
    name: str
    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    settings: tuple[str, ...] = ()  # of ours, as a command line has them
    peer: str | None = None  # a file of peers/
    processes: int = 1

    def config(self) -> Any:
        from yxanul.catalog import load_shape

        return load_shape(self.model, self.changes).config


@dataclass(frozen=True)
class Work:
    """What all rows of a table train on."""

    lengths: tuple[int, ...]  # a phase for each
    step_tokens: int
    steps: int  # of each phase
    every: int  # steps between two lines
    bin: str = "made-up"  # ids of the row's vocabulary by chance, in documents of 512; or a name of BINS
    accumulation: int = 1

    def phases(self) -> list[dict[str, int]]:
        return [{"length": n, "rows": self.step_tokens // n, "steps": self.steps} for n in self.lengths]


@dataclass
class Result:
    turns: list[list[dict[str, Any]]] = field(default_factory=list)  # lines behind the warm-up
    per_cpu_second: list[float] = field(default_factory=list)  # tokens, of each turn
    accumulation: int = 1
    reason: str = ""  # why it did not run, or not to its end

    def all(self, figure: str) -> list[float]:
        return [line[figure] for lines in self.turns for line in lines if line.get(figure) is not None]

    def speeds(self) -> list[float]:  # of each turn
        return [statistics.median(line["tokens_per_second"] for line in lines) for lines in self.turns]


def arguments(about: str, turns: int = 2) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=about.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU; the figures mean nothing")
    parser.add_argument("--layout", action="store_true", help="the tables with 'not measured' in place of figures")
    parser.add_argument("--turns", type=int, default=turns)
    parser.add_argument("--minutes", type=float, default=9.0, help="what would run longer is cut off, and says so")
    return parser


def gpu() -> tuple[str, str] | None:
    """Name and driver, asked from outside: this process shall take no memory of the device."""
    with suppress(OSError, subprocess.CalledProcessError, IndexError):
        question = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        name, _, driver = subprocess.check_output(question, text=True).splitlines()[0].partition(", ")
        return name, driver
    return None


def measure(rows: list[Row], work: Work, options: argparse.Namespace) -> dict[str, Result]:
    start = {"accumulation": work.accumulation, "reason": NOT_MEASURED if options.layout else ""}
    results = {row.name: Result(**start) for row in rows}
    deadline = BEGAN + options.minutes * 60
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.turns):
            for row in (row for row in rows if not results[row.name].reason):
                result = results[row.name]
                _take_turn(row, work, result, Path(scratch), deadline, compiled=not options.small)
                print(f"{row.name}, turn {turn + 1}: {result.reason or 'done'}", file=sys.stderr, flush=True)
    return results


def _take_turn(row: Row, work: Work, result: Result, scratch: Path, deadline: float, compiled: bool) -> None:
    """A micro-batch that does not fit into memory is halved, as anybody would."""
    rows = min(phase["rows"] for phase in work.phases())
    failure = "out of memory"
    while "out of memory" in failure:
        if deadline - time.monotonic() < SECONDS_TO_START:
            result.reason = f"the slice's time was over after {len(result.turns)} turns"
            return
        words = _command(row, replace(work, accumulation=result.accumulation), scratch, compiled)
        lines, cpu, failure = watch(words, scratch, deadline)
        shutil.rmtree(scratch / "run", ignore_errors=True)
        if rows % (2 * result.accumulation):
            break
        result.accumulation *= 1 + ("out of memory" in failure)
    measured = [line for before, line in zip(lines, lines[1:], strict=False) if before["length"] == line["length"]]
    if measured:
        result.turns.append(measured)
        tokens = lines[-1]["tokens"] - lines[0]["tokens"]
        result.per_cpu_second.append(tokens / max(cpu[-1] - cpu[0], 1e-9))
    if failure or not measured:
        result.reason = (failure.strip().splitlines() or ["it wrote too few lines"])[-1][:240]


def watch(words: list[str], folder: Path, deadline: float) -> tuple[list[dict], list[float], str]:
    """What the process wrote into metrics.jsonl, its CPU seconds as each line came, and what it said if it failed."""
    metrics, output, cpu = folder / "run" / "metrics.jsonl", folder / "output", list[float]()
    with output.open("w") as file:
        process = subprocess.Popen(words, cwd=folder, stdout=file, stderr=subprocess.STDOUT)
    size, late = 0, ""
    while process.poll() is None:
        if time.monotonic() > deadline:
            late = "\nstopped before its end: the slice's time was over"
            with suppress(psutil.NoSuchProcess):
                [each.kill() for each in _family(process.pid)]
        if metrics.exists() and metrics.stat().st_size != size:
            size = metrics.stat().st_size
            cpu += [_cpu_seconds(process.pid)] * (metrics.read_text().count("\n") - len(cpu))
        time.sleep(0.01)
    found = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    failure = output.read_text(errors="replace") + late if process.returncode else ""
    return found, cpu + cpu[-1:] * (len(found) - len(cpu)), failure


def _family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def _cpu_seconds(pid: int) -> float:
    with suppress(psutil.NoSuchProcess):
        return sum(sum(each.cpu_times()[:2]) for each in _family(pid))
    return 0.0


def _command(row: Row, work: Work, scratch: Path, compiled: bool) -> list[str]:
    import yaml

    config, text = row.config(), BINS.get(work.bin)
    folder = scratch / (work.bin if text else f"ids-{config.vocab_size}")
    stage = {"name": "all", "sources": [{"bin": str(folder / "train" if text else folder)}], "phases": work.phases()}
    recipe: dict[str, Any] = {"model": row.model, "model_config": row.changes, "stages": [stage]}
    recipe |= {"logging_steps": work.every, "save_steps": work.every * 1_000_000}
    recipe |= {"gradient_accumulation_steps": work.accumulation}
    if text:
        made = {"sources": text, "held_out": 0.05}
        tokenizer = made | {"kind": "bpe", "vocabulary": 2048, "limit_bytes": 2_000_000}
        recipe |= {"tokenizer": f"{folder}-tokenizer", "data": {"tokenizer": tokenizer, str(folder): made}}
    elif not folder.exists():
        from trainer_overhead import write_bin

        write_bin(folder, config.vocab_size, document_tokens=512)
    if row.peer is None:
        (scratch / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        words = [sys.executable, "-m", "yxanul", "pretrain", "recipe.yaml", "--out", "run", *row.settings]
        return [*words, "--processes", str(row.processes)]
    case = {"shape": config.to_dict(), "stages": [stage], "accumulation": work.accumulation, "every": work.every}
    (scratch / "case.json").write_text(json.dumps(case | {"bf16": gpu() is not None, "compiled": compiled}))
    return [sys.executable, str(Path(__file__).parent / "peers" / row.peer), "case.json"]
