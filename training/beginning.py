"""Where a run begins: its folder, what an earlier start left there, the checkpoint and the step to go on from.

    begin = beginning(config, plan, run, options)      # begin.checkpoint, begin.stop_step, begin.done

A folder belongs to one run: another recipe is refused with what differs, unless forced.
"""

import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.plan import Plan
from yxanul.data.progress import say
from yxanul.data.whole_files import write_json
from yxanul.run_folder import RunFolder
from yxanul.strict_yaml import read_yaml
from yxanul.training import checkpoints
from yxanul.training.config import RunConfig, differences, write_config
from yxanul.training.scale import is_toy

MOST_DIFFERENCES = 5  # that are named
PACKAGES = ("yxanul", "torch", "transformers", "accelerate", "huggingface_hub", "safetensors", "numpy")


@dataclass(frozen=True)
class Beginning:
    checkpoint: Path | None  # None: at the first step, from random weights or those of init_from
    step: int  # the first to be done
    stop_step: int
    is_early: bool = False  # an earlier start ended here, for nothing got better any more

    @property
    def is_done(self) -> bool:
        return self.step >= self.stop_step


def beginning(config: RunConfig, plan: Plan, run: RunFolder, resume: str | None, stage: str | None) -> Beginning:
    checkpoint = checkpoints.find(run, resume)
    step = checkpoints.read_marker(checkpoint)["step"] if checkpoint else 0
    if step > plan.steps:
        raise BadInput(f"{checkpoint} is at step {step:,}, the plan has {plan.steps:,}: give --resume an earlier one.")
    if stage is None:
        best = checkpoints.best_step(checkpoint) if checkpoint and config.early_stopping else None
        is_early = resume is None and step < plan.steps and is_stale(config, plan, step, best)
        return Beginning(checkpoint, step, plan.steps, is_early)
    steps = stage_steps(plan, stage)
    if step >= steps.start:
        return Beginning(checkpoint, step, steps.stop)
    if config.init_from is not None and checkpoint is None:
        return Beginning(None, steps.start, steps.stop)
    raise BadInput(
        f"stage {stage} begins at step {steps.start:,}, but the run is at {step:,}: run the stages before it, or give "
        "--init-from with a model to begin it with."
    )


def is_stale(config: RunConfig, plan: Plan, step: int, best: int | None) -> bool:
    """So many evaluations without a new best that the run ends at this step."""
    if config.early_stopping is None or config.eval_steps is None or best is None:
        return False
    since = sum(each % config.eval_steps == 0 or each in plan.stage_ends for each in range(best + 1, step + 1))
    return since >= config.early_stopping


def stage_steps(plan: Plan, name: str) -> range:
    names = [stage.name for stage in plan.stages]
    if name not in names:
        raise unknown_name("stage", name, names)
    return plan.stage_steps[names.index(name)]


def check_origin(config: RunConfig, run: RunFolder, checkpoint: Path | None, force: bool) -> None:
    """A checkpoint of another run goes on only if that run had the same recipe, or somebody insists."""
    if checkpoint is None or checkpoint.absolute().is_relative_to(run.path) or force:
        return
    other = RunFolder(checkpoint.absolute().parent.parent)
    different = differences(read_yaml(other.config), config.resolved()) if other.config.exists() else ["unknown"]
    if different:
        raise BadInput(
            f"--resume {checkpoint} is of a run with another recipe ({_shortened(different)}): --force takes its "
            "weights, moments and step all the same, --init-from its weights alone."
        )


def check_folder(config: RunConfig, run: RunFolder, force: bool) -> None:
    """Refuses the folder of another run, and one that is none."""
    if not run.config.exists():
        killed_at_once = (run.lock.name, f"{run.config.name}.partial")
        if run.path.exists() and any(file.name not in killed_at_once for file in run.path.iterdir()):
            raise BadInput(f"--out {run.path} holds other files and no {run.config.name}: give a new folder.")
        return
    before = read_yaml(run.config)
    different = _shortened(differences(before, config.resolved()))
    if not different:
        return
    if not force:
        toy = " (it is a toy: --scale tiny goes on)" if is_toy(before) and not is_toy(config.resolved()) else ""
        raise BadInput(
            f"{run.path} was begun with another recipe{toy}: {different}. Give another --out, or --force to go on "
            "from its last checkpoint with the new values: weights and moments stay, what comes is the new plan's."
        )
    say(f"--force: {different}.")


def _shortened(different: list[str]) -> str:
    more = len(different) - MOST_DIFFERENCES
    return "; ".join(different[:MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def write_beginning(config: RunConfig, run: RunFolder, processes: int, device: str) -> None:
    write_config(config, run.config)
    starts = json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.exists() else []
    starts.append(
        {
            "time": round(time.time()),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "platform": platform.platform(),
            "processes": processes,
            "device": device,
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "command": sys.argv[1:],
        }
    )
    write_json(run.environment, starts)
