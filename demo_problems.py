"""`python -m yxanul.demo_problems MODEL`: transformers alone loads a model, and asks it what no training text holds.

    python -m yxanul.demo_problems runs/demo/final --plain      # a base model: as a document that it goes on with
    python -m yxanul.demo_problems runs/sft/final               # in the tokenizer's chat template

Built-in problems, as recipes/demo.yaml and recipes/sft.yaml take them. Greedy; right is the same result behind `####`.
"""

import sys
from typing import Any

from yxanul.data.builtin import ProblemReader
from yxanul.data.documents import is_held_out
from yxanul.data.problems import Problem, generate
from yxanul.data.progress import answer
from yxanul.shell import exit_code

HELD_OUT = 0.05  # of the recipes
TRAINING = ProblemReader("math")  # for its defaults, which the recipes leave as they are
ASKED = 40  # problems of a kind
SHOWN = 2
LONGEST_ANSWER = 48  # tokens


def main(arguments: list[str]) -> int:
    """Imports nothing of Yxanul's model: what a checkpoint needs travels in its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, plain = arguments[0], "--plain" in arguments[1:]
    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left", trust_remote_code=True)
    loaded = AutoModelForCausalLM.from_pretrained(model, trust_remote_code=True).eval()
    for about, problems in new_problems().items():
        batch = tokenizer(
            [prompt(tokenizer, problem, plain) for problem in problems], return_tensors="pt", padding=True
        )
        with torch.inference_mode():
            made = loaded.generate(**batch, max_new_tokens=LONGEST_ANSWER, do_sample=False)
        texts = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        solved = [result(text) == result(problem.answer) for text, problem in zip(texts, problems, strict=True)]
        answer(f"{about}: {sum(solved)} of {len(solved)} right")
        for problem, text, is_right in list(zip(problems, texts, solved, strict=True))[:SHOWN]:
            said = text.strip().replace("\n", " ")
            answer(f"  {problem.question}\n    {said}  ({'right' if is_right else 'wrong'})")
    return 0


def prompt(tokenizer: Any, problem: Problem, plain: bool) -> str:
    """As training showed it; a document stands behind the end of another."""
    if plain:
        return f"{tokenizer.eos_token}Question: {problem.question}\nAnswer:"
    turn = [{"role": "user", "content": problem.question}]
    return tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)


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
    sys.exit(exit_code("demo", main, sys.argv[1:]))
