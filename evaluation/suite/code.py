"""Small Python: does it have the structure that was asked for (parsed, never run), and, apart, does it work?

Programs run in the sandbox alone, and only when that was allowed. A program that the tokens cut off counts up to its
last whole line that parses.
"""

import ast
import re
from collections.abc import Callable
from typing import Any

from yxanul.evaluation.answers import Answer
from yxanul.evaluation.suite.question import Category, Checker, Question

STRUCTURE, EXECUTION = "code structure", "code execution"
FENCE = re.compile(r"```[\w ]*\n(.*?)(?:```|$)", re.DOTALL)
BEGINS = re.compile(r"^(?:def|class|import|from|@)\b.*", re.DOTALL | re.MULTILINE)
TOKENS = 64


def code_of(text: str) -> str:
    """What is in a fence, or the text; its longest beginning in whole lines that parses, "" where none does.

    Where that is nothing, a sentence may stand before the code.
    """
    if code := _beginning_of(text):
        return code
    found = BEGINS.search(text)
    return _beginning_of(found[0]) if found else ""


def _beginning_of(text: str) -> str:
    found = FENCE.search(text)
    lines = (found.group(1) if found else text).strip("\n").split("\n")
    lines[0] = lines[0].lstrip() if not found else lines[0]
    for end in range(len(lines), 0, -1):
        code = "\n".join(lines[:end])
        try:
            if ast.parse(code).body:
                return code
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
    return ""


def function(name: str, arguments: int) -> Checker:
    """A function of this name and so many arguments that returns something."""

    def check(answer: Answer) -> str:
        code = code_of(answer.text)
        if not code:
            return "no Python"
        found = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef) and node.name == name]
        if not found or len(found[0].args.args) != arguments:
            return f"no function {name} of {arguments}"
        returned = [node for node in ast.walk(found[0]) if isinstance(node, ast.Return) and node.value]
        returned = [node for node in returned if ast.unparse(node) != "return None"]
        return "" if returned else "it returns nothing"

    return check


def working(tests: list[str], run_program: Callable[[str], Any]) -> Checker:
    def check(answer: Answer) -> str:
        code = code_of(answer.text)
        if not code:
            return "no Python"
        verdict = run_program("\n".join([code, *(f"assert {test}" for test in tests)]))
        return "" if verdict.passed else verdict.reason

    return check


