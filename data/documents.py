"""What every source yields: documents, the rules that drop some of them, and the hash that holds some out.

A reader (files.py, hub_datasets.py, builtin.py) yields findings: a text, or why there is none. A part turns its
reader's findings into documents and counts what it drops. Not here: how a source is written down (sources.py).
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from yxanul.bad_input import BadInput

# Why a document is dropped, as it is counted
NOT_UTF8 = "not UTF-8"
NOT_A_RECORD = "not a JSON record"
EMPTY = "empty"
NOT_TEXT = "not text"
NO_SCORE = "no score"
LOW_SCORE = "score too low"
TOO_SHORT = "too short"
TOO_LONG = "too long"

UNDECODABLE = (NOT_UTF8, NOT_A_RECORD)


class Document(NamedTuple):
    text: str
    group: str  # its hash decides whether the document is held out: the text itself, a file's name, an operand pair


class Finding(NamedTuple):
    """What a reader met: a text, or a problem; `place` names file and position for the user."""

    text: str
    place: str
    problem: str = ""
    group: str = ""


class Reader(Protocol):
    def findings(self) -> Iterator[Finding]: ...


@dataclass(frozen=True)
class Chain:
    """Several readers as one."""

    readers: tuple[Reader, ...]

    def findings(self) -> Iterator[Finding]:
        for reader in self.readers:
            yield from reader.findings()


@dataclass(frozen=True)
class TokenFile:
    """Token ids as nanoGPT writes them: numbers of one width, little endian, no header."""

    path: str
    dtype: str

    def tokens(self) -> np.ndarray:
        return np.memmap(self.path, dtype=np.dtype(self.dtype).newbyteorder("<"), mode="r")


@dataclass(frozen=True)
class Rules:
    """Which documents stay."""

    min_characters: int = 1
    max_characters: int | None = None
    limit: int | None = None  # documents
    strict: bool = False  # stop at what cannot be decoded, instead of counting it

    def problem(self, text: str) -> str:
        if not text or text.isspace():
            return EMPTY
        if len(text) < self.min_characters:
            return TOO_SHORT
        if self.max_characters is not None and len(text) > self.max_characters:
            return TOO_LONG
        try:
            text.encode()
        except UnicodeEncodeError:  # a lone surrogate: from a JSON escape, or a byte that was none of UTF-8's
            return NOT_UTF8
        return ""


@dataclass(frozen=True)
class Part:
    """A piece of a source that can be read alone, in any process; the pieces do not depend on how many there are."""

    reader: Reader | TokenFile
    rules: Rules = Rules()

    def documents(self, counts: Counter[str] | None = None) -> Iterator[Document]:
        """The part's documents in a fixed order; what is dropped is added to `counts` under its reason."""
        assert not isinstance(self.reader, TokenFile)
        kept = 0
        for finding in self.reader.findings():
            problem = finding.problem or self.rules.problem(finding.text)
            if not problem:
                yield Document(finding.text, finding.group or finding.text)
                kept += 1
                if kept == self.rules.limit:
                    return
                continue
            if self.rules.strict and problem in UNDECODABLE:
                raise BadInput(f"{finding.place}: {problem}; mend it, or leave out --strict to skip such documents.")
            if counts is not None:
                counts[problem] += 1

    def tokens(self) -> np.ndarray:
        """The token ids of a raw source's part."""
        assert isinstance(self.reader, TokenFile)
        return self.reader.tokens()


def check_share(held_out: float) -> None:
    if not 0 <= held_out < 1:
        raise BadInput(f"--held-out {held_out:g} must be a share from 0 to below 1, such as 0.01.")


def held_out_rank(group: str) -> int:
    """A number below 2**64 that belongs to the group for ever, whatever the corpus, the machine and the Python."""
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big")


def is_held_out(group: str, share: float) -> bool:
    """What is held out at one share stays so at every larger one."""
    return share > 0 and held_out_rank(group) < share * 2**64
