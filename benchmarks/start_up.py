"""CPU seconds until Python has imported yxanul, and until the command line has printed its help.

Run: python benchmarks/start_up.py [--repeats 11]
Each command runs in turns as a child process; user and system time of the child are added, the median is shown.
Not here: the first start after an installation (bytecode is compiled then), the import of torch or transformers.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

from measuring import print_header, print_table, summary, use_one_thread


def commands() -> dict[str, list[str]]:
    return {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import yxanul'": [sys.executable, "-c", "import yxanul"],
        "yxanul --help": [str(Path(sys.executable).with_name("yxanul")), "--help"],
    }


def child_seconds(command: list[str]) -> float:
    """User and system time of one run, which must succeed."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        message = child.stderr.read()  # until the child closes it, so a long message cannot block the child
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {child.returncode}: {message.decode().strip()[-300:]}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=11)
    arguments = parser.parse_args()

    use_one_thread()
    print_header()
    seconds: dict[str, list[float]] = {name: [] for name in commands()}
    for repeat in range(arguments.repeats + 1):
        for name, command in commands().items():
            value = child_seconds(command)
            if repeat:  # the first round fills the page cache
                seconds[name].append(value)
    bare = statistics.median(seconds["python -c pass"])
    print_table(
        ["command", "CPU ms, median (range)", "above bare python"],
        [
            [name, summary(values, 1e3), f"{(statistics.median(values) - bare) * 1e3:,.0f} ms"]
            for name, values in seconds.items()
        ],
    )


if __name__ == "__main__":
    main()
