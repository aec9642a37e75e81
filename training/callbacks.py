"""What happens at which step: stages begin and end, evaluations, signals that stop a run, and the record of it.

Callbacks set flags of the Trainer's control, which it obeys at the end of the step. They keep no state in
trainer_state.json, where one that an older checkpoint lacks would break the next save.
Not here: how a checkpoint is written (checkpoints.py), what a line looks like (console.py).
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from yxanul.data.progress import say
from yxanul.data.whole_files import write_whole
from yxanul.run_folder import GATE_FAILED, STOPPED, read_metrics
from yxanul.training.console import Console
from yxanul.training.gates import Gates, save_scores
from yxanul.training.trackers import Trackers
from yxanul.training.trainer import YxanulTrainer

# A terminal's Ctrl-C reaches the ranks twice, once from the terminal and once from their launcher
SECONDS_OF_ONE_CTRL_C = 1.5


class CurriculumCallback(TrainerCallback):
    """Stages are evaluated, judged and saved at their ends; the run ends at `stop_step`, or where a gate is shut."""

    def __init__(self, trainer: YxanulTrainer, stop_step: int, gates: Gates | None = None) -> None:
        self.trainer, self.stop_step, self.gates = trainer, stop_step, gates or Gates(trainer.run)
        self.begin_step, self.stage_ends = 0, trainer.plan.stage_ends

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        state.compute_steps(args, state.max_steps)  # what a checkpoint says of saving and logging is its past
        step = self.begin_step = state.global_step
        if self.trainer.held_out and (step == 0 or self.gates.lack_scores(step)):
            self.trainer.evaluate()
        self.trainer.start_clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        step, every = state.global_step, self.trainer.config.eval_steps
        if step in self.stage_ends or step >= self.stop_step:
            control.should_log = control.should_evaluate = control.should_save = True
        elif every is not None and step % every == 0:
            control.should_evaluate = True
        if step >= self.stop_step:
            control.should_training_stop = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Every rank has the same scores and comes to the same verdict; rank 0 writes it down."""
        step, ranks, gates = state.global_step, self.trainer.ranks, self.gates
        if not gates.gates or step not in self.stage_ends and not gates.lack_scores(step):
            return
        scores = self.trainer.evidence
        ranks.first_writes(lambda: save_scores(self.trainer.run, step, scores))
        stage = gates.stage_ending(step)
        if stage is None or step == self.begin_step:  # then it was judged by the start that came here
            return
        findings = gates.judge(step, scores)
        gates.record(step, findings)
        ranks.first_writes(gates.write)
        if ranks.is_first:
            for finding in findings:
                say(f"gate of {stage}: {finding.sentence()}")
        if gates.failed_at(step):
            self.trainer.stop(GATE_FAILED)


class StopSignals(TrainerCallback):
    """SIGTERM or Ctrl-C on any rank: all save at the end of one step and stop. A second Ctrl-C leaves at once."""

    def __init__(self, trainer: YxanulTrainer) -> None:
        self.trainer = trainer
        self.since: float | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.since is None:
            self.since = now
            if self.trainer.ranks.is_first:
                name = signal.Signals(number).name
                say(f"{name}: saving at the end of this step, then stopping. Ctrl-C again leaves at once.")
        elif number == signal.SIGINT and now - self.since > SECONDS_OF_ONE_CTRL_C:
            if sys.stdout.isatty():
                print("\x1b[?25h", end="", flush=True)  # noqa: T201 - the live panel had hidden the cursor
            os._exit(STOPPED)  # threads and process groups would be waited for

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.trainer.ranks.raised_a_step_ago(self.since is not None) and not control.should_training_stop:
            self.trainer.stop(STOPPED)


class Record(TrainerCallback):
    """On rank 0: a line in metrics.jsonl for every log, then whoever shows or sends it."""

    def __init__(self, trainer: YxanulTrainer, console: Console, trackers: Trackers) -> None:
        self.trainer, self.console, self.trackers = trainer, console, trackers

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        line = {"step": state.global_step, "tokens": self.trainer.tokens, "time": round(time.time(), 3)} | (logs or {})
        with self.trainer.run.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps({name: _or_null(value) for name, value in line.items()}) + "\n")
        self.console.log(line)
        self.trackers.wake()


def _or_null(value: Any) -> Any:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cut_lines(file: Path, after_step: int) -> None:
    """Drops the lines of steps that will be done again, so that each is there once."""
    if file.exists():
        write_whole(file, (json.dumps(line) + "\n" for line in read_metrics(file) if line["step"] <= after_step))
