"""The model card: what the run's own files, its results and the checks say. What is not known is left out, or said so.

    text = model_card(about, facts)                      # README.md, with the front matter that the Hub reads
    check_card(text)                                     # offline, before anything is sent

Figures come from config.yaml, metrics.jsonl, gates.json and environment.json of the run, from results.json of
`yxanul evaluate` and `yxanul suite` with this very checkpoint, and from verification.json of what was opened with it.
Not here: training (card_training.py), use (card_use.py), cards of data sets (data_card.py), which files leave.
"""

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from yxanul.bad_input import BadInput, unknown_name
from yxanul.hub_export.card_training import hub_sources, training, training_data
from yxanul.hub_export.card_use import use
from yxanul.hub_export.markdown import grid, quoted
from yxanul.run_folder import RunFolder, read_metrics

# The Hub's list, as in its documentation in 2026
LICENCES = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
FROM_HUB = re.compile(r"([\w.-]+/[\w.-]+), ([\w+.-]+), revision ([0-9a-f]{40})")  # a result's data
NO_SHARE = re.compile("perplexity|bits|loss|likelihood|nats")
GSM8K_QUESTIONS = 1319  # the whole test split; its leaderboard compares nothing else
QUOTED = 5


@dataclass
class About:
    """What the user says of it."""

    repo: str
    licence: str | None = None  # an id of the Hub, or NAME=URL
    languages: tuple[str, ...] = ()
    base: str | None = None  # on the Hub


@dataclass
class Facts:
    """What was found."""

    config: dict[str, Any]
    parameters: int
    dtypes: tuple[str, ...]
    run: RunFolder | None = None
    step: int | None = None
    talks: bool = False  # it was made to answer in turns, as far as is known
    is_adapter: bool = False
    checks: list[dict[str, Any]] = field(default_factory=list)  # verification.json's, each with "target"
    results: list[dict[str, Any]] = field(default_factory=list)  # results.json's
    failures: list[dict[str, Any]] = field(default_factory=list)  # of the suite's samples
    data_licences: dict[str, str] = field(default_factory=dict)  # of data sets on the Hub


def model_card(about: About, facts: Facts) -> str:
    recipe = yaml.safe_load(facts.run.config.read_text(encoding="utf-8")) if facts.run else {}
    parts = [_summary(about, facts), use(about, facts), training_data(recipe, facts.data_licences)]
    parts += [training(facts.run, facts.step, recipe)] if facts.run else []
    parts += [_evaluation(facts), _limitations(facts), _licence(about), _citation(about, facts)]
    body = "\n\n".join("\n".join(part) for part in parts if part)
    return f"---\n{_front(about, facts, recipe)}---\n\n{body}\n"


def _front(about: About, facts: Facts, recipe: dict[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    names = hub_sources(recipe)
    values: dict[str, Any] = {
        "language": list(about.languages) or None,
        "library_name": "peft" if facts.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["yxanul", "small-language-model", *(["lora"] if facts.is_adapter else [])],
        "datasets": names or None,
        "base_model": about.base,
    }
    values |= licence_fields(about.licence)
    results = _model_index(about, facts)
    if results:
        values |= {"model_name": about.repo.partition("/")[2], "eval_results": results}
    return f"{ModelCardData(**{key: value for key, value in values.items() if value is not None})}\n"


def licence_fields(licence: str | None) -> dict[str, str]:
    if licence is None:
        return {}
    name, _, link = licence.partition("=")
    if link.startswith("https://"):
        return {"license": "other", "license_name": name, "license_link": link}
    if licence == "other" or link:
        raise BadInput("--license of a licence that the Hub does not list: --license NAME=https://WHERE-ITS-TEXT-IS.")
    if licence not in LICENCES.split():
        raise unknown_name("licence", licence, LICENCES.split())
    return {"license": licence}


def _model_index(about: About, facts: Facts) -> list[Any]:
    from huggingface_hub import EvalResult

    found = []
    for result, entry, metric, figure in _figures(facts):
        if "categories" in entry:  # the suite's questions are no data set
            continue
        origin = FROM_HUB.fullmatch(str(entry.get("data")))
        name, split, revision = origin.groups() if origin else (entry["task"], None, None)
        value, error = _percent(metric, figure)
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=name,
                dataset_name=entry["task"],
                dataset_split=split,
                dataset_revision=revision,
                dataset_args={"num_few_shot": entry.get("shots"), "n": entry.get("n"), "version": entry["version"]},
                metric_type=metric,
                metric_name=metric,
                metric_value=value,
                metric_args={"stderr": error},
                source_name=result["command"].split(" --")[0].split(" /")[0],
                source_url=f"https://huggingface.co/{about.repo}/tree/main/eval",
            )
        )
    return found


