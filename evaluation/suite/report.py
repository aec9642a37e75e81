"""What the suite found: results.json and samples as `yxanul compare` reads them, report.md, a table on the terminal.

A group of categories is a task there, for twenty answers tell two models apart only by luck. Intervals are Wilson's,
95 %. System 5's own rates stand beside as claims: its questions and its checkers are not public.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from yxanul.data.progress import answer_table
from yxanul.data.whole_files import write_json, write_whole
from yxanul.evaluation.answers import Answer
from yxanul.evaluation.compare import NORMAL
from yxanul.evaluation.suite.question import Category, Question

VERSION = 2.0
QUOTED = 3  # failures of a category
CLAIMS = {
    "facts": 20,
    "calculator format": 90,
    "arithmetic": 10,
    "code structure": 70,
    "instructions": 30,
    "patterns": 60,
}


class Judged(NamedTuple):
    category: Category
    group: str  # the category's, or the same with the calculator
    questions: list[Question]
    answers: list[Answer]
    faults: list[str]
    not_run: str = ""

    @property
    def right(self) -> int:
        return self.faults.count("")


def wilson(right: int, n: int) -> tuple[float, float]:
    rate, square = right / n, NORMAL**2
    middle = (rate + square / (2 * n)) / (1 + square / n)
    half = NORMAL * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n)) / (1 + square / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def write(found: list[Judged], out: Path, results: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    earlier = [task for task, entry in results["tasks"].items() if "categories" in entry]  # the others are evaluate's
    for task in earlier:
        del results["tasks"][task]
        (out / f"samples-{task}.jsonl").unlink(missing_ok=True)
    for group in dict.fromkeys(judged.group for judged in found):
        own = [judged for judged in found if judged.group == group]
        task = group.replace(" ", "_")
        claim = {"elite-112m": f"{CLAIMS[group]} %"} if group in CLAIMS else {}
        entry = {"task": task, "version": VERSION, "shots": 0, "claims": claim, "categories": {}}
        if own[0].not_run:
            results["tasks"][task] = entry | {"status": "not run", "reason": own[0].not_run}
            continue
        n, right = sum(len(judged.faults) for judged in own), sum(judged.right for judged in own)
        figure = {"value": right / n, "stderr": math.sqrt(right / n * (1 - right / n) / (n - 1))}
        results["tasks"][task] = entry | {
            "status": "done",
            "n": n,
            "main": ["right"],
            "metrics": {"right": figure | {"higher_is_better": True}},
            "categories": {judged.category.name: _figures(judged) for judged in own},
        }
        write_whole(out / f"samples-{task}.jsonl", [line for judged in own for line in _lines(judged)])
    write_json(out / "results.json", results)
    write_whole(out / "report.md", _report(found, results))


def _figures(judged: Judged) -> dict[str, Any]:
    n = len(judged.faults)
    return {"n": n, "right": judged.right, "interval": wilson(judged.right, n)}


def _lines(judged: Judged) -> list[str]:
    rows = zip(judged.questions, judged.answers, judged.faults, strict=True)
    return [
        json.dumps(
            {
                "id": f"{judged.category.name} {number}",
                "prompt": question.prompt,
                "output": answer.text,
                "ended": answer.ended,
                "expected": question.right,
                "reason": fault,
                "metrics": {"right": float(not fault)},
            },
            ensure_ascii=False,
        )
        + "\n"
        for number, (question, answer, fault) in enumerate(rows)
    ]


def rows_of(found: list[Judged]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in dict.fromkeys(judged.group for judged in found):
        own = [judged for judged in found if judged.group == group]
        claim = f"{CLAIMS[group]} %" if group in CLAIMS else "-"
        if own[0].not_run:
            rows.append((group, "", "not run", "", "", claim))
            continue
        total = sum(judged.right for judged in own), sum(len(judged.faults) for judged in own)
        rows.append((group, "all", *_shares(*total), claim))
        rows += [("", judged.category.name, *_shares(judged.right, len(judged.faults)), "") for judged in own]
    return rows


def _shares(right: int, n: int) -> tuple[str, str, str]:
    low, high = wilson(right, n)
    return str(right), str(n), f"{right / n:.0%} ({low:.0%} to {high:.0%})"


HEADINGS = "group", "category", "right", "n", "share, 95 %", "claimed by system 5"


def show(found: list[Judged]) -> None:
    from rich.table import Table

    shown = Table(*HEADINGS, box=None)
    for row in rows_of(found):
        shown.add_row(*row)
    answer_table(shown, least=120)


def _report(found: list[Judged], results: dict[str, Any]) -> list[str]:
    lines = [
        f"# Suite: {results['model']}",
        "",
        f"{results['protocol']}; {results['date']}; `{results['command']}`",
        "",
    ]
    lines += [f"| {' | '.join(HEADINGS)} |", f"|{' --- |' * len(HEADINGS)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows_of(found)]
    for judged in found:
        if judged.not_run:
            lines += ["", f"## {judged.category.name}: not run", "", f"{judged.not_run}."]
            continue
        rows = zip(judged.questions, judged.answers, judged.faults, strict=True)
        failures = [row for row in rows if row[2]][:QUOTED]
        if failures:
            lines += ["", f"## {judged.group}, {judged.category.name}: the first {len(failures)} failures", ""]
            for question, answer, fault in failures:
                said = json.dumps(answer.text, ensure_ascii=False)
                lines.append(f"- {json.dumps(question.prompt, ensure_ascii=False)} -> {said}: {fault}")
    return [f"{line}\n" for line in lines]
