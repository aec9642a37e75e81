"""CPU seconds per optimizer step: our Trainer, a bare loop, the stock Trainer, with one model and the same rows.

    python benchmarks/trainer_overhead.py [--turns 12] [--processes 3] [--case deep] [--profile]     (Linux)

Each loop runs in a thread and moves ten steps when it is its turn: start-up is outside, and a turn holds one log. All
is repeated in fresh processes, where the loops begin in another order. The bare loop is there twice: the ratio of the
two is what the measurement itself is worth. Ours has a run's callbacks; nobody evaluates or saves.
Not here: GPUs, several processes, waits for a device (tests/invariants/test_no_host_sync.py).
"""

import argparse
import cProfile
import io
import pstats
import statistics
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from measuring import in_own_process, print_header, print_table, ratios, seconds_in_turns, summary, use_one_thread

STEPS_A_TURN = 10  # and between two logs
VOCABULARY, TOKENS = 2048, 4_000_000


@dataclass(frozen=True)
class Case:
    """What one step trains on; the model is the preset `tiny` with these changes."""

    rows: int
    length: int
    accumulation: int
    shape: tuple[tuple[str, int], ...] = ()


DEEP = (("num_hidden_layers", 28), ("hidden_size", 64), ("intermediate_size", 128))
CASES = {
    "deep": Case(4, 8, 1, DEEP),
    "deep, accumulation 8": Case(32, 8, 8, DEEP),
    "tiny": Case(8, 256, 1),
    "tiny, accumulation 8": Case(8, 256, 8),
}


class Loop:
    """Training in a thread of its own, which stops after its steps until it may go on."""

    def __init__(self, train: Callable[["Loop"], Any], profile: cProfile.Profile | None = None) -> None:
        self.may_go, self.has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self.steps_left, self.ends = 0, False
        self.error: BaseException | None = None
        self.train, self.profile = train, profile
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        self.may_go.acquire()
        try:
            self.train(self)
        except BaseException as error:
            self.error = error
        self.has_stopped.release()

    def advance(self) -> None:
        self.steps_left = STEPS_A_TURN
        self.may_go.release()
        self.has_stopped.acquire()
        if self.error:
            raise self.error

    def step_done(self) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            if self.profile:
                self.profile.disable()
            self.has_stopped.release()
            self.may_go.acquire()
            if self.profile and not self.ends:
                self.profile.enable()

    def end(self) -> None:
        self.ends, self.steps_left = True, 0
        self.may_go.release()
        self.thread.join()


def write_bin(folder: Path, vocabulary: int = VOCABULARY, tokens: int = TOKENS, document_tokens: int = TOKENS) -> None:
    import numpy as np

    from yxanul.data.bin_writer import BinWriter

    dtype = np.uint16 if vocabulary <= 2**16 else np.uint32
    ids = np.random.default_rng(0).integers(1, vocabulary, tokens, dtype=dtype)
    ids[document_tokens - 1 :: document_tokens] = 0
    lengths = np.diff([*range(0, tokens, document_tokens), tokens])
    writer = BinWriter(folder, ids.dtype, shard_tokens=2**28)
    writer.add_tokens(ids)
    writer.add_documents(lengths, lengths)
    maker = {"name": "none", "fingerprint": "0" * 16, "vocabulary_size": vocabulary, "end_of_text_id": 0}
    writer.finish(tokenizer=maker, source="random")


