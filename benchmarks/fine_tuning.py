"""What did fine-tuning teach? Problems that no training text holds, answered by the models before and after.

    yxanul sft sft --out runs/sft
    python benchmarks/fine_tuning.py runs/demo/final runs/sft/final [more models] [--problems 100] [--samples 2]

A model is asked through its chat template, the one before in the form of its pretraining (Question: ... Answer:).
Answers are greedy; right is the same result behind ####, or, of instructions, the same text. Problems are those of
recipes/sft.yaml's kinds with the next seed. Not here: the training itself, the suite (evaluation/suite/).
"""

import argparse
import math
import sys

from measuring import print_header, print_table, use_one_thread

HELD_OUT = 0.05  # of recipes/demo.yaml and recipes/sft.yaml
SEED, COUNT = 7, 20_000  # of what they train on
KINDS = {"math": "easy", "reasoning": "hard", "instructions": "easy"}
LONGEST_ANSWER = 64
TOPICS = {"Who is": "order", "Where is": "whereabouts", "What comes": "sequence"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--problems", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument("--samples", type=int, default=0, help="answers to show of each kind")
    options = parser.parse_args()
    use_one_thread()
    print_header()
    from yxanul.evaluation.text_model import load

    problems, rows = new_problems(options.problems), []
    for model in options.models:
        subject = load(model)
        found = {kind: answers(subject, own, kind) for kind, own in problems.items()}
        calculated = {kind: answers(subject, own, kind, True) for kind, own in problems.items() if "sums" in kind}
        for kind, texts in found.items():
            row = [model, kind, str(len(texts)), share(problems[kind], texts)]
            rows.append([*row, share(problems[kind], calculated[kind]) if kind in calculated else ""])
            for problem, text in list(zip(problems[kind], texts, strict=True))[: options.samples]:
                print(f"{model}, {kind}\n  {problem.question!r}\n  {text!r}, wanted {problem.answer!r}")
    print_table(["model", "problems", "n", "right, % +- standard error", "with the calculator"], rows)


def new_problems(count: int) -> dict[str, list]:
    from yxanul.data.documents import is_held_out
    from yxanul.data.problems import generate

    found: dict[str, list] = {}
    for kind, level in KINDS.items():
        known = {problem.question for problem in generate(kind, COUNT, SEED, level)}
        for problem in generate(kind, 60 * count, SEED + 1, level):
            if problem.question in known:
                continue
            name = kind
            if kind == "math":
                lacks = is_held_out(problem.group, HELD_OUT)
                name = f"sums, pairs of numbers that training {'lacks' if lacks else 'has'}"
            elif kind == "reasoning":
                name = next(f"reasoning: {topic}" for words, topic in TOPICS.items() if words in problem.question)
            found.setdefault(name, [])
            if len(found[name]) < count:
                found[name].append(problem)
    return found


def answers(subject, problems: list, kind: str, calculator: bool = False) -> list[str]:
    from yxanul.evaluation.answers import write_answers
    from yxanul.evaluation.generation import Prompt

    prompts = [Prompt(_asked(subject, problem), (), LONGEST_ANSWER) for problem in problems]
    return [found.text.strip() for found in write_answers(subject, prompts, calculator=calculator, title=kind)]


def _asked(subject, problem) -> str:
    """Every tokenizer of ours has a chat template, those of pretraining too: theirs speaks in tokens never met."""
    if "<|user|>" in (subject.tokenizer.chat_template or ""):
        return f"{subject.tokenizer.eos_token}Question: {problem.question}\nAnswer:"
    messages = [{"role": "user", "content": problem.question}]
    return subject.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def share(problems: list, texts: list[str]) -> str:
    right = sum(result(text) == result(problem.answer) for problem, text in zip(problems, texts, strict=True))
    part = right / len(texts)
    return f"{100 * part:.0f} +- {100 * math.sqrt(part * (1 - part) / len(texts)):.0f}"


def result(text: str) -> str:
    return text.rpartition("####")[2].strip()


if __name__ == "__main__":
    sys.exit(main())
