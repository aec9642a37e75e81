"""Bits per byte of the text that every Python carries, and of generated problems: the offline domains of data/builtin.

The documents are those that `yxanul data prepare --held-out 0.05` keeps out of training, as recipe `demo` does; who
trained with a smaller share has seen some. They differ between Python's releases: compare models on one machine.
"""

from functools import partial

from yxanul.data.builtin import NAMES
from yxanul.data.documents import is_held_out
from yxanul.data.sources import open_source
from yxanul.evaluation.task import Document, Task, Text

HELD_OUT = 0.05


def documents(domain: str) -> list[Document]:
    parts = open_source(f"builtin:{domain}").parts()
    return [
        {"text": document.text}
        for part in parts
        for document in part.documents()
        if is_held_out(document.group, HELD_OUT)
    ]


TASKS = tuple(
    Task(
        name=f"builtin_{domain}",
        version=1.0,
        documents=partial(documents, domain),
        columns=("text",),
        request=lambda document: Text(document["text"]),
        judged=lambda document, nats: {
            "predictions": nats,
            "references": len(document["text"].encode()),
            "words": len(document["text"].split()),
        },
        metric="bits_per_byte",
        main=("bits_per_byte",),
    )
    for domain in NAMES
)
