"""What the GPU benchmarks print: where it was measured, rows side by side, aims; all of it Markdown.

Run: not by itself; throughput.py, memory.py, fp8.py, scaling.py and elite.py import it.
MFU is that of metrics.jsonl, over the data sheet's dense bf16 peak, in FP8 too.
Not here: how rows are run (rows.py).
"""

import argparse
import os
import statistics
import sys
import time
from importlib.metadata import distributions
from pathlib import Path

from measuring import print_header, print_table, summary, use_one_thread
from rows import NOT_MEASURED, Result, Row, Work, gpu

MEASURED_TERAFLOPS = 790  # of a bf16 product of 8192 cubed on an H200
SPLIT = ("data", "forward", "backward", "optimizer")


def peak() -> float | None:
    from yxanul.training.device import peak_flops

    return peak_flops((gpu() or ("",))[0])


def header(title: str, options: argparse.Namespace) -> None:
    words = [f"benchmarks/{Path(sys.argv[0]).name}", *(word for word in sys.argv[1:] if word != "--layout")]
    print(f"## {title}\n")
    if options.layout:
        print(f"`python {' '.join(words)}`\n")
        return
    found, installed = gpu(), {each.name.replace("-", "_"): each.version for each in distributions()}
    if found is None:
        use_one_thread()  # the processes of all rows inherit it
    os.environ |= {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}  # ours says so itself; the peers get it too
    print("```")
    print_header()
    extras = [f"{name}: {installed.get(name, 'absent')}" for name in ("transformer_engine", "flash_attn", "litgpt")]
    print(f"GPU: {f'{found[0]}, driver {found[1]}' if found else 'none'}; {', '.join(extras)}")
    print(f"date: {time.strftime('%Y-%m-%d')}\n```\n")
    if options.small:
        print("**Small sizes: this shows that the script works. The speeds mean nothing, least of all for a GPU.**\n")


def say_what_mfu_is() -> None:
    print(
        "MFU: training FLOPs per token (6 for each parameter in a matrix product, causal attention at half of the "
        "square, recomputation not counted) x tokens/s / the data sheet's dense bf16 peak, "
        f"{(peak() or 989e12) / 1e12:,.0f} TFLOP/s{'' if peak() else ' on an H200'}; the aims are shares of the "
        f"{MEASURED_TERAFLOPS} TFLOP/s that a bf16 product of 8192 cubed reached on an H200.\n"
    )


def show(rows: list[Row], results: dict[str, Result], work: Work, against: str | None = None) -> None:
    """`against`: the name of the row that the others' speed is divided by."""
    on_cpu = any(result.turns and not result.all("memory/device_peak") for result in results.values())
    headings = ["run", "parameters", "micro-batch", "tokens/s, median (range)"]
    headings += ["tokens/CPU s"] if on_cpu else []
    headings += ["TFLOP/s", "MFU", "process's peak, GB" if on_cpu else "peak, GB", f"{' / '.join(SPLIT)}, ms"]
    headings += [f"speed / {against}"] if against else []
    table, notes = [], list[str]()
    for row in rows:
        result = results[row.name]
        cells = _size(row, result, work)
        if result.reason not in ("", NOT_MEASURED):
            notes += [] if result.reason in notes else [result.reason]
            cells[0] += f" ({notes.index(result.reason) + 1})"
        if result.turns:
            cells += _figures(row, result, max(work.lengths), on_cpu)
            cells += [_over(result, results[against], on_cpu)] if against else []
        else:
            cells += [NOT_MEASURED] * (len(headings) - len(cells))
        table.append(cells)
    print_table(headings, table)
    for number, note in enumerate(notes, 1):
        print(f"({number}) {note}\n")


def _size(row: Row, result: Result, work: Work) -> list[str]:
    from yxanul.catalog import parameter_table

    length = max(work.lengths)
    parameters = result.all("parameters") or [sum(parameter_table(row.config()).values())] * (row.peer is None)
    size = f"{work.step_tokens // length // result.accumulation} x {length:,}"
    return [row.name, f"{parameters[0]:,}" if parameters else "-", size]


def _figures(row: Row, result: Result, length: int, on_cpu: bool) -> list[str]:
    from yxanul.catalog import training_flops_per_token

    flops = (result.all("flops_per_token") or [sum(training_flops_per_token(row.config(), length).values())])[0]
    flops *= statistics.median(result.all("tokens_per_second"))
    memory = max(result.all("memory/host_peak" if on_cpu else "memory/device_peak"))
    most, split = peak(), [result.all(f"time/{part}") for part in SPLIT]
    return [
        summary(result.all("tokens_per_second")),
        *([summary(result.per_cpu_second)] if on_cpu else []),
        f"{flops / 1e12:,.{3 if on_cpu else 0}f}",
        f"{flops / most / row.processes:.1%}" if most else "no peak",
        f"{memory / 1e9:.2f}",
        " / ".join(f"{statistics.median(part) * 1e3:.1f}" if part else "-" for part in split),
    ]


def _over(one: Result, other: Result, on_cpu: bool) -> str:
    pairs = zip(*(each.per_cpu_second if on_cpu else each.speeds() for each in (one, other)), strict=False)
    found = [mine / theirs for mine, theirs in pairs]
    return f"{statistics.median(found):.2f}" if found else "-"


def show_aims(aims: list[tuple[str, float, float | None]], at_most: bool = False) -> None:
    """What issue 7 asks for on one H200; a figure of None was not measured."""
    is_h200, table = "H200" in (gpu() or ("",))[0], []
    for name, aim, figure in aims:
        cells = [NOT_MEASURED] * 2
        if figure is not None:
            verdict = "reached" if (figure <= aim if at_most else figure >= aim) else "missed"
            cells = [f"{figure:,.{2 * (aim < 100)}f}", verdict if is_h200 else "the aim is an H200's"]
        table.append([name, f"{aim:,.{2 * (aim < 100)}f}", *cells])
    print_table(["aim on one H200", "at most" if at_most else "at least", "figure", ""], table)
