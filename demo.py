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

from yxanul.data.builtin import ProblemReader
from yxanul.data.documents import is_held_out
from yxanul.data.problems import Problem, generate
from yxanul.data.progress import say
from yxanul.run_folder import DONE, RunFolder

HELD_OUT = 0.05  # of recipes/demo.yaml
TRAINING = ProblemReader("math")  # for its defaults, which the recipe leaves as they are
ASKED = 40  # problems of a kind
SHOWN = 3
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
    say(f"{final}, loaded by AutoModelForCausalLM in a fresh process, solves problems that it never saw:")
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
    for about, problems in new_problems().items():
        # as documents are met in training: behind the end of another
        prompts = [f"{tokenizer.eos_token}Question: {problem.question}\nAnswer:" for problem in problems]
        batch = tokenizer(prompts, return_tensors="pt", padding=True)
        with torch.inference_mode():
            made = model.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        solved = [result(text) == result(problem.answer) for text, problem in zip(texts, problems, strict=True)]
        say(f"{about}: {sum(solved)} of {len(solved)} right")
        for problem, text, is_right in list(zip(problems, texts, solved, strict=True))[:SHOWN]:
            answer = text.strip().replace("\n", " ")
            say(f"  {problem.question}\n    {answer}  ({'right' if is_right else 'wrong'})")


def new_problems() -> dict[str, list[Problem]]:
    """None of their questions is in the training text; of some sums neither is the pair of numbers."""
    sums, reasoning = (unseen(kind, level) for kind, level in (("math", "easy"), ("reasoning", "hard")))
    return {
        "sums, new questions": [problem for problem in sums if not is_held_out(problem.group, HELD_OUT)][:ASKED],
        "reasoning, new questions": reasoning[:ASKED],
        "sums of two numbers that no training text adds": [
            problem for problem in sums if is_held_out(problem.group, HELD_OUT)
        ][:ASKED],
    }


def unseen(kind: str, level: str) -> list[Problem]:
    known = {problem.question for problem in generate(kind, TRAINING.count, TRAINING.seed, level)}
    others = generate(kind, 50 * ASKED, TRAINING.seed + 1, level)
    return [problem for problem in others if problem.question not in known]


def result(answer: str) -> str:
    """What stands behind GSM8K's mark; a text without it gives no result."""
    return answer.partition("####")[2].strip() or "none"


if __name__ == "__main__":
    solve(sys.argv[1])