def read_recipe(case: Case, folder: Path) -> Any:
    import yaml

    from yxanul.training.config import read_config

    phase = {"length": case.length, "rows": case.rows, "steps": 100_000}
    recipe = {
        "model": "tiny",
        "model_config": dict(case.shape),
        "stages": [{"name": "all", "sources": [{"bin": str(folder / "bin")}], "phases": [phase]}],
        "gradient_accumulation_steps": case.accumulation,
        "logging_steps": STEPS_A_TURN,
        "save_steps": 100_000,
        "use_cpu": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return read_config(str(folder / "recipe.yaml"), [])


def stepping(loop: Loop) -> Any:
    """The last callback of a Trainer: it waits for the loop's next turn."""
    from transformers import TrainerCallback

    class Stepping(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            loop.step_done()
            control.should_training_stop = loop.ends

    return Stepping()


def our_trainer(config: Any, folder: Path) -> Callable[[Loop], Any]:
    """As `yxanul pretrain` builds it; the console writes into memory. Signals want the main thread, which this is."""
    from yxanul.run_folder import RunFolder
    from yxanul.training.beginning import Beginning
    from yxanul.training.callbacks import CurriculumCallback, Record, StopSignals
    from yxanul.training.console import Console
    from yxanul.training.inputs import open_stream
    from yxanul.training.ranks import Ranks
    from yxanul.training.session import Session
    from yxanul.training.trackers import Trackers
    from yxanul.training.training_arguments import training_arguments

    plan, run = config.plan(), RunFolder(folder / "run")
    run.path.mkdir()
    args = training_arguments(config, plan, run, 1)
    stream = open_stream(config, plan, config.shape().config)
    begin = Beginning(None, 0, plan.steps)
    trainer = Session(config, run, args, Ranks(args.ddp_timeout), stream, {}, begin).trainer
    console = Console(plan.steps, plan.tokens, ["all"], "ours", stream=io.StringIO())
    for callback in (
        CurriculumCallback(trainer, plan.steps),
        StopSignals(trainer),
        Record(trainer, console, Trackers(run, [], None)),
    ):
        trainer.add_callback(callback)

    def train(loop: Loop) -> None:
        trainer.add_callback(stepping(loop))
        trainer.train()

    return train


def bare_loop(config: Any, folder: Path) -> Callable[[Loop], Any]:
    import torch

    from yxanul.training.inputs import open_stream
    from yxanul.training.loader import MicroBatches
    from yxanul.training.model import build

    model = build(config).train()
    model.config.use_cache = False  # the Trainers say so too
    accumulation = config.accumulation(1)
    batches: Any = MicroBatches(open_stream(config, config.plan(), model.config), 0, 1, accumulation, False)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, (config.adam_beta1, config.adam_beta2), fused=True
    )

    def train(loop: Loop) -> None:
        for step in count():
            for micro in range(accumulation):
                inputs = batches.__getitems__(step * accumulation + micro)
                targets = inputs.pop("targets_in_step")
                model(**inputs, num_items_in_batch=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            loop.step_done()
            if loop.ends:
                return

    return train


def stock_trainer(config: Any, folder: Path) -> Callable[[Loop], Any]:
    """The library's defaults, its loader included, over single rows."""
    import numpy as np
    import torch
    from torch.utils.data import Dataset
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from yxanul.data.bins import open_bin
    from yxanul.training.model import build

    (phase,) = config.plan().stages[0].phases
    ids = open_bin(folder / "bin")

    class Rows(Dataset):
        def __len__(self) -> int:
            return (TOKENS - 1) // phase.length

        def __getitem__(self, index: int) -> dict[str, Any]:
            start = index * phase.length
            row = torch.from_numpy(ids.read(start, start + phase.length).astype(np.int64))
            return {"input_ids": row, "labels": row}

    accumulation = config.accumulation(1)
    args = TrainingArguments(
        output_dir=str(folder / "stock"),
        max_steps=100_000,
        per_device_train_batch_size=phase.rows // accumulation,
        gradient_accumulation_steps=accumulation,
        logging_steps=STEPS_A_TURN,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(build(config), args, train_dataset=Rows())
    trainer.remove_callback(PrinterCallback)

    def train(loop: Loop) -> None:
        trainer.add_callback(stepping(loop))
        trainer.train()

    return train


LOOPS = {"ours": our_trainer, "bare": bare_loop, "bare again": bare_loop, "stock": stock_trainer}


def measure(case: Case, turns: int, first: int, profiled: str | None = None) -> tuple[dict[str, list[float]], str]:
    """Seconds of a step for each loop and turn, and the profile of one of them."""
    use_one_thread()
    names = [*LOOPS][first:] + [*LOOPS][:first]
    profile = cProfile.Profile() if profiled else None
    with tempfile.TemporaryDirectory() as scratch:
        write_bin(Path(scratch, "bin"))
        config = read_recipe(case, Path(scratch))
        loops = {
            name: Loop(LOOPS[name](config, Path(scratch)), profile if name == profiled else None) for name in names
        }
        seconds = seconds_in_turns({name: loop.advance for name, loop in loops.items()}, turns)
        for loop in loops.values():
            loop.end()
    report = io.StringIO()
    if profile:
        pstats.Stats(profile, stream=report).strip_dirs().sort_stats("cumtime").print_stats(90)
    return {name: [value / STEPS_A_TURN for value in seconds[name]] for name in LOOPS}, report.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--turns", type=int, default=12, help="of each loop in a process")
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="default: all")
    parser.add_argument("--profile", choices=LOOPS, help="of one loop in one process, in place of the figures")
    options = parser.parse_args()
    use_one_thread()
    print_header()
    for name in [options.case] if options.case else CASES:
        case = CASES[name]
        if options.profile:
            print(in_own_process(measure, case, options.turns, 0, options.profile)[1])
            continue
        found = [
            in_own_process(partial(measure, case), options.turns, first % len(LOOPS))[0]
            for first in range(options.processes)
        ]
        print_results(name, case, found)


def print_results(name: str, case: Case, found: list[dict[str, list[float]]]) -> None:
    micro = f"{case.accumulation} x {case.rows // case.accumulation}x{case.length}"
    rows = []
    for loop in LOOPS:
        seconds = [value for process in found for value in process[loop]]
        over_bare = [ratios(process[loop], process["bare"]) for process in found]
        each = " ".join(f"{statistics.median(process):.3f}" for process in over_bare)
        overall = statistics.median(ratio for process in over_bare for ratio in process)
        rows.append([loop, summary(seconds, 1e3, 2), f"{overall:.3f}", each])
    print_table([f"{name}, {micro}", "CPU ms per step, median (range)", "over bare in a turn", "by process"], rows)


if __name__ == "__main__":
    main()
