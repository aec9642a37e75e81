"""GSM8K: sums in words by the number that the solution ends in, and bits per byte of the gold solution. lm-eval's
gsm8k, version 3; five solved examples of the training split stand before each question of the first."""

from yxanul.evaluation.generation import Prompt
from yxanul.evaluation.task import Document, Source, Task, gold_answer

SOURCE = Source("openai/gsm8k", "main", "test", "train")
STOPS = "Question:", "</s>", "<|im_end|>"


def question(document: Document) -> str:
    return f"Question: {document['question']}\nAnswer:"


def example(document: Document) -> str:
    return f"{question(document)} {document['answer']}"


TASKS = (
    Task(
        name="gsm8k",
        version=3.0,
        source=SOURCE,
        columns=("question", "answer"),
        request=lambda document: Prompt(question(document), STOPS, 256),
        judged=lambda document, text: {"predictions": text, "references": document["answer"]},
        example=example,
        shots=5,
        metric="gsm8k",
        main=("strict_match", "flexible_extract"),
        claims={"yxanul-177m": "10-15 %", "yxanul-0.6b": "20 %"},
    ),
    gold_answer(
        "gsm8k_bits",
        ("question", "answer"),
        question,
        lambda document: f" {document['answer']}",
        source=SOURCE,
        example=example,
    ),
)
