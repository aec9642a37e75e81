"""What a run came to: held-out bits per byte, stage by stage and domain by domain, with gzip beside it, and the gates.

Read from the run's folder, so it is the same whether the run was interrupted or not. gzip is what everybody has: it
compresses all of a domain's held-out text at once, having seen nothing else.
"""

import gzip
import json
from typing import Any

from rich.markup import escape
from rich.table import Table

from yxanul.data.plan import Plan
from yxanul.data.progress import answer, answer_table
from yxanul.evaluation.bits_per_byte import HeldOut
from yxanul.run_folder import RunFolder, bits_per_byte, read_metrics


def print_summary(run: RunFolder, plan: Plan, held_out: dict[str, HeldOut], tokenizer: Any) -> None:
    rows = stages_and_domains(run, plan)
    if not rows:
        return
    if tokenizer is not None:
        rows["gzip"] = {domain: gzip_bits_per_byte(text, tokenizer) for domain, text in held_out.items()}
    table = Table("bits/byte", box=None)
    for domain in held_out:
        table.add_column(escape(domain), justify="right")
    for name, figures in rows.items():
        table.add_row(escape(name), *(f"{figures[domain]:.3f}" if domain in figures else "" for domain in held_out))
    answer_table(table)
    for stage, verdict in gate_verdicts(run).items():
        answer(f"gate of {stage}: {verdict}")


def stages_and_domains(run: RunFolder, plan: Plan) -> dict[str, dict[str, float]]:
    """At the start and after each stage, as far as the run has come and there is held-out text."""
    lines = read_metrics(run.metrics, containing='"eval_')
    scored = {line["step"]: found for line in lines if (found := bits_per_byte(line))}
    ends = {f"after {stage.name}": steps.stop for stage, steps in zip(plan.stages, plan.stage_steps, strict=True)}
    return {name: scored[step] for name, step in ({"at the start": 0} | ends).items() if step in scored}


def gzip_bits_per_byte(held_out: HeldOut, tokenizer: Any) -> float:
    text = tokenizer.decode(held_out.ids(), skip_special_tokens=True).encode()
    return 8 * len(gzip.compress(text)) / len(text)


def gate_verdicts(run: RunFolder) -> dict[str, str]:
    if not run.gates.exists():
        return {}
    found: dict[str, dict[str, Any]] = json.loads(run.gates.read_text(encoding="utf-8"))
    return {
        stage: "passed"
        if verdict["passed"]
        else f"failed, accepted: {verdict['accepted']['reason']}"
        if "accepted" in verdict
        else "failed"
        for stage, verdict in found.items()
    }
