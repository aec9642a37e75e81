"""May the next stage begin? A gate compares held-out bits per byte, document by document, and must be proved.

    gate:                   # of a stage, in a recipe
      domain: math          # what the stage teaches (default: the domain of the stage's name)
      falls: 0.15           # it must fall by this share of its value before the stage; or
      stays: 0.005          # it may rise by this share
      keeps: 0.03           # every domain learnt earlier may rise by this share of its value after its own stage
      known: [language]     # domains that the model knew before the run, compared with the model as the run began
      holds: {hellaswag: 0.02}   # the errors of a zero-shot task may rise by this share of their fewest until now

A change passes when the upper end of its one-sided 95 % interval is within the limit, so a noisy figure fails, and the
verdict says how much held-out text would do. What was learnt earlier is compared with its best, not with the stage
before, so small losses cannot add up. Verdicts go to RUN/gates.json, the scores that they rest on to RUN/scores/.
"""

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.whole_files import sync_folder, write_json
from yxanul.run_folder import RunFolder

KEYS = ("domain", "falls", "stays", "keeps", "known", "holds")
KEEPS = 0.03
FEWEST_DOCUMENTS = 8
NORMAL_95 = 1.6448536269514722


@dataclass(frozen=True)
class Gate:
    domain: str
    limit: float  # of the change, as a share of the value before: below 0 it must fall
    keeps: float
    known: tuple[str, ...] = ()
    holds: tuple[tuple[str, float], ...] = ()  # task and share


@dataclass(frozen=True, eq=False)
class Evidence:
    """Of a domain, its documents' bits and bytes; of a task, its questions' errors and ones."""

    losses: np.ndarray
    weights: np.ndarray

    @property
    def figure(self) -> float:
        """Bits per byte, or the share of errors."""
        return float(self.losses.sum()) / float(self.weights.sum())


@dataclass(frozen=True)
class Finding:
    """A domain's change in bits per byte, or a task's in errors, and what was allowed."""

    domain: str
    role: str  # "taught", "kept", "known" or "held"
    before: float
    after: float
    upper: float  # end of the interval of the change
    limit: float
    documents: int
    needed: int | None  # documents, or questions, that would prove a change of this size; None: no number would
    passed: bool

    def sentence(self) -> str:
        change = f"{self.domain} {self.before:.4f} -> {self.after:.4f}, at most {self.upper:+.4f}"
        text = f"{change}; allowed {self.limit:+.4f}"
        if self.passed:
            return f"{text}: passed"
        if self.needed is None:
            return f"{text}: failed"
        return f"{text}: not proved by {self.documents:,} documents, about {self.needed:,} would do"


def read_gate(entry: dict[str, Any], stage: str, domains: list[str]) -> Gate:
    where = f"stage {stage}, gate"
    if not isinstance(entry, dict):
        raise BadInput(f"{where} must hold 'key: value' lines; it holds {entry!r}.")
    for key in entry:
        if key not in KEYS:
            raise BadInput(f"{where}: {unknown_name('key', str(key), KEYS)}")
    if not domains:
        raise BadInput(f"{where} has no held-out text to judge by: name bins under validation.")
    domain = entry.get("domain", stage)
    if domain not in domains:
        raise BadInput(f"{where}: {unknown_name('domain of validation', str(domain), domains)}")
    if ("falls" in entry) == ("stays" in entry):
        raise BadInput(f"{where}: give falls or stays, one of them.")
    key = "falls" if "falls" in entry else "stays"
    limit = _share(entry[key], f"{where}, {key}")
    known, holds = entry.get("known", []), entry.get("holds", {})
    if not isinstance(known, list) or not isinstance(holds, dict):
        raise BadInput(f"{where}: known is a list such as [language], holds a mapping such as {{hellaswag: 0.02}}.")
    for name in known:
        if name not in domains:
            raise BadInput(f"{where}, known: {unknown_name('domain of validation', str(name), domains)}")
    for task in holds:
        if task in domains:
            raise BadInput(f"{where}, holds: {task} is a domain of validation, not a task: list it under known.")
    return Gate(
        domain,
        -limit if key == "falls" else limit,
        _share(entry.get("keeps", KEEPS), f"{where}, keeps"),
        tuple(known),
        tuple((str(task), _share(share, f"{where}, holds, {task}")) for task, share in holds.items()),
    )


def _share(value: Any, where: str) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{where} must be a share such as 0.05; it is {value!r}.") from None
    if not 0 <= share < 1:
        raise BadInput(f"{where} must be a share from 0 to below 1; it is {value}.")
    return share


def judge(domain: str, role: str, before: Evidence, after: Evidence, share: float) -> Finding:
    """Paired by document: bits per byte are a ratio of sums, so its error is that of the documents' residuals."""
    documents, text = len(after.losses), float(after.weights.sum())
    differences = after.losses - before.losses
    change = float(differences.sum()) / text
    residuals = differences - change * after.weights
    error = math.sqrt(documents / max(1, documents - 1) * float(np.square(residuals).sum())) / text
    limit = share * before.figure
    enough = documents >= FEWEST_DOCUMENTS
    upper = change + student_95(documents - 1) * error if enough else math.inf
    passed = bool(upper <= limit)
    needed = None
    if not passed and change < limit:
        needed = max(FEWEST_DOCUMENTS, math.ceil(documents * (NORMAL_95 * error / (limit - change)) ** 2))
    return Finding(domain, role, before.figure, after.figure, upper, limit, documents, needed, passed)


def student_95(degrees: int) -> float:
    """One-sided quantile of Student's t, by its expansion around the normal one: right to 0.2 % from 7 degrees on."""
    z, v = NORMAL_95, degrees
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


