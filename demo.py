"""`yxanul demo`: from nothing to a model that solves problems, offline, in minutes on a laptop.

    1  text that every Python carries, and generated problems, become a tokenizer and token bins
    2  four stages with growing lengths, a gate behind each, become a model (recipes/demo.yaml)
    3  the model, loaded in a fresh process by transformers alone, answers problems that it has never seen

Interrupted at any moment, the same command goes on. Not here: fine-tuning, benchmarks, export.
"""

import argparse
import resource
import subprocess
import sys
import time
from typing import Any

from yxanul.data.progress import say
from yxanul.run_folder import DONE, RunFolder

ASKED = 40  # problems of a kind
SHOWN = 4
LONGEST_ANSWER = 48  # tokens


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="yxanul demo", description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--out", default="runs/demo", help="the run's folder (default: runs/demo)")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    from yxanul.training import pretrain

    code = pretrain.main(["demo", "--out", options.out])
    if code != DONE:
        return code
    final = RunFolder(options.out).final
    say(f"{final}, loaded by AutoModelForCausalLM in a fresh process, solves problems that were held out:")
    solving = subprocess.run([sys.executable, "-m", "yxanul.demo", str(final)])
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(usage.ru_utime + usage.ru_stime for usage in used)
    say(f"{time.monotonic() - began:.0f} s, {seconds:.0f} CPU seconds, no network.")
    return solving.returncode


def solve(final: str) -> None:
    """Imports nothing of Yxanul's model: what a checkpoint needs travels in its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(final, padding_side="left", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(final, trust_remote_code=True).eval()
    for kind in ("math", "reasoning"):
        problems = held_out_problems(f"bins/demo/{kind}/held_out", tokenizer)
        prompts = [f"{tokenizer.eos_token}{question}" for question, _ in problems]  # as documents are met in training
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            made = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        solved = [result(text) == result(right) for text, (_, right) in zip(texts, problems, strict=True)]
        say(f"{kind}: {sum(solved)} of {len(solved)} right")
        for (question, _), text, is_right in list(zip(problems, texts, solved, strict=True))[:SHOWN]:
            say(f"  {'right' if is_right else 'wrong'}  {question}{text}".replace("\n", "\n         "))


def held_out_problems(folder: str, tokenizer: Any) -> list[tuple[str, str]]:
    """Question and answer of problems from everywhere in a bin."""
    from yxanul.data.bins import open_bin

    token_bin = open_bin(folder)
    problems = []
    for number in range(0, token_bin.documents, max(1, token_bin.documents // ASKED)):
        begin = int(token_bin.document_ends[number - 1]) if number else 0
        ids = token_bin.read(begin, int(token_bin.document_ends[number])).tolist()
        question, mark, answer = tokenizer.decode(ids, skip_special_tokens=True).partition("\nAnswer:")
        problems.append((question + mark, answer))
    return problems[:ASKED]


def result(answer: str) -> str:
    """What stands behind GSM8K's mark; a text without it gives no result."""
    return answer.partition("####")[2].strip() or "none"


if __name__ == "__main__":
    solve(sys.argv[1])
