"""Format and stopping: does an answer have the form that was asked for, and does it end where it should?

That it ends means the end-of-text token, before the tokens run out; what it says is hardly judged there: a
word of thanks, yes or no.
"""

import json
import re
from collections.abc import Callable
from typing import Any

from yxanul.data.problems import NAMES, PLACES, THINGS, WORDS, Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.code import FENCE
from yxanul.evaluation.suite.question import Category, Checker, Question, drawn, exactly

GROUP = "format and stopping"


def ended(most_words: int, needs: str) -> Checker:
    """`needs`: how one of its words begins."""

    def check(answer: Answer) -> str:
        if not answer.ended:
            return "it does not end"
        if not re.search(rf"\b(?:{needs})", answer.text, re.IGNORECASE):
            return f"no {needs}"
        return "" if len(answer.text.split()) <= most_words else f"more than {most_words} words"

    return check


def json_object(right: dict[str, Any]) -> Checker:
    def check(answer: Answer) -> str:
        try:
            fence = FENCE.search(answer.text)
            found = json.loads(fence[1] if fence else answer.text)
        except (ValueError, RecursionError):
            return "no JSON"
        return "" if found == right else f"not {json.dumps(right)}"

    return check


def bullets(words: list[str]) -> Checker:
    """Lines "- word", and nothing else."""
    right = "\n".join(f"- {word}" for word in words)
    return lambda answer: "" if re.sub(r"[ ]*\n\s*", "\n", answer.text.strip()) == right else f"not {right!r}"


def _object(choices: Choices) -> Question:
    name, age = choices.pick(NAMES), choices.between(5, 90)
    prompt = f"Write as a JSON object with the fields name and age: {name} is {age} years old."
    right = {"name": name, "age": age}
    return Question(prompt, json_object(right), json.dumps(right))


def _list(choices: Choices) -> Question:
    words = choices.some(WORDS, choices.between(2, 4))
    prompt = f"Write as a list, each on a line of its own behind a dash: {', '.join(words)}."
    return Question(prompt, bullets(words), "\n".join(f"- {word}" for word in words))


def _one_word(choices: Choices) -> Question:
    thing, place = choices.pick(THINGS), choices.pick(PLACES)
    prompt = f"The {thing} is in the {place}. Where is it? Answer with one word."
    return Question(prompt, exactly(place), place)


def _number_only(choices: Choices) -> Question:
    count, thing = choices.between(3, 99), choices.pick(THINGS)
    prompt = f"There are {count} {thing}s on the table. How many are there? Answer with a number only."
    return Question(prompt, exactly(str(count)), str(count))


def _stops(prompt: str, right: str, words: int, needs: str) -> Callable[[Choices], Question]:
    def make(choices: Choices) -> Question:
        name, thing = choices.pick(NAMES), choices.pick(THINGS)
        asked, said = (text.format(name=name, thing=thing) for text in (prompt, right))
        return Question(asked, ended(words, needs), said)

    return make


CATEGORIES = [
    Category("JSON objects", GROUP, drawn(_object), tokens=32),
    Category("lists", GROUP, drawn(_list), tokens=32),
    Category("one word", GROUP, drawn(_one_word)),
    Category("a number only", GROUP, drawn(_number_only)),
    Category(
        "ends a greeting", GROUP, drawn(_stops("{name} says hello. Answer in a few words.", "Hello, {name}!", 12, ""))
    ),
    Category(
        "ends a thank-you", GROUP, drawn(_stops("Thank {name} for the {thing}.", "Thank you, {name}.", 14, "thank"))
    ),
    Category("ends a yes or no", GROUP, drawn(_stops("Can {name} eat a {thing}? Yes or no?", "No.", 4, "yes|no"))),
]
