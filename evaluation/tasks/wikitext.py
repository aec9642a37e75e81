"""WikiText-2, whole pages: perplexity per word and byte, bits per byte. lm-eval's wikitext, version 2.

The model reads the page with its spacing mended; words and bytes are those of the page before.
"""

import re
from functools import partial

from yxanul.evaluation.task import Document, Source, Task, Text

# lm-eval's mending, in its order; the second never matches WikiText, and is kept for equality
MENDED: tuple[tuple[str, str], ...] = (
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),
    *((rf" @{re.escape(mark)}@ ", mark) for mark in "-,."),
    *((rf" {re.escape(mark)} ", f"{mark} ") for mark in ":;.!?,"),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    (r"= = = =", "===="),
    (r"= = =", "==="),
    (r"= =", "=="),
    (" \u00b0 ", "\u00b0"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
)


def mended(text: str) -> str:
    for pattern, better in MENDED:
        text = re.sub(pattern, better, text)
    return text


def judged(column: str, document: Document, nats: float) -> dict:
    text = document[column]
    return {"predictions": nats, "references": len(text.encode()), "words": len(re.split(r"\s+", text))}


def task_of_texts(name: str, version: float, column: str, source: Source) -> Task:
    return Task(
        name=name,
        version=version,
        source=source,
        columns=(column,),
        request=lambda document: Text(mended(document[column])),
        judged=partial(judged, column),
        metric="bits_per_byte",
        main=("bits_per_byte", "word_perplexity"),
    )


TASKS = (
    task_of_texts("wikitext", 2.0, "page", Source("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test")),
)
