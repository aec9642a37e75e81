"""What a run is: one flat, typed, checked `RunConfig`; default < recipe (YAML) < command line.

`read_config("demo", ["learning_rate=1e-3", "stages.language.tokens=1e6"])` reads a built-in recipe or a YAML file;
fields of `TrainingArguments` stand beside ours (training_arguments_fields.py). Importing this loads neither torch nor
transformers; `shape()` loads the latter. Not here: which settings go together (combinations.py), the keys of a stage
(data/stages.py), how missing data is made (preparing.py), and whether this machine can do what is asked (pretrain.py).
"""

from __future__ import annotations  # a field's type is then the text that `cast` reads

import contextlib
import copy
import difflib
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from importlib.resources import files
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.hub_reach import offline_where_no_hub_is
from yxanul.data.plan import Plan
from yxanul.data.stages import read_stages
from yxanul.data.whole_files import write_whole
from yxanul.strict_yaml import parse_assignments, read_yaml
from yxanul.training.cast import cast, check_limits
from yxanul.training.dotted import assign, flatten
from yxanul.training.gates import Gate, read_gate
from yxanul.training.precision.policy import read_policy
from yxanul.training.training_arguments_fields import ACCEPTED, accept, field_types

if TYPE_CHECKING:
    from yxanul.catalog import Shape

SCHEDULES = ("constant", "linear", "cosine", "warmup_stable_decay")
ATTENTION = ("auto", "sdpa", "varlen", "flex_attention", *(f"flash_attention_{version}" for version in (2, 3, 4)))
COMPILE = ("auto", "none", "layers", "model")
STAGE_LEARNING_KEYS = ("learning_rate", "lr_scheduler_type", "warmup_steps", "warmup_tokens", "lr_decay", "lr_end")
SCALE_HELP = "the same recipe as a toy: seconds, offline, on built-in text; its figures mean nothing"


