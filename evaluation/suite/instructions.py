"""Instructions that are followed or not: something to be done to words that are given."""

from collections.abc import Callable

from yxanul.data.problems import WORDS, Choices
from yxanul.evaluation.suite.question import Category, Checker, Question, alone, drawn, exactly, number, plain

Task = Callable[[list[str]], str]


def in_capitals(right: str) -> Checker:
    return lambda answer: "" if answer.text.strip(" \n.\"'") == right else f"not {right}"


def in_order(right: str) -> Checker:
    """Commas between words, or none."""
    return lambda answer: "" if plain(answer.text).replace(",", "").split() == right.split() else f"not {right!r}"


def told(right: str) -> Checker:
    """Alone, or in a sentence that says no more."""
    return lambda answer: "" if plain(alone(answer.text)) == right else f"not {right!r}"


def counted(right: str) -> Checker:
    return number(int(right))


def _task(
    instruction: str, task: Task, checker: Callable[[str], Checker], most: int = 5
) -> Callable[[Choices], list[Question]]:
    def make(choices: Choices) -> Question:
        words = choices.some(WORDS, choices.between(3, most))
        while words == sorted(words):  # else saying them again would be sorting them
            words = choices.some(WORDS, len(words))
        right = task(words)
        return Question(f"{instruction}\n{' '.join(words)}", checker(right), right)

    return drawn(make)


CATEGORIES = [
    Category(name, "instructions", questions)
    for name, questions in (
        ("repeat", _task("Repeat the words.", " ".join, in_order)),
        ("first word", _task("Give the first word.", lambda words: words[0], told)),
        ("last word", _task("Give the last word.", lambda words: words[-1], told)),
        ("count words", _task("How many words are there?", lambda words: str(len(words)), counted, 12)),
        ("reverse", _task("Reverse the order of the words.", lambda words: " ".join(words[::-1]), in_order)),
        (
            "capital letters",
            _task("Write the words in capital letters.", lambda words: " ".join(words).upper(), in_capitals),
        ),
        ("sort", _task("Sort the words alphabetically.", lambda words: " ".join(sorted(words)), in_order)),
        ("commas", _task("Write the words with commas between them.", ", ".join, exactly)),
    )
]
