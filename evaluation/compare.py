"""`yxanul compare A B ...`: is one model better than another on the same samples, and which samples changed?

    yxanul compare results/a results/b
    yxanul compare results/a results/b results/c --html compare.html --json

A, B ... are folders of `yxanul evaluate`; each is compared with the first, sample by sample, with 95 % intervals: a
paired bootstrap of the mean difference; for right or wrong the adjusted Wald interval of Agresti and Min (2005) and
McNemar's exact test. Not here: a correction for looking at many figures; comparisons of unlike samples.
"""

import argparse
import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer, answer_json, answer_table, insist, say
from yxanul.shell import command

RESAMPLINGS = 4_000
NORMAL = 1.959964  # 95 % of a normal distribution lie within
FEW = 30  # samples, of which intervals are rough
MOST_SAMPLES = 100  # listed for each task


@dataclass(frozen=True)
class Result:
    """A folder of `yxanul evaluate`."""

    folder: Path
    label: str
    facts: dict[str, Any]
    samples: dict[str, dict[str, dict[str, Any]]]  # task, id


@dataclass(frozen=True)
class Difference:
    """Of one figure of one task, the other result less the first."""

    metric: str
    n: int
    first: float
    other: float
    low: float
    high: float
    p: float | None = None  # McNemar's, for right or wrong
    gained: int = 0
    lost: int = 0
    higher_is_better: bool = True

    @property
    def value(self) -> float:
        return self.other - self.first

    @property
    def verdict(self) -> str:
        """The interval's; with right or wrong McNemar's exact test must agree."""
        if self.low <= 0 <= self.high or (self.p is not None and self.p > 0.05):
            return "not shown"
        return "better" if (self.value > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Pair:
    """One task of two results."""

    task: str
    other: Result
    differences: list[Difference]
    notes: list[str]
    changed: list[tuple[str, dict[str, Any], dict[str, Any]]]  # id, the first result's sample, the other's


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    options.results = list(dict.fromkeys(options.results))
    if len(options.results) < 2:
        raise BadInput("compare needs two different results or more: name another folder of `yxanul evaluate`.")
    results = [read_result(folder, str(folder)) for folder in options.results]
    pairs, refusals = compare(results)

    from yxanul.evaluation.compare_page import page

    options.html.write_text(page(results, pairs, refusals), encoding="utf-8")
    if options.json:
        answer_json({"first": str(results[0].folder), "differences": as_rows(pairs), "not_compared": refusals})
    else:
        show(results[0], pairs)
    for sentence in refusals:
        insist(f"not compared: {sentence}.")
    say(f"{options.html}: the same with a chart and the samples that changed.")
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("compare", __doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULT", help="a folder of `yxanul evaluate`")
    parser.add_argument("--html", type=Path, default=Path("compare.html"), metavar="FILE", help="the page to write")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def read_result(folder: Path, label: str) -> Result:
    file = folder / "results.json"
    if not file.exists():
        raise BadInput(f"{file} does not exist: name a folder that `yxanul evaluate` has written.")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        done = [name for name, task in facts["tasks"].items() if task["status"] == "done"]
        for name, field in itertools.product(done, ("version", "shots", "metrics")):
            facts["tasks"][name][field]
        for metric in (metric for name in done for metric in facts["tasks"][name]["metrics"].values()):
            float(metric["value"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{file} is no result of `yxanul evaluate`: {type(error).__name__}: {error}.") from None
    return Result(folder, label, facts, {name: _read_samples(folder / f"samples-{name}.jsonl") for name in done})


def _read_samples(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        raise BadInput(f"{file} does not exist: run `yxanul evaluate` again, with the same --out.")
    samples: dict[str, dict[str, Any]] = {}
    with file.open(encoding="utf-8") as lines:  # a text may hold what splitlines() takes for an end of line
        for number, line in enumerate(lines, 1):
            try:
                sample = json.loads(line)
                name = str(sample["id"])
                values = {metric: float(value) for metric, value in sample["metrics"].items()}
                samples.setdefault(name, sample | {"metrics": values})
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"{file}, line {number} is no sample: {type(error).__name__}: {error}.") from None
            if len(samples) < number:
                raise BadInput(f"{file}, line {number}: the id {name!r} is there twice, and ids pair the samples.")
    return samples


def compare(results: list[Result]) -> tuple[list[Pair], list[str]]:
    """Every result with the first; and why what could not be compared was not."""
    first, pairs, refusals = results[0], [], []
    for other in results[1:]:
        for task in dict.fromkeys([*first.facts["tasks"], *other.facts["tasks"]]):
            refusal = _refusal(task, first, other)
            if refusal is None:
                pairs.append(_pair(task, first, other))
            else:
                refusals.append(refusal)
    if not pairs:
        raise BadInput(f"there is nothing to compare: {'; '.join(refusals) or 'the results have no tasks'}.")
    return pairs, list(dict.fromkeys(refusals))


def _refusal(task: str, first: Result, other: Result) -> str | None:
    for result in (first, other):
        status = result.facts["tasks"].get(task, {}).get("status", "not run")
        if status != "done":
            return f"{task}: {status} in {result.label}"
    one, two = (result.facts["tasks"][task] for result in (first, other))
    for field in ("version", "shots"):
        if one[field] != two[field]:
            return f"{task}: {field} {one[field]} in {first.label}, {two[field]} in {other.label}"
    both = f"{first.label} and {other.label}"
    if not one["metrics"].keys() & two["metrics"].keys():
        return f"{task}: {both} have no figure in common: {', '.join(one['metrics'])}; {', '.join(two['metrics'])}"
    own, others = first.samples[task], other.samples[task]
    common = own.keys() & others.keys()
    if not common:
        return f"{task}: {both} have no sample in common"
    if all(own[name].get("prompt") != others[name].get("prompt") for name in common):
        return f"{task}: {both} have no prompt in common: they are of other data"
    return None


def _pair(task: str, first: Result, other: Result) -> Pair:
    one, two = first.samples[task], other.samples[task]
    common = [name for name in one if name in two]
    notes = []
    if len(common) < max(len(one), len(two)):
        notes.append(f"{len(common):,} samples in common, of {len(one):,} and {len(two):,}; the others are left out")
    boundaries = {result.facts["tasks"][task].get("boundary") for result in (first, other)}
    if len(boundaries) > 1:
        notes.append("context and continuation were encoded apart in one of them and jointly in the other")
    unlike = sum(one[name].get("prompt") != two[name].get("prompt") for name in common)
    if unlike:
        notes.append(f"{unlike:,} samples have another prompt in {other.label}")
    differences = []
    for metric, facts in first.facts["tasks"][task]["metrics"].items():
        values = [[side[name]["metrics"].get(metric) for name in common] for side in (one, two)]
        if None in values[0] or None in values[1]:
            continue  # a figure of the whole set
        difference = paired_difference(metric, np.array(values, float), facts.get("higher_is_better", True))
        differences.append(difference)
        if len(common) == len(one) and not math.isclose(difference.first, facts["value"], rel_tol=1e-3, abs_tol=1e-6):
            notes.append(
                f"{metric}: the mean over samples; the result's own figure, {facts['value']:.4f}, is weighted"
            )
    if len(common) < FEW:
        notes.append(f"only {len(common)} samples: the intervals of so few are rough")
    return Pair(task, other, differences, notes, _changed(common, one, two, differences))


def paired_difference(metric: str, values: np.ndarray, higher_is_better: bool = True) -> Difference:
    """`values`: of shape (2, samples), the first result's and the other's."""
    first, other = values
    about: dict[str, Any] = {"metric": metric, "n": len(first), "higher_is_better": higher_is_better}
    about |= {"first": float(first.mean()), "other": float(other.mean())}
    if np.isin(values, (0.0, 1.0)).all():
        gained, lost = int((other > first).sum()), int((first > other).sum())
        low, high = agresti_min(gained, lost, len(first))
        return Difference(**about, low=low, high=high, p=mcnemar(gained, lost), gained=gained, lost=lost)
    low, high = bootstrap(other - first)
    return Difference(**about, low=low, high=high)


def mcnemar(gained: int, lost: int) -> float:
    """Exact and two-sided: were the samples that changed as likely to change either way?"""
    n = gained + lost
    ways = tail = 1  # to choose k of n, each from the one before: thousands of samples may change
    for k in range(min(gained, lost)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return float(min(1.0, 2 * tail / 2**n)) if n else 1.0


def agresti_min(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Half a sample is added to each of the four cells, so that few changes do not give an interval without width."""
    difference, size = gained - lost, n + 2
    spread = NORMAL * math.sqrt(gained + lost + 1 - difference**2 / size) / size
    return max(-1.0, difference / size - spread), min(1.0, difference / size + spread)


def bootstrap(differences: np.ndarray, seed: int = 0) -> tuple[float, float]:
    generator, n = np.random.default_rng(seed), len(differences)
    rows = max(1, 1_000_000 // n)  # of them at once in memory
    means = [
        differences[generator.integers(n, size=(min(rows, RESAMPLINGS - done), n))].mean(axis=1)
        for done in range(0, RESAMPLINGS, rows)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return float(low), float(high)


def _changed(common: list[str], one: dict, two: dict, differences: list[Difference]) -> list[tuple[str, dict, dict]]:
    """Where right became wrong or wrong right; without such a figure by how much the first figure changed."""
    metrics = [difference.metric for difference in differences if difference.p is not None]
    metrics = metrics or [difference.metric for difference in differences[:1]]

    def change(name: str) -> float:
        return max(abs(two[name]["metrics"][metric] - one[name]["metrics"][metric]) for metric in metrics)

    changed = sorted((name for name in common if metrics and change(name)), key=change, reverse=True)
    return [(name, one[name], two[name]) for name in changed]


def figure(value: float) -> str:
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + figure(value)


def as_rows(pairs: list[Pair]) -> list[dict[str, Any]]:
    """For programs: the figures of the table."""
    return [
        {"task": pair.task, "result": str(pair.other.folder), "notes": pair.notes}
        | asdict(each)
        | {"difference": each.value, "verdict": each.verdict}
        for pair in pairs
        for each in pair.differences
    ]


def show(first: Result, pairs: list[Pair]) -> None:
    from rich.table import Table

    for label in dict.fromkeys(pair.other.label for pair in pairs):
        table = Table("task", "metric", box=None)
        for column in ("n", "first", "other", "difference", "95 % interval", "gained/lost", "McNemar p", "verdict"):
            table.add_column(column, justify="right")
        mine = [pair for pair in pairs if pair.other.label == label]
        for pair in mine:
            for each in pair.differences:
                counts = ("", "") if each.p is None else (f"{each.gained:,}/{each.lost:,}", f"{each.p:.3g}")
                bounds = f"{signed(each.low)} to {signed(each.high)}"
                shown = (figure(each.first), figure(each.other), signed(each.value), bounds, *counts)
                table.add_row(pair.task, each.metric, f"{each.n:,}", *shown, each.verdict)
        answer(f"{label} against {first.label}")
        answer_table(table, least=120)
        for pair in mine:
            for note in pair.notes:
                answer(f"{pair.task}: {note}.")
