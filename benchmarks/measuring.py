"""How the benchmarks of this folder measure: CPU seconds in turns, peak memory in a process of its own, one thread.

Run: not by itself; the benchmarks import it.
Not here: wall-clock time (other programs on the machine change it), GPUs, systems other than Linux (peak memory is
read from /proc).
"""

import ctypes
import gc
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

MEGABYTE = 1e6


def use_one_thread() -> None:
    """Call before torch is imported: on shared cores a second OpenMP thread burns CPU time while it waits."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def print_header() -> None:
    """The command, the versions and the processor, so that a pasted table says where it is from."""
    import torch
    import transformers

    print(f"$ {shlex.join(['python', os.path.relpath(sys.argv[0]), *sys.argv[1:]])}")
    print(
        f"python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"threads: {torch.get_num_threads()}"
    )
    print(f"processor: {_processor()}, kernels: {torch.backends.cpu.get_cpu_capability()}\n")


def _processor() -> str:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return models[0].partition(": ")[2] if models else platform.machine()


def seconds_in_turns(works: dict[str, Callable[[], Any]], repeats: int, calls: int = 1) -> dict[str, list[float]]:
    """CPU seconds of one call of each work; the works alternate, so a slow minute of the machine meets all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(repeats + 1):
        for name, work in works.items():
            began = time.process_time()
            for _ in range(calls):
                work()
            if repeat:  # the first round pays for imports and first touches
                seconds[name].append((time.process_time() - began) / calls)
    return seconds


def summary(values: list[float], scale: float = 1.0, digits: int = 0) -> str:
    """Median and range of the scaled values."""
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def ratios(values: list[float], references: list[float]) -> list[float]:
    """Of each turn: what slows the machine for a while slows both sides of a turn, and falls out."""
    return [value / reference for value, reference in zip(values, references, strict=True)]


def peak_growth(work: Callable[[], Any]) -> float:
    """Megabytes of resident memory that the work takes at its peak, above what the process holds before it."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # free memory that the process still holds would hide growth
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark falls to the present size
    before = _status_bytes("VmRSS")
    work()
    return (_status_bytes("VmHWM") - before) / MEGABYTE


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"/proc/self/status has no {field}: peak memory cannot be measured on this system.")


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """The function's result from a new interpreter, which inherits neither memory nor its high-water mark."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def print_table(headings: list[str], rows: list[list[str]]) -> None:
    """As Markdown, so that it can be pasted into docs/."""
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    for row in [headings, ["-" * width for width in widths], *rows]:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        print(f"| {' | '.join(cells)} |")
    print()
