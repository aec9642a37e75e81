"""Which fields of transformers' `TrainingArguments` a recipe may set, and why it may not set the others.

Every field is one of three: a setting of ours with the same name (config.py), ACCEPTED as it is, or REFUSED with the
reason; so nothing is taken in silence that would do nothing. A test goes through the installed version's fields.
Names and types are read from the library's source: importing it costs a second and torch.
"""

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.training.cast import cast, check_limits

# name -> limits of its value
ACCEPTED: dict[str, dict[str, Any]] = {
    "activation_checkpointing": {},
    "activation_checkpointing_kwargs": {},
    "gradient_checkpointing": {},  # the older names of the two above
    "gradient_checkpointing_kwargs": {},
    "tf32": {},
    "use_cpu": {},
    "full_determinism": {},
    "per_device_eval_batch_size": {"at_least": 1},
    "dataloader_num_workers": {"at_least": 0},
    "dataloader_pin_memory": {},
    "dataloader_persistent_workers": {},
    "dataloader_prefetch_factor": {"at_least": 1},
    "ddp_backend": {},
    "ddp_bucket_cap_mb": {"at_least": 1},
    "ddp_static_graph": {},
    "ddp_timeout": {"at_least": 1},
    "logging_first_step": {},
    "log_level": {},
    "log_level_replica": {},
    "log_on_each_node": {},
    "run_name": {},
}

_REASONS = {
    "the stages say how long to train; give tokens, epochs or steps there": "max_steps num_train_epochs",
    "give the rows of a phase, and max_micro_batch_tokens": "per_device_train_batch_size",
    "a phase's rows are the recipe's; give max_micro_batch_tokens where memory is short": "auto_find_batch_size",
    "a resumed run goes on with the data that it has not seen": "ignore_data_skip",
    "a signal always saves, at the end of a step and on all processes": "enable_jit_checkpoint",
    "every stage's end is evaluated; give eval_steps for more": ("eval_strategy eval_on_start eval_delay"),
    "the command line says it: --evaluate-only": "do_train do_eval do_predict",
    "the command line says it: --resume CHECKPOINT": "resume_from_checkpoint",
    "the command line says it: --out RUN": "output_dir",
    "give precision": "bf16 fp16",
    "give compile": "torch_compile torch_compile_backend torch_compile_mode",
    "evaluation runs in the run's precision; give precision": "bf16_full_eval fp16_full_eval",
    "give parallel (auto, ddp, fsdp2, zero1, zero2 or zero3)": (
        "deepspeed fsdp fsdp_config parallelism_config accelerator_config"
    ),
    "the launcher sets it": "local_rank",
    "the best checkpoint is kept; load it with --resume or --init-from": "load_best_model_at_end",
    "publishing is no part of a run": (
        "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"
    ),
    "optimizer=adamw or muon says it": "optim optim_args optim_target_modules",
    "give lr_decay and lr_end": "lr_scheduler_kwargs",
    "give save_steps": "save_strategy",
    "give logging_steps": "logging_strategy",
    "a checkpoint without the optimizer could not be resumed": "save_only_model",
    "a run's folder lies on a disk that all nodes share": "save_on_each_node",
    "seed is the data's too": "data_seed",
    "it would change the loss that bits per byte are read from": "label_smoothing_factor neftune_noise_alpha",
    "the loss is a mean over the real tokens of the whole step, on any number of processes": (
        "average_tokens_across_devices"
    ),
    "a step that is not finite is skipped, counted and logged; give skip_above and max_bad_steps": (
        "logging_nan_inf_filter debug"
    ),
    "tokens are counted without it, from the plan": "include_num_input_tokens_seen",
    "training keeps no cache": "use_cache",
    "the plan says which rows a step eats, in which order": (
        "train_sampling_strategy length_column_name dataloader_drop_last dataloader_in_order"
    ),
    "it does nothing for this model, whose loss is fused already": "use_liger_kernel liger_kernel_config",
    "the engine sets it": "ddp_find_unused_parameters ddp_broadcast_buffers remove_unused_columns disable_tqdm",
    "it has no effect here": (
        "batch_eval_metrics dataloader_multiprocessing_context eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object include_for_metrics label_names prediction_loss_only project "
        "restore_callback_states_from_checkpoint skip_memory_metrics torch_empty_cache_steps "
        "trackio_bucket_id trackio_space_id trackio_static_space_id"
    ),
}
REFUSED = {name: reason for reason, names in _REASONS.items() for name in names.split()}


@cache
def field_types() -> dict[str, str]:
    """Every field of the installed `TrainingArguments` with the text of its type."""
    spec = find_spec("transformers")
    assert spec is not None and spec.submodule_search_locations is not None
    file = Path(spec.submodule_search_locations[0], "training_args.py")
    classes = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    (body,) = (node.body for node in classes if node.name == "TrainingArguments")
    return {ast.unparse(node.target): ast.unparse(node.annotation) for node in body if isinstance(node, ast.AnnAssign)}


def accept(name: str, value: Any, where: str) -> dict[str, Any]:
    """The argument under the installed version's name, checked; `where` is the file, or 'command line'."""
    if name == "eval_strategy" and value in ("no", False):  # YAML reads a bare `no` as false
        return {}
    if name in REFUSED:
        raise BadInput(f"{where}: {name} is refused: {REFUSED[name]}.")
    if name not in ACCEPTED:
        raise BadInput(f"{where}: {name} of TrainingArguments is not known here, and would have no effect.")
    new_name = name.replace("gradient_checkpointing", "activation_checkpointing")
    installed = new_name if new_name in field_types() else name.replace("activation_", "gradient_")
    value = cast(name, value, field_types()[installed], where)
    check_limits(name, value, ACCEPTED[name], where)
    return {installed: value}
