"""Long documents in slices, so that encoding and decoding them takes the memory of a slice and gives the same result.

An encoding takes about a hundred bytes a token while the library holds it; a document of a gigabyte would take tens.
A cut lies at a line break, and only where the tokenizer gives the text around it the same ids cut and uncut: so it
suits any pre-tokenizer, also those that take several line breaks as one token, or a break and what stands before it.
Not here: documents without such a place, which are encoded whole.
"""

import re
from collections.abc import Iterator
from itertools import islice

import numpy as np

from yxanul.data.tokenizers import Tokenizer

SLICE = 1 << 18  # characters
LONG = SLICE + SLICE // 2  # a document up to this is one slice
AROUND = 256  # characters on either side that decide about a cut
TRIES = 1000  # places that are tried before the rest becomes one slice
LINE_BREAKS = re.compile(r"(?<!\s)\s*\n")
DECODED_AT_ONCE = 1 << 18  # ids


def cut(text: str, tokenizer: Tokenizer, size: int = SLICE) -> Iterator[str]:
    """Slices of about `size` characters; together they are the text, and their ids are the text's."""
    start = 0
    while len(text) - start > size + size // 2:
        places = islice(_places(text, start + size), TRIES)
        end = next((place for place in places if _is_clean(text, place, tokenizer)), None)
        if end is None:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _places(text: str, start: int) -> Iterator[int]:
    """Behind every run of line breaks, and before it."""
    for found in LINE_BREAKS.finditer(text, start):
        yield found.end()
        yield found.start()


def _is_clean(text: str, place: int, tokenizer: Tokenizer) -> bool:
    left, right = text[max(0, place - AROUND) : place], text[place : place + AROUND]
    whole, *halves = tokenizer.encode_batch([left + right, left, right])
    return whole == halves[0] + halves[1]


def decode_long(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """As `tokenizer.decode` of all the ids, which would take a Python int for each."""
    texts, start = [], 0
    while start < len(ids):
        for stop in range(start + DECODED_AT_ONCE, start + DECODED_AT_ONCE + 9):
            text = tokenizer.decode(ids[start:stop].tolist())
            if stop >= len(ids) or not text.endswith("\N{REPLACEMENT CHARACTER}"):
                break  # else a character is spread over several ids
        texts.append(text)
        start = stop
    return "".join(texts)
