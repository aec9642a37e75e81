"""`yxanul track RUN --to NAME`: send a tracker (tensorboard, wandb, trackio) the lines of metrics.jsonl that it lacks.

    yxanul track runs/demo --to wandb

Not while the run itself sends there. A tracker whose entry is deleted from RUN/trackers.json gets all lines, in a new
run there. Not here: how lines are sent (trackers.py).
"""

import argparse

from yxanul.bad_input import BadInput
from yxanul.run_folder import DONE, FAILED, RunFolder
from yxanul.training.trackers import NAMES, Reader, describe

PATIENCE = 600.0  # seconds that a client may upload at the end


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="yxanul track", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--to", required=True, metavar="NAME", help=f"a tracker: {', '.join(NAMES)}")
    options = parser.parse_args(arguments)
    folder = RunFolder(options.run)
    if not folder.metrics.exists():
        raise BadInput(f"{options.run} has no metrics.jsonl: give the folder of a run.")
    reader = Reader(options.to, folder, None, PATIENCE)
    try:
        reader.begin()
        reader.send()
        reader.close()
    except BadInput:
        raise
    except Exception as error:
        _print(f"{reader.name}: {describe(error)} {reader.missing()}")
        return FAILED
    _print(f"{reader.name} has all {reader.lines} lines of metrics.jsonl.")
    return DONE


def _print(line: str) -> None:
    print(line)  # noqa: T201 - the command line speaks here
