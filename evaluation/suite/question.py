"""What a question of the suite is, and what spoils any answer: nothing said, the question echoed, words repeated.

    question = Question("What is 7 + 8?", number(15), "7 + 8 = 15")
    fault(question, Answer("15", ended=True))      # "": right; else why not, in a few words

A checker is a function from an answer to a fault. `right` is an answer that it takes; tests hold it to that, and to
refusing others. Checkers of one group of categories stand with its questions.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from yxanul.data.problems import Choices
from yxanul.evaluation.answers import Answer

COUNT = 20  # questions of a category
NEW_TOKENS = 16  # system 5's
LONGEST_PHRASE = 8  # words, of what is looked for as repeated
REPEATS = 3
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
BRACKET = re.compile(r"<<([^<>=]*)=([^<>=]*)>>")
GUESS = re.compile(r"(\d+)\.?\s*(?:,|/|\bor\b|\band\b|\s)\s*(?:or\s+)?$")  # another number right before the last
DENIED = re.compile(r"(?: not|n t) (?:an? |the )?\S+")
LEAD = re.compile(
    r"(?:(?:it|that|the|there|answer|next|so)\b[^:\n]{0,40}?(?:\b(?:is|are)\b:?|:)|next:|each [^:\n]{0,60}, so)\s+",
    re.I,
)

Checker = Callable[[Answer], str]


class Question(NamedTuple):
    prompt: str
    check: Checker
    right: str


@dataclass(frozen=True)
class Category:
    """`questions` draws COUNT of them, from the choices of a seed or from a table."""

    name: str
    group: str
    questions: Callable[[Choices], list[Question]]
    tokens: int = NEW_TOKENS
    runs_code: bool = False


def fault(question: Question, answer: Answer) -> str:
    said, asked = plain(answer.text), plain(question.prompt)
    if not said:
        return "empty"
    words = said.split()
    if asked in said or (asked.startswith(said) and len(words) > 3):
        return "echoed"
    if _repeats(words) and not _repeats(plain(question.right).split()):
        return "repeated"
    return question.check(answer)


def plain(text: str) -> str:
    """Lower case, one space between words; ends without punctuation."""
    return " ".join(text.lower().split()).strip(" .,:;!?\"'*`")


def _repeats(words: list[str]) -> bool:
    words = [word.strip(".,:;!?") for word in words]
    return any(
        words[start : start + size] * REPEATS == words[start : start + size * REPEATS]
        for size in range(1, LONGEST_PHRASE + 1)
        for start in range(len(words) - size * REPEATS + 1)
    )


def alone(text: str) -> str:
    """Without what usually stands around an answer: "The next number is 60." is 60."""
    text = text.strip()
    return re.sub(r"\s+(?:comes|is) next\W*$", "", text[found.end() :] if (found := LEAD.match(text)) else text)


def one_of(right: str, among: list[str], *, cased: bool = False) -> Checker:
    """The right words are there, not denied, and before any other answer of the category: a list of guesses is none.

    `right` may be several that mean the same: "grey|gray".
    """

    def check(answer: Answer) -> str:
        said = answer.text if cased else answer.text.lower()
        text = DENIED.sub(" ", " ".join(["", *re.findall(r"[\w+-]+", said), ""]))
        words = {*among, *right.split("|")}
        found = {word: text.find(f" {word if cased else word.lower()} ") for word in words}
        first = min((place, -len(word), word) for word, place in (found | {"": len(text)}).items() if place >= 0)[2]
        return "" if first in right.split("|") else f"not {right}"

    return check


def exactly(right: str) -> Checker:
    """But for case at the ends, spaces and punctuation around it."""
    return lambda answer: "" if plain(answer.text) == plain(right) else f"not {right!r}"


def number(right: float) -> Checker:
    """Behind ####, or else the last number that is said; if none is said, the last result in a bracket."""

    def check(answer: Answer) -> str:
        before, mark, behind = answer.text.partition("####")
        said_aloud = re.sub(r"<<[^>]*>*", " ", behind if mark else before)
        found = NUMBER.findall(said_aloud) or [result for _, result in BRACKET.findall(before)]
        found = [text for text in found if NUMBER.fullmatch(text)]
        if not found:
            return "no number"
        said = found[0] if mark else found[-1]
        other = None if mark else GUESS.search(said_aloud[: said_aloud.rfind(said)])
        if other and other[1] != said:
            return "several numbers"
        return "" if float(said.replace(",", "")) == right else f"{said}, not {right:g}"

    return check


def drawn(make: Callable[[Choices], Question]) -> Callable[[Choices], list[Question]]:
    """COUNT questions that all differ."""

    def questions(choices: Choices) -> list[Question]:
        made: dict[str, Question] = {}
        while len(made) < COUNT:
            question = make(choices)
            made.setdefault(question.prompt, question)
        return list(made.values())

    return questions


def table(rows: str, prompt: str, answer: str = "{}.", *, cased: bool = False) -> Callable[[Any], list[Question]]:
    """`rows`: "France:Paris, Peru:Lima"; the left goes into the prompt, the right is what must be said first.

    What the question itself names is no answer: "After Monday comes Tuesday" says Tuesday.
    """
    pairs = [row.split(":") for row in " ".join(rows.split()).split(", ")]
    others = {word for _, right in pairs for word in right.split("|")}
    return lambda _: [
        Question(
            prompt.format(left),
            one_of(right, sorted(others - {left}), cased=cased),
            answer.format(right.partition("|")[0]),
        )
        for left, right in pairs
    ]
