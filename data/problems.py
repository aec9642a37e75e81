"""Generated problems whose answers can be checked: sums in words (GSM8K's form), reasoning, instructions.

`generate("math", count=20000, seed=7)` yields problems that all differ, the same ones on every Python: every choice is
made with Random(seed).random(), the one sequence that Python promises to keep. A problem's group is what may hold it
out: for sums the operand pair, so that a pair which is held out occurs in no training problem (see `pair_of`), and a
model that solves held-out sums has learnt to calculate. Not here: how problems are written as documents (builtin.py).
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import NamedTuple, TypeVar

from yxanul.bad_input import BadInput
from yxanul.data.documents import held_out_rank

_words = str.split
NAMES = _words(
    "Ada Ben Chi Dan Eve Finn Gia Hugo Ines Jack Kai Lena Milo Nora Omar Pia Quinn Rosa Sam Tara Uma Vik Wes Yara Zoe"
)
THINGS = _words("apple book coin card marble pencil stamp shell sticker orange cookie button")
PLACES = _words("kitchen garden office hallway library attic")
OBJECTS = _words("ball key lamp cup")
COMPARISONS = [("taller", "tallest"), ("older", "oldest"), ("faster", "fastest")]
WORDS = _words(
    "red blue green stone river cloud paper light silver quiet open warm small round early garden window summer "
    "winter music bread table north yellow sharp honey forest cold island simple bridge market soft letter deep "
    "bright copper sand wheel proud"
)
OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv}
REPEATS_BEFORE_GIVING_UP = 10_000

Item = TypeVar("Item")


class Level(NamedTuple):
    """How large the numbers are, and whether the answer speaks in sentences."""

    addend: int
    factor: int
    words: int
    in_sentences: bool


# easy is what a model of 1 M parameters can learn in minutes
LEVELS = {"easy": Level(9, 5, 4, False), "hard": Level(60, 12, 6, True)}


class Problem(NamedTuple):
    question: str
    answer: str
    group: str = ""  # "": the problem's own text decides


class Sum(NamedTuple):
    """One step of a solution: what the result is called, the calculation, and what is counted."""

    opening: str
    left: int
    operator: str
    right: int
    unit: str

    def result(self) -> int:
        return OPERATORS[self.operator](self.left, self.right)


class Choices:
    """Random choices built on Random.random() alone; randint, choice and shuffle may change between versions."""

    def __init__(self, seed: int):
        self._random = Random(seed).random

    def between(self, low: int, high: int) -> int:
        return low + int(self._random() * (high - low + 1))

    def pick(self, items: list[Item]) -> Item:
        return items[self.between(0, len(items) - 1)]

    def some(self, items: list[Item], count: int) -> list[Item]:
        """Different ones, in random order."""
        left = list(items)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(count)]


def generate(kind: str, count: int, seed: int, level: str) -> Iterator[Problem]:
    choices, repeats = Choices(seed), 0
    seen: set[int] = set()
    while len(seen) < count:
        problem = KINDS[kind](choices, LEVELS[level])
        key = held_out_rank(problem.question)  # 8 bytes instead of the text
        if key not in seen:
            seen.add(key)
            repeats = 0
            yield problem
            continue
        repeats += 1
        if repeats == REPEATS_BEFORE_GIVING_UP:
            raise BadInput(f"builtin:{kind} has few more than {len(seen)} problems that differ; lower count={count}.")


# --- sums ------------------------------------------------------------------------------------------------------------


def pair_of(operator: str, left: int, right: int) -> str:
    """The operand pair behind a calculation: 3+5 for 3+5, 5+3, 8-3 and 8-5; 3*5 for 3*5, 5*3, 15/3 and 15/5."""
    if operator == "-":
        left, operator = left - right, "+"
    elif operator == "/":
        left, operator = left // right, "*"
    return f"{min(left, right)}{operator}{max(left, right)}"


def deciding_pair(pairs: Iterable[str]) -> str:
    """The first to be held out as the share grows: a problem is in training only if all its pairs are."""
    return min(pairs, key=held_out_rank)


def counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


Told = tuple[str, list[Sum]]  # the question, and the steps of the solution


class Story(NamedTuple):
    people: int
    draws: tuple[tuple[int, str], ...]  # of each number the least, and what of the level is the most
    tell: Callable[..., Told]


def story(people: int, *draws: tuple[int, str]) -> Callable[[Callable[..., Told]], Story]:
    return lambda tell: Story(people, draws, tell)


ADDEND, FACTOR, SEVERAL = (1, "addend"), (1, "factor"), (2, "factor")


def math(choices: Choices, level: Level) -> Problem:
    told = choices.pick(HARD_STORIES if level.in_sentences else EASY_STORIES)
    names, thing = choices.some(NAMES, told.people), choices.pick(THINGS)
    numbers = (choices.between(least, getattr(level, most)) for least, most in told.draws)
    question, steps = told.tell(thing, *numbers, *names)
    lines = []
    for step in steps:
        calculation, result = f"{step.left}{step.operator}{step.right}", step.result()
        bracket = f"<<{calculation}={result}>>{counted(result, step.unit)}."
        lines.append(f"{step.opening} {calculation} = {bracket}" if level.in_sentences else bracket)
    answer = ("\n" if level.in_sentences else " ").join(lines) + f"\n#### {steps[-1].result()}"
    return Problem(question, answer, deciding_pair(pair_of(step.operator, step.left, step.right) for step in steps))


@story(1, ADDEND, ADDEND)
def _buys(thing: str, has: int, more: int, name: str) -> Told:
    question = f"{name} has {counted(has, thing)} and buys {more} more. How many {thing}s does {name} have now?"
    return question, [Sum(f"{name} has", has, "+", more, thing)]


@story(2, ADDEND, ADDEND)
def _gives(thing: str, given: int, left: int, name: str, other: str) -> Told:
    question = f"{name} had {counted(given + left, thing)} and gave {given} to {other}. "
    question += f"How many {thing}s does {name} have left?"
    return question, [Sum(f"{name} has", given + left, "-", given, thing)]


@story(2, ADDEND, ADDEND)
def _has_more(thing: str, has: int, more: int, name: str, other: str) -> Told:
    question = f"{name} has {counted(has, thing)}. {other} has {counted(more, 'more ' + thing)} than {name}. "
    question += f"How many {thing}s does {other} have?"
    return question, [Sum(f"{other} has", has, "+", more, thing)]


@story(2, ADDEND, ADDEND)
def _have_together(thing: str, has: int, more: int, name: str, other: str) -> Told:
    question, steps = _has_more.tell(thing, has, more, name, other)
    question = question.replace(f"does {other} have?", "do they have together?")
    return question, [*steps, Sum("Together they have", has + more, "+", has, thing)]


@story(1, SEVERAL, FACTOR)
def _packs(thing: str, boxes: int, each: int, name: str) -> Told:
    question = f"{name} packs {boxes} boxes with {counted(each, thing)} in each box. "
    return f"{question}How many {thing}s is that in total?", [Sum("The boxes hold", boxes, "*", each, thing)]


@story(1, SEVERAL, FACTOR, ADDEND)
def _packs_some(thing: str, boxes: int, each: int, rest: int, name: str) -> Told:
    question = (
        f"{name} packs {boxes} boxes with {counted(each, thing)} each and has {counted(rest, thing)} left over. "
    )
    in_boxes = Sum("The boxes hold", boxes, "*", each, thing)
    in_total = Sum("In total there are", boxes * each, "+", rest, thing)
    return f"{question}How many {thing}s does {name} have?", [in_boxes, in_total]


@story(1, SEVERAL, FACTOR, ADDEND)
def _pays(thing: str, count: int, each: int, change: int, name: str) -> Told:
    price = count * each
    question = f"{name} buys {count} {thing}s for ${each} each and pays with ${price + change}. "
    paid = Sum("The price is", count, "*", each, "dollar")
    back = Sum("The change is", price + change, "-", price, "dollar")
    return f"{question}How many dollars does {name} get back?", [paid, back]


@story(1, SEVERAL, FACTOR)
def _shares(thing: str, friends: int, each: int, name: str) -> Told:
    question = f"{name} shares {friends * each} {thing}s equally among {friends} friends. "
    question += f"How many {thing}s does each friend get?"
    return question, [Sum("Each friend gets", friends * each, "/", friends, thing)]


EASY_STORIES = [_buys, _gives, _packs, _packs_some, _has_more]
HARD_STORIES = [_buys, _gives, _packs, _packs_some, _have_together, _pays, _shares]


# --- reasoning -------------------------------------------------------------------------------------------------------


def reasoning(choices: Choices, _: Level) -> Problem:
    return choices.pick([_ordering, _whereabouts, _sequence])(choices)


def _ordering(choices: Choices) -> Problem:
    names = choices.some(NAMES, choices.between(3, 5))
    more, most = choices.pick(COMPARISONS)
    facts = [f"{first} is {more} than {second}." for first, second in zip(names, names[1:], strict=False)]
    question = " ".join(choices.some(facts, len(facts))) + f" Who is the {most}?"
    return Problem(question, f"The order is {', '.join(names)}.\n#### {names[0]}")


def _whereabouts(choices: Choices) -> Problem:
    """Two people walk about; an object is taken, carried and dropped, and taken again only where it lies."""
    people, thing = choices.some(NAMES, 2), choices.pick(OBJECTS)
    place_of: dict[str, str] = {}
    story: list[str] = []
    holder = lies_in = ""
    for _ in range(choices.between(3, 6)):
        person = choices.pick(people)
        here = place_of.get(person, "")
        acts = here and choices.between(0, 1)
        if acts and holder == person:
            holder, lies_in = "", here
            story.append(f"{person} dropped the {thing}.")
        elif acts and not holder and lies_in in ("", here):
            holder = person
            story.append(f"{person} took the {thing}.")
        else:
            place_of[person] = choices.pick([place for place in PLACES if place != here])
            story.append(f"{person} went to the {place_of[person]}.")
    place = place_of[holder] if holder else lies_in
    who = f"the {thing}" if place else choices.pick(sorted(place_of))
    place = place or place_of[who]
    return Problem(f"{' '.join(story)} Where is {who}?", f"{who[0].upper()}{who[1:]} is in the {place}.\n#### {place}")


def _sequence(choices: Choices) -> Problem:
    start, difference = choices.between(1, 60), choices.between(2, 12)
    numbers = [start + index * difference for index in range(5)]
    return Problem(
        f"What comes next: {', '.join(map(str, numbers[:4]))}?",
        f"Each number is {difference} more than the last, so {numbers[3]}+{difference} = {numbers[4]}."
        f"\n#### {numbers[4]}",
        deciding_pair(pair_of("+", number, difference) for number in numbers[:4]),
    )


# --- instructions ----------------------------------------------------------------------------------------------------


def instructions(choices: Choices, level: Level) -> Problem:
    tasks = EASY_TASKS if level is LEVELS["easy"] else HARD_TASKS
    instruction, task = choices.pick(tasks)
    words = choices.some(WORDS, choices.between(2, level.words))
    return Problem(f"{instruction}\n{' '.join(words)}", task(words))


Task = tuple[str, Callable[[list[str]], str]]
EASY_TASKS: list[Task] = [
    ("Repeat the words.", " ".join),
    ("Give the first word.", lambda words: words[0]),
    ("Give the last word.", lambda words: words[-1]),
    ("How many words are there?", lambda words: str(len(words))),
    ("Reverse the order of the words.", lambda words: " ".join(reversed(words))),
]
HARD_TASKS: list[Task] = [
    *EASY_TASKS,
    ("Write the words in capital letters.", lambda words: " ".join(words).upper()),
    ("Sort the words alphabetically.", lambda words: " ".join(sorted(words))),
    ("Give the longest word; of several, the first.", lambda words: max(words, key=len)),
    ("Write the words as a list, one on each line.", lambda words: "\n".join(f"- {word}" for word in words)),
]

KINDS: dict[str, Callable[[Choices, Level], Problem]] = {
    "reasoning": reasoning,
    "math": math,
    "instructions": instructions,
}
