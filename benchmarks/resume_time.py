"""Seconds from a resumed Trainer asking for its loader to its first micro-batch, at step 1,000,000 of ten stages.

    python benchmarks/resume_time.py [--step 1000000] [--repeats 5]      (Linux; a few minutes)

Each turn is a real `train(resume_from_checkpoint)` of a tiny model in a process of its own, which ends when the first
micro-batch is there. Beside it the loader's part alone: making it, skipping, reading. The bins are sparse files of
20 GB each: opening, mapping and shuffling are real, the pages that are read hold zeros and come from no disk.
Not here: imports, opening the bins (data_at_scale.py), loading a large model's weights and moments, worker processes.
"""

import argparse
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from data_at_scale import make_large_bin
from measuring import in_own_process, print_header, print_table, summary, use_one_thread

BINS = ("language", "code", "math", "dialogue")
BIN_TOKENS = 10**10
LENGTHS = (64, 128, 256, 512, 1024, 2048)
STEP_TOKENS = 65_536
STAGES = 10
STEPS = 1_050_000


class HasFirstBatch(Exception):
    pass


def write_recipe(folder: Path, accumulation: int) -> Path:
    """Every stage has two lengths and a mixture of three of the bins, all of which are passed over more than once."""
    import yaml

    stages = []
    for number in range(STAGES):
        names = [BINS[(number + other) % len(BINS)] for other in range(3)]
        lengths = LENGTHS[number % len(LENGTHS)], LENGTHS[(number + 1) % len(LENGTHS)]
        steps = STEPS // STAGES // 2
        stages.append(
            {
                "name": f"stage{number}",
                "sources": [
                    {"bin": str(folder / name), "weight": weight}
                    for name, weight in zip(names, (5, 3, 2), strict=True)
                ],
                "phases": [
                    {"length": length, "rows": STEP_TOKENS // length, "steps": steps} for length in sorted(lengths)
                ],
            }
        )
    shape = {"vocab_size": 32768, "num_hidden_layers": 1, "max_position_embeddings": max(LENGTHS)}
    recipe = {"model": "tiny", "model_config": shape, "stages": stages, "use_cpu": True}
    recipe |= {"gradient_accumulation_steps": accumulation}
    file = folder / f"recipe-{accumulation}.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file


def resume(recipe: str, step: int) -> dict[str, float]:
    """Seconds: of the whole way in `train`, wall and CPU, and of the loader alone in a stream that nobody has used."""
    use_one_thread()
    from accelerate.data_loader import skip_first_batches

    from yxanul.run_folder import RunFolder
    from yxanul.training import session
    from yxanul.training.beginning import Beginning
    from yxanul.training.config import read_config
    from yxanul.training.inputs import open_stream
    from yxanul.training.loader import MicroBatches, loader
    from yxanul.training.ranks import Ranks
    from yxanul.training.trainer import YxanulTrainer
    from yxanul.training.training_arguments import training_arguments

    times: dict[str, float] = {}

    class Timed(YxanulTrainer):
        def get_train_dataloader(self) -> Any:
            times["asked"], times["asked, CPU"] = time.perf_counter(), time.process_time()
            return super().get_train_dataloader()

        def get_batch_samples(self, *arguments: Any) -> Any:
            _, targets = super().get_batch_samples(*arguments)
            times["there"], times["there, CPU"] = time.perf_counter(), time.process_time()
            assert targets == STEP_TOKENS
            raise HasFirstBatch

    session.YxanulTrainer = Timed  # type: ignore[misc]
    config = read_config(recipe, [])
    plan = config.plan()
    assert plan.steps > step and len(plan.stages) == STAGES
    with tempfile.TemporaryDirectory() as scratch:
        run = RunFolder(Path(scratch, "run"))
        args = training_arguments(config, plan, run, 1)
        streams = [open_stream(config, plan, config.shape().config) for _ in range(2)]
        begin = Beginning(None, step, plan.steps)
        trainer = session.Session(config, run, args, Ranks(args.ddp_timeout), streams[0], {}, begin).trainer
        checkpoint = trainer.begin_at(step)
        with suppress(HasFirstBatch):
            trainer.train(resume_from_checkpoint=str(checkpoint))
    parts = [time.perf_counter()]
    batches = MicroBatches(streams[1], 0, 1, args.gradient_accumulation_steps, False)
    skipping = iter(skip_first_batches(loader(batches, args), step * args.gradient_accumulation_steps))
    sampler = skipping._index_sampler  # type: ignore[attr-defined]
    for _ in sampler:  # what the first batch does before it reads
        break
    parts.append(time.perf_counter())
    batches.__getitems__(step * args.gradient_accumulation_steps)  # type: ignore[arg-type]
    parts.append(time.perf_counter())
    return {
        "in train(), wall": times["there"] - times["asked"],
        "in train(), CPU": times["there, CPU"] - times["asked, CPU"],
        "the loader: make and skip": parts[1] - parts[0],
        "the loader: find and read": parts[2] - parts[1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--step", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    use_one_thread()
    print_header()
    cases = {(step, parts): [] for step in (1, options.step) for parts in (1, 8)}
    with tempfile.TemporaryDirectory() as scratch:
        for name in BINS:
            (Path(scratch) / name).mkdir()
            make_large_bin(Path(scratch) / name, BIN_TOKENS, "uint16")
        recipes = {parts: write_recipe(Path(scratch), parts) for parts in (1, 8)}
        for _ in range(options.repeats):
            for (step, parts), found in cases.items():
                found.append(in_own_process(resume, str(recipes[parts]), step))
    names = [*cases[1, 1][0]]
    print_table(
        ["resume at step, accumulation", *(f"{name}, ms" for name in names)],
        [
            [f"{step:,}, {parts}", *(summary([turn[name] for turn in found], 1e3) for name in names)]
            for (step, parts), found in cases.items()
        ],
    )


if __name__ == "__main__":
    main()
