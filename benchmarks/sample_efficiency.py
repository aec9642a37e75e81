"""Held-out bits per byte at equal tokens: our recipe, its parts one by one, and transformers' Trainer with a Llama.

    python benchmarks/sample_efficiency.py --work runs/efficiency [--only headline changes ...]

Runs are small (4 layers, 128 wide, 819,200 tokens of the text that Python carries: three CPU minutes on one thread).
Each leaves a line in WORK/results.jsonl; started again, the program goes on behind the last one. One function scores
runs of `yxanul pretrain` and those of the stock Trainer, on the same rows in its own order. A learning rate is tuned
with seed 1: three values, and beyond the grid's edge while the edge is best.
Not here: long runs and large models, which may order things otherwise; speed (whole_run.py).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from measuring import in_own_process, print_header, print_table, use_one_thread
from whole_run import stock_trainer

VOCABULARY, LENGTH, ROWS, TOKENS = 8192, 256, 8, 819_200
STEP_TOKENS, WARMUP_STEPS = LENGTH * ROWS, 16
DOMAINS = {"language": 690_000, "code": 2_130_000}  # tokens to train on, about
MATRIX_RATES, ADAMW_RATES = (5e-3, 1e-2, 2e-2), (1e-3, 2e-3, 4e-3)

TEXT = {"sources": ["builtin:language", "builtin:code"], "held_out": 0.05}
TOKENIZER = {"kind": "bpe", "vocabulary": VOCABULARY, **TEXT}
BINS = {f"bins/{domain}": {"sources": [f"builtin:{domain}"], "held_out": 0.05} for domain in DOMAINS}
SIZES = ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size", "num_hidden_layers")


def shape(*sizes: int) -> dict[str, int]:
    return {"vocab_size": VOCABULARY, **dict(zip(SIZES, sizes, strict=True))}


SHAPE = shape(128, 4, 2, 352, 4)
WIDTHS = {"width-64": shape(64, 2, 1, 192, 4), "width-128": SHAPE, "width-256": shape(256, 8, 4, 704, 4)}
DEPTHS = {"wide": shape(96, 3, 1, 256, 12), "deep": shape(64, 2, 1, 204, 28)}  # 1.968 M parameters each


def stage(name: str, tokens: int, shorter: dict[int, float] | None = None, **weights: float) -> dict[str, Any]:
    """`shorter` rows first, each for a share of the tokens, with as many tokens in a step."""
    phases = [
        {"length": length, "rows": STEP_TOKENS // length, "tokens": round(share * tokens / STEP_TOKENS) * STEP_TOKENS}
        for length, share in (shorter or {}).items()
    ]
    sources = [{"bin": f"bins/{name}/train", "tokens": DOMAINS[name], "weight": weights[name]} for name in weights]
    return {"name": name, "sources": sources, "tokens": tokens, "phases": [*phases, {"length": LENGTH, "rows": ROWS}]}


def mixed(tokens: int = TOKENS, shorter: dict[int, float] | None = None) -> list[dict[str, Any]]:
    return [stage("text", tokens, shorter, language=1, code=1)]


# one change each from the recipe at its best matrix_learning_rate, over half of the tokens
CHANGES: dict[str, dict[str, Any]] = {
    "half": {},
    "tokens-0.4": {"tokens": 327_680},
    "cosine": {"lr_scheduler_type": "cosine"},
    "lengths-64-128-256": {"stages": mixed(TOKENS // 2, {64: 0.15, 128: 0.15})},
    "rank-48": {"model_config": SHAPE | {"embedding_rank": 48}},
    # the totals of the mixture: 7/10 of 292,864 is half of all
    "staged": {"stages": [stage("language", 116_736, language=1), stage("code", 292_864, code=7, language=3)]},
    "z-loss": {"z_loss": 1e-4},
}


def recipe(tokens: int = TOKENS, **changes: Any) -> dict[str, Any]:
    """What `yxanul pretrain` reads: half of the tokens are language, half code, unless `stages` say otherwise."""
    return {
        "model": "tiny",
        "model_config": SHAPE,
        "data": {"tokenizer": TOKENIZER, **BINS},
        "tokenizer": "tokenizer",
        "stages": mixed(tokens),
        "optimizer": "muon",
        "learning_rate": 6e-3,  # of the embedding and the norms
        "lr_scheduler_type": "warmup_stable_decay",
        "warmup_steps": WARMUP_STEPS,
        "use_cpu": True,
        **changes,
    }


class Runs:
    """The finished runs of the current folder, by name; a new one is trained, scored and written down."""

    def __init__(self) -> None:
        self.file = Path("results.jsonl")
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        self.done = {line["name"]: line for line in map(json.loads, lines)}

    def ours(self, name: str, **keys: Any) -> dict[str, Any]:
        return self._run(name, lambda out: train_ours(recipe(**keys), out), keys)

    def stock(self, name: str, **keys: Any) -> dict[str, Any]:
        return self._run(name, lambda out: in_own_process(partial(train_stock, **keys), out), keys)

    def _run(self, name: str, train: Callable[[Path], None], keys: dict[str, Any]) -> dict[str, Any]:
        if name in self.done:
            return self.done[name]
        out = Path(name)
        shutil.rmtree(out, ignore_errors=True)
        before = sum(os.times()[2:4])  # user and system time of child processes
        train(out)
        seconds = round(sum(os.times()[2:4]) - before, 1)
        return self.write({"name": name, **keys, "cpu_seconds": seconds, **score(out / "final")})

    def write(self, line: dict[str, Any]) -> dict[str, Any]:
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{line['name']}: {line['bits_per_byte']:.4f}", flush=True)
        self.done[line["name"]] = line
        return line


def yxanul(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "yxanul", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"yxanul {' '.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def train_ours(content: dict[str, Any], out: Path) -> None:
    import yaml

    Path(f"{out}.yaml").write_text(yaml.safe_dump(content))
    yxanul("pretrain", f"{out}.yaml", "--out", str(out))


def train_stock(out: Path, learning_rate: float, seed: int) -> None:
    use_one_thread()
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True, max_position_embeddings=512))
    schedule = {"learning_rate": learning_rate, "lr_scheduler_type": "cosine", "warmup_steps": WARMUP_STEPS}
    options = {"seed": seed, "adam_beta2": 0.95, "weight_decay": 0.1, "logging_steps": 10, **schedule}
    stock_trainer(model, mixed(), out, num_train_epochs=1, **options).train()
    model.save_pretrained(out / "final")


def score(*folders: Path) -> dict[str, Any]:
    """Bits per byte of each domain, and their mean; of several checkpoints: of their mean weights."""
    import torch

    from yxanul import YxanulForCausalLM
    from yxanul.data.bins import open_bin
    from yxanul.evaluation.bits_per_byte import HeldOut, evaluate

    model, *others = (YxanulForCausalLM.from_pretrained(folder) for folder in folders)
    with torch.no_grad():
        for count, other in enumerate(others, start=2):
            for mean, parameter in zip(model.parameters(), other.parameters(), strict=True):
                mean.lerp_(parameter, 1 / count)
    found = {}
    for domain in DOMAINS:
        held_out = HeldOut(open_bin(Path("bins", domain, "held_out")), length=LENGTH, rows=ROWS, max_tokens=60_000)
        found[domain] = round(evaluate(model, held_out, device=torch.device("cpu")).bits_per_byte, 5)
    return {**found, "bits_per_byte": round(sum(found.values()) / len(found), 5), "parameters": model.num_parameters()}


def tuned(run: Callable[..., dict[str, Any]], prefix: str, key: str, rates: tuple[float, ...], **keys: Any) -> float:
    """The best rate with seed 1; the runs are called PREFIX-RATE-1."""
    found, todo = {}, list(rates)
    while todo:
        rate = todo.pop(0)
        found[rate] = run(f"{prefix}-{rate:g}-1", seed=1, **{key: rate}, **keys)["bits_per_byte"]
        best = min(found, key=lambda tried: found[tried])
        if not todo and len(found) < 5 and best in (min(found), max(found)):
            todo = [best / 2 if best == min(found) else best * 2]
    return best


def our_rate(runs: Runs) -> float:
    kept = {"save_steps": 10, "save_total_limit": 100}  # all checkpoints: `averages` reads them
    return tuned(runs.ours, "ours", "matrix_learning_rate", MATRIX_RATES, **kept)


def headline(runs: Runs) -> None:
    rate = our_rate(runs)
    runs.ours(f"ours-{rate:g}-2", matrix_learning_rate=rate, seed=2)
    rate = tuned(runs.stock, "stock", "learning_rate", ADAMW_RATES)
    runs.stock(f"stock-{rate:g}-2", learning_rate=rate, seed=2)


def adamw(runs: Runs) -> None:
    keys = {"tokens": TOKENS // 2, "optimizer": "adamw"}
    rate = tuned(runs.ours, "adamw", "learning_rate", ADAMW_RATES, **keys)
    runs.ours(f"adamw-{rate:g}-2", learning_rate=rate, seed=2, **keys)


def changes(runs: Runs) -> None:
    rate = our_rate(runs)
    for name, change in CHANGES.items():
        for seed in (1, 2):
            runs.ours(f"{name}-{seed}", **{"tokens": TOKENS // 2, **change}, matrix_learning_rate=rate, seed=seed)


def averages(runs: Runs) -> None:
    """Mean weights of checkpoints ten steps apart: the last ones, and the last ones before the decay."""
    run = f"ours-{our_rate(runs):g}-1"
    for last in (400, 320):
        for count in (1, 2, 4, 8):
            name = f"{run}-mean-of-{count}-to-{last}"
            if name not in runs.done:
                steps = range(last - 10 * (count - 1), last + 1, 10)
                runs.write({"name": name, **score(*(Path(run, f"checkpoints/checkpoint-{step}") for step in steps))})


def widths(runs: Runs) -> None:
    _shapes(runs, WIDTHS, (2.5e-3, *MATRIX_RATES), TOKENS // 8)


def depths(runs: Runs) -> None:
    _shapes(runs, DEPTHS, (5e-3, 1e-2), TOKENS // 4)


def _shapes(runs: Runs, shapes: dict[str, dict[str, int]], rates: tuple[float, ...], tokens: int) -> None:
    for name, wanted in shapes.items():
        for rate in rates:
            runs.ours(f"{name}-{rate:g}-1", model_config=wanted, tokens=tokens, matrix_learning_rate=rate, seed=1)


GROUPS = {function.__name__: function for function in (headline, adamw, changes, averages, widths, depths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--work", type=Path, required=True, help="a folder for data, runs and results")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=[*GROUPS])
    options = parser.parse_args()
    use_one_thread()
    print_header()
    options.work.mkdir(parents=True, exist_ok=True)
    os.chdir(options.work)
    runs = Runs()
    for group in options.only:
        GROUPS[group](runs)
    headings = ["bits_per_byte", *DOMAINS, "cpu_seconds"]
    rows = [[name, *(str(line.get(key, "")) for key in headings)] for name, line in runs.done.items()]
    print_table(["run", *headings], rows)


if __name__ == "__main__":
    main()
