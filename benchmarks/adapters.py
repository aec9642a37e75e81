"""LoRA against full fine-tuning on the same conversations: exact answers, CPU seconds, peak memory.

    python benchmarks/adapters.py runs/demo/final --seeds 1 2        (a CPU; four minutes of one core for each run)

Each run is `yxanul sft sft` in a process of its own, in the working folder; one that is there already is asked alone.
Answers are greedy, through the chat template; right is the whole answer. The problems are not in training. Not here:
GPUs, other recipes, a search for the best rate of each.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from yxanul.data.documents import is_held_out
from yxanul.demo_problems import HELD_OUT, unseen

ADAMW = ["optimizer=adamw", "matrix_learning_rate=null"]
LORA = [*ADAMW, "lora.r=16", "weight_decay=0"]
RUNS = {
    "all weights, muon 3e-3": [],
    "all weights, adamw 3e-3": ADAMW,
    "LoRA r=16, adamw 3e-3": LORA,
    "LoRA r=16, adamw 1e-2": [*LORA, "learning_rate=1e-2"],
}
ROWS, LONGEST = 25, 64


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


def right_answers(final: Path) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import yxanul
    from yxanul.training.merge import merge

    yxanul.register()
    if (final / "adapter_config.json").exists():
        merged = final.with_name("merged")
        if not merged.exists():
            merge(final, merged)
        final = merged
    tokenizer = AutoTokenizer.from_pretrained(final, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(final).eval()
    found = []
    for problems in problems_by_kind():
        right = 0
        for start in range(0, len(problems), ROWS):
            some = problems[start : start + ROWS]
            asked = [[{"role": "user", "content": problem.question}] for problem in some]
            batch = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                made = model.generate(**batch, max_new_tokens=LONGEST, do_sample=False)
            texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(text.strip() == one.answer.strip() for text, one in zip(texts, some, strict=True))
        found.append(f"{right} of {len(problems)}")
    return found


def problems_by_kind() -> list[list]:
    sums = unseen("math", "easy")
    own = [problem for problem in sums if not is_held_out(problem.group, HELD_OUT)][:100]
    others = [problem for problem in sums if is_held_out(problem.group, HELD_OUT)][:100]
    return [own, others, unseen("reasoning", "hard")[:100], unseen("instructions", "easy")[:100]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    options = parser.parse_args()
    print("| run | seed | sums | sums, held-out pairs | reasoning | instructions | CPU s | peak MB |")
    print("|---|---|---|---|---|---|---|---|")
    for seed in options.seeds:
        for name, words in RUNS.items():
            out = Path("runs", f"{name.replace(' ', '-').replace(',', '')}-{seed}")
            base = ["--init-from", options.base, f"data.tokenizer.from={options.base}", f"seed={seed}"]
            usage = train([*base, *words], out)
            cells = [*right_answers(out / "final"), f"{usage['user']:.0f}", f"{usage['peak_mb']:.0f}"]
            print(f"| {name} | {seed} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
