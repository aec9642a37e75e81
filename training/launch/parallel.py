"""How a run is spread over processes: `parallel` by name -> what TrainingArguments must be told.

ddp (each process holds everything) is right for 100 to 600 M parameters; fsdp2 and zero1 to zero3 shard. There are no
accelerate configuration files of ours: the name in the recipe is enough under every launcher.
Not here: starting processes (processes.py), what FSDP2 needs of a tied head (fsdp2.py), what ZeRO does (zero.py).
"""

import os
from importlib.util import find_spec
from typing import Any

from yxanul.bad_input import BadInput

# Set by `accelerate launch` alone. Its own settings would come on top of ours
ACCELERATES_CHOICES = {
    "FSDP_VERSION": ("FSDP", "fsdp2"),
    "ACCELERATE_CONFIG_DS_FIELDS": ("DeepSpeed", "zero1, zero2 or zero3"),
}


def trainer_fields(parallel: str, precision: str) -> dict[str, Any]:
    for variable, (name, mend) in ACCELERATES_CHOICES.items():
        if variable in os.environ:
            raise BadInput(
                f"accelerate's configuration asks for {name}: take that out, and set parallel={mend} in the recipe."
            )
    if parallel == "fsdp2":
        # the decoder's layers are the units; every process builds the whole model from the seed or the checkpoint
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "transformer_layer_cls_to_wrap": ["YxanulDecoderLayer"],
                "reshard_after_forward": True,
                "cpu_ram_efficient_loading": False,
            },
        }
    if parallel.startswith("zero"):
        return _zero(int(parallel[-1]), precision)
    return {"ddp_find_unused_parameters": False, "ddp_broadcast_buffers": False}


def check_parallel(parallel: str, processes: int) -> None:
    """Where a name would do nothing, in silence."""
    import torch

    if parallel in ("auto", "ddp"):
        return
    if not torch.cuda.is_available():
        raise BadInput(
            f"parallel={parallel} is for GPUs, and none can be seen: leave it out, and a CPU's processes use ddp."
        )
    if processes == 1:
        raise BadInput(f"parallel={parallel} shards over processes, and there is one: leave it out, or use more GPUs.")


def _zero(stage: int, precision: str) -> dict[str, Any]:
    if find_spec("deepspeed") is None:
        raise BadInput(f"parallel=zero{stage} needs DeepSpeed: pip install deepspeed, or take fsdp2.")
    settings: dict[str, Any] = {
        "zero_optimization": {"stage": stage},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,  # torch's own AdamW
    }
    if precision == "bf16":
        # fp32 weights, and gradients summed in fp32 (no modules in the list): the arithmetic of DDP. DeepSpeed's own
        # bf16 would round the weights themselves, and without this it switches our autocast off
        autocast = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        settings["torch_autocast"] = autocast
    return {"deepspeed": settings}