# name(arguments): what it returns: the expression: tests
ONE_LINERS = """add(a, b): the sum of a and b: a + b: add(2, 3) == 5; add(-1, 1) == 0
subtract(a, b): a minus b: a - b: subtract(2, 3) == -1; subtract(9, 4) == 5
multiply(a, b): the product of a and b: a * b: multiply(4, 3) == 12; multiply(-2, 5) == -10
square(x): the square of x: x * x: square(5) == 25; square(-2) == 4
double(x): twice x: 2 * x: double(7) == 14; double(-3) == -6
cube(x): x to the third power: x ** 3: cube(3) == 27; cube(-2) == -8
negate(x): minus x: -x: negate(4) == -4; negate(-5) == 5
half(x): half of x: x / 2: half(9) == 4.5; half(4) == 2
is_even(n): whether n is even: n % 2 == 0: is_even(4); not is_even(7)
is_odd(n): whether n is odd: n % 2 == 1: is_odd(7); not is_odd(4)
is_positive(n): whether n is above zero: n > 0: is_positive(2); not is_positive(-2); not is_positive(0)
larger(a, b): the larger of a and b: max(a, b): larger(2, 9) == 9; larger(9, 2) == 9
smaller(a, b): the smaller of a and b: min(a, b): smaller(2, 9) == 2; smaller(9, 2) == 2
area(width, height): the area of a rectangle: width * height: area(3, 4) == 12; area(10, 2) == 20
average(a, b): the average of a and b: (a + b) / 2: average(2, 5) == 3.5; average(4, 4) == 4
last_digit(n): the last digit of n: n % 10: last_digit(347) == 7; last_digit(60) == 0
is_equal(a, b): whether a and b are equal: a == b: is_equal(2, 2); not is_equal(2, 3)
increment(n): n plus one: n + 1: increment(8) == 9; increment(-1) == 0
remainder(a, b): the remainder of a divided by b: a % b: remainder(17, 5) == 2; remainder(8, 4) == 0
distance(a, b): the absolute difference of a and b: abs(a - b): distance(3, 8) == 5; distance(8, 3) == 5"""
TEXTS = """length(text): the length of text: len(text): length("abc") == 3; length("") == 0
first(text): the first letter of text: text[0]: first("abc") == "a"; first("zb") == "z"
last(text): the last letter of text: text[-1]: last("abc") == "c"; last("by") == "y"
backwards(text): text reversed: text[::-1]: backwards("abc") == "cba"; backwards("xy") == "yx"
shout(text): text in capital letters: text.upper(): shout("Hi") == "HI"; shout("no") == "NO"
whisper(text): text in small letters: text.lower(): whisper("Hi") == "hi"; whisper("OK") == "ok"
join(a, b): a followed by b: a + b: join("ab", "c") == "abc"; join("", "x") == "x"
twice(text): text written twice: text * 2: twice("ab") == "abab"; twice("") == ""
words(text): a list of the words of text: text.split(): words("a b") == ["a", "b"]; words(" one ") == ["one"]
is_empty(text): whether text is empty: text == "": is_empty(""); not is_empty("a")
total(numbers): the sum of a list: sum(numbers): total([1, 2, 3]) == 6; total([]) == 0
largest(numbers): the largest of a list: max(numbers): largest([1, 5, 3]) == 5; largest([-4, -2]) == -2
smallest(numbers): the smallest of a list: min(numbers): smallest([4, 1, 3]) == 1; smallest([2, 9]) == 2
ordered(items): a list in ascending order: sorted(items): ordered([3, 1, 2]) == [1, 2, 3]; ordered([]) == []
count(items): how many items a list has: len(items): count([7, 8]) == 2; count([]) == 0
first_item(items): the first item of a list: items[0]: first_item([7, 8]) == 7; first_item(["x"]) == "x"
has(items, item): whether item is in items: item in items: has([1, 2], 2); not has([1, 2], 3)
trim(text): text without spaces around it: text.strip(): trim(" a ") == "a"; trim("b") == "b"
starts(text, start): whether text starts with start: text.startswith(start): starts("abc", "ab"); not starts("ab", "b")
digits(number): the digits of a number as text: str(number): digits(42) == str(42); digits(0) == str(0)"""


def _one_liners(rows: str, run_program: Any = None) -> list[Question]:
    questions = []
    for row in rows.splitlines():
        head, what, rest = row.split(": ", 2)
        expression, tests = rest.rsplit(": ", 1)
        check = function(head.partition("(")[0], head.count(",") + 1)
        if run_program:
            check = working(tests.split("; "), run_program)
        prompt = f"Write a Python function {head} that returns {what}."
        questions.append(Question(prompt, check, f"def {head}:\n    return {expression}"))
    return questions


def _classes(_: Any) -> list[Question]:
    names = (
        "Dog Cat Car Book Point Circle Shape Person House Stack Queue Node Tree Bank Student Robot Game Timer Song Map"
    )

    def question(name: str) -> Question:
        def check(answer: Answer) -> str:
            code = code_of(answer.text)
            nodes = list(ast.walk(ast.parse(code))) if code else []
            found = [node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name]
            methods = [node.name for node in found[0].body if isinstance(node, ast.FunctionDef)] if found else []
            return "" if "__init__" in methods else f"no class {name} with __init__"

        right = f"class {name}:\n    def __init__(self, name):\n        self.name = name"
        return Question(f"Write a Python class {name} with an __init__ method.", check, right)

    return [question(name) for name in names.split()]


def categories(run_program: Any) -> list[Category]:
    """`run_program`: the sandbox's; without it the categories that run code have questions which nothing can check."""
    return [
        Category("functions of numbers", STRUCTURE, lambda _: _one_liners(ONE_LINERS), TOKENS),
        Category("functions of texts and lists", STRUCTURE, lambda _: _one_liners(TEXTS), TOKENS),
        Category("classes", STRUCTURE, _classes, TOKENS),
        Category("numbers that work", EXECUTION, lambda _: _one_liners(ONE_LINERS, run_program), TOKENS, True),
        Category("texts and lists that work", EXECUTION, lambda _: _one_liners(TEXTS, run_program), TOKENS, True),
    ]
