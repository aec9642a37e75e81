"""`yxanul plan RECIPE [key=value ...]`: what a run would eat, phase by phase, before there is any data.

    yxanul plan demo
    yxanul plan yxanul-177m-8gpu --gpu h200 --count 8 --price 2.5      # with memory, hours and money
    yxanul plan demo learning_rate=2e-3 stages.language.tokens=1e6 --json

A source that is not there yet counts with the `tokens` that the recipe expects. Not here: the estimate (estimate.py).
"""

import argparse
from collections.abc import Callable
from typing import Any

from rich.markup import escape

from yxanul.catalog import training_flops_per_token
from yxanul.data.progress import answer, answer_json, answer_table, say
from yxanul.shell import command
from yxanul.training.config import SCALE_HELP, RunConfig, read_config, settings_help
from yxanul.training.estimate import GIB, GPUS, estimate, teacher_costs
from yxanul.training.scale import NOTE as SCALE_NOTE


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    if options.scale:
        say(SCALE_NOTE)
    config = read_config(options.recipe, options.assignments, options.scale)
    facts = describe(config)
    if options.gpu:
        facts["estimate"] = estimate(config, facts["phases"], options.gpu, options.count, options.price)
    if options.json:
        answer_json(facts)
    else:
        print_plan(config)
        if options.gpu:
            print_estimate(facts["estimate"])
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("plan", __doc__, settings_help())
    parser.add_argument("recipe", help="a built-in recipe's name, or a YAML file")
    parser.add_argument("assignments", nargs="*", metavar="key=value", help="settings to change first")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--scale", choices=["tiny"], help=SCALE_HELP)
    parser.add_argument("--gpu", help=f"memory, hours and money on it: {', '.join(GPUS)}")
    parser.add_argument("--count", type=int, default=1, help="how many (default: 1)")
    parser.add_argument("--price", type=float, help="of an hour of one")
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    known = parser()
    options = known.parse_intermixed_args(arguments)
    if not options.gpu and (options.count, options.price) != (1, None):
        known.error("--count and --price are about GPUs: add --gpu")
    if options.count < 1 or (options.price is not None and not options.price >= 0):
        known.error("--count must be at least 1, and --price no less than 0")
    return options


def describe(config: RunConfig) -> dict[str, Any]:
    from yxanul.training.optimizers import learning_rates

    plan, shape = config.plan(), config.shape()
    rate = learning_rates(config, plan)
    teacher = teacher_costs(config)
    phases: list[dict[str, Any]] = []
    for steps in plan.phase_steps:
        first, last, position = steps[0], steps[-1], plan.at(steps.start)
        tokens = len(steps) * position.phase.step_tokens
        flops = training_flops_per_token(shape.config, position.length)
        phases.append(
            {
                "stage": plan.stages[position.stage_index].name,
                "first_step": first,
                "last_step": last,
                "length": position.length,
                "rows": position.rows,
                "tokens": tokens,
                "learning_rates": [rate(first), _peak(rate, first, last), rate(last)],
                "epochs": plan.epochs(position.stage_index),  # of the whole stage
                "training_flops": tokens * sum(flops.values()),
                "attention_share": flops["attention"] / sum(flops.values()),
                "teacher_flops": tokens * teacher.flops(position.length) if teacher else 0,
            }
        )
    return {
        "recipe": config.recipe,
        "model": shape.name,
        "steps": plan.steps,
        "tokens": plan.tokens,
        "training_flops": sum(phase["training_flops"] for phase in phases),
        "teacher": teacher and {"name": config.distill_teacher, "parameters": teacher.parameters},
        "teacher_flops": sum(phase["teacher_flops"] for phase in phases),
        "block": plan.block,
        "phases": phases,
        "roundings": [vars(rounding) for rounding in plan.roundings],
        "tails": plan.tails(),
    }


