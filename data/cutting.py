"""Long documents in slices, so that encoding and decoding them takes the memory of a slice and gives the same result.

An encoding takes about a hundred bytes a token while the library holds it; a document of a gigabyte would take tens.
A cut lies at a line break, and only where the tokenizer gives the text around it the same ids cut and uncut: so it
suits any pre-tokenizer, also those that take several line breaks as one token, or a break and what stands before it.
Not here: documents without such a place, which are encoded whole.
"""

from collections.abc import Iterator

import numpy as np

from yxanul.data.tokenizers import Tokenizer

SLICE = 1 << 18  # characters
LONG = SLICE + SLICE // 2  # a document up to this is one slice
AROUND = 256  # characters on either side that decide about a cut
TRIES = 20
DECODED_AT_ONCE = 1 << 18  # ids


def cut(text: str, tokenizer: Tokenizer, size: int = SLICE) -> Iterator[str]:
    """Slices of about `size` characters; together they are the text, and their ids are the text's."""
    start = 0
    while len(text) - start > size + size // 2:
        end = _place_to_cut(text, start + size // 2, start + size, tokenizer)
        window = start + size
        while end is None and window < len(text):
            end = _place_to_cut(text, window, window + size, tokenizer)
            window += size
        if end is None:
            break
        yield text[start:end]
        start = end
    yield text[start:]


def _place_to_cut(text: str, low: int, high: int, tokenizer: Tokenizer) -> int | None:
    """The last place in low .. high - 1 where cutting changes no ids: behind a run of line breaks, or before it."""
    for _ in range(TRIES):
        line_break = text.rfind("\n", low, high)
        if line_break < 0:
            return None
        before = line_break
        while before > low and text[before - 1].isspace():
            before -= 1
        for place in (line_break + 1, before):
            if place < len(text) and _is_clean(text, place, tokenizer):
                return place
        high = before
    return None


def _is_clean(text: str, place: int, tokenizer: Tokenizer) -> bool:
    left, right = text[max(0, place - AROUND) : place], text[place : place + AROUND]
    whole, *halves = tokenizer.encode_batch([left + right, left, right])
    return whole == halves[0] + halves[1]


def decode_long(ids: np.ndarray, tokenizer: Tokenizer) -> str:
    """As `tokenizer.decode` of all the ids, which would take a Python int for each."""
    texts, start = [], 0
    while start < len(ids):
        stop = min(start + DECODED_AT_ONCE, len(ids))
        text = tokenizer.decode(ids[start:stop].tolist())
        while text.endswith("\N{REPLACEMENT CHARACTER}") and stop < min(start + DECODED_AT_ONCE + 8, len(ids)):
            stop += 1  # a character may be spread over several ids
            text = tokenizer.decode(ids[start:stop].tolist())
        texts.append(text)
        start = stop
    return "".join(texts)
