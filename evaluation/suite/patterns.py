"""Patterns to go on with: what must come next, from a generator."""

import re
import string

from yxanul.data.problems import WORDS, Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.question import Category, Checker, Question, drawn, number

NEXT = "What comes next: {}?"


def begins_with(right: str) -> Checker:
    """An item, behind which a comma may go on with the pattern; of letters the case counts."""

    def check(answer: Answer) -> str:
        said = re.split(r"[,.;\n]", answer.text.strip())[0].strip()
        return "" if right == (said if len(right) == 1 else said.lower()) else f"not {right}"

    return check


def _next(items: list[object], right: object) -> Question:
    return Question(NEXT.format(", ".join(map(str, items))), begins_with(str(right)), str(right))


def _counting(choices: Choices, low: int, high: int) -> Question:
    start, step = choices.between(40, 90), choices.between(low, high)
    return _next([start + step * place for place in range(4)], start + step * 4)


def _doubling(choices: Choices) -> Question:
    start = choices.between(1, 40)
    return _next([start * 2**place for place in range(4)], start * 16)


def _letters(choices: Choices, step: int) -> Question:
    start = choices.between(0, 25 - 4 * step)
    letters = (string.ascii_uppercase if choices.between(0, 1) else string.ascii_lowercase)[start::step]
    return _next([*letters[:4]], letters[4])


def _alternating(choices: Choices) -> Question:
    one, two = choices.some(WORDS, 2)
    return _next([one, two, one, two, one], two)


def _of_three(choices: Choices) -> Question:
    words = choices.some(WORDS, 3)
    return _next([*words, *words, words[0]], words[1])


def _pairs(choices: Choices) -> Question:
    """By example: a rule that two pairs show."""
    one, two, three = choices.some(WORDS, 3)
    rule = choices.pick([str.upper, str.capitalize, lambda word: f"{word}s", lambda word: f"{word[0]}"])
    right = rule(three)

    def check(answer: Answer) -> str:
        said = answer.text.replace(">", " ").split()
        return "" if said[:1] and said[0].strip(".,;") == right else f"not {right}"

    return Question(f"{one} -> {rule(one)}; {two} -> {rule(two)}; {three} ->", check, right)


def _growing(choices: Choices) -> Question:
    sign, start = choices.pick([*"xo#+=@abmnstuvwyz"]), choices.between(1, 3)
    rows = [sign * (start + place) for place in range(4)]
    check: Checker = lambda answer: "" if answer.text.split()[:1] == [rows[3]] else f"not {rows[3]}"  # noqa: E731
    return Question(NEXT.format(" ".join(rows[:3])), check, rows[3])


def _missing(choices: Choices) -> Question:
    start, step = choices.between(1, 60), choices.between(2, 9)
    row = [str(start + step * place) for place in range(5)]
    prompt = f"Which number is missing: {', '.join([*row[:3], '_', row[4]])}?"
    return Question(prompt, number(float(row[3])), row[3])


CATEGORIES = [
    Category("counting by small steps", "patterns", drawn(lambda choices: _counting(choices, 1, 9))),
    Category("counting down", "patterns", drawn(lambda choices: _counting(choices, -9, -1))),
    Category("numbers that double", "patterns", drawn(_doubling)),
    Category("letters", "patterns", drawn(lambda choices: _letters(choices, 1))),
    Category("every second letter", "patterns", drawn(lambda choices: _letters(choices, 2))),
    Category("two words in turn", "patterns", drawn(_alternating)),
    Category("three words in turn", "patterns", drawn(_of_three)),
    Category("rules by example", "patterns", drawn(_pairs)),
    Category("growing rows", "patterns", drawn(_growing)),
    Category("missing numbers", "patterns", drawn(_missing)),
]
