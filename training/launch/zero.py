"""ZeRO 1, 2 and 3 under our engine: how DeepSpeed's optimizer takes a step, and where it keeps what we save and load.

    zero = Zero(optimizer, guard.judge, device)     # DeepSpeed's optimizer, once the Trainer has prepared it
    weight, moments = zero.parts(parameter)         # whole, on the CPU; every rank asks for the same
    zero.load_optimizer(folder, model)

DeepSpeed lays a group's parameters end to end and gives each rank a part of that, which is all its AdamW knows. Its
own checkpoints are neither written nor read. Not here: DeepSpeed's settings (parallel.py).
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from yxanul.training.checkpoints import OPTIMIZER, named_parameters

MOMENTS = ("exp_avg", "exp_avg_sq")


class Zero:
    def __init__(self, optimizer: Any, judge: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._sharded, self._adamw, self._judge, self._device = optimizer, optimizer.optimizer, judge, device
        self._adamw.found_inf = None
        self._adamw.register_step_pre_hook(self._before_a_groups_step)
        self._make_moments()
        warnings.filterwarnings("ignore", "`torch.distributed", FutureWarning)  # else torch 2.13 has one in every step

    # A step, which is taken inside of the last micro-batch's backward, one group of parameters after the other

    def _before_a_groups_step(self, *_: Any) -> None:
        if self._adamw.found_inf is None:
            norm = torch.as_tensor(self._sharded._global_grad_norm, dtype=torch.float32, device=self._device)
            self._adamw.found_inf = self._judge(norm)

    def after_step(self, norm: Tensor) -> None:
        """A gradient that is not finite never came to AdamW. The learning rate goes on over a skipped step."""
        if self._adamw.found_inf is None:
            self._judge(norm)
        self._adamw.found_inf = None
        self._sharded.overflow = False

    # Weights and moments

    def _make_moments(self) -> None:
        """As AdamW would in its first step, after which stages 1 and 2 link parameters to those of one group alone."""
        from deepspeed.utils import lazy_init_hp_params_optimizer_state

        sharded, state = self._sharded, self._adamw.state
        stage_3 = hasattr(sharded, "fp32_partitioned_groups_flat")
        flats = sharded.fp32_partitioned_groups_flat if stage_3 else sharded.single_partition_of_fp32_groups
        self._steps = []
        for flat in flats:
            state[flat] = {"step": torch.zeros((), device=flat.device)}
            state[flat] |= {key: torch.zeros_like(flat) for key in MOMENTS}
            self._steps.append(state[flat]["step"])
        if not stage_3:
            for parameters, flat in zip(sharded.bit16_groups, flats, strict=True):
                lazy_init_hp_params_optimizer_state(parameters, flat, state)

    def parts(self, parameter: nn.Parameter) -> tuple[Tensor, dict[str, Tensor]]:
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        moments = {key: safe_get_full_optimizer_state(parameter, key).cpu() for key in MOMENTS}
        return safe_get_full_fp32_param(parameter).cpu(), moments | {"step": self._steps[0].cpu().clone()}

    def load_optimizer(self, folder: Path, model: nn.Module) -> None:
        """Weights were loaded before DeepSpeed took the model."""
        from deepspeed.utils import safe_set_full_optimizer_state

        by_name = {name: parameter for (name,), parameter in named_parameters(model)}
        with safe_open(folder / OPTIMIZER, "pt") as file:
            for entry in file.keys():  # noqa: SIM118 - no dictionary
                name, _, key = entry.rpartition(".")
                value = file.get_tensor(entry).to(self._device)
                if key in MOMENTS:
                    safe_set_full_optimizer_state(by_name[name], value, key)
                else:  # every parameter has made as many steps
                    for step in self._steps:
                        step.copy_(value)
