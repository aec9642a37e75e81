"""LoRA against full fine-tuning on the same conversations: exact answers, CPU seconds, peak memory.

    python benchmarks/adapters.py runs/demo/final --seeds 1 2        (a CPU; four minutes of one core for each run)

Each run is `yxanul sft sft` in a process of its own, in the working folder; one that is there already is asked alone,
as fine_tuning.py asks: % of the problems that are right, +- the standard error. Not here: GPUs, other recipes, a
search for the best rate of each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from fine_tuning import answers, new_problems, share

ADAMW = ["optimizer=adamw", "matrix_learning_rate=null"]
LORA = [*ADAMW, "lora.r=16", "weight_decay=0"]
RUNS = {
    "all weights, muon 3e-3": [],
    "all weights, adamw 3e-3": ADAMW,
    "LoRA r=16, adamw 3e-3": LORA,
    "LoRA r=16, adamw 1e-2": [*LORA, "learning_rate=1e-2"],
}
PROBLEMS = 100  # of each kind


def train(words: list[str], out: Path) -> dict[str, float]:
    """CPU seconds and peak megabytes, kept beside the run."""
    usage = out.with_suffix(".json")
    if not usage.exists():
        code = (
            "import json, resource, subprocess, sys; subprocess.run(sys.argv[2:], check=True);"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
            "json.dump({'user': used.ru_utime, 'peak_mb': used.ru_maxrss / 1024}, open(sys.argv[1], 'w'))"
        )
        command = [sys.executable, "-m", "yxanul", "sft", "sft", "--out", str(out), *words]
        subprocess.run([sys.executable, "-c", code, str(usage), *command], check=True)
    return json.loads(usage.read_text())


def right_answers(final: Path, problems: dict[str, list]) -> list[str]:
    from yxanul.evaluation.text_model import load
    from yxanul.training.merge import merge

    if (final / "adapter_config.json").exists():
        merged = final.with_name("merged")
        if not merged.exists():
            merge(final, merged)
        final = merged
    subject = load(str(final))
    return [share(own, answers(subject, own, kind)) for kind, own in problems.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    problems = new_problems(PROBLEMS)
    columns = ["run", "seed", *problems, "CPU s", "peak MB"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for seed in options.seeds:
        for name, words in RUNS.items():
            out = Path("runs", f"{name.replace(' ', '-').replace(',', '')}-{seed}")
            base = ["--init-from", options.base, f"data.tokenizer.from={options.base}", f"seed={seed}"]
            usage = train([*base, *words], out)
            cells = [*right_answers(out / "final", problems), f"{usage['user']:.0f}", f"{usage['peak_mb']:.0f}"]
            print(f"| {name} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