def eval_results(about: About, facts: Facts) -> dict[str, str]:
    """Name in .eval_results -> YAML: of registered benchmarks alone, and of their whole test split."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    for result, entry, metric, figure in _figures(facts):
        origin = FROM_HUB.fullmatch(str(entry.get("data")))
        if entry["task"] != "gsm8k" or metric != "strict_match" or entry["n"] != GSM8K_QUESTIONS or not origin:
            continue
        value, error = _percent(metric, figure)
        made = EvalResultEntry(
            dataset_id="openai/gsm8k",
            task_id="gsm8k",
            value=value,
            dataset_revision=origin[3],
            date=entry.get("date", result["date"]),
            source_url=f"https://huggingface.co/{about.repo}/tree/main/eval",
            source_name="results.json",
            notes=f"{entry['shots']} shots, strict match, standard error {error}, prompts of {result['protocol']}",
        )
        return {"gsm8k.yaml": yaml.safe_dump(eval_result_entries_to_yaml([made]), sort_keys=False)}
    return {}


def _figures(facts: Facts) -> list[tuple[Any, Any, str, Any]]:
    """(result, its task, metric, figure) of every main figure; those of the suite too."""
    return [
        (result, entry, metric, entry["metrics"][metric])
        for result in facts.results
        for entry in result["tasks"].values()
        if entry["status"] == "done"
        for metric in entry["main"]
    ]


def _percent(metric: str, figure: dict[str, Any]) -> tuple[float, float | None]:
    """Shares in percent, as public results are written; others as they are."""
    factor = 1 if NO_SHARE.search(metric) or not 0 <= figure["value"] <= 1 else 100
    error = figure.get("stderr")
    return round(factor * figure["value"], 4), None if error is None else round(factor * error, 4)


def _summary(about: About, facts: Facts) -> list[str]:
    config, kind = facts.config, "LoRA adapter" if facts.is_adapter else "causal language model"
    lines = [f"# {about.repo.partition('/')[2]}", ""]
    numbers = "adapter's parameters" if facts.is_adapter else "parameters, tied ones counted once"
    lines.append(f"A {kind} with **{facts.parameters:,}** {numbers}, stored as {' and '.join(facts.dtypes)}.")
    if facts.step is not None:
        lines.append(f"This is the checkpoint after step {facts.step:,}.")
    if facts.is_adapter:
        return lines
    rank = config.get("embedding_rank")
    heads = f"{config['num_attention_heads']} heads for queries, {config['num_key_value_heads']} for keys and values"
    table = [
        ("layers", config["num_hidden_layers"]),
        ("hidden size, feed-forward", f"{config['hidden_size']:,}, {config['intermediate_size']:,}"),
        ("attention", heads),
        ("vocabulary", f"{config['vocab_size']:,}"),
        ("embeddings", f"factorised, rank {rank}" if rank else "plain"),
        ("head", "tied to the embeddings" if config["tie_word_embeddings"] else "its own"),
        ("positions", "RoPE and a learned table" if config.get("learned_position_embeddings") else "RoPE"),
        ("activation", config["hidden_act"]),
        ("context", f"{config['max_position_embeddings']:,} tokens"),
    ]
    return [*lines, "", *grid(("shape", ""), table)]


def _evaluation(facts: Facts) -> list[str]:
    lines = ["## Evaluation", ""]
    if not facts.results:
        return [*lines, "No benchmark was run with this checkpoint."]
    for result in facts.results:
        table: list[Any] = []
        for entry in result["tasks"].values():
            if entry["status"] != "done":
                table.append((entry["task"], entry["version"], "", "not run", "", "", ""))
                continue
            for metric in entry["main"]:
                value, error = _percent(metric, entry["metrics"][metric])
                chance = entry.get("chance", {}).get(metric)
                digits = 3 if NO_SHARE.search(metric) else 2
                shown = f"{value:g}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"
                if error == 0:  # none or all: no error can be told from their spread
                    shown = f"{value:g}, all alike"
                row = entry["task"], entry["version"], metric, shown, f"{entry['n']:,}", entry.get("shots", "-")
                table.append((*row, "-" if chance is None else f"{100 * chance:g}"))
        versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
        heads = "task", "version", "figure", "value ± standard error", "n", "shots", "chance"
        lines += [*grid(heads, table), ""]
        lines += [
            f"Asked and scored as by {result['protocol']}; {result['date']}; {versions}; `{result['command']}`",
            "",
        ]
    lines.append("Shares in percent. Every prompt and output can be made again with the command.")
    return lines


def _limitations(facts: Facts) -> list[str]:
    lines = ["## Limitations", ""]
    for result, entry, metric, figure in _figures(facts):
        chance, error = entry.get("chance", {}).get(metric), figure.get("stderr")
        if chance is not None and error is not None and figure["value"] < chance + 2 * error:
            lines.append(f"- No better than chance at {entry['task']} ({metric}; {result['protocol']}).")
    kinds = {
        name: found
        for result in facts.results
        for entry in result["tasks"].values()
        for name, found in entry.get("categories", {}).items()
    }
    none = [name for name, found in kinds.items() if not found["right"]]
    few = [
        f"{name} ({found['right']} of {found['n']})"
        for name, found in kinds.items()
        if found["right"] and found["interval"][1] < 0.5
    ]
    for names, how in ((none, "no answer is right"), (few, "surely under half of the answers are right")):
        if names:
            lines.append(f"- In {len(names)} of {len(kinds)} kinds of small questions {how}: {', '.join(names)}.")
    if facts.failures:
        lines += ["- It says, for instance:", ""]
        keys = "prompt", "output", "reason"
        cells = [[quoted(failure[key]) for key in keys] for failure in facts.failures[:QUOTED]]
        lines += grid(("asked", "said", "judged"), cells)
    if not kinds:
        lines.append("- What it cannot do was not tested by category (`yxanul suite`).")
    return lines


def _licence(about: About) -> list[str]:
    code = "The code files (`*_yxanul.py`) are under the MIT licence."
    fields = licence_fields(about.licence)
    if not fields:
        return ["## Licence", "", f"No licence was chosen for the weights. {code}"]
    name = fields["license"]
    if name == "other":
        name = f"[{fields['license_name']}]({fields['license_link']})"
    return ["## Licence", "", f"Weights: {name}. {code}"]


def _citation(about: About, facts: Facts) -> list[str]:
    owner, _, name = about.repo.partition("/")
    lines = [f"@misc{{{name},", f"  author = {{{owner}}},", f"  title = {{{name}}},"]
    if facts.run and (last := next(read_metrics(facts.run.metrics, last=1), None)):
        import time

        lines.append(f"  year = {{{time.gmtime(last['time']).tm_year}}},")
    lines += [f"  url = {{https://huggingface.co/{about.repo}}}", "}"]
    return ["## Citation", "", "```bibtex", *lines, "```"]


def check_language(code: str, where: str) -> None:
    if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code", code):
        raise BadInput(f"{where}: {code!r} is no language code such as en, de or zh.")


def check_card(text: str) -> None:
    """The Hub would say most of it, after everything was sent."""
    from huggingface_hub import ModelCard

    front = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if front is None:
        raise BadInput("the card has no front matter (YAML between two lines ---).")
    try:
        values = yaml.safe_load(front[1]) or {}
        ModelCard(text)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise BadInput(f"the card's front matter is not valid: {' '.join(str(error).split())}.") from None
    licence_named = values.get("license") != "other" or {"license_name", "license_link"} <= values.keys()
    if values.get("license", "unknown") not in LICENCES.split() or not licence_named:
        raise BadInput(f"the card: license {values['license']!r} must be an id of the Hub; other needs name and link.")

    def several(name: str) -> list[Any]:
        value = values.get(name) or []
        return value if isinstance(value, list) else [value]

    for code in several("language"):
        check_language(str(code), "the card")
    for name in several("datasets") + several("base_model"):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
            raise BadInput(f"the card: {name!r} is no name on the Hub.")
    if "More Information Needed" in text:
        raise BadInput('the card says "More Information Needed": say it, or leave the section out.')
