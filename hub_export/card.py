"""The model card: what the run's own files, its results and the checks say. What is not known is left out, or said so.

    text = model_card(about, facts)                      # README.md, with the front matter that the Hub reads
    check_card(text)                                     # offline, before anything is sent

Figures come from config.yaml, metrics.jsonl, gates.json and environment.json of the run, from results.json of
`yxanul evaluate` and `yxanul suite` with this very checkpoint, and from verification.json of what was opened with it.
Not here: which files leave (staging.py), cards of data sets (data_card.py).
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from yxanul.bad_input import BadInput, unknown_name
from yxanul.hub_export.staging import without_places
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
    parts = [_summary(about, facts), _use(about, facts), _data(facts, recipe), _recipe(facts, recipe)]
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
                source_name=f"{result['command'].split(' --')[0].split(' /')[0]}",
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


BARE = "transformers"  # the target of push's own check
# (target, first word of the client's name) -> how to open it there
SUBFOLDER = 'model = AutoModelForCausalLM.from_pretrained("{repo}", subfolder="{target}")'
SNIPPETS = {
    ("gguf", "llama.cpp"): 'from llama_cpp import Llama\n\nmodel = Llama.from_pretrained("{repo}", filename="{file}")',
    ("gguf", "transformers"): 'model = AutoModelForCausalLM.from_pretrained("{repo}", gguf_file="{file}")',
    (
        "onnx",
        "onnxruntime",
    ): "from huggingface_hub import hf_hub_download\nfrom onnxruntime import InferenceSession\n\n"
    'session = InferenceSession(hf_hub_download("{repo}", "onnx/{file}"))',
    ("llama", "transformers"): SUBFOLDER,
    ("int8", "transformers"): SUBFOLDER.replace(")", ", trust_remote_code=True)"),
    ("int4", "transformers"): SUBFOLDER.replace(")", ", trust_remote_code=True)"),
}


def _use(about: About, facts: Facts) -> list[str]:
    """Only tools in which this very checkpoint was opened and compared."""
    passed = [(check, row) for check in facts.checks for row in check["rows"] if row["passed"]]
    if not passed:
        return ["## Use", "", "No tool was tested with this checkpoint."]
    lines = ["## Use", "", "Tested with this very checkpoint; other tools may work."]
    for target, client in dict.fromkeys((check["target"], row["client"].partition(" ")[0]) for check, row in passed):
        if target == BARE:
            lines += ["", *_transformers(about, facts)]
        elif (target, client) in SNIPPETS:
            files = next(check.get("files", []) for check, _ in passed if check["target"] == target)
            file = next((name for name in files if "Q8_0" in name), files[0] if files else "")
            snippet = SNIPPETS[target, client].format(repo=about.repo, target=target, file=file)
            lines += ["", f"{target}, {client}:", "", "```python", snippet, "```"]
    heads = "artefact", "opened in", "MB", "largest logit difference", "greedy tokens equal", "bits/byte, difference"
    table: list[Any] = []
    for _, row in passed:
        differs = row["bits_per_byte_difference"]
        cells = [row["artefact"], row["client"], f"{row['bytes'] / 1e6:,.1f}"]
        cells.append("-" if row["largest_logit_difference"] is None else f"{row['largest_logit_difference']:.2g}")
        cells.append("-" if row["greedy_of"] is None else f"{row['greedy_equal']} of {row['greedy_of']}")
        cells.append("-" if differs is None else f"{row['bits_per_byte']:.4f}, {differs:+.3%}")
        table.append(cells)
    compared = "Compared with the model in fp32 on fixed texts; bits per byte of them say nothing of its quality."
    return [*lines, "", compared, "", *grid(heads, table)]


def _transformers(about: About, facts: Facts) -> list[str]:
    trust = "" if facts.config.get("model_type") == "llama" else ", trust_remote_code=True"
    talk = 'ids = tokenizer("Question: What is 17 + 25?\\nAnswer:", return_tensors="pt")'
    if facts.talks:
        talk = (
            'messages = [{"role": "user", "content": "What is 17 + 25?"}]\n'
            "ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, "
            'return_tensors="pt")'
        )
    return [
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{about.repo}"{trust})',
        f'model = AutoModelForCausalLM.from_pretrained("{about.repo}"{trust})',
        talk,
        "print(tokenizer.decode(model.generate(**ids, max_new_tokens=64)[0]))",
        "```",
        *(["", "Pin `revision=` to a tag: the code that is trusted is then that one."] if trust else []),
    ]


def hub_sources(recipe: dict[str, Any]) -> list[str]:
    return sorted({name for name, _ in _sources(recipe) if name})


def _sources(recipe: dict[str, Any]) -> list[tuple[str | None, str]]:
    """(name on the Hub, what the recipe says) of all data that the stages read."""
    read = {source["bin"] for stage in recipe.get("stages") or [] for source in stage.get("sources") or []}
    found = []
    for place, made in (recipe.get("data") or {}).items():
        if place != "tokenizer" and any(bin == place or bin.startswith(f"{place}/") for bin in read):
            for spec in made.get("sources") or [] if isinstance(made, dict) else []:
                name = re.match(r"hf:([\w.-]+/[\w.-]+)", spec)
                found.append((name[1] if name else None, spec))
    return list(dict.fromkeys(found))


BUILT_IN = {"math": "generated problems, no licence needed", "reasoning": "generated problems, no licence needed"}


def _data(facts: Facts, recipe: dict[str, Any]) -> list[str]:
    sources = _sources(recipe)
    if not sources:
        known = "The run's recipe names no sources." if facts.run else "No run folder was at hand: not known here."
        return ["## Training data", "", known]
    table: list[Any] = []
    for name, spec in sources:
        kind = re.sub(r"^builtin:|,.*", "", spec)
        if name:
            shown = f"[{spec}](https://huggingface.co/datasets/{name})"
            licence = facts.data_licences.get(name, "not known here: see its page")
        elif spec.startswith("builtin:"):
            shown = spec
            licence = BUILT_IN.get(kind, "text of the Python distribution: PSF licence")
            licence = "generated, no licence needed" if kind == "instructions" else licence
        else:
            shown, licence = Path(spec.partition(",")[0]).name, "not known here"
        table.append((shown, licence))
    return ["## Training data", "", *grid(("source", "licence"), table)]


OF_RECIPE = ("optimizer", "learning_rate", "matrix_learning_rate", "lr_scheduler_type", "weight_decay", "seed")


def _recipe(facts: Facts, recipe: dict[str, Any]) -> list[str]:
    if facts.run is None:
        return []
    run = facts.run
    lines = [line for line in read_metrics(run.metrics) if facts.step is None or line["step"] <= facts.step]
    evals = [line for line in lines if any(key.startswith("eval_") for key in line)]
    steps = [line for line in lines if "loss" in line]
    if facts.step is not None:  # the weights of that step, and no others
        recipe = recipe | {"keep_best": False}
    last = _shown_evaluation(recipe, evals) if evals else None
    out = ["## Training", ""]
    made = [(name, recipe[name]) for name in OF_RECIPE if recipe.get(name) is not None]
    if steps:
        end = last if last and recipe.get("keep_best") else steps[-1]
        made = [("tokens", f"{end['tokens']:,}"), ("steps", f"{end['step']:,}"), *made]
    made += [("began with", without_places(recipe["init_from"]))] if recipe.get("init_from") else []
    made += _machine(run, steps)
    out += grid(("", ""), made)
    table: list[Any] = []
    for stage in recipe.get("stages") or []:
        bins = [f"{_bin_name(each['bin'])} x {each.get('weight', 1):g}" for each in stage.get("sources") or []]
        lengths = ", ".join(str(phase["length"]) for phase in stage.get("phases") or [])
        budget = next((f"{stage[key]:,} {key}" for key in ("tokens", "steps", "epochs") if stage.get(key)), "-")
        table.append((stage["name"], ", ".join(bins), budget, lengths))
    out += ["", *grid(("stage", "mixture", "budget", "lengths"), table)] if table else []
    if last:
        begin = evals[0] if evals[0]["step"] == 0 else {}
        domains = [key[5:-14] for key in last if re.fullmatch("eval_.+_bits_per_byte", key)]
        rows = []
        for name in domains:
            figures = [line.get(f"eval_{name}_bits_per_byte") for line in (begin, last)]
            accuracy = last.get(f"eval_{name}_accuracy")
            cells = ["-" if figure is None else f"{figure:.4f}" for figure in figures]
            rows.append((name, *cells, "-" if accuracy is None else f"{accuracy:.1%}"))
        text = f"Held-out text after step {last['step']:,}, exact (no standard errors):"
        heads = "domain", "bits/byte at the start", "bits/byte", "next token right"
        out += ["", text, "", *grid(heads, rows)]
    gates = json.loads(run.gates.read_text(encoding="utf-8")) if run.gates.is_file() else {}
    gates = {name: gate for name, gate in gates.items() if facts.step is None or gate["step"] <= facts.step}
    if gates:
        said = [f"{name} {'passed' if gate['passed'] else '**failed**'}" for name, gate in gates.items()]
        text = "Gates (did a stage teach its domain, and was nothing lost that was learnt before?): "
        out += ["", f"{text}{', '.join(said)}."]
    return out


def _shown_evaluation(recipe: dict[str, Any], evals: list[dict[str, Any]]) -> dict[str, Any]:
    """The last one, or the one whose weights `keep_best` took."""
    key = f"eval_{recipe.get('metric_for_best_model', '').removeprefix('eval_')}"
    rated = [line for line in evals if key in line]
    if not recipe.get("keep_best") or not rated:
        return evals[-1]
    return (max if recipe.get("greater_is_better") else min)(rated, key=lambda line: line[key])


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
        lines += [f"{result['protocol']}; {result['date']}; {versions}; `{result['command']}`", ""]
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
        quoted = facts.failures[:QUOTED]
        cells = [[_cell(failure[key]) for key in ("prompt", "output", "reason")] for failure in quoted]
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


def grid(heads: Any, rows: Any) -> list[str]:
    return [f"| {' | '.join(str(cell) for cell in row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _cell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    text = re.sub(r"\s+", " ", text)[:120].replace("|", "\\|").replace("<", "&lt;")
    return text.replace("`", "'")


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
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z]+)?|code", str(code)):
            raise BadInput(f"the card: {code!r} is no language code such as en, de or zh.")
    for name in several("datasets") + several("base_model"):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)):
            raise BadInput(f"the card: {name!r} is no name on the Hub.")
    if "More Information Needed" in text:
        raise BadInput('the card says "More Information Needed": say it, or leave the section out.')