def setting(about: str, default: Any = MISSING, **limits: Any) -> Any:
    if isinstance(default, list | dict):
        return field(default_factory=type(default), metadata={"help": about, **limits})
    return field(default=default, metadata={"help": about, **limits})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    model: str = setting("a preset's name or a checkpoint's folder: its shape (default: init_from's)")
    model_config: dict[str, Any] = setting("fields of the shape to change", {})
    init_from: str | None = setting("a checkpoint's folder or Hub name: its weights", None)
    tokenizer: str | None = setting("a folder, a tokenizer.json or a Hub name (default: the bins')", None)
    stages: list[dict[str, Any]] = setting("the plan: sources, budget, phases, and learning-rate keys of its own")
    validation: dict[str, str] = setting("domain -> its held-out bin", {})
    validation_tokens: int = setting("read from each domain, at most", 1_000_000, at_least=1)
    validation_length: int | None = setting("tokens in a row (default: the plan's longest)", None, at_least=1)
    data: dict[str, Any] = setting("how missing bins and the tokenizer are made", {})
    document_mask: bool = setting("a token sees its own document alone", False)
    seed: int = setting("of the weights, the data's order and dropout", 1, at_least=0, at_most=2**32 - 1)

    distill_teacher: str | None = setting("a folder or Hub name: learn from its probabilities too", None)
    distill_weight: float = setting("the teacher's share of the loss; the rest is the text's", 0.5, above=0, at_most=1)
    distill_temperature: float = setting(
        "both models' logits are divided by it, for the teacher's share", 1.0, above=0
    )
    distill_dtype: str = setting(
        "of the teacher's weights; auto: bf16 on a GPU, else fp32", "auto", choices=("auto", "fp32", "bf16", "int8")
    )
    lora: dict[str, Any] = setting("an adapter learns alone: r, alpha, dropout, targets, embeddings, base", {})
    optimizer: str = setting("adamw, or muon for the layers' matrices", "adamw", choices=("adamw", "muon"))
    learning_rate: float = setting("the peak", 1e-3, above=0)
    matrix_learning_rate: float | None = setting("of muon's matrices (default: learning_rate)", None, above=0)
    lr_scheduler_type: str = setting(", ".join(SCHEDULES), "warmup_stable_decay", choices=SCHEDULES)
    warmup_steps: int = setting("whole steps, not a share; or", 0, at_least=0)
    warmup_tokens: int | None = setting("tokens", None, at_least=0)
    lr_decay: float = setting("share of the steps that decay, of warmup_stable_decay", 0.2, at_least=0, at_most=1)
    lr_end: float = setting("share of the peak that is left at the end", 0.0, at_least=0, at_most=1)
    weight_decay: float = setting("of matrices", 0.1, at_least=0)
    adam_beta1: float = setting("mean of the gradients", 0.9, at_least=0, below=1)
    adam_beta2: float = setting("mean of their squares", 0.95, at_least=0, below=1)
    adam_epsilon: float = setting("added to the root of the latter", 1e-8, above=0)
    max_grad_norm: float = setting("gradients are clipped to it", 1.0, above=0)
    z_loss: float = setting("weight of the squared log of the softmax's sum, part of the loss", 0.0, at_least=0)
    skip_above: float = setting(
        "skip a step whose gradient norm is this many times the mean; 0: none", 100.0, at_least=0
    )
    max_bad_steps: int = setting("such steps in a row, then the run saves and stops", 10, at_least=1)

    precision: str = setting(
        "auto, fp32, bf16, fp8 or te (Transformer Engine)", "auto", choices=("auto", "fp32", "bf16", "fp8", "te")
    )
    precision_policy: dict[str, Any] = setting("of fp8 and te: what goes into FP8 and how (docs/precision.md)", {})
    parallel: str = setting(
        "auto, ddp, fsdp2, zero1 to zero3", "auto", choices=("auto", "ddp", "fsdp2", "zero1", "zero2", "zero3")
    )
    attention: str = setting("auto, or the kernel that attends", "auto", choices=ATTENTION)
    compile: str = setting(", ".join(COMPILE), "auto", choices=COMPILE)
    gradient_accumulation_steps: int | None = setting("micro-batches in a step (default: 1); or", None, at_least=1)
    max_micro_batch_tokens: int | None = setting("what one process can hold of them at once", None, at_least=1)

    logging_steps: int = setting("steps between two logs", 10, at_least=1)
    save_steps: int = setting("steps between two checkpoints", 500, at_least=1)
    eval_steps: int | None = setting("steps between two evaluations, besides every stage's end", None, at_least=1)
    save_total_limit: int = setting("checkpoints that are kept, besides the best and the stages' ends", 2, at_least=1)
    metric_for_best_model: str = setting("of the evaluation, such as math_loss", "bits_per_byte")
    greater_is_better: bool = setting("true for an accuracy", False)
    keep_best: bool = setting("final/ is the best checkpoint by that metric, not the last", False)
    early_stopping: int | None = setting("evaluations without a new best, then the run ends", None, at_least=1)
    report_to: list[str] = setting("tensorboard, wandb, trackio", [], choices=("tensorboard", "wandb", "trackio"))

    training_arguments: dict[str, Any] = field(default_factory=dict)  # those of transformers that have an effect here
    recipe: str = field(default="", compare=False)  # its file, for messages

    def wrong(self, message: object) -> BadInput:
        return BadInput(f"{self.recipe}: {message}")

    def plan(self) -> Plan:
        try:
            plan = Plan(read_stages(self.stages, Path(), other_keys=(*STAGE_LEARNING_KEYS, "gate")))
        except BadInput as error:
            raise self.wrong(error) from None
        for stage in plan.stages:
            first, epochs = stage.phases[0], stage.epochs or 0
            tokens = stage.tokens or int(epochs * sum(source.tokens for source in stage.sources))
            if 0 < tokens < first.step_tokens:
                raise self.wrong(
                    f"stage {stage.name}: its budget of {tokens:,} tokens is less than one step of {first.rows:,} x "
                    f"{first.length:,} = {first.step_tokens:,}: raise it, or take fewer rows."
                )
        return plan

    def gates(self) -> dict[str, Gate]:
        """Of the stages that have one, by their names."""
        domains = list(self.validation)
        gated = {str(stage["name"]): stage["gate"] for stage in self.stages if "gate" in stage}
        try:
            return {name: read_gate(entry, name, domains) for name, entry in gated.items()}
        except BadInput as error:
            raise self.wrong(str(error)) from None

    def shape(self) -> Shape:
        try:  # first, for it imports little
            folder = _folder_of_hub_model(self.model) if self.model == self.init_from else self.model
        except BadInput as error:
            raise self.wrong(f"model {self.model}: {error}") from None
        from yxanul.catalog import load_shape
        from yxanul.configuration_yxanul import YxanulConfig

        for key in self.model_config:
            if key not in YxanulConfig.__annotations__:
                raise self.wrong(f"model_config: {unknown_name('field', str(key), YxanulConfig.__annotations__)}")
        try:
            return load_shape(folder, self.model_config)
        except BadInput as error:
            raise self.wrong(f"model {self.model}: {error}") from None

    def accumulation(self, processes: int) -> int:
        """Micro-batches in a step; constant over the run."""
        plan, parts = self.plan(), self.gradient_accumulation_steps or 1
        try:
            plan.check_division(processes, parts)
        except BadInput as error:
            raise self.wrong(error) from None
        if self.max_micro_batch_tokens is None:
            return parts
        phases = [phase for stage in plan.stages for phase in stage.phases]
        most = gcd(*(phase.rows for phase in phases)) // processes
        tokens = max(phase.step_tokens for phase in phases) // processes
        for parts in range(1, most + 1):
            if most % parts == 0 and tokens <= parts * self.max_micro_batch_tokens:
                return parts
        raise self.wrong(
            f"max_micro_batch_tokens={self.max_micro_batch_tokens} cannot be kept: the rows of all phases divide by "
            f"{processes} processes x {most} accumulation at most, which leaves {tokens // most} tokens; raise it to "
            "that, use more processes, or give rows that divide further."
        )

    def resolved(self) -> dict[str, Any]:
        """Every setting as YAML holds it, defaults and the whole shape written out; reading it gives the same run."""
        shape = self.shape().config
        whole_shape = shape.to_dict()
        values = {name: getattr(self, name) for name in SETTINGS} | self.training_arguments
        values["model_config"] = {name: whole_shape[name] for name in type(shape).__annotations__}
        return copy.deepcopy(values)


