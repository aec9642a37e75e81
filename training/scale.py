"""A recipe at toy size, `--scale tiny`: same stages, phases, mixtures, optimizer, schedule, gates; built-in text.

    yxanul pretrain yxanul-177m-24gb --scale tiny --out runs/toy          # seconds on a laptop, no network, no GPU

The preset keeps its structure (factors, ties, positions, activation, queries per key) in four narrow layers; all tiny
runs share bins/tiny. Gates are judged at their loosest. Weights that a run begins with (`init_from`) keep their shape;
fine-tuning begins with random ones unless the command line names some.
Nothing that comes out says how the real run would do. Not here: checking (config.py reads it before and after).
"""

import math
import re
from collections.abc import Callable
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.catalog import load_shape

FOLDER = "bins/tiny"
NOTE = (
    f"--scale tiny: a toy on built-in text ({FOLDER}), four narrow layers, short rows, few steps, gates at their "
    "loosest, no teacher; precision, parallel, attention, compile, trackers by default. Its figures say nothing of "
    "the real run."
)
VOCABULARY = 1024
TOKENIZER = {  # the same, whichever recipe comes first
    "kind": "bpe",
    "vocabulary": VOCABULARY,
    "sources": [f"builtin:{domain},limit=300" for domain in ("language", "code", "reasoning", "math")],
    "limit_bytes": 400_000,
    "held_out": 0.15,
}
ADDED_BY_TEMPLATES = 8  # ids at most; without them a chat's tokenizer fits the toy's model
HEAD = 16
LONGEST = 128
STEP_TOKENS = 512  # of the largest step; the others keep their proportion to it
# what a toy cannot afford, what needs other machines, and what it has no use for
LEFT_OUT = """
    precision precision_policy parallel max_micro_batch_tokens validation_length warmup_steps warmup_tokens report_to
    attention compile tf32 distill_teacher distill_weight distill_temperature distill_dtype
"""


def is_toy(resolved: dict[str, Any]) -> bool:
    return str(resolved.get("tokenizer")).startswith(f"{FOLDER}/")


