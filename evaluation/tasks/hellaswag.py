"""HellaSwag: which of four endings goes on with a scene. lm-eval's hellaswag, version 1."""

import re

from yxanul.evaluation.task import Choices, Document, Source, Task


def clean(text: str) -> str:
    """WikiHow's marks go; two spaces become one, once, so that four become two: the order and this are lm-eval's."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def request(document: Document) -> Choices:
    int(document["label"])  # of the test split it is empty
    scene = f"{document['activity_label']}: {document['ctx_a']} {document['ctx_b'].capitalize()}"
    return Choices(clean(scene), tuple(f" {clean(ending)}" for ending in document["endings"]))


def judged(document: Document, scores: list[float]) -> dict:
    endings = [clean(ending) for ending in document["endings"]]
    return {"predictions": scores, "references": int(document["label"]), "choices": endings}


def example(document: Document) -> str:
    scene, endings = request(document)
    return scene + endings[int(document["label"])]


TASKS = (
    Task(
        name="hellaswag",
        version=1.0,
        source=Source("Rowan/hellaswag", None, "validation", "train"),
        columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
        request=request,
        judged=judged,
        example=example,
        shots_differ=True,
        metric="multiple_choice",
        main=("acc", "acc_norm"),
        chance={"acc": 0.25, "acc_norm": 0.25},
        claims={"yxanul-177m": "45-50 %", "yxanul-0.6b": "65 %"},
    ),
)
