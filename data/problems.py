"""Generated problems whose answers can be checked: sums in words (GSM8K's form), reasoning, instructions.

`generate("math", count=20000, seed=7)` yields problems that all differ, the same ones on every Python: every choice is
made with Random(seed).random(), the one sequence that Python promises to keep. A problem's group is what may hold it
out: for sums the operand pair, so that a pair which is held out occurs in no training problem (see `pair_of`), and a
model that solves held-out sums has learnt to calculate. Not here: how problems are written as documents (builtin.py).
"""

from collections.abc import Callable, Iterable, Iterator
from random import Random
from typing import NamedTuple, TypeVar

from yxanul.bad_input import BadInput
from yxanul.data.documents import held_out_rank


def _words(text: str) -> list[str]:
    return text.split()


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
        if self.operator == "/":
            assert self.left % self.right == 0
            return self.left // self.right
        return {
            "+": self.left + self.right,
            "-": self.left - self.right,
            "*": self.left * self.right,
        }[self.operator]


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


def math(choices: Choices, level: Level) -> Problem:
    stories = HARD_STORIES if level.in_sentences else EASY_STORIES
    question, steps = choices.pick(stories)(choices, level)
    lines = []
    for step in steps:
        calculation, result = f"{step.left}{step.operator}{step.right}", step.result()
        bracket = f"<<{calculation}={result}>>{counted(result, step.unit)}."
        lines.append(f"{step.opening} {calculation} = {bracket}" if level.in_sentences else bracket)
    answer = ("\n" if level.in_sentences else " ").join(lines) + f"\n#### {steps[-1].result()}"
    return Problem(question, answer, deciding_pair(pair_of(step.operator, step.left, step.right) for step in steps))


Story = tuple[str, list[Sum]]


def _buys(choices: Choices, level: Level) -> Story:
    name, thing = choices.pick(NAMES), choices.pick(THINGS)
    has, more = choices.between(1, level.addend), choices.between(1, level.addend)
    return (
        f"{name} has {counted(has, thing)} and buys {more} more. How many {thing}s does {name} have now?",
        [Sum(f"{name} has", has, "+", more, thing)],
    )


def _gives(choices: Choices, level: Level) -> Story:
    (name, other), thing = choices.some(NAMES, 2), choices.pick(THINGS)
    given, left = choices.between(1, level.addend), choices.between(1, level.addend)
    return (
        f"{name} had {counted(given + left, thing)} and gave {given} to {other}. "
        f"How many {thing}s does {name} have left?",
        [Sum(f"{name} has", given + left, "-", given, thing)],
    )


def _has_more(choices: Choices, level: Level) -> Story:
    (name, other), thing = choices.some(NAMES, 2), choices.pick(THINGS)
    has, more = choices.between(1, level.addend), choices.between(1, level.addend)
    return (
        f"{name} has {counted(has, thing)}. {other} has {counted(more, 'more ' + thing)} than {name}. "
        f"How many {thing}s does {other} have?",
        [Sum(f"{other} has", has, "+", more, thing)],
    )


def _have_together(choices: Choices, level: Level) -> Story:
    (name, other), thing = choices.some(NAMES, 2), choices.pick(THINGS)
    has, more = choices.between(1, level.addend), choices.between(1, level.addend)
    return (
        f"{name} has {counted(has, thing)}. {other} has {counted(more, 'more ' + thing)} than {name}. "
        f"How many {thing}s do they have together?",
        [Sum(f"{other} has", has, "+", more, thing), Sum("Together they have", has + more, "+", has, thing)],
    )


def _packs(choices: Choices, level: Level) -> Story:
    name, thing = choices.pick(NAMES), choices.pick(THINGS)
    boxes, each = choices.between(2, level.factor), choices.between(1, level.factor)
    return (
        f"{name} packs {boxes} boxes with {counted(each, thing)} in each box. How many {thing}s is that in total?",
        [Sum("The boxes hold", boxes, "*", each, thing)],
    )


def _packs_some(choices: Choices, level: Level) -> Story:
    name, thing = choices.pick(NAMES), choices.pick(THINGS)
    boxes, each = choices.between(2, level.factor), choices.between(1, level.factor)
    rest = choices.between(1, level.addend)
    return (
        f"{name} packs {boxes} boxes with {counted(each, thing)} each and has {counted(rest, thing)} left over. "
        f"How many {thing}s does {name} have?",
        [
            Sum("The boxes hold", boxes, "*", each, thing),
            Sum("In total there are", boxes * each, "+", rest, thing),
        ],
    )


def _pays(choices: Choices, level: Level) -> Story:
    name, thing = choices.pick(NAMES), choices.pick(THINGS)
    count, price = choices.between(2, level.factor), choices.between(1, level.factor)
    paid = count * price + choices.between(1, level.addend)
    return (
        f"{name} buys {count} {thing}s for ${price} each and pays with ${paid}. "
        f"How many dollars does {name} get back?",
        [Sum("The price is", count, "*", price, "dollar"), Sum("The change is", paid, "-", count * price, "dollar")],
    )


def _shares(choices: Choices, level: Level) -> Story:
    name, thing = choices.pick(NAMES), choices.pick(THINGS)
    friends, each = choices.between(2, level.factor), choices.between(1, level.factor)
    return (
        f"{name} shares {friends * each} {thing}s equally among {friends} friends. "
        f"How many {thing}s does each friend get?",
        [Sum("Each friend gets", friends * each, "/", friends, thing)],
    )


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
