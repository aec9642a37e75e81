"""Patterns to go on with: what must come next, from a generator."""

import re
import string
from functools import partial

from yxanul.data.problems import WORDS, Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.question import NUMBER, Category, Checker, Question, alone, drawn, number, plain

NEXT = "What comes next: {}?"


def begins_with(right: str) -> Checker:
    """An item, behind which a comma may go on with the pattern; of letters the case counts."""

    def check(answer: Answer) -> str:
        said = alone(answer.text).strip(" *\"'`")
        found = NUMBER.match(said) if right.isdigit() else re.match(r"[^,.;\n]*", said)
        word = found[0].strip(" *\"'`") if found else ""
        return "" if right == (word if len(right) == 1 else word.lower().replace(",", "")) else f"not {right}"

    return check


def _next(items: list[object], right: object) -> Question:
    return Question(NEXT.format(", ".join(map(str, items))), begins_with(str(right)), str(right))


def _row(choices: Choices, low: int, high: int) -> Question:
    start, step = choices.between(40, 90), choices.between(low, high)
    return _next([start + step * place for place in range(4)], start + step * 4)


def _doubling(choices: Choices) -> Question:
    start = choices.between(1, 40)
    return _next([start * 2**place for place in range(4)], start * 16)


def _letters(choices: Choices, step: int) -> Question:
    start = choices.between(0, 25 - 4 * step)
    letters = (string.ascii_uppercase if choices.between(0, 1) else string.ascii_lowercase)[start::step]
    return _next([*letters[:4]], letters[4])


def _in_turn(choices: Choices, count: int) -> Question:
    words = choices.some(WORDS, count)
    return _next([*words, *words, words[0]], words[1])


def _rule(choices: Choices) -> Question:
    """That two examples show."""
    one, two, three = choices.some(WORDS, 3)
    rule = choices.pick([lambda word: f"{word}s", lambda word: word[0], lambda word: f"{word} {word}"])
    return Question(f"{one} -> {rule(one)}; {two} -> {rule(two)}; {three} ->", begins_with(rule(three)), rule(three))


def _missing(choices: Choices) -> Question:
    start, step = choices.between(1, 60), choices.between(2, 9)
    row = [str(start + step * place) for place in range(5)]
    prompt, check = f"Which number is missing: {', '.join([*row[:3], '_', row[4]])}?", number(float(row[3]))
    filled = ", ".join(row)
    return Question(prompt, lambda answer: "" if plain(alone(answer.text)) == filled else check(answer), row[3])


CATEGORIES = [
    Category(name, "patterns", drawn(make))
    for name, make in (
        ("counting by small steps", partial(_row, low=1, high=9)),
        ("counting down", partial(_row, low=-9, high=-1)),
        ("numbers that double", _doubling),
        ("letters", partial(_letters, step=1)),
        ("every second letter", partial(_letters, step=2)),
        ("two words in turn", partial(_in_turn, count=2)),
        ("three words in turn", partial(_in_turn, count=3)),
        ("rules by example", _rule),
        ("missing numbers", _missing),
    )
]
