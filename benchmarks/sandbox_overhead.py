"""What running a program in the sandbox costs: wall and CPU milliseconds, against an interpreter for each program.

Run: python benchmarks/sandbox_overhead.py [--programs 300]
CPU is of all processes together. Not here: a container (its cost is its tool's), the time of the programs themselves.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

from measuring import print_header, print_table, summary

IMPORTS = "import math, re, typing, collections, itertools, functools, heapq, hashlib, string, random\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--programs", type=int, default=300)
    arguments = parser.parse_args()
    print_header()

    from yxanul.evaluation import sandbox

    began = time.perf_counter()
    print(f"level: {sandbox.level()}; to get there once: {(time.perf_counter() - began) * 1e3:.0f} ms\n")
    ways: dict[str, Callable[[str], object]] = {
        "sandbox": lambda program: sandbox.run_program(program, 60.0),
        "`python -I -S -c`, no protection": lambda program: subprocess.run(
            [sys.executable, "-I", "-S", "-c", program], check=True
        ),
    }
    rows = []
    for name, program in (("x = 1", "x = 1"), ("ten imports", IMPORTS)):
        for way, run in ways.items():
            wall, cpu = measure(run, program, arguments.programs)
            rows.append([name, way, summary(wall, 1e3, 1), f"{cpu * 1e3:.1f}"])
    print_table(["program", "way", "wall ms, median (range without the slowest 1 %)", "CPU ms, mean"], rows)


def measure(run: Callable[[str], object], program: str, programs: int) -> tuple[list[float], float]:
    wall = []
    before = cpu_of_everyone()
    for _ in range(programs):
        began = time.perf_counter()
        run(program)
        wall.append(time.perf_counter() - began)
    return sorted(wall)[: -max(1, programs // 100)], (cpu_of_everyone() - before) / programs


def cpu_of_everyone() -> float:
    """This process, its ended children, and the fork server with its own, which is not ended."""
    seconds = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        seconds += usage.ru_utime + usage.ru_stime
    from yxanul.evaluation import sandbox

    with open(f"/proc/{sandbox._server()._process.pid}/stat") as file:
        times = file.read().rpartition(")")[2].split()[11:15]  # user, system, and the same of its children
    return seconds + sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
