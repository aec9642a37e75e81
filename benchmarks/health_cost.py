"""CPU seconds of an optimizer step that logs, with the health figures (training/health.py) and without them.

    python benchmarks/health_cost.py [--turns 40] [--processes 3] [--case deep]     (Linux)

Both loops are our Trainer with a run's callbacks, in one process, step by step in turn, and every step logs; what the
figures add to it is divided by ten, the steps between two logs of a run by default. The loop without them is there
twice: the ratio of the two is what the measurement itself is worth.
Not here: GPUs, several processes, compiled models.
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import trainer_overhead
from measuring import in_own_process, print_header, print_table, ratios, seconds_in_turns, summary, use_one_thread
from trainer_overhead import DEEP, Case, Loop, our_trainer, read_recipe, write_bin

CASES = {
    "deep, 32 tokens": Case(4, 8, 1, DEEP),
    "deep": Case(8, 256, 1, DEEP),
    "tiny": Case(8, 256, 1),
    "32,768 ids": Case(8, 256, 1, (("vocab_size", 32_768),)),
}
LOGGING_STEPS = 10  # of a run, by default
LOOPS = {"with": True, "without": False, "without again": False}


def loop(case: Case, folder: Path, with_health: bool) -> Loop:
    from yxanul.training import health, trainer

    class Off(health.Health):
        """Never looks, so a log has nothing to add."""

        @property
        def observes(self) -> bool:  # type: ignore[override]
            return False

        @observes.setter
        def observes(self, value: bool) -> None: ...

        def figures(self, *_: Any) -> dict[str, Any]:
            return {}

    folder.mkdir()
    trainer.Health = health.Health if with_health else Off  # type: ignore[misc]
    return Loop(our_trainer(read_recipe(case, folder.parent), folder))


def measure(case: Case, turns: int, first: int) -> dict[str, list[float]]:
    """Seconds of a step for each loop and turn."""
    use_one_thread()
    trainer_overhead.STEPS_A_TURN = 1  # and between two logs
    names = [*LOOPS][first:] + [*LOOPS][:first]
    with tempfile.TemporaryDirectory() as scratch:
        write_bin(Path(scratch, "bin"))
        loops = {name: loop(case, Path(scratch, name), LOOPS[name]) for name in names}
        seconds = seconds_in_turns({name: each.advance for name, each in loops.items()}, turns)
        for each in loops.values():
            each.end()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--turns", type=int, default=40, help="of each loop in a process")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="default: all")
    options = parser.parse_args()
    use_one_thread()
    print_header()
    for name in [options.case] if options.case else CASES:
        found = [
            in_own_process(partial(measure, CASES[name]), options.turns, first % len(LOOPS))
            for first in range(options.processes)
        ]
        rows = []
        for each in LOOPS:
            over = [ratio for process in found for ratio in ratios(process[each], process["without"])]
            seconds = [value for process in found for value in process[each]]
            share = (statistics.median(over) - 1) / LOGGING_STEPS
            rows.append([each, summary(seconds, 1e3, 2), f"{statistics.median(over):.3f}", f"{share:+.2%}"])
        print_table([name, "CPU ms of a step, median (range)", "over without, in a turn", "of ten steps"], rows)


if __name__ == "__main__":
    main()
