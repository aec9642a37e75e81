"""Tokens per CPU second of a whole run: ours against transformers' Trainer with a Llama, same width, depth and data.

    python benchmarks/whole_run.py [--rank 96] [--vocabulary 32000] [--turns 4]     (Linux; six minutes)

All that a run does behind its start is counted: reading, loader, forward, backward, clipping, optimizer, logging as
each side does it by default. The runs are threads of one process and take turns of ten steps (trainer_overhead.py).
The small Llama has as many parameters as the factorised model. The bin is made up, which changes no time.
Not here: start and imports (start_up.py), evaluation, saving, quality (sample_efficiency.py), GPUs.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import print_header, print_table, ratios, seconds_in_turns, summary, use_one_thread
from trainer_overhead import STEPS_A_TURN, Loop, our_trainer, stepping, write_bin
from training_step import Shape, llama_of_equal_size

BIN_TOKENS = 4_000_000
STEPS = 100_000  # more than it will take


def our_run(shape: Shape, stages: list[dict[str, Any]], folder: Path, optimizer: str) -> Callable[[Loop], Any]:
    import yaml

    from yxanul.training.config import read_config

    shape.config().save_pretrained(folder / "shape")
    recipe = {
        "model": str(folder / "shape"),
        "stages": stages,
        "optimizer": optimizer,
        "save_steps": STEPS,
        "use_cpu": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return our_trainer(read_config(str(folder / "recipe.yaml"), []), folder)


def stock_run(shape: Shape, stages: list[dict[str, Any]], folder: Path) -> Callable[[Loop], Any]:
    trainer = stock_trainer(shape.model(), stages, folder, max_steps=STEPS)

    def train(loop: Loop) -> None:
        trainer.add_callback(stepping(loop))
        trainer.train()

    return train


def stock_trainer(model: Any, stages: list[dict[str, Any]], folder: Path, seed: int = 1, **arguments: Any) -> Any:
    """The library's Trainer, loader and shuffle over the rows of a plan of one phase; labels are the row itself."""
    import torch
    from torch.utils.data import Dataset
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from yxanul.data.bins import open_bin
    from yxanul.data.plan import Plan
    from yxanul.data.stages import read_stages
    from yxanul.data.stream import Stream

    plan = Plan(read_stages(stages))
    stream = Stream(plan, {name: open_bin(Path(name)) for name in plan.source_names}, seed)
    rows = plan.at(0).rows

    class Rows(Dataset):
        def __len__(self) -> int:
            return plan.steps * rows

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            step, row = divmod(index, rows)
            ids = torch.from_numpy(stream.batch(step, row, row + 1).input_ids[0])
            return {"input_ids": ids, "labels": ids}

    args = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        per_device_train_batch_size=rows,
        optim="adamw_torch_fused",
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **arguments,
    )
    trainer = Trainer(model, args, train_dataset=Rows())
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--rank", type=int, default=96)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--turns", type=int, default=4)
    options = parser.parse_args()
    use_one_thread()
    print_header()
    plain, factorised = Shape("yxanul", options.vocabulary), Shape("yxanul", options.vocabulary, rank=options.rank)
    shapes = {
        "Llama": Shape("llama", options.vocabulary),
        "small Llama": llama_of_equal_size(factorised),
        "ours, plain": plain,
        f"ours, rank {options.rank}": factorised,
        f"ours, rank {options.rank}, Muon": factorised,
    }
    with tempfile.TemporaryDirectory() as scratch:
        write_bin(Path(scratch, "bin"), options.vocabulary, BIN_TOKENS)
        phase = {"length": options.length, "rows": options.rows, "steps": STEPS}
        stages = [{"name": "all", "sources": [{"bin": f"{scratch}/bin"}], "phases": [phase]}]
        loops = {}
        for name, shape in shapes.items():
            folder = Path(scratch, name)
            folder.mkdir()
            if shape.family == "llama":
                loops[name] = Loop(stock_run(shape, stages, folder))
            else:
                loops[name] = Loop(our_run(shape, stages, folder, "muon" if name.endswith("Muon") else "adamw"))
        seconds = seconds_in_turns({name: loop.advance for name, loop in loops.items()}, options.turns)
        for loop in loops.values():
            loop.end()
    tokens = STEPS_A_TURN * options.rows * options.length
    speeds = {name: [tokens / value for value in values] for name, values in seconds.items()}
    print_results(shapes, speeds)


def print_results(shapes: dict[str, Shape], speeds: dict[str, list[float]]) -> None:
    peers = ("Llama", "small Llama")
    print_table(
        [
            "run",
            "hidden",
            "FFN",
            "parameters",
            "tokens per CPU s, median (range)",
            *(f"over {peer}" for peer in peers),
        ],
        [
            [
                name,
                str(shape.hidden),
                str(shape.feed_forward),
                f"{shape.parameters():,}",
                summary(speeds[name]),
                *(summary(ratios(speeds[name], speeds[peer]), digits=2) for peer in peers),
            ]
            for name, shape in shapes.items()
        ],
    )


if __name__ == "__main__":
    main()