FOLLOWING = ("model_config", "data", "stages")  # many keys each; of differences those of others come first
SETTINGS = {known.name: known for known in fields(RunConfig) if known.metadata}
# none of these touches the data or the mathematics, nor does a field of TrainingArguments that is accepted
FREE = """
    model validation validation_tokens validation_length max_bad_steps precision precision_policy parallel
    attention compile gradient_accumulation_steps max_micro_batch_tokens logging_steps save_steps eval_steps
    save_total_limit report_to
"""


def settings_help() -> str:
    """Every setting in a line, for --help."""
    lines = ["settings, in a recipe or as key=value (stages.NAME.tokens=1e6 reaches inside):"]
    for name, known in SETTINGS.items():
        default = "" if known.default in (MISSING, None) else f" (default: {known.default})"
        lines.append(f"  {name:28} {known.metadata['help']}{default}")
    return "\n".join([*lines, f"and of transformers' TrainingArguments: {', '.join(ACCEPTED)}"])


def read_config(recipe: str, assignments: list[str], scale: str | None = None) -> RunConfig:
    """`recipe` is a built-in recipe's name or a YAML file; assignments are `key=value`, with dots to reach inside."""
    from yxanul.training.combinations import check_together  # which reads the settings of this file

    file = _recipe_file(recipe)
    changes = parse_assignments(assignments)
    given = read_yaml(file)
    if scale:  # before the assignments; what is wrong with the recipe itself is said of its own figures
        from yxanul.training.scale import scaled

        read_config(recipe, []).plan()
        given = scaled(given, str(file), changes.get("init_from"))
    for key, value in changes.items():
        if value is None and f"{key}=" in assignments:
            raise BadInput(f"command line: {key}= is empty: leave it out to keep the default, or write {key}=null.")
        assign(given, key, value)

    def where(path: str) -> str:
        changed = any(f"{path}.".startswith(f"{key}.") or key.startswith(f"{path}.") for key in changes)
        return "command line" if changed else str(file)

    values: dict[str, Any] = {"training_arguments": {}, "recipe": str(file)}
    for name, value in given.items():
        if name in SETTINGS:
            values[name] = _checked(name, value, where(name))
        elif name in field_types() or name in ACCEPTED:
            argument = accept(name, value, where(name))
            if argument.keys() & values["training_arguments"].keys():
                raise BadInput(f"{where(name)}: {name} is given under its older and its newer name: leave one out.")
            values["training_arguments"] |= argument
        else:
            known = SETTINGS.keys() | field_types().keys()
            near = difflib.get_close_matches(str(name), known, n=1)  # without one, our own settings are list enough
            raise BadInput(f"{where(str(name))}: {unknown_name('setting', str(name), near or SETTINGS)}")
    if "init_from" in changes and "model" not in changes:  # weights bring their shape
        values["model"] = values["init_from"]
    values.setdefault("model", values.get("init_from"))
    for name in ("model", "stages"):
        if values.get(name) is None:
            raise BadInput(f"{file}: {name} is missing: {SETTINGS[name].metadata['help']}.")
    values["stages"] = [_checked_stage(entry, number, where) for number, entry in enumerate(values["stages"])]
    config = RunConfig(**values)
    check_together(config)
    return config