def scaled(recipe: dict[str, Any], file: str, init_from: str | None = None) -> dict[str, Any]:
    """`recipe` is one that `read_config` takes, `file` its name for messages, `init_from` that of the command line."""
    recipe = dict(recipe)
    if init_from is not None:
        recipe["init_from"] = init_from
    elif _template(recipe) and "model" in recipe:
        recipe.pop("init_from", None)
    chat = _chat_folder(recipe)
    data = {name: entry for name, entry in recipe.get("data", {}).items() if name != "tokenizer"}
    stand_ins = {name: _stand_in(name, entry, file) for name, entry in data.items()}

    def folder(name: str) -> str:
        """Of the bins that stand in for a bin of the recipe."""
        for entry, spec in stand_ins.items():
            if name == entry or name.startswith(f"{entry}/"):
                learn = data[entry].get("conversations")
                name = _slug(spec.removeprefix("builtin:")) + (f"-{learn}" if learn else "")
                return f"{chat if learn else FOLDER}/{name}"
        raise BadInput(f"{file}: {name} has no stand-in for --scale tiny: give it an entry under `data` with one.")

    accumulates = "max_micro_batch_tokens" in recipe or _whole(recipe.get("gradient_accumulation_steps") or 1) > 1
    real = [phase for stage in recipe["stages"] for phase in stage["phases"]]
    shrink = math.ceil(max(_whole(phase["length"]) for phase in real) / LONGEST)
    phases = iter(_phases(real, shrink, 1 + accumulates))
    tiny = {key: value for key, value in recipe.items() if key not in LEFT_OUT.split()} | {
        "tokenizer": f"{chat}/tokenizer",
        "data": {"tokenizer": _tokenizer(recipe)},
        "stages": [_stage(stage, [next(phases) for _ in stage["phases"]], folder) for stage in recipe["stages"]],
        "validation": {domain: f"{folder(name)}/held_out" for domain, name in recipe.get("validation", {}).items()},
        "validation_tokens": 8192,
        "gradient_accumulation_steps": 1 + accumulates,
        "logging_steps": 6,
        "save_steps": 24,
    }
    for name, spec in stand_ins.items():
        entry = {"sources": [f"{spec},limit=800,max_characters=3000"], "held_out": 0.15}
        if "conversations" in data[name]:
            entry |= {"conversations": data[name]["conversations"], "pack": max(4, data[name]["pack"] // shrink)}
        tiny["data"][folder(name)] = entry
    if "eval_steps" in recipe:
        tiny["eval_steps"] = 24
    if "init_from" not in recipe:
        tiny["model_config"] = _model_config(recipe["model"], recipe.get("model_config", {}), shrink)
    return tiny | _warmup(recipe)


def _template(recipe: dict[str, Any]) -> str | None:
    return recipe.get("data", {}).get("tokenizer", {}).get("template")


def _chat_folder(recipe: dict[str, Any]) -> str:
    """Conversations know a template, and the tokenizer of the weights that they are for."""
    names = filter(None, [_template(recipe), recipe.get("init_from")])
    return "-".join([f"{FOLDER}/chat", *map(_slug, names)]) if _template(recipe) else FOLDER


def _tokenizer(recipe: dict[str, Any]) -> dict[str, Any]:
    template = {"template": _template(recipe)} if _template(recipe) else {}
    if template and "init_from" in recipe:
        return template | {"from": recipe["init_from"]}
    return TOKENIZER | ({"vocabulary": VOCABULARY - ADDED_BY_TEMPLATES} | template if template else {})


def _slug(text: str) -> str:
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


def _stand_in(name: str, entry: dict[str, Any], file: str) -> str:
    spec = entry.get("stand_in", next((spec for spec in entry["sources"] if spec.startswith("builtin:")), ""))
    if not spec.startswith("builtin:"):
        raise BadInput(f"{file}: data: {name} has no stand_in for --scale tiny: add `stand_in: builtin:language`.")
    return str(spec)


def _whole(value: Any) -> int:
    """YAML 1.1 reads 1e3 as text."""
    return int(float(value))


def _warmup(keys: dict[str, Any]) -> dict[str, int]:
    return {"warmup_steps": 2} if keys.get("warmup_steps") or keys.get("warmup_tokens") else {}


def _phases(phases: list[dict[str, Any]], shrink: int, accumulation: int) -> list[dict[str, int]]:
    """Equal steps for all. Rows are so many that every step is a whole number of blocks: no steps are added then."""
    tokens = [_whole(phase["length"]) * _whole(phase["rows"]) for phase in phases]
    lengths = [max(4, _whole(phase["length"]) // shrink) for phase in phases]
    block, found = math.lcm(*lengths), []
    for length, step_tokens in zip(lengths, tokens, strict=True):
        unit = math.lcm(block // length, accumulation)
        rows = max(1, round(STEP_TOKENS * step_tokens / max(tokens) / length / unit)) * unit
        found.append({"length": length, "rows": rows, "steps": max(6, 48 // len(phases))})
    return found


def _stage(stage: dict[str, Any], phases: list[dict[str, int]], folder: Callable[[str], str]) -> dict[str, Any]:
    tiny = {key: value for key, value in stage.items() if key not in ("tokens", "epochs", "warmup_tokens")}
    tiny["steps"] = sum(phase["steps"] for phase in phases)
    del phases[-1]["steps"]  # it takes what is left, as in the recipe
    tiny["sources"] = [{"bin": f"{folder(source['bin'])}/train", "tokens": 20_000} for source in stage["sources"]]
    for source, real in zip(tiny["sources"], stage["sources"], strict=True):
        source["weight"] = real.get("weight", real.get("tokens", 1))  # by size, but the stand-ins have other sizes
    if "gate" in stage:
        kept = {key: value for key, value in stage["gate"].items() if key in ("domain", "known")}
        tiny["gate"] = kept | {"stays": 0.99, "keeps": 0.99}
    return tiny | {"phases": phases} | _warmup(stage)


def _model_config(model: str, changes: dict[str, Any], shrink: int) -> dict[str, Any]:
    shape = load_shape(model, changes).config
    queries = shape.query_width // shape.key_width  # of each key
    keys = max(1, 4 // queries)
    hidden = HEAD * keys * queries
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": hidden,
        "intermediate_size": round(shape.intermediate_size / shape.hidden_size * hidden / HEAD) * HEAD,
        "num_hidden_layers": 4,  # so that checkpointing every fourth layer does something
        "num_attention_heads": keys * queries,
        "num_key_value_heads": keys,
        "head_dim": HEAD,
        "max_position_embeddings": shape.max_position_embeddings // shrink,
    }
    return changes | sizes | ({} if shape.embedding_rank is None else {"embedding_rank": HEAD})
