"""Sums from a generator: is the calculator's bracket well formed, and, apart, is the answer right?

The format asks for <<a+b=c>> with the numbers and the operator of the question, whatever c is; arithmetic asks for the
right number, brackets or not. With another --seed come other numbers.
"""

import re
from collections.abc import Callable

from yxanul.data.problems import OPERATORS, Choices, counted
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


def _operands(choices: Choices, operator: str, most: int) -> Sum:
    low, high = choices.between(2, most), choices.between(2, most)
    if operator == "-":
        return low + high, "-", low
    return (low * high, "/", low) if operator == "/" else (low, operator, high)


def _bracketed(left: int, operator: str, right: int) -> str:
    return f"<<{left}{operator}{right}={OPERATORS[operator](left, right)}>>"


def _format(operator: str, most: int) -> Callable[[Choices], Question]:
    def make(choices: Choices) -> Question:
        left, _, right = _operands(choices, operator, most)
        prompt = f"Use the calculator: what is {left} {operator} {right}?"
        return Question(prompt, bracket((left, operator, right)), _bracketed(left, operator, right))

    return make


def _format_of_two(choices: Choices) -> Question:
    one, two = _operands(choices, "+", 30), _operands(choices, "*", 9)
    prompt = f"Use the calculator twice: what is {one[0]} + {one[2]}, and what is {two[0]} * {two[2]}?"
    return Question(prompt, bracket(one, two), f"{_bracketed(*one)} {_bracketed(*two)}")


def _format_of_story(choices: Choices) -> Question:
    left, right = choices.between(2, 40), choices.between(2, 40)
    prompt = f"Ada has {counted(left, 'coin')} and finds {right} more. How many coins has she? Use the calculator."
    return Question(prompt, bracket((left, "+", right)), f"{_bracketed(left, '+', right)} coins.")


def _plain(operator: str, most: int) -> Callable[[Choices], Question]:
    def make(choices: Choices) -> Question:
        left, _, right = _operands(choices, operator, most)
        result = OPERATORS[operator](left, right)
        return Question(f"What is {left} {operator} {right}?", number(result), f"{left} {operator} {right} = {result}")

    return make


def _two_steps(choices: Choices) -> Question:
    one, two, three = (choices.between(2, 12) for _ in range(3))
    result = one * two + three
    return Question(f"What is {one} * {two} + {three}?", number(result), f"{one * two} + {three} = {result}")


def _story(choices: Choices) -> Question:
    boxes, each = choices.between(2, 12), choices.between(2, 12)
    prompt = f"Ben packs {boxes} boxes with {each} marbles in each box. How many marbles is that in total?"
    return Question(prompt, number(boxes * each), f"{_bracketed(boxes, '*', each)} marbles.\n#### {boxes * each}")


def _larger(choices: Choices) -> Question:
    small, more = choices.between(10, 900), choices.between(1, 90)
    pair = choices.some([small, small + more], 2)
    return Question(f"Which number is larger, {pair[0]} or {pair[1]}?", number(small + more), str(small + more))


def _doubled(choices: Choices) -> Question:
    value = choices.between(3, 200)
    return Question(f"What is twice the number {value}?", number(2 * value), f"Twice {value} is {2 * value}.")


SIGNS = {"addition": "+", "subtraction": "-", "multiplication": "*", "division": "/"}
MOST = {"+": 60, "-": 60, "*": 12, "/": 12}
CATEGORIES = [
    *(Category(f"format of {name}", FORMAT, drawn(_format(sign, MOST[sign]))) for name, sign in SIGNS.items()),
    Category("format of two sums", FORMAT, drawn(_format_of_two), tokens=32),
    Category("format in a story", FORMAT, drawn(_format_of_story)),
    Category("sums of one digit", ARITHMETIC, drawn(_plain("+", 9))),
    *(Category(name, ARITHMETIC, drawn(_plain(sign, MOST[sign]))) for name, sign in SIGNS.items()),
    Category("large additions", ARITHMETIC, drawn(_plain("+", 900))),
    Category("two steps", ARITHMETIC, drawn(_two_steps)),
    Category("stories", ARITHMETIC, drawn(_story)),
    Category("larger number", ARITHMETIC, drawn(_larger)),
    Category("doubling", ARITHMETIC, drawn(_doubled)),
]