def save_scores(run: RunFolder, step: int, scores: dict[str, Evidence]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, score in scores.items():
        arrays |= {f"{name}.losses": score.losses, f"{name}.weights": score.weights}
    run.scores.mkdir(exist_ok=True)
    partial = run.scores / f"step-{step}.partial"
    save_file(arrays, partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(_scores_file(run, step))
    sync_folder(run.scores)


def _scores_file(run: RunFolder, step: int) -> Path:
    return run.scores / f"step-{step}.safetensors"


def load_scores(run: RunFolder, step: int, name: str) -> Evidence:
    file = _scores_file(run, step)
    if not file.exists():
        raise BadInput(f"{file} is missing, and a gate compares with it: start the stage before again (--resume).")
    arrays = load_file(file)
    if f"{name}.losses" not in arrays:
        raise BadInput(f"{file} knows nothing of {name}, which a gate compares: start the run again in a new folder.")
    return Evidence(arrays[f"{name}.losses"], arrays[f"{name}.weights"])


class Gates:
    """Of a run: the stages that have one, and what was found."""

    def __init__(
        self,
        run: RunFolder,
        gates: dict[str, Gate] | None = None,
        stages: Sequence[tuple[str, int, int]] = (),
        origin: RunFolder | None = None,
    ) -> None:
        """`stages`: name, first step and end of each, in order; `origin`: the run whose checkpoint this one takes."""
        self.run, self.gates, self.stages = run, gates or {}, stages
        self.verdicts: dict[str, dict[str, Any]] = {}
        judged = [folder.gates for folder in (run, origin) if folder and folder.gates.exists()]
        if judged:
            self.verdicts = json.loads(judged[0].read_text(encoding="utf-8"))

    def check_held_out(self, held_out: dict[str, np.ndarray], step: int) -> None:
        """That the run's scores until this step are of the documents that will be scored, by their bytes."""
        for _, first, _ in self.stages if self.gates else ():
            if first > step or not _scores_file(self.run, first).exists():
                continue
            for domain, sizes in held_out.items():
                if not np.array_equal(load_scores(self.run, first, domain).weights, sizes):
                    raise BadInput(
                        f"{_scores_file(self.run, first)} was made with other held-out text of {domain}, and gates "
                        "compare with it: take the change of validation back, or start in a new folder."
                    )

    def go_back_to(self, step: int) -> None:
        """What was found later is of another future."""
        self.verdicts = {name: verdict for name, verdict in self.verdicts.items() if verdict["step"] <= step}
        for file in self.run.scores.glob("step-*.safetensors"):
            if int(file.stem.removeprefix("step-")) > step:
                file.unlink()
        if self.verdicts or self.run.gates.exists():
            self.write()

    def lack_scores(self, step: int) -> bool:
        """Whether a stage begins here that will be compared with the model as it is now, and nobody has looked."""
        begins = any(first == step for _, first, _ in self.stages)
        return bool(self.gates) and begins and not _scores_file(self.run, step).exists()

    def stage_ending(self, step: int) -> str | None:
        """The stage with a gate that ends at this step."""
        return next((name for name, _, end in self.stages if end == step and name in self.gates), None)

    def failed_at(self, step: int) -> str | None:
        """The stage whose gate stands between this step and the next, if it failed and nobody accepted that."""
        name = self.stage_ending(step)
        verdict = self.verdicts.get(name or "")
        return name if verdict and not verdict["passed"] and "accepted" not in verdict else None

    def judge(self, step: int, scores: dict[str, Evidence]) -> list[Finding]:
        """Of the stage that ends here; every rank comes to the same verdict."""
        name = self.stage_ending(step)
        assert name is not None
        gate = self.gates[name]
        index = [stage for stage, _, _ in self.stages].index(name)
        begin = self.stages[index][1]
        # a run that began behind a stage knows the model as it began
        judged = [first for _, first, _ in self.stages[: index + 1] if _scores_file(self.run, first).exists()]
        findings: list[Finding] = []

        def compare(domain: str, role: str, at: int, share: float) -> None:
            findings.append(judge(domain, role, load_scores(self.run, at, domain), scores[domain], share))

        for stage, _, end in self.stages[:index]:
            own = self.gates.get(stage)
            if own is not None and own.domain != gate.domain:
                compare(own.domain, "kept", end if end in judged else begin, gate.keeps)
        for domain in gate.known:
            if domain != gate.domain and domain not in [finding.domain for finding in findings]:
                compare(domain, "known", judged[0], gate.keeps)
        for task, share in gate.holds:
            best = min(judged, key=lambda at: load_scores(self.run, at, task).figure)
            compare(task, "held", best, share)
        compare(gate.domain, "taught", begin, gate.limit)
        return findings

    def record(self, step: int, findings: list[Finding]) -> None:
        name = self.stage_ending(step)
        assert name is not None
        found = [asdict(finding) | {"upper": _or_null(finding.upper)} for finding in findings]
        passed = all(finding.passed for finding in findings)
        self.verdicts[name] = {"step": step, "passed": passed, "time": round(time.time()), "findings": found}

    def accept(self, name: str, reason: str) -> None:
        """A person lets the run go on, and says why."""
        verdict = self.verdicts.get(name)
        if verdict is None or verdict["passed"]:
            failed = [stage for stage, found in self.verdicts.items() if not found["passed"]]
            raise BadInput(f"--accept-gate {name}: it has not failed; failed are: {', '.join(failed) or 'none'}.")
        verdict["accepted"] = {"reason": reason, "time": round(time.time())}

    def write(self) -> None:
        write_json(self.run.gates, self.verdicts)


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None
