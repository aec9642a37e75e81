"""Sums from a generator: is the calculator's bracket well formed, and, apart, is the answer right?

The format asks for <<a+b=c>> with the numbers and the operator of the question, whatever c is; arithmetic asks for the
right number, brackets or not. With another --seed come other numbers.
"""

import re
from collections.abc import Callable

from yxanul.data.problems import OPERATORS, Choices
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.question import BRACKET, NUMBER, Category, Checker, Question, drawn, number

FORMAT, ARITHMETIC = "calculator format", "arithmetic"
Sum = tuple[int, str, int]


def bracket(*sums: Sum) -> Checker:
    """In this order; operands of + and * may be swapped. What stands behind = must be a number."""

    def check(answer: Answer) -> str:
        found = BRACKET.findall(answer.text)
        if len(found) < len(sums):
            return f"{len(found)} of {len(sums)} brackets <<a+b=c>>"
        for (left, operator, right), (said, result) in zip(sums, found, strict=False):
            parts = re.fullmatch(r"\s*(\d+)\s*([-+*/])\s*(\d+)\s*", said)
            swapped = (parts[3], parts[2], parts[1]) if parts and parts[2] in "+*" else None
            if not parts or (str(left), operator, str(right)) not in (parts.groups(), swapped):
                return f"<<{said}=, not <<{left}{operator}{right}="
            if not NUMBER.fullmatch(result.strip()):
                return f"={result} is no number"
        return ""

    return check


def _asked(operator: str, most: int, calculator: bool = False) -> Callable[[Choices], list[Question]]:
    def make(choices: Choices) -> Question:
        left, right = choices.between(2, most), choices.between(2, most)
        left = {"-": left + right, "/": left * right}.get(operator, left)
        result = OPERATORS[operator](left, right)
        if calculator:
            prompt = f"Use the calculator: what is {left} {operator} {right}?"
            return Question(prompt, bracket((left, operator, right)), f"<<{left}{operator}{right}={result}>>")
        return Question(f"What is {left} {operator} {right}?", number(result), f"{left} {operator} {right} = {result}")

    return drawn(make)


def _two_brackets(choices: Choices) -> Question:
    one, two, three, four = (choices.between(2, 9) for _ in range(4))
    prompt = f"Use the calculator twice: what is {one} + {two}, and what is {three} * {four}?"
    right = f"<<{one}+{two}={one + two}>> <<{three}*{four}={three * four}>>"
    return Question(prompt, bracket((one, "+", two), (three, "*", four)), right)


def _two_steps(choices: Choices) -> Question:
    one, two, three = (choices.between(2, 12) for _ in range(3))
    result = one * two + three
    return Question(f"What is {one} * {two} + {three}?", number(result), f"{one * two} + {three} = {result}")


def _story(choices: Choices) -> Question:
    boxes, each = choices.between(2, 12), choices.between(2, 12)
    prompt = f"Ben packs {boxes} boxes with {each} marbles in each box. How many marbles is that in total?"
    return Question(prompt, number(boxes * each), f"<<{boxes}*{each}={boxes * each}>> marbles.\n#### {boxes * each}")


SIGNS = {"addition": ("+", 60), "subtraction": ("-", 60), "multiplication": ("*", 12), "division": ("/", 12)}
CATEGORIES = [
    *(Category(f"format of {name}", FORMAT, _asked(*sign, calculator=True)) for name, sign in SIGNS.items()),
    Category("format of two sums", FORMAT, drawn(_two_brackets), tokens=32),
    Category("sums of one digit", ARITHMETIC, _asked("+", 9)),
    *(Category(name, ARITHMETIC, _asked(*sign)) for name, sign in SIGNS.items()),
    Category("large additions", ARITHMETIC, _asked("+", 900)),
    Category("two steps", ARITHMETIC, drawn(_two_steps)),
    Category("stories", ARITHMETIC, drawn(_story), tokens=32),  # in GSM8K's form more than 16
]
