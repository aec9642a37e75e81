"""`yxanul track RUN --to NAME`: send a tracker (tensorboard, wandb, trackio) the lines of metrics.jsonl that it lacks.

    yxanul track runs/demo --to wandb
    yxanul track runs/demo --to tensorboard

Not while the run itself sends there. A tracker whose entry is deleted from RUN/trackers.json gets all lines, in a new
run there. Not here: how lines are sent (trackers.py).
"""

import argparse

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer, insist
from yxanul.run_folder import DONE, FAILED, RunFolder
from yxanul.shell import command
from yxanul.training.trackers import NAMES, Reader, describe

PATIENCE = 600.0  # seconds that a client may upload at the end


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
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
        insist(f"{reader.name}: {describe(error)} {reader.missing()}")
        return FAILED
    answer(f"{reader.name} has all {reader.lines} lines of metrics.jsonl.")
    return DONE


def parser() -> argparse.ArgumentParser:
    parser = command("track", __doc__)
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--to", required=True, metavar="NAME", help=f"a tracker: {', '.join(NAMES)}")
    return parser
