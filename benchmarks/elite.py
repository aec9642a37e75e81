"""One slice of a training of `elite-112m`: it goes on where the slice before stopped, and stops by a signal.

    python benchmarks/elite.py [--minutes 8]          (a GPU; on an H200 three slices should do the 2,000 steps)
    python benchmarks/elite.py --small                (a CPU: --scale tiny, stopped after its second line)

The recipe as it is, but for its trackers, its micro-batch (32 rows instead of 8) and, where bins/smollm2 is not there,
its text: then it is Python's own and generated problems, read many times, so the loss says that training works and
nothing of the recipe's quality. The table is of all slices so far. Not here: speed by itself (throughput.py).
"""

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from measuring import print_table
from rows import NOT_MEASURED, arguments
from tables import header

FOLDER = Path("build/benchmarks")
STOPPED = 4  # the run's exit code behind a signal: saved, the same command goes on
TEXT = "bins/benchmark"
SOURCES = ["builtin:language", "builtin:code", "builtin:reasoning,count=200000", "builtin:math,count=200000"]
TOKENIZER = {"kind": "bpe", "vocabulary": 8192, "sources": SOURCES, "limit_bytes": 8_000_000, "held_out": 0.05}
GPU_SETTINGS = ["report_to=none", "gradient_accumulation_steps=4", "logging_steps=10"]
BUILT_IN = [
    f"tokenizer={TEXT}/tokenizer",
    f"data={json.dumps({'tokenizer': TOKENIZER, f'{TEXT}/all': {'sources': SOURCES, 'held_out': 0.05}})}",
    f"stages.language.sources={json.dumps([{'bin': f'{TEXT}/all/train', 'tokens': 24_000_000}])}",
    f"validation={json.dumps({'language': f'{TEXT}/all/held_out'})}",
]


def main() -> None:
    options = arguments(__doc__, turns=1).parse_args()
    header("A training of elite-112m in slices", options)
    run = FOLDER / ("elite-small" if options.small else "elite")
    record, text = run.with_suffix(".json"), [] if Path("bins/smollm2/fineweb-edu").exists() else BUILT_IN
    settings = ["--scale", "tiny"] if options.small else [*GPU_SETTINGS, *text]
    slices = json.loads(record.read_text()) if record.exists() and not options.layout else []
    if not options.layout:
        slices.append(one_slice([*settings, "--processes", "1"], run, options))
        record.write_text(json.dumps(slices))
    print_slices(slices)
    sys.exit(bool(slices) and slices[-1]["code"] not in (0, STOPPED))


def one_slice(settings: list[str], run: Path, options: Any) -> dict:
    FOLDER.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "yxanul", "pretrain", "elite-112m", "--out", str(run), *settings]
    before, began, asked = len(training_lines(run)), time.monotonic(), False
    with Path(f"{run}.log").open("a") as log:
        process = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT)
    while process.poll() is None:
        enough = options.small and not before and len(training_lines(run)) >= 2
        if not asked and (enough or time.monotonic() - began > options.minutes * 60):
            process.send_signal(signal.SIGTERM)
            asked = True
        time.sleep(0.05)
    found = {"code": process.returncode, "lines": training_lines(run)[before:]}
    said = Path(f"{run}.log").read_text().strip().splitlines()[-1]
    return found | {"minutes": (time.monotonic() - began) / 60, "said": said}


def training_lines(run: Path) -> list[dict]:
    from yxanul.run_folder import read_metrics

    return list(read_metrics(run / "metrics.jsonl", containing='"tokens_per_second"'))


def print_slices(slices: list[dict]) -> None:
    headings = ["slice", "minutes", "logged steps", "tokens", "tokens/s, median behind the first line", "MFU", "loss"]
    table = []
    for number, found in enumerate(slices, 1):
        cells = [found["said"], *["-"] * 4]
        if lines := found["lines"]:
            first, last = lines[0], lines[-1]
            speed = statistics.median(line["tokens_per_second"] for line in lines[1:] or lines)
            cells = [f"{first['step']:,} to {last['step']:,}", f"{last['tokens']:,}", f"{speed:,.0f}"]
            cells += [f"{last['mfu']:.1%}" if last["mfu"] else "no peak", f"{last['loss']:.3f}"]
        table.append([str(number), f"{found['minutes']:.1f}", *cells, str(found["code"])])
    print_table([*headings, "exit code"], table or [["1", *[NOT_MEASURED] * len(headings)]])


if __name__ == "__main__":
    main()
