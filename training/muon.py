"""Muon for the matrices of the layers, AdamW for everything else, as one optimizer.

A matrix moves along its momentum with all singular values pushed towards 1 (Newton-Schulz), scaled to the root mean
square of an AdamW step, so rates and weight decay of AdamW carry over in size. Matrices of one shape are computed
together, and shared out among processes. On a GPU the iteration runs in bf16, elsewhere in fp32, where bf16 takes up
to forty times as long. Under FSDP2 a matrix is gathered, for a part of it has other singular values.
Keller Jordan et al., 2024; the scale is that of arXiv 2502.16982. Not for ZeRO, whose shards are flat.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
ADAMW_RMS = 0.2  # of an AdamW step's entries, about


def orthogonalised(matrices: Tensor) -> Tensor:
    """Of a batch (..., rows, columns): singular values that were not near 0 end between about 0.7 and 1.2."""
    a, b, c = COEFFICIENTS
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if is_tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


def shared_out(matrices: Tensor) -> Tensor:
    """`orthogonalised` of a batch that all processes have: each computes a part, and gets the others' parts."""
    count = dist.get_world_size() if dist.is_initialized() else 1
    if count == 1:
        return orthogonalised(matrices)
    each = -(-len(matrices) // count)
    mine = matrices.new_zeros(each, *matrices.shape[1:])
    part = matrices[each * dist.get_rank() :][:each]
    mine[: len(part)] = orthogonalised(part)
    directions = matrices.new_empty(each * count, *matrices.shape[1:])
    dist.all_gather_into_tensor(directions, mine)
    return directions[: len(matrices)]


class Muon(torch.optim.AdamW):
    """`matrices` go to Muon at `matrix_lr` with AdamW's weight decay; `groups` and `options` are AdamW's.

    `pairs` hold two matrices each, one below the other.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        groups: list[dict],
        matrix_lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.1,
        pairs: Iterable[nn.Parameter] = (),
        **options: Any,
    ) -> None:
        own = {"lr": matrix_lr, "momentum": momentum, "weight_decay": weight_decay}
        kinds = [{"params": list(matrices), "parts": 1} | own, {"params": list(pairs), "parts": 2} | own]
        super().__init__([*groups, *(kind for kind in kinds if kind["params"])], **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        groups = self.param_groups
        self.param_groups = [group for group in groups if "momentum" not in group]
        loss = super().step(closure)
        self.param_groups = groups
        for group in groups:
            if "momentum" in group:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape[parameter.shape].append(parameter)
        found_inf = getattr(self, "found_inf", None)
        for shape, parameters in by_shape.items():
            kept = None if found_inf is None else found_inf == 0
            updates = [self._momentum_update(parameter, group["momentum"], kept) for parameter in parameters]
            on_gpu = updates[0].device.type == "cuda"
            stacked = torch.stack(updates).to(torch.bfloat16 if on_gpu else torch.float32)
            apart = stacked.view(-1, shape[0] // group["parts"], shape[1])
            directions = (shared_out(apart) * (ADAMW_RMS * max(apart.shape[1:]) ** 0.5)).reshape(stacked.shape)
            size = group["lr"] if kept is None else group["lr"] * kept
            for parameter, direction in zip(parameters, directions, strict=True):
                here = _local(parameter)
                here.mul_(1 - size * group["weight_decay"])
                here.sub_(_local(_part_of(parameter, direction.to(parameter.dtype))) * size)

    def _momentum_update(self, parameter: nn.Parameter, momentum: float, kept: Tensor | None) -> Tensor:
        """Nesterov's; the whole matrix, also where this rank holds a part. A step that is not kept leaves no trace."""
        state = self.state[parameter]
        assert parameter.grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        gradient, buffer = _local(parameter.grad), _local(state["momentum_buffer"])
        if kept is not None:
            gradient = torch.where(kept, gradient, buffer)
        buffer.lerp_(gradient, 1 - momentum)
        update = gradient.lerp(buffer, momentum)
        if not isinstance(parameter, DTensor):
            return update
        mesh, placements = parameter.device_mesh, parameter.placements
        return DTensor.from_local(
            update, mesh, placements, shape=parameter.shape, stride=parameter.stride()
        ).full_tensor()


def _local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _part_of(parameter: Tensor, whole: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return whole
