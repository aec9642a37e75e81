"""`yxanul info PRESET_OR_FOLDER [key=value ...]`: what a model is made of, counted on the built model.

    yxanul info tiny
    yxanul info yxanul-177m num_hidden_layers=24 --length 4096
    yxanul info --all --json
    yxanul info runs/demo/final

The model is built without memory (on the meta device). Not here: how fast it trains.
"""

import argparse
from typing import Any

from yxanul.catalog import (
    Shape,
    cache_bytes_per_token,
    load_shape,
    parameter_table,
    preset_names,
    training_flops_per_token,
)
from yxanul.data.progress import answer, answer_json, answer_table
from yxanul.shell import command
from yxanul.strict_yaml import parse_assignments


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    names = preset_names() if options.all else [options.model]
    changes = parse_assignments(options.changes)
    facts = [describe(load_shape(name, changes), options.length) for name in names]
    if options.json:
        answer_json(facts if options.all else facts[0])
    elif options.all:
        _print_all(facts)
    else:
        _print_one(facts[0])
    return 0


def parser() -> argparse.ArgumentParser:
    parser = command("info", __doc__)
    parser.add_argument("model", nargs="?", help="a preset's name, or a folder with a config.json")
    parser.add_argument("changes", nargs="*", metavar="key=value", help="fields of the config to change first")
    parser.add_argument("--all", action="store_true", help="every preset")
    parser.add_argument("--length", type=int, help="tokens in a row, for the FLOPs (default: the model's context)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    known = parser()
    options = known.parse_args(arguments)
    if options.all and options.model and "=" in options.model:
        options.model, options.changes = None, [options.model, *options.changes]
    if options.all == bool(options.model):
        known.error("name one model, or give --all")
    if options.length is not None and options.length < 1:
        known.error(f"--length {options.length} must be at least 1")
    return options


def describe(shape: Shape, length: int | None = None) -> dict[str, Any]:
    config = shape.config
    length = length or config.max_position_embeddings
    total = built_parameters(config)
    flops = training_flops_per_token(config, length)
    return {
        "name": shape.name,
        "about": shape.about,
        "parameters": total,
        "components": parameter_table(config),
        "claimed_parameters": shape.claimed_parameters,
        "difference": None if shape.claimed_parameters is None else total - shape.claimed_parameters,
        "tied": config.tie_word_embeddings,
        "parameters_with_other_tying": built_parameters(_with_other_tying(config)),
        "bytes": {"fp32": 4 * total, "bf16": 2 * total, "int8": total},
        "length": length,
        "training_flops_per_token": sum(flops.values()),
        "flops_share": {part: value / sum(flops.values()) for part, value in flops.items()},
        "cache_bytes_per_token_bf16": cache_bytes_per_token(config),
    }


def built_parameters(config: Any) -> int:
    """Counted on the model, tied parameters once."""
    import torch

    from yxanul.modeling_yxanul import YxanulForCausalLM

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in YxanulForCausalLM(config).parameters())


def _with_other_tying(config: Any) -> Any:
    values = config.to_dict()
    values["tie_word_embeddings"] = not config.tie_word_embeddings
    return type(config)(**values)


def _print_one(facts: dict[str, Any]) -> None:
    from rich.table import Table

    answer(f"{facts['name']}  {facts['about']}")
    table = Table("component", box=None)
    for column in ("parameters", "share"):
        table.add_column(column, justify="right")
    for component, count in facts["components"].items():
        tied = component == "head" and facts["tied"]
        table.add_row(component, "tied" if tied else f"{count:,}", f"{count / facts['parameters']:.1%}")
    table.add_row("[bold]total[/bold]", f"[bold]{facts['parameters']:,}[/bold]", "")
    answer_table(table)
    if facts["claimed_parameters"] is not None:
        answer(f"its source claims {facts['claimed_parameters']:,}: difference {facts['difference']:+,}")
    tying = "untied" if facts["tied"] else "tied"
    answer(f"with the head {tying}: {facts['parameters_with_other_tying']:,}")
    sizes = "   ".join(f"{name} {_megabytes(size)}" for name, size in facts["bytes"].items())
    answer(f"weights: {sizes} without its scales")
    shares = ", ".join(f"{part} {share:.0%}" for part, share in facts["flops_share"].items())
    answer(
        f"training at length {facts['length']:,}: {facts['training_flops_per_token'] / 1e6:,.0f} MFLOP per token "
        f"({shares}); a forward pass alone is a third"
    )
    answer(f"key/value cache: {facts['cache_bytes_per_token_bf16']:,} bytes per token in bf16")


def _print_all(all_facts: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("preset", box=None)
    for column in ("parameters", "claimed", "difference", "other tying", "bf16", "length", "MFLOP/token"):
        table.add_column(column, justify="right")
    for column in ("head", "attention", "cache/token"):
        table.add_column(column, justify="right")
    for facts in all_facts:
        claimed, difference = facts["claimed_parameters"], facts["difference"]
        table.add_row(
            facts["name"],
            f"{facts['parameters']:,}",
            "-" if claimed is None else f"{claimed / 1e6:.1f} M",
            "-" if difference is None else f"{difference / 1e6:+.2f} M",
            f"{facts['parameters_with_other_tying']:,} {'untied' if facts['tied'] else 'tied'}",
            _megabytes(facts["bytes"]["bf16"]),
            f"{facts['length']:,}",
            f"{facts['training_flops_per_token'] / 1e6:,.0f}",
            f"{facts['flops_share']['head']:.0%}",
            f"{facts['flops_share']['attention']:.0%}",
            f"{facts['cache_bytes_per_token_bf16']:,} B",
        )
    answer_table(table, least=140)


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
