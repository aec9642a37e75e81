"""The calculator in the loop: `<<7+8=` is completed by arithmetic, whatever the model would have written.

    result_of("7+8")                                    # "15"; None for what is no sum of numbers
    CalculatorInTheLoop(tokenizer, begin)               # a logits processor of `generate`: greedy, sampled, streamed

Knows + - * /, decimals, signs and round brackets; no names, no powers, no eval. Malformed brackets are left to the
model. Figures of a model that had it are no figures of the model alone: whoever uses it must say so.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import torch
from transformers import LogitsProcessor

OPEN = re.compile(r"<<([^<>=\n]{1,100})=$")
TOKEN = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+|[-+*/()])")
MOST_DIGITS = 11  # before the point
MOST_DECIMALS = 4
MOST_DEPTH = 20  # of brackets and signs


class _NotASum(Exception):
    pass


def result_of(expression: str) -> str | None:
    """As people write it: 15, 2.5, 0.3333."""
    try:
        tokens = list(_tokens(expression))
        value, rest = _sum(tokens, MOST_DEPTH)
    except (_NotASum, ZeroDivisionError, ValueError):
        return None
    if rest or len(tokens) < 2 or abs(value) >= 10**MOST_DIGITS:
        return None
    value = round(value, MOST_DECIMALS)
    return str(value) if value.denominator == 1 else f"{float(value):.{MOST_DECIMALS}f}".rstrip("0")


def _tokens(expression: str) -> Iterator[str]:
    place, expression = 0, expression.rstrip()
    while place < len(expression):
        found = TOKEN.match(expression, place)
        if not found:
            raise _NotASum
        yield found.group(1)
        place = found.end()


def _sum(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    value, tokens = _product(tokens, depth)
    while tokens and tokens[0] in "+-":
        other, rest = _product(tokens[1:], depth)
        value, tokens = value + (other if tokens[0] == "+" else -other), rest
    return value, tokens


def _product(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    value, tokens = _number(tokens, depth)
    while tokens and tokens[0] in "*/":
        other, rest = _number(tokens[1:], depth)
        value, tokens = value * other if tokens[0] == "*" else value / other, rest
    return value, tokens


def _number(tokens: list[str], depth: int) -> tuple[Fraction, list[str]]:
    if not tokens or not depth:
        raise _NotASum
    first, rest = tokens[0], tokens[1:]
    if first == "-":
        value, rest = _number(rest, depth - 1)
        return -value, rest
    if first == "(":
        value, rest = _sum(rest, depth - 1)
        if rest[:1] != [")"]:
            raise _NotASum
        return value, rest[1:]
    if first in "+*/)":
        raise _NotASum
    return Fraction(first), rest


class CalculatorInTheLoop(LogitsProcessor):
    """When a row has come to `<<...=`, its next tokens are the result's and `>>`."""

    def __init__(self, tokenizer: Any, begin: int) -> None:
        self._tokenizer, self._begin = tokenizer, begin  # what stands before `begin` is the prompt
        self._forced: dict[int, list[int]] = {}
        self.used = 0

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        width = input_ids.shape[1]
        tails = self._tokenizer.batch_decode(input_ids[:, max(self._begin, width - 100) :])
        for row, text in enumerate(tails):
            if not self._forced.get(row):
                found = OPEN.search(text)
                result = result_of(found.group(1)) if found else None
                if result is None:
                    continue
                self._forced[row] = self._tokenizer.encode(f"{result}>>", add_special_tokens=False)
                self.used += 1
            token = self._forced[row].pop(0)
            scores[row] = torch.finfo(scores.dtype).min
            scores[row, token] = 0.0
        return scores