def write_config(config: RunConfig, path: Path) -> None:
    write_whole(path, [yaml.dump(config.resolved(), Dumper=_Dumper, sort_keys=False, allow_unicode=True)])


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        """What stands twice is written twice, not as *id001."""
        return True


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Where two resolved configs would read other data or compute other weights, a sentence each."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name in SETTINGS:
        if name not in FREE.split():
            before |= flatten(earlier.get(name, _default(name)), name)  # of a run from before there was such a setting
            after |= flatten(now.get(name), name)
    return [
        f"{key} was {before.get(key)}, is now {after.get(key)}"
        for key in sorted(before | after, key=lambda key: key.partition(".")[0] in FOLLOWING)
        if not _same(before.get(key), after.get(key))
    ]


def _default(name: str) -> Any:
    default, factory = SETTINGS[name].default, SETTINGS[name].default_factory
    return default if default is not MISSING else None if factory is MISSING else factory()


def _same(one: Any, other: Any) -> bool:
    """1e6 is text in YAML, and the same budget as 1000000."""
    if isinstance(one, str | int | float) and isinstance(other, str | int | float):
        with contextlib.suppress(ValueError):
            return float(one) == float(other)
    return bool(one == other)


def recipes() -> dict[str, Path]:
    """The built-in ones."""
    return {file.stem: file for file in sorted(Path(str(files("yxanul").joinpath("recipes"))).glob("*.yaml"))}


def _recipe_file(recipe: str) -> Path:
    built_in = recipes()
    if recipe in built_in:  # a file of that name is ./name
        return built_in[recipe]
    if not Path(recipe).is_file():
        raise unknown_name("recipe or file", recipe, built_in)
    return Path(recipe)


def _checked(name: str, value: Any, where: str) -> Any:
    if name == "report_to" and value == "none":  # the library's word
        return []
    if name == "warmup_steps" and isinstance(value, float) and 0 < value < 1:
        raise BadInput(f"{where}: warmup_steps={value} is a share: give whole steps, or warmup_tokens.")
    if name == "save_total_limit" and value == 1:
        raise BadInput(f"{where}: save_total_limit=1 leaves a moment without a complete checkpoint: give at least 2.")
    choices = SETTINGS[name].metadata.get("choices")
    if choices and isinstance(value, bool | int):  # YAML's true and yes are no names
        raise BadInput(f"{where}: {unknown_name(name, str(value).lower(), choices)}")
    value = cast(name, value, str(SETTINGS[name].type), where)
    check_limits(name, value, SETTINGS[name].metadata, where)
    if name == "precision_policy":
        read_policy(value, where, "any")
    return value


def _checked_stage(stage: Any, number: int, where: Callable[[str], str]) -> dict[str, Any]:
    """Its learning-rate keys; the others are read_stages' business."""
    if not isinstance(stage, dict):
        raise BadInput(f"{where('stages')}: stage {number + 1} must hold 'key: value' lines; it holds {stage!r}.")
    name = stage.get("name", number)
    place = f"{where(f'stages.{name}')}: stage {name}"
    return {key: _checked(key, value, place) if key in STAGE_LEARNING_KEYS else value for key, value in stage.items()}


def _folder_of_hub_model(name: str) -> str:
    """Where its config.json is, fetched if it is nowhere here."""
    place = Path(name)
    if place.is_dir():
        if any((folder / "adapter_config.json").exists() for folder in (place, place / "final")):
            raise BadInput(f"it is a LoRA adapter: give the model that `yxanul merge {name} --out FOLDER` makes.")
        if not (place / "config.json").exists() and (place / "final").is_dir():
            raise BadInput(f"it is a run, and the model is in its final/: give {place / 'final'}.")
        return name
    offline_where_no_hub_is()
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return str(Path(hf_hub_download(name, "config.json")).parent)
    except (OSError, HFValidationError):  # the Hub's own errors are OSErrors
        raise BadInput("it is no folder here, and no model on the Hub that can be reached and read.") from None
