"""LoRA: small adapters are learnt, the model stays as it is; PEFT injects them, saves and loads them.

    lora: {r: 16, alpha: 32, dropout: 0.0, targets: all}      # in a recipe; targets: attention, mlp, all, or names
    lora: {r: 8, targets: [q_proj, v_proj], embeddings: true}
    lora: {base: nf4}      # QLoRA: the model below is kept in 4 bits, or with int8 in 8 (quantised_base.py)

Checkpoints and final/ are PEFT's adapter folders. Not here: merging (merge.py), adapters of the head, which would give
logits in place of our loss (modeling_yxanul.py).
"""

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.training.cast import cast, check_limits

if TYPE_CHECKING:
    from torch import Tensor, nn

KEYS = {"r": "int", "alpha": "float", "dropout": "float", "targets": "list[str]", "embeddings": "bool", "base": "str"}
LIMITS: dict[str, dict[str, Any]] = {
    "r": {"at_least": 1},
    "alpha": {"above": 0},
    "dropout": {"at_least": 0, "below": 1},
    "base": {"choices": ("full", "nf4", "int8")},
}
ATTENTION, MLP = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
TARGETS = {"attention": ATTENTION, "mlp": MLP, "all": ATTENTION + MLP}
FILE = "adapter_model.safetensors"
NAME = "default"  # PEFT's, of an adapter
TABLE = "embed_tokens"
ABOVE = "lora_base"  # the name of what it learnt above, among the metadata of the weights


def read_lora(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Every key checked, and set."""
    for key in given:
        if key not in KEYS:
            raise BadInput(f"{where}: lora: {unknown_name('key', str(key), KEYS)}")
    values: dict[str, Any] = {"r": 16, "dropout": 0.0, "targets": "all", "embeddings": False, "base": "full"} | given
    values = {key: cast(f"lora.{key}", value, KEYS[key], where) for key, value in values.items()}
    for key, value in values.items():
        check_limits(f"lora.{key}", value, LIMITS.get(key, {}), where)
    return {"alpha": 2.0 * values["r"]} | values


def add_adapters(model: Any, given: dict[str, Any], base: str, where: str) -> None:
    """In place; what was there learns no more."""
    from torch import nn

    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise BadInput('lora needs PEFT: pip install "yxanul[lora]".') from None

    values = read_lora(given, where)
    linear = {name.rpartition(".")[2] for name, part in model.model.named_modules() if isinstance(part, nn.Linear)}
    names = [name for target in values["targets"] for name in TARGETS.get(target, [target])]
    for name in names:
        if name not in linear:
            known = ", ".join([*TARGETS, *sorted(linear)])
            raise BadInput(f"{where}: lora.targets: {name} matches nothing in the model; there are {known}.")
    if values["embeddings"] and model.config.tie_word_embeddings:
        raise BadInput(
            f"{where}: lora.embeddings: the model's head is its embedding table, and a merge would change the head "
            "too: leave embeddings out."
        )
    config = LoraConfig(
        r=values["r"],
        lora_alpha=values["alpha"],
        lora_dropout=values["dropout"],
        target_modules=[*names, *([TABLE] if values["embeddings"] else [])],
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(Path(base).resolve()) if Path(base).is_dir() else base,
    )
    if values["base"] != "full":
        from yxanul.training.quantised_base import quantise_base

        quantise_base(model, values["base"])
    inject_adapter_in_model(config, model)
    model.lora_base = values["base"]


def is_adapted(model: Any) -> bool:
    return bool(getattr(model, "peft_config", None))


def stored_name(name: str) -> str:
    """A parameter's name in PEFT's file, if it is an adapter's."""
    return f"base_model.model.{name.replace(f'.{NAME}', '')}" if ".lora_" in name else name


def save_adapter(model: Any, folder: Path, weights: "dict[str, Tensor]") -> None:
    from safetensors.torch import save_file

    config = copy.copy(model.peft_config[NAME])
    config.inference_mode = True
    config.save_pretrained(folder)
    tensors = {stored_name(name): weight.contiguous() for name, weight in weights.items()}
    save_file(tensors, folder / FILE, {ABOVE: model.lora_base})  # of two entries the order would change by chance


def learnt_above(folder: Path) -> str:
    """full, nf4 or int8, of the model below: PEFT's own file knows no place for it."""
    from safetensors import safe_open

    if not (folder / FILE).is_file():  # an older one, of PEFT's own
        return "full"
    with safe_open(folder / FILE, "pt") as file:
        return (file.metadata() or {}).get(ABOVE, "full")


def frozen_bytes(model: "nn.Module") -> int:
    """What all that does not learn takes, the scales of quantised matrices included."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    states = [vars(parameter).get("quant_state") for parameter in frozen]
    scales = [state.absmax for state in states if state is not None]
    scales += [vars(parameter)["SCB"] for parameter in frozen if vars(parameter).get("SCB") is not None]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*frozen, *scales])
