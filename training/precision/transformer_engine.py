"""Training in FP8 by Transformer Engine: the swapped model, when it computes in FP8, and the state of its scales.

    te = TransformerEngine(model, policy, load(on_gpu), processes)    # swaps the model's layers in place
    te.begin_step()                                                   # before a step's first micro-batch
    with te.region(): ...                                             # around one micro-batch's forward alone
    te.warm_up(forward, backward, forget)                             # before the first step, unless te.is_warm
    te.save(folder), te.load(folder)                                  # delayed scaling's state, as plain tensors

Under delayed scaling a tensor is scaled by what its largest entries were, so it begins with wrong scales: they are
warmed up, saved beside the weights and restored. Current and block scaling have no state. Not here: the layers
(te_layers.py), which settings there are (policy.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from yxanul.bad_input import BadInput
from yxanul.training.precision.policy import Policy
from yxanul.training.precision.te_layers import Library, swap

SCALES = "scales.safetensors"
RECIPES = {"delayed": "DelayedScaling", "current": "Float8CurrentScaling", "block": "Float8BlockScaling"}
DIRECTIONS = ("scaling_fwd", "scaling_bwd")  # Transformer Engine's keys of a module's `fp8_meta`
STATE = ("scale", "amax_history")  # all that delayed scaling remembers, of each direction
# The first finds the largest entries of all but the gradients behind another product of the same module, which were
# rounded away by wrong scales; the second finds those, the third sees all of them through right ones.
WARM_UP_PASSES = 3


class TransformerEngine:
    def __init__(self, model: nn.Module, policy: Policy, library: Library, processes: int) -> None:
        if policy["fuse_accumulation"] and processes > 1:
            raise BadInput(
                "precision_policy.fuse_accumulation hides gradients from what sums them over processes, and there are "
                f"{processes}: leave it out."
            )
        self._library = library
        self._recipe = recipe_of(policy, library)
        self._group = dist.group.WORLD if processes > 1 else None  # whose ranks share their largest entries
        self._modules = swap(model, library, policy["fuse_accumulation"])
        self._has_state = policy["scaling"] == "delayed"
        self.is_warm = not self._has_state
        self._is_first: bool | None = None  # of a step's micro-batches; None: weights are cast in each of them
        if policy["weight_cache"]:
            for module in self._modules.values():
                module.register_forward_pre_hook(self._tell_whether_first, with_kwargs=True)
        self._caches, self._micro_batches = policy["weight_cache"], 0
        self._fused = [
            parameter
            for module in self._modules.values()
            if module.fuse_wgrad_accumulation
            for parameter in module.parameters()
            if parameter.ndim == 2
        ]

    # A step

    def begin_step(self) -> None:
        """Where it adds weights' gradients to a buffer itself, the optimizer shall find that as `grad`."""
        self._micro_batches = 0
        for parameter in self._fused:
            parameter.main_grad = parameter.grad = torch.zeros_like(parameter)

    @contextmanager
    def region(self) -> Iterator[None]:
        """Around a forward, once: at its end the forward's scales are renewed, in the backward pass its own."""
        self._is_first = self._micro_batches == 0 if self._caches else None
        with self._library.modules.autocast(enabled=True, recipe=self._recipe, amax_reduction_group=self._group):
            yield
        self._is_first, self._micro_batches = None, self._micro_batches + 1

    def _tell_whether_first(self, module: nn.Module, inputs: tuple, options: dict) -> tuple[tuple, dict]:
        return inputs, options | {"is_first_microbatch": self._is_first}

    # The scales of delayed scaling

    def warm_up(
        self, forward: Callable[[], Tensor], backward: Callable[[Tensor], Any], forget: Callable[[], Any]
    ) -> None:
        """`forward` enters the region itself. Nothing but the scales is left of it."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            for _ in range(WARM_UP_PASSES):
                self.begin_step()
                backward(forward())
        forget()
        self.begin_step()
        self.is_warm = True

    def save(self, folder: Path) -> None:
        """The same on every rank. A run that did not make a step yet knows no scales."""
        if self._has_state and self.is_warm:
            state = {name: tensor.cpu() for name, tensor in self._state().items()}
            save_file(state, folder / SCALES)

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{name}.{direction}.{part}": getattr(module.fp8_meta[direction], part)
            for name, module in self._modules.items()
            for direction in DIRECTIONS
            for part in STATE
        }

    @torch.no_grad()  # else leaving the region would renew the scales
    def load(self, folder: Path) -> None:
        """A checkpoint of another precision, or of another length of history, leaves them to be warmed up."""
        if not self._has_state or not (folder / SCALES).exists():
            return
        with self.region():
            for module in self._modules.values():
                module.init_fp8_metadata(num_gemms=2 if hasattr(module, "fc1_weight") else 1)
        saved, state = load_file(folder / SCALES), self._state()
        if all(saved[name].shape == tensor.shape for name, tensor in state.items()):
            for name, tensor in state.items():
                tensor.copy_(saved[name])
            self.is_warm = True


def recipe_of(policy: Policy, library: Library) -> Any:
    recipes: Any = library.recipes
    kind = getattr(recipes, RECIPES[policy["scaling"]])
    options = {"fp8_format": recipes.Format.E4M3 if policy["gradients"] == "e4m3" else recipes.Format.HYBRID}
    if policy["scaling"] == "delayed":
        options |= {"amax_history_len": policy["history"], "amax_compute_algo": "max"}
    unknown = options.keys() - {field.name for field in fields(kind)}
    if unknown:  # Transformer Engine would ignore it in silence
        raise BadInput(
            f"precision=te: this Transformer Engine's {kind.__name__} has no {min(unknown)}: install another version "
            "(docs/precision.md names those that work), or take precision=bf16."
        )
    if policy["scaling"] == "block":
        available, reason = library.modules.is_fp8_block_scaling_available(return_reason=True)
        if not available:
            raise BadInput(f"precision_policy.scaling=block: {reason} Take delayed or current.")
    return kind(**options)
