"""The Trainer's own arguments for a run: what the recipe says, what our engine needs, what the machine can do.

Not here: which of them a recipe may give (config.py), what DDP, FSDP2 and ZeRO need (launch/parallel.py).
"""

import warnings
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import unset_hf_deepspeed_config

from yxanul.bad_input import BadInput
from yxanul.data.plan import Plan
from yxanul.run_folder import RunFolder
from yxanul.training.config import RunConfig
from yxanul.training.device import NEEDED_BY_FP8
from yxanul.training.launch.parallel import trainer_fields
from yxanul.training.precision import te_layers

SECONDS_UNTIL_LOST = 600  # a process that says nothing for so long is lost, and the others end


def is_on_gpu(config: RunConfig) -> bool:
    return torch.cuda.is_available() and not config.training_arguments.get("use_cpu", False)


def uses_bf16(config: RunConfig) -> bool:
    """For what is not in FP8, or for everything."""
    precision = resolved_precision(config)
    return precision == "bf16" or (precision in ("fp8", "te") and is_on_gpu(config))


def resolved_precision(config: RunConfig) -> str:
    """`auto` is bf16 on a GPU that has it, fp32 elsewhere."""
    on_gpu = is_on_gpu(config)
    if config.precision in ("fp8", "te") and on_gpu and torch.cuda.get_device_capability() < NEEDED_BY_FP8:
        needed, found = (".".join(map(str, each)) for each in (NEEDED_BY_FP8, torch.cuda.get_device_capability()))
        raise BadInput(
            f"precision={config.precision} needs a GPU of compute capability {needed} or newer, and "
            f"{torch.cuda.get_device_name()} has {found}: take precision=bf16."
        )
    if config.precision == "te":
        te_layers.load(on_gpu)
    if config.precision == "bf16" and not on_gpu:
        raise BadInput("precision=bf16 is for GPUs, a CPU trains slower with it: take precision=fp32, or auto.")
    has_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bf16" and not has_bf16:
        raise BadInput(f"precision=bf16: {torch.cuda.get_device_name()} has no bf16; take precision=fp32, or auto.")
    if config.precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    return config.precision


def training_arguments(config: RunConfig, plan: Plan, run: RunFolder, processes: int) -> TrainingArguments:
    fields: dict[str, Any] = {
        "output_dir": str(run.path),
        "max_steps": plan.steps,
        "per_device_train_batch_size": 1,  # of no meaning: the plan's phases have rows
        "gradient_accumulation_steps": config.accumulation(processes),
        "learning_rate": config.learning_rate,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "adam_epsilon": config.adam_epsilon,
        "max_grad_norm": config.max_grad_norm,
        "seed": config.seed,
        "logging_steps": config.logging_steps,
        "save_steps": config.save_steps,
        "save_strategy": "steps",
        "eval_strategy": "no",  # the stages say when
        "report_to": "none",  # trackers.py
        "disable_tqdm": True,  # console.py
        "remove_unused_columns": False,  # it would drop shift_labels
        "logging_nan_inf_filter": False,  # waits for the device in every micro-batch
        "include_num_input_tokens_seen": "no",  # so does this
        "ddp_timeout": SECONDS_UNTIL_LOST,
        "log_level": "error",
        "log_level_replica": "error",
    }
    fields |= trainer_fields(config.parallel, "bf16" if uses_bf16(config) else "fp32") | config.training_arguments
    # torch 2.13 has a newer word, which 2.11 does not know
    warnings.filterwarnings("ignore", ".*broadcast_buffers.* is deprecated", FutureWarning)
    try:
        args = TrainingArguments(**fields)
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{config.recipe}: transformers refuses these settings: {error}") from None
    unset_hf_deepspeed_config()  # under ZeRO-3 from_pretrained would split the weights; each process has them whole
    args._n_gpu = min(args.n_gpu, 1)  # one process on a machine of many GPUs would split its batches among them
    return args
