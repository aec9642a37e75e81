"""Instructions that are followed or not: something to be done to words that are given."""

from collections.abc import Callable

from yxanul.data.problems import WORDS, Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.question import Category, Checker, Question, drawn, exactly, plain

Task = Callable[[list[str]], str]


def in_capitals(right: str) -> Checker:
    return lambda answer: "" if answer.text.strip(" \n.\"'") == right else f"not {right}"


def in_order(right: str) -> Checker:
    """Commas between words, or none."""
    return lambda answer: "" if plain(answer.text).replace(",", "").split() == right.split() else f"not {right!r}"


def _task(instruction: str, task: Task, checker: Callable[[str], Checker]) -> Callable[[Choices], list[Question]]:
    def make(choices: Choices) -> Question:
        words = choices.some(WORDS, choices.between(3, 5))
        right = task(words)
        return Question(f"{instruction}\n{' '.join(words)}", checker(right), right)

    return drawn(make)


def _yes_or_no(choices: Choices) -> Question:
    words = choices.some(WORDS, 4)
    right = choices.pick(["yes", "no"])
    asked = choices.pick(words[:3]) if right == "yes" else words[3]

    def check(answer: Answer) -> str:
        return "" if plain(answer.text) == right else f"not {right}"

    return Question(
        f"Answer yes or no: is {asked} one of the words {', '.join(words[:3])}?", check, right.capitalize()
    )


def _choice(choices: Choices) -> Question:
    words, letter = choices.some(WORDS, 3), choices.between(0, 2)
    options = " ".join(f"({name}) {word}" for name, word in zip("ABC", words, strict=True))
    return Question(
        f"Give only the letter of the word {words[letter]}: {options}", exactly("ABC"[letter]), "ABC"[letter]
    )


def _replaced(choices: Choices) -> Question:
    one, two, new = choices.some(WORDS, 3)
    prompt = f"Replace the word {one} by the word {new}, and write the result: the {one} and the {two}"
    return Question(prompt, exactly(f"the {new} and the {two}"), f"the {new} and the {two}")


CATEGORIES = [
    Category(name, "instructions", questions)
    for name, questions in (
        ("repeat", _task("Repeat the words.", " ".join, in_order)),
        ("first word", _task("Give the first word.", lambda words: words[0], exactly)),
        ("last word", _task("Give the last word.", lambda words: words[-1], exactly)),
        ("count words", _task("How many words are there?", lambda words: str(len(words)), exactly)),
        ("reverse", _task("Reverse the order of the words.", lambda words: " ".join(words[::-1]), in_order)),
        (
            "capital letters",
            _task("Write the words in capital letters.", lambda words: " ".join(words).upper(), in_capitals),
        ),
        ("sort", _task("Sort the words alphabetically.", lambda words: " ".join(sorted(words)), in_order)),
        ("commas", _task("Write the words with commas between them.", ", ".join, exactly)),
        ("yes or no", drawn(_yes_or_no)),
        ("choose a letter", drawn(_choice)),
        ("replace a word", drawn(_replaced)),
    )
]
