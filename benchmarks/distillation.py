"""A small model taught by a larger one against the same model alone, and what the two heads take of memory.

    python benchmarks/distillation.py --teacher DEMO/runs/demo/final --bins DEMO/bins/demo --work runs/distillation
    python benchmarks/distillation.py --memory

The student (four layers, 64 wide) reads the demo's sums and language, the teacher is the demo's model. Alone and
taught read equal tokens; `alone, as long` reads as many more as fit into the CPU seconds of the taught run, which
include the teacher's forward passes; weights and temperatures are those of --taught. All seconds are of training with
its evaluations, without start-up. Memory: peak of a forward and backward of both heads, each in a process of its own.
Not here: tuning (all runs have the demo's learning rates), large models, GPUs.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import MEGABYTE, in_own_process, peak_growth, print_header, print_table, use_one_thread

STEP_TOKENS, LENGTH, DOMAINS = 1024, 128, ("math", "language")
SHAPE = {"hidden_size": 64, "intermediate_size": 176, "num_attention_heads": 2, "num_key_value_heads": 1}
HEADS = {"rows": 1024, "vocabulary": 50_257, "student": 128, "teacher": 768}


def recipe(bins: str, steps: int, seed: int, **changes: Any) -> dict[str, Any]:
    sources = [{"bin": f"{bins}/{domain}/train", "weight": 1} for domain in DOMAINS]
    phases = [{"length": LENGTH, "rows": STEP_TOKENS // LENGTH}]
    return {
        "model": "tiny",
        "model_config": SHAPE,
        "tokenizer": f"{bins}/tokenizer",
        "stages": [{"name": "mixed", "sources": sources, "steps": steps, "phases": phases}],
        "validation": {domain: f"{bins}/{domain}/held_out" for domain in DOMAINS},
        "validation_tokens": 40_000,
        "optimizer": "muon",
        "matrix_learning_rate": 5e-3,
        "learning_rate": 6e-3,
        "warmup_steps": 20,
        "lr_decay": 0.35,
        "save_steps": 10_000,
        "seed": seed,
        "use_cpu": True,
        **changes,
    }


def train(folder: str, settings: dict[str, Any]) -> dict[str, float]:
    """CPU seconds, and the held-out bits per byte of each domain at the end."""
    use_one_thread()
    import yaml

    from yxanul.training import pretrain, session

    class Timed(session.YxanulTrainer):
        def train(self, **options: Any) -> Any:
            began = time.process_time()
            trained = super().train(**options)
            seconds.append(time.process_time() - began)
            return trained

    seconds: list[float] = []
    session.YxanulTrainer = Timed
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "recipe.yaml").write_text(yaml.safe_dump(settings))
    assert pretrain.main([f"{folder}/recipe.yaml", "--out", f"{folder}/run"]) == 0
    lines = [json.loads(line) for line in Path(folder, "run/metrics.jsonl").read_text().splitlines()]
    scores = next(line for line in reversed(lines) if "eval_bits_per_byte" in line)
    return {"seconds": seconds[0]} | {name: scores[f"eval_{name}_bits_per_byte"] for name in DOMAINS}


def compare(options: argparse.Namespace) -> None:
    rows, work = [], Path(options.work)

    def done(name: str, steps: int, seed: int, **changes: Any) -> dict[str, float]:
        folder = f"{work}/{name.replace(' ', '-').replace(',', '')}-{seed}"
        found = in_own_process(train, folder, recipe(options.bins, steps, seed, **changes))
        figures = [f"{found[domain]:.4f}" for domain in DOMAINS]
        rows.append([name, str(seed), f"{steps * STEP_TOKENS:,}", f"{found['seconds']:.1f}", *figures])
        print("|", " | ".join(rows[-1]), "|", flush=True)
        return found

    for seed in options.seeds:
        alone = done("alone", options.steps, seed)
        for pair in options.taught:
            weight, temperature = map(float, pair.split(","))
            how = {"distill_weight": weight, "distill_temperature": temperature, "distill_teacher": options.teacher}
            taught = done(f"taught {weight:g} at {temperature:g}", options.steps, seed, **how)
            if pair == options.taught[0]:
                longer = round(options.steps * taught["seconds"] / alone["seconds"])
                done("alone, as long", longer, seed)
    print()
    print_table(["run", "seed", "tokens", "CPU seconds", *(f"{domain}, bits/byte" for domain in DOMAINS)], rows)


def heads(variant: str, rows: int, vocabulary: int, student: int, teacher: int) -> Callable[[], Any]:
    """One loss, forward and backward, from both models' last states, which exist already."""
    import torch
    from torch.nn import functional

    from yxanul.loss_yxanul import linear_cross_entropy
    from yxanul.training.distillation import Distillation
    from yxanul.training.teacher import Teacher

    torch.manual_seed(0)
    latent, weight = torch.randn(rows, student).requires_grad_(), torch.randn(vocabulary, student)
    weight = (weight * 0.05).requires_grad_()
    theirs, table = torch.randn(rows, teacher), torch.empty(vocabulary, teacher).normal_(0, 0.02)
    targets = torch.randint(0, vocabulary, (rows,))
    distillation = Distillation(Teacher(None, table, vocabulary, None, None, ""), 0.5, 2.0)
    distillation._latent = theirs

    def work() -> None:
        if variant == "chunked":
            loss = linear_cross_entropy(latent, weight, targets, operator=distillation._loss).loss
        else:
            logits = latent @ weight.t()
            p = ((theirs @ table.t()) / 2).log_softmax(-1)
            q = (logits / 2).log_softmax(-1)
            kl = functional.kl_div(q, p, log_target=True, reduction="batchmean")
            loss = 0.5 * functional.cross_entropy(logits, targets) + 0.5 * 4 * kl
        loss.backward()

    return work


def measure(variant: str) -> tuple[float, float]:
    use_one_thread()
    heads(variant, 64, 128, 8, 8)()  # imports, and first touches
    peak = peak_growth(heads(variant, **HEADS))
    again = heads(variant, **HEADS)
    again()
    began = time.process_time()
    again()
    return peak, time.process_time() - began


def memory() -> None:
    gradients = 4 * HEADS["vocabulary"] * HEADS["student"] / MEGABYTE
    rows = []
    for variant in ("naive", "chunked"):
        peak, seconds = in_own_process(measure, variant)
        rows.append([variant, f"{peak:.0f}", f"{peak - gradients:.0f}", f"{seconds:.2f}"])
    print(", ".join(f"{name} {size:,}" for name, size in HEADS.items()))
    print_table(["heads", "peak, MB", "without the weight's gradient", "CPU seconds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--memory", action="store_true", help="this alone")
    parser.add_argument("--teacher", help="a demo's final/")
    parser.add_argument("--bins", help="its bins")
    parser.add_argument("--work", default="runs/distillation")
    parser.add_argument("--steps", type=int, default=320)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--taught", nargs="+", default=["0.5,1", "0.9,2"], help="weight,temperature")
    options = parser.parse_args()
    print_header()
    if options.memory:
        memory()
    else:
        compare(options)


if __name__ == "__main__":
    main()
