"""Presets by name, and what a shape costs: parameters, bytes, FLOPs and key/value cache, by arithmetic alone.

`load_shape("yxanul-177m")` gives a preset's config, `load_shape(folder)` a checkpoint's. The counts need no model; a
test holds them against built ones. Not here: time, memory of a run and money (training/estimate.py will say).
"""

import json
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.strict_yaml import read_yaml

if TYPE_CHECKING:
    from yxanul.configuration_yxanul import YxanulConfig

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
PRESET_KEYS = ("about", "claimed_parameters", "config")


@dataclass(frozen=True)
class Shape:
    """A model that could be built, and what its source says of it."""

    name: str
    config: "YxanulConfig"
    about: str = ""
    claimed_parameters: int | None = None


def preset_names() -> list[str]:
    return sorted(file.name.removesuffix(".yaml") for file in _presets().iterdir() if file.name.endswith(".yaml"))


def load_shape(name_or_folder: str, changes: dict[str, Any] | None = None) -> Shape:
    """A preset or a checkpoint's folder, with fields of the config changed."""
    changes = changes or {}
    folder = Path(name_or_folder)
    if name_or_folder not in preset_names():  # a folder of a preset's name is ./name
        if folder.is_dir():
            return Shape(name_or_folder, _checked_config(_read_config(folder), changes, str(folder / "config.json")))
        raise unknown_name("preset or folder", name_or_folder, preset_names())
    path = Path(str(_presets() / f"{name_or_folder}.yaml"))
    preset = read_yaml(path)
    for key in preset:
        if key not in PRESET_KEYS:
            raise BadInput(f"{path}: {unknown_name('key', key, PRESET_KEYS)}")
    config = _checked_config(preset["config"], changes, str(path))
    return Shape(name_or_folder, config, preset["about"], preset.get("claimed_parameters"))


def _presets() -> Any:
    return files("yxanul").joinpath("presets")


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder} holds no readable config.json: {error}") from None
    if not isinstance(values, dict):
        raise BadInput(f"{folder / 'config.json'} must hold an object; it holds {type(values).__name__}.")
    made_as = [name for name in values.get("architectures") or [] if not name.endswith("ForCausalLM")]
    if made_as:
        raise BadInput(f"{folder} holds a {made_as[0]}; only language models (ForCausalLM) are counted here.")
    return values


def _checked_config(values: dict[str, Any], changes: dict[str, Any], file: str) -> "YxanulConfig":
    from huggingface_hub.errors import StrictDataclassError

    from yxanul.configuration_yxanul import YxanulConfig

    known = {field.name for field in fields(YxanulConfig)}
    for key in changes.keys() | (set() if file.endswith(".json") else values.keys()):
        if key not in known:
            where = "command line" if key in changes else file
            raise BadInput(f"{where}: {unknown_name('field', key, known)}")
    model_type = values.get("model_type", "yxanul")
    if model_type not in ("yxanul", "llama"):
        raise BadInput(f"{file}: model_type is {model_type!r}; this tool reads yxanul, and llama without biases.")
    if {"hidden_size", "num_attention_heads"} & changes.keys() and "head_dim" not in changes:
        values = {key: value for key, value in values.items() if key != "head_dim"}  # it followed from the old ones
    size = changes.get("vocab_size")
    if isinstance(size, int):  # another tokenizer: ids that it does not have are not its special ones
        values = {
            key: value for key, value in values.items() if key not in SPECIAL_IDS or not _is_id_from(size, value)
        }
    try:
        return YxanulConfig(**{key: value for key, value in {**values, **changes}.items() if key != "model_type"})
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise BadInput(f"{file}: {error.__cause__ or error}") from None


def _is_id_from(size: int, value: Any) -> bool:
    return isinstance(value, int) and value >= size


def parameter_table(config: "YxanulConfig") -> dict[str, int]:
    """Parameters by component; tied ones count once, where they are stored."""
    layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    table = {"embedding table": vocabulary * config.embedding_size}
    if config.embedding_rank is not None:
        table["embedding projection"] = config.embedding_rank * hidden
    if config.learned_position_embeddings:
        table["learned positions"] = config.max_position_embeddings * hidden
    table["attention"] = layers * 2 * hidden * (config.query_width + config.key_width)
    table["feed-forward"] = layers * 3 * hidden * config.intermediate_size
    table["norms"] = (2 * layers + 1) * hidden
    table["head"] = 0 if config.tie_word_embeddings else vocabulary * hidden
    return table


def head_products(config: "YxanulConfig") -> int:
    """Parameters that the head multiplies by, tied or not."""
    if config.embedding_rank is not None and config.tie_word_embeddings:
        return config.embedding_rank * (config.vocab_size + config.hidden_size)
    return config.vocab_size * config.hidden_size


def training_flops_per_token(config: "YxanulConfig", length: int) -> dict[str, int]:
    """Forward and backward, by part: 6 for each parameter in a matrix product, causal attention at half the square.

    Left out: norms, RoPE, softmax, optimizer, recomputation. A forward pass alone is a third.
    """
    table = parameter_table(config)
    body = table["attention"] + table["feed-forward"] + table.get("embedding projection", 0)
    return {
        "layers": 6 * body,
        "attention": 6 * config.num_hidden_layers * config.query_width * length,
        "head": 6 * head_products(config),
    }


def cache_bytes_per_token(config: "YxanulConfig", bytes_per_number: int = 2) -> int:
    """Keys and values of all layers, in bf16 unless told otherwise."""
    return 2 * config.num_hidden_layers * config.key_width * bytes_per_number
