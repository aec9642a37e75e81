"""The two sections of a model card on its training: the data with their licences, and the recipe with its figures.

    lines = training_data(recipe, licences)              # of the data sets on the Hub, as their own cards say
    lines = training(run, step, recipe)                  # up to that step; None: the run's end

Figures come from metrics.jsonl, gates.json and environment.json of the run. Not here: the other sections (card.py).
"""

import json
import re
from pathlib import Path
from typing import Any

from yxanul.hub_export.markdown import grid
from yxanul.hub_export.staging import without_places
from yxanul.run_folder import RunFolder, read_metrics

NOT_KNOWN = "not known here"
OF_PYTHON = ("language", "code")  # built-in texts; the other built-in kinds are generated
OF_RECIPE = ("optimizer", "learning_rate", "matrix_learning_rate", "lr_scheduler_type", "weight_decay", "seed")


def hub_sources(recipe: dict[str, Any]) -> list[str]:
    return sorted({name for name, _ in _sources(recipe) if name})


def _sources(recipe: dict[str, Any]) -> list[tuple[str | None, str]]:
    """(name on the Hub, what the recipe says) of all data that the stages read; of a bin made elsewhere its name."""
    read = {source["bin"] for stage in recipe.get("stages") or [] for source in stage.get("sources") or []}
    found: list[tuple[str | None, str]] = []
    for place, made in (recipe.get("data") or {}).items():
        of_place = {bin for bin in read if bin == place or bin.startswith(f"{place}/")}
        read -= of_place
        for spec in made["sources"] if of_place else []:
            name = re.match(r"hf:([\w.-]+/[\w.-]+)", spec)
            found.append((name[1] if name else None, spec))
    return list(dict.fromkeys([*found, *((None, f"bin {_bin_name(place)}") for place in sorted(read))]))


def training_data(recipe: dict[str, Any], licences: dict[str, str]) -> list[str]:
    table = []
    for name, spec in _sources(recipe):
        kind = spec.removeprefix("builtin:").partition(",")[0]
        if name:
            shown = f"[{spec}](https://huggingface.co/datasets/{name})"
            licence = licences.get(name, f"{NOT_KNOWN}: see its page")
        elif spec.startswith("builtin:"):
            of_python = "text of the Python distribution: PSF licence"
            shown, licence = spec, of_python if kind in OF_PYTHON else "generated problems, no licence needed"
        else:
            shown, licence = Path(kind).name, NOT_KNOWN
        table.append((shown, licence))
    return ["## Training data", "", *(grid(("source", "licence"), table) if table else [f"It is {NOT_KNOWN}."])]


def training(run: RunFolder, step: int | None, recipe: dict[str, Any]) -> list[str]:
    lines = [line for line in read_metrics(run.metrics) if step is None or line["step"] <= step]
    evals = [line for line in lines if any(key.startswith("eval_") for key in line)]
    steps = [line for line in lines if "loss" in line]
    keeps_best = step is None and recipe.get("keep_best")  # a checkpoint has the weights of its step
    last = (_best(recipe, evals) if keeps_best else evals[-1]) if evals else None
    made = [(name, recipe[name]) for name in OF_RECIPE if recipe.get(name) is not None]
    if steps:
        end = last if last and keeps_best else steps[-1]
        made = [("tokens", f"{end['tokens']:,}"), ("steps", f"{end['step']:,}"), *made]
    made += [("began with", without_places(recipe["init_from"]))] if recipe.get("init_from") else []
    out = ["## Training", "", *grid(("", ""), [*made, *_machine(run, steps)])]
    stages = []
    for stage in recipe.get("stages") or []:
        bins = [f"{_bin_name(each['bin'])} x {each.get('weight', 1):g}" for each in stage.get("sources") or []]
        lengths = ", ".join(str(phase["length"]) for phase in stage.get("phases") or [])
        budget = next((f"{stage[key]:,} {key}" for key in ("tokens", "steps", "epochs") if stage.get(key)), "-")
        stages.append((stage["name"], ", ".join(bins), budget, lengths))
    out += ["", *grid(("stage", "mixture", "budget", "lengths"), stages)] if stages else []
    if last:
        answers = any(entry.get("conversations") == "answers" for entry in (recipe.get("data") or {}).values())
        held_out = "Held-out answers of conversations" if answers else "Held-out text"
        text = f"{held_out} after step {last['step']:,}, exact (no standard errors):"
        out += ["", text, "", *_held_out(evals[0] if evals[0]["step"] == 0 else {}, last)]
    return out + _gates(run, step)


def _best(recipe: dict[str, Any], evals: list[dict[str, Any]]) -> dict[str, Any]:
    """The one whose weights `keep_best` took."""
    key = f"eval_{recipe.get('metric_for_best_model', '').removeprefix('eval_')}"
    rated = [line for line in evals if key in line]
    best = max if recipe.get("greater_is_better") else min
    return best(rated, key=lambda line: line[key]) if rated else evals[-1]


def _held_out(begin: dict[str, Any], last: dict[str, Any]) -> list[str]:
    rows = []
    for name in [key[5:-14] for key in last if re.fullmatch("eval_.+_bits_per_byte", key)]:
        figures = [line.get(f"eval_{name}_bits_per_byte") for line in (begin, last)]
        accuracy = last.get(f"eval_{name}_accuracy")
        cells = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
        rows.append((name, *cells, "-" if accuracy is None else f"{accuracy:.1%}"))
    return grid(("domain", "bits/byte at the start", "bits/byte", "next token right"), rows)


def _gates(run: RunFolder, step: int | None) -> list[str]:
    gates = json.loads(run.gates.read_text(encoding="utf-8")) if run.gates.is_file() else {}
    said = [
        f"{name} {'passed' if gate['passed'] else '**failed**'}"
        for name, gate in gates.items()
        if step is None or gate["step"] <= step
    ]
    text = "Gates (did a stage teach its domain, and was nothing lost that was learnt before?): "
    return ["", f"{text}{', '.join(said)}."] if said else []


def _machine(run: RunFolder, steps: list[dict[str, Any]]) -> list[tuple[str, str]]:
    starts = json.loads(run.environment.read_text(encoding="utf-8")) if run.environment.is_file() else []
    made = []
    if starts:
        places = dict.fromkeys(f"{each['processes']} x {each['device']}" for each in starts)
        packages = starts[-1]["packages"] | {"python": starts[-1]["python"]}
        made.append(("processes x device", ", then ".join(places)))
        made.append(("versions", ", ".join(f"{name} {version}" for name, version in packages.items())))
    seconds = joules = measured = 0.0
    for before, line in zip([{"tokens": 0}, *steps], steps, strict=False):
        if line.get("tokens_per_second") and line["tokens"] > before["tokens"]:
            took = (line["tokens"] - before["tokens"]) / line["tokens_per_second"]
            seconds += took
            measured += took if "power" in line else 0
            joules += took * line.get("power", 0)
    if seconds:
        made.append(("time in training steps", f"{seconds / 3600:.2f} h"))
    energy = f"{joules / 3.6e6:.2f} kWh by the first process's GPU in {measured / 3600:.2f} h; others not measured"
    return [*made, ("energy", energy if measured else "not measured")]


def _bin_name(place: str) -> str:
    parts = [part for part in Path(place).parts if part not in ("train", "bins")]
    return parts[-1] if parts else place
