"""TriviaQA without context: short answers by exact match, bits per byte of gold answers. As lm-eval's version 3."""

from yxanul.evaluation.generation import Prompt
from yxanul.evaluation.task import Document, Source, Task, gold_answer

SOURCE = Source("mandarjoshi/trivia_qa", "rc.nocontext", "validation", "train")


def question(document: Document) -> str:
    return f"Question: {document['question']}?\nAnswer:"


def example(document: Document) -> str:
    return f"{question(document)} {document['answer']['aliases'][0]}"


TASKS = (
    Task(
        name="triviaqa",
        version=3.0,
        source=SOURCE,
        columns=("question", "answer"),
        request=lambda document: Prompt(question(document), ("\n", ".", ","), 256),
        judged=lambda document, text: {"predictions": text.strip(), "references": document["answer"]["aliases"]},
        example=example,
        shots_differ=True,
        metric="exact_match",
        main=("exact_match",),
        claims={"yxanul-177m": "20-25 %", "yxanul-0.6b": "30 %"},
    ),
    gold_answer(
        "triviaqa_bits",
        ("question", "answer"),
        question,
        lambda document: f" {document['answer']['value']}",
        source=SOURCE,
        example=example,
        shots_differ=True,
    ),
)
