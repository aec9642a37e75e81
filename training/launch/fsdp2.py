"""What FSDP2 needs to know of a tied factorised head, whose two factors belong to one group of shards; and of a save.

accelerate looks for ties by `weight` alone, and torch refuses a parameter that two groups share.
"""

from typing import Any

from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from yxanul.modeling_yxanul import YxanulFactorisedHead


def group_tied_factors(model: Any, accelerator: Accelerator) -> None:
    """Before anything else is sharded. The group stays whole after forward, for the head's backward comes next."""
    if not isinstance(model.lm_head, YxanulFactorisedHead):
        return
    plugin: Any = accelerator.state.fsdp_plugin
    fully_shard(
        [model.model.embed_tokens, model.model.embed_proj, model.lm_head],
        mesh=init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        reshard_after_forward=False,
        mp_policy=plugin.mixed_precision_policy or MixedPrecisionPolicy(),
        offload_policy=plugin.cpu_offload,
    )


def split_again(model: Any) -> None:
    """An evaluation leaves the outermost groups whole: other parameters than those that the optimizer knows."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
