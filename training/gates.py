"""May the next stage begin? A gate compares held-out bits per byte, document by document, and must be proved.

    gate:                   # of a stage, in a recipe
      domain: math          # what the stage teaches (default: the domain of the stage's name)
      falls: 0.15           # it must fall by this share of its value before the stage; or
      stays: 0.005          # it may rise by this share
      keeps: 0.03           # every domain learnt earlier may rise by this share of its value after its own stage

A change passes when the upper end of its one-sided 95 % interval is within the limit, so a noisy figure fails, and the
verdict says how much held-out text would do. Earlier domains are compared with their own stage's end, so small losses
cannot add up. Verdicts go to RUN/gates.json, the scores that they rest on to RUN/scores/.
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file, save_file

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.bin_writer import write_json
from yxanul.run_folder import RunFolder

if TYPE_CHECKING:  # it brings torch, and a recipe is read without
    from yxanul.evaluation.bits_per_byte import DomainScore

KEYS = ("domain", "falls", "stays", "keeps")
KEEPS = 0.03
FEWEST_DOCUMENTS = 8
NORMAL_95 = 1.6448536269514722


@dataclass(frozen=True)
class Gate:
    domain: str
    limit: float  # of the change, as a share of the value before: below 0 it must fall
    keeps: float


@dataclass(frozen=True)
class Finding:
    """A domain's change in bits per byte, and what was allowed."""

    domain: str
    role: str  # "taught" or "kept"
    before: float
    after: float
    upper: float  # end of the interval of the change
    limit: float
    documents: int
    needed: int | None  # documents that would prove a change of this size; None: no number would
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
    return Gate(domain, -limit if key == "falls" else limit, _share(entry.get("keeps", KEEPS), f"{where}, keeps"))


def _share(value: Any, where: str) -> float:
    try:
        share = float(value)
    except (TypeError, ValueError):
        raise BadInput(f"{where} must be a share such as 0.05; it is {value!r}.") from None
    if not 0 <= share < 1:
        raise BadInput(f"{where} must be a share from 0 to below 1; it is {value}.")
    return share


def judge(domain: str, role: str, before: "DomainScore", after: "DomainScore", share: float) -> Finding:
    """Paired by document: bits per byte are a ratio of sums, so its error is that of the documents' residuals."""
    documents, text = after.documents, float(after.bytes)
    differences = after.document_bits - before.document_bits
    change = float(differences.sum()) / text
    residuals = differences - change * after.document_bytes
    error = math.sqrt(documents / max(1, documents - 1) * float(np.square(residuals).sum())) / text
    limit = share * before.bits_per_byte
    enough = documents >= FEWEST_DOCUMENTS
    upper = change + student_95(documents - 1) * error if enough else math.inf
    passed = bool(upper <= limit)
    needed = None
    if not passed and change < limit:
        needed = max(FEWEST_DOCUMENTS, math.ceil(documents * (NORMAL_95 * error / (limit - change)) ** 2))
    return Finding(domain, role, before.bits_per_byte, after.bits_per_byte, upper, limit, documents, needed, passed)


def student_95(degrees: int) -> float:
    """One-sided quantile of Student's t, by its expansion around the normal one: right to 0.2 % from 7 degrees on."""
    z, v = NORMAL_95, degrees
    return z + (z**3 + z) / (4 * v) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v * v)


def save_scores(run: RunFolder, step: int, scores: "dict[str, DomainScore]") -> None:
    arrays: dict[str, np.ndarray] = {}
    for domain, score in scores.items():
        arrays |= {f"{domain}.bits": score.document_bits, f"{domain}.bytes": score.document_bytes}
    run.scores.mkdir(exist_ok=True)
    partial = run.scores / f"step-{step}.partial"
    save_file(arrays, partial)
    partial.replace(_scores_file(run, step))


def _scores_file(run: RunFolder, step: int) -> Path:
    return run.scores / f"step-{step}.safetensors"


def load_scores(run: RunFolder, step: int, domain: str) -> "DomainScore":
    from yxanul.evaluation.bits_per_byte import DomainScore

    file = _scores_file(run, step)
    if not file.exists():
        raise BadInput(f"{file} is missing, and a gate compares with it: start the stage before again (--resume).")
    arrays = load_file(file)
    return DomainScore(0, math.nan, arrays[f"{domain}.bits"], arrays[f"{domain}.bytes"])


class Gates:
    """Of a run: the stages that have one, and what was found."""

    def __init__(
        self, run: RunFolder, gates: dict[str, Gate] | None = None, stages: Sequence[tuple[str, int, int]] = ()
    ) -> None:
        """`stages`: name, first step and end of each, in order."""
        self.run, self.gates, self.stages = run, gates or {}, stages
        self.verdicts: dict[str, dict[str, Any]] = {}
        if run.gates.exists():
            self.verdicts = json.loads(run.gates.read_text(encoding="utf-8"))

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

    def judge(self, step: int, scores: "dict[str, DomainScore]") -> list[Finding]:
        """Of the stage that ends here; every rank comes to the same verdict."""
        name = self.stage_ending(step)
        assert name is not None
        gate = self.gates[name]
        begin = next(first for stage, first, _ in self.stages if stage == name)
        findings: list[Finding] = []
        for stage, first, end in self.stages:
            own = self.gates.get(stage)
            if stage == name:
                before = load_scores(self.run, first, gate.domain)
                findings.append(judge(gate.domain, "taught", before, scores[gate.domain], gate.limit))
                break
            if own is not None and own.domain != gate.domain:
                # a run that began behind that stage knows the model as it began
                before = load_scores(self.run, end if _scores_file(self.run, end).exists() else begin, own.domain)
                findings.append(judge(own.domain, "kept", before, scores[own.domain], gate.keeps))
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
