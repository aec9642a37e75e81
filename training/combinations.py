"""Which settings of a run go together: what no single one shows, refused in a sentence before any work.

Not here: what each setting may be (config.py), whether this machine can do what is asked (pretrain.py).
"""

from yxanul.bad_input import unknown_name
from yxanul.training.config import SETTINGS, STAGE_LEARNING_KEYS, RunConfig
from yxanul.training.lora import read_lora
from yxanul.training.precision.policy import read_policy

# its attention is plain causal; its modules cannot be traced; what torch computes again would leave FP8's region
NOT_WITH_TE = ("document_mask", "activation_checkpointing", "gradient_checkpointing")


def check_together(config: RunConfig) -> None:
    """What no single setting shows."""
    if config.gradient_accumulation_steps and config.max_micro_batch_tokens:
        raise config.wrong("gradient_accumulation_steps and max_micro_batch_tokens are both given: leave one out.")
    if config.save_steps % config.logging_steps:
        lower = config.save_steps // config.logging_steps * config.logging_steps
        fitting = [str(steps) for steps in (lower, lower + config.logging_steps) if steps]
        raise config.wrong(
            f"save_steps={config.save_steps} must be a multiple of logging_steps={config.logging_steps}: "
            f"{' or '.join(fitting)} would be."
        )
    if not config.training_arguments.get("dataloader_num_workers"):
        for name in ("dataloader_persistent_workers", "dataloader_prefetch_factor"):
            if config.training_arguments.get(name):
                raise config.wrong(f"{name} is about data workers, and there are none: set dataloader_num_workers=1.")
    config.gates()
    if config.lora:
        _check_lora(config)
    _check_distillation(config)
    if (config.keep_best or config.early_stopping) and not (config.validation and config.eval_steps):
        raise config.wrong("keep_best and early_stopping compare evaluations: set validation and eval_steps.")
    if config.early_stopping and not config.keep_best:
        raise config.wrong("early_stopping ends a run at its worst: set keep_best: true, so that its best is kept.")
    if config.optimizer == "muon" and config.parallel.startswith("zero"):
        raise config.wrong(
            f"optimizer=muon needs whole matrices, {config.parallel} has flat shards: take fsdp2 or adamw."
        )
    read_policy(config.precision_policy, config.recipe, config.precision)
    if config.precision in ("fp8", "te") and config.parallel.startswith("zero"):
        raise config.wrong(
            f"precision={config.precision} is not tested under {config.parallel}: take fsdp2, or precision=bf16."
        )
    if config.precision == "te":
        _check_te(config)
    if config.optimizer != "muon" and config.matrix_learning_rate is not None:
        raise config.wrong("matrix_learning_rate is muon's: set optimizer=muon, or leave it out.")
    metric = config.metric_for_best_model
    known = ["bits_per_byte"] + [
        f"{domain}_{figure}"
        for domain in config.validation
        for figure in ("bits_per_byte", "loss", "perplexity", "accuracy")
    ]
    if metric.removeprefix("eval_") not in known:
        raise config.wrong(unknown_name("metric_for_best_model", metric, known))
    if config.greater_is_better != metric.endswith("_accuracy"):
        better = str(metric.endswith("_accuracy")).lower()
        raise config.wrong(f"the best {metric} is found with greater_is_better={better}: write that.")
    _check_schedules(config)


def _check_lora(config: RunConfig) -> None:
    base = read_lora(config.lora, config.recipe)["base"]
    if config.init_from is None:
        raise config.wrong("lora adapts a model that knows something: set init_from.")
    if config.optimizer == "muon":
        raise config.wrong("lora is for adamw: set optimizer=adamw matrix_learning_rate=null.")
    if config.precision == "te" or config.parallel.startswith("zero"):
        raise config.wrong("lora is for precision fp32, bf16 or fp8, and parallel ddp or fsdp2: set these.")
    if base != "full" and (config.precision == "fp8" or config.parallel == "fsdp2"):
        raise config.wrong(
            f"lora.base={base} is for precision fp32 or bf16 and parallel=ddp: fp8 and fsdp2 take matrices that are "
            "not quantised yet."
        )


def _check_distillation(config: RunConfig) -> None:
    if config.distill_teacher is None:
        for name in ("distill_weight", "distill_temperature", "distill_dtype"):
            if getattr(config, name) != SETTINGS[name].default:
                raise config.wrong(f"{name} is about a teacher: set distill_teacher, or leave it out.")
    elif config.parallel.startswith("zero"):
        raise config.wrong(f"distill_teacher is not tested under {config.parallel}: take ddp or fsdp2.")


def _check_te(config: RunConfig) -> None:
    for name, value in ({"document_mask": config.document_mask} | config.training_arguments).items():
        if value and name.startswith(NOT_WITH_TE):
            raise config.wrong(f"precision=te has no {name}: leave it out, or take precision=bf16.")
    if config.precision_policy.get("weight_cache") and config.parallel == "fsdp2":
        raise config.wrong("precision_policy.weight_cache has no effect under fsdp2: leave it out, or take ddp.")


def _check_schedules(config: RunConfig) -> None:
    """No key of a learning rate without an effect."""
    of_run = {key: getattr(config, key) for key in STAGE_LEARNING_KEYS}
    kinds = {stage.get("lr_scheduler_type", config.lr_scheduler_type) for stage in config.stages}
    changed = {key: value for key, value in of_run.items() if value != SETTINGS[key].default}
    schedules = [("", changed, kinds)]
    for stage in config.stages:
        kind = stage.get("lr_scheduler_type", config.lr_scheduler_type)
        schedules.append((f"stage {stage.get('name')}: ", stage, {kind}))
    for place, keys, kinds in schedules:
        if keys.get("warmup_steps") and keys.get("warmup_tokens") is not None:
            raise config.wrong(f"{place}warmup_steps and warmup_tokens are both given: leave one out.")
        if "lr_decay" in keys and "warmup_stable_decay" not in kinds:
            raise config.wrong(f"{place}lr_decay is of lr_scheduler_type warmup_stable_decay alone: leave it out.")
        if "lr_end" in keys and kinds == {"constant"}:
            raise config.wrong(f"{place}lr_end has no effect with lr_scheduler_type constant: leave it out.")