def _peak(rate: Callable[[int], float], first: int, last: int) -> float:
    """Schedules rise, stay and fall, so a few hundred of a phase's steps show how far they rise."""
    return max(rate(step) for step in range(first, last + 1, max(1, (last - first) // 500)))


def _rates(first: float, peak: float, last: float) -> str:
    shown = (first, peak, last) if peak > 1.01 * max(first, last) else (first, last)
    return "..".join(f"{rate:.2g}" for rate in shown)


def print_plan(config: RunConfig) -> None:
    from rich.table import Table

    facts = describe(config)
    table = Table("stage", box=None)
    for column in ("steps", "length", "rows", "tokens", "learning rate", "attention FLOPs"):
        table.add_column(column, justify="right")
    table.add_column("epochs of the stage")
    stage = None
    for phase in facts["phases"]:
        epochs = "\n".join(f"{passes:.3g} x {escape(source)}" for source, passes in phase["epochs"].items())
        is_first = phase["stage"] != stage
        stage = phase["stage"]
        table.add_row(
            escape(stage) if is_first else "",
            f"{phase['first_step']:,}..{phase['last_step']:,}",
            f"{phase['length']:,}",
            f"{phase['rows']:,}",
            f"{phase['tokens']:,}",
            _rates(*phase["learning_rates"]),
            f"{phase['attention_share']:.1%}",
            epochs if is_first else "",
        )
    answer_table(table)
    answer(
        f"together: {facts['steps']:,} steps, {facts['tokens']:,} tokens, {facts['training_flops']:.3g} FLOPs for "
        f"{facts['model']}"
    )
    if facts["teacher"]:
        more = facts["teacher_flops"] / facts["training_flops"]
        answer(
            f"teacher: {facts['teacher']['name']}, {facts['teacher']['parameters']:,} parameters; its forward "
            f"passes are {facts['teacher_flops']:.3g} FLOPs on top, {more:.0%}"
        )
    answer(f"block: {facts['block']:,} tokens; every phase ends with one")
    for rounding in facts["roundings"]:
        answer(
            f"rounded: {rounding['stage']}, length {rounding['length']:,}: {rounding['asked']:,} steps were "
            f"asked for, {rounding['steps']:,} end with a block"
        )
    for source, tokens in facts["tails"].items():
        if tokens:
            answer(f"tail: no block reaches the last {tokens:,} tokens of {source}")


def print_estimate(facts: dict[str, Any]) -> None:
    from rich.table import Table

    count, lengths = facts["count"], facts["lengths"]
    table = Table("stage", box=None)
    for column in ("length", "micro-batch", *lengths[0]["memory"], "hours"):
        table.add_column(column, justify="right")
    for row in lengths:
        sizes = [f"{size / GIB:.2f}" for size in row["memory"].values()]
        hours = "unknown" if row["hours"] is None else f"{row['hours']:.2f}"
        table.add_row(escape(row["stage"]), f"{row['length']:,}", f"{row['micro_batch_tokens']:,}", *sizes, hours)
    every = facts["checkpointed_every"]
    again = {0: "no layer", 1: "every layer"}.get(every, f"one layer in {every}")
    answer(f"\nestimated, not measured: GiB on each of {count} x {facts['gpu']}; a peak can be below the sum")
    answer_table(table)
    answer(
        f"{'fits' if facts['fits'] else 'does NOT fit'} in {facts['usable_bytes'] / GIB:.1f} GiB, accumulation "
        f"{facts['accumulation']}, {again} checkpointed"
    )
    answer(f"the largest that fits with these rows: {facts['largest_that_fits'] or 'none; give fewer rows'}")
    if facts["hours"] is None:
        answer("hours: unknown, for what is known of speed is bf16's; the recipe has precision=fp32")
        return
    cost = "" if facts["cost"] is None else f", {facts['cost']:,.2f} for {facts['hours'] * count:,.1f} GPU hours"
    share = f"{facts['assumed_mfu']:.0%} of {facts['peak_flops'] / 1e12:,.0f} TFLOPS"
    answer(f"{facts['hours']:,.2f} hours{cost}, if {share} are reached: {facts['assumed_from']}")
    if facts["precision"] in ("fp8", "te"):
        answer(f"the hours are bf16's: how fast {facts['precision']} is was not measured (docs/precision.md)")
