"""Compiles what a run trains: `compile: auto | none | layers | model`, one static graph for each length of the plan.

    keep_compiled()                              # before torch is imported: a restart finds what was compiled
    compilation = resolve_compile(config, "sdpa")        # refuses what cannot be had; by what attends
    compilation.apply(model, config.plan())      # in place: module names, parameters and hooks stay what they are

`layers` compiles a decoder layer once and runs all layers by it; `model` compiles everything from the ids to the loss.
A graph that breaks, or more graphs than the plan has use for, is an error: nothing falls back to eager in silence.
Only training steps are compiled; evaluation and generation, whose shapes are many, run eagerly.
Not here: CUDA graphs, Transformer Engine (which torch cannot compile).
"""

import os
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput

if TYPE_CHECKING:
    from yxanul.data.plan import Plan
    from yxanul.training.config import RunConfig

BACKEND = "inductor"
HEADER = Path(sysconfig.get_path("include"), "Python.h")
CACHE = "TORCHINDUCTOR_CACHE_DIR"  # read when torch compiles first; Triton's kernels lie in it too


def keep_compiled() -> None:
    """torch's own default lies among temporary files, which a restarted machine has lost."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    os.environ.setdefault(CACHE, str(Path(caches, "yxanul", "compiled")))


@dataclass(frozen=True)
class Compilation:
    name: str
    reason: str
    loss: bool = False  # on a GPU what lies between the loss's products is a kernel of its own, in each of the modes

    def sentence(self) -> str:
        kept = f"; kept in {os.environ[CACHE]}" if self.name != "none" and CACHE in os.environ else ""
        return f"compile: {self.name} ({self.reason}{kept})."

    def apply(self, model: Any, plan: "Plan", documents: bool = False) -> None:
        """Before anything wraps the model; hooks that see what layers put out are installed already."""
        if self.name != "none" or self.loss:
            _allow(most_graphs(plan, documents))
        if self.name == "none":
            return
        compiled = _compiled()
        if self.name == "model":
            model.forward = _only_in_training(model, compiled)
            return
        for layer in model.model.layers:
            layer.forward = _only_in_training(layer, compiled, ignored="output_hidden_states")  # read behind its graph
            layer.self_attn._forward_hooks.clear()  # for attention maps, which no step asks for; they break the graph


def resolve_compile(config: "RunConfig", attention: str) -> Compilation:
    from yxanul.training.training_arguments import is_on_gpu

    asked, on_gpu = config.compile, is_on_gpu(config)
    if asked == "none":
        return Compilation("none", "asked for")
    if asked == "auto" and not on_gpu:
        return Compilation("none", "a CPU")
    if asked == "auto" and config.precision == "te":
        return Compilation("none", "Transformer Engine's layers", loss=not why_not_compile(on_gpu))
    no_compiler = why_not_compile(on_gpu)
    against = no_compiler or _against(asked, config, attention)
    if against and asked != "auto":
        raise BadInput(f"compile={asked}: {against}; or take compile=none.")
    loss = on_gpu and not no_compiler
    if against:
        return Compilation("none", f"SLOWER: {against}", loss)
    return Compilation("layers", "a GPU", loss) if asked == "auto" else Compilation(asked, "asked for", loss)


def why_not_compile(on_gpu: bool) -> str:
    """What is missing on this machine, and the mend."""
    compilers = ("gcc", "clang") if on_gpu else ("g++", "clang++")
    if not os.environ.get("CC" if on_gpu else "CXX") and not any(map(which, compilers)):
        return f"torch compiles with {' or '.join(compilers)}, and neither is installed: install one"
    if on_gpu and find_spec("triton") is None:
        return "on a GPU torch compiles with triton, which is not installed: install it"
    if on_gpu and not HEADER.exists():
        return "triton needs Python's headers, and Python.h is not there: install python3-dev"
    return ""


def _against(asked: str, config: "RunConfig", attention: str) -> str:
    """Why this run cannot be compiled, and the mend."""
    if config.precision == "te":
        return "Transformer Engine's modules cannot be traced: take precision=bf16"
    if config.parallel == "zero3":
        return "zero3 gathers every weight in a hook, which would break each graph: take fsdp2"
    if config.parallel == "fsdp2" and asked == "model":
        return "fsdp2 gathers each layer's weights between two graphs: take compile=layers"
    if attention == "flex_attention" and asked == "model":
        return "transformers warns while it makes flex_attention's mask, which breaks the graph: take compile=layers"
    return ""


def most_graphs(plan: "Plan", documents: bool) -> int:
    """One for each shape of a micro-batch, and a second where some layers are checkpointed, or where a step logs.

    With a document mask the bounds of documents may take other room, which doubles, from 1 in 256 tokens to all.
    """
    shapes = {(phase.length, phase.rows) for stage in plan.stages for phase in stage.phases}
    return 2 * len(shapes) * (9 if documents else 1)


def _allow(graphs: int) -> None:
    import torch

    limits: Any = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, graphs)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, graphs)
    limits.fail_on_recompile_limit_hit = True
    limits.skip_fwd_side_effects_in_bwd_under_checkpoint = True  # hidden states are kept for a log once, not again
    limits.optimize_ddp = False  # it splits graphs for DDP, and refuses those with checkpointed activations


def _compiled() -> Callable:
    """One function for all layers, so that the second finds the graph of the first: weights are its inputs."""
    import torch

    def forward(module: Any, *arguments: Any, **options: Any) -> Any:
        return type(module).forward(module, *arguments, **options)  # FSDP2 gives modules another class later on

    return torch.compile(forward, backend=BACKEND, fullgraph=True, dynamic=False)


def _only_in_training(module: Any, compiled: Callable, ignored: str = "") -> Callable:
    @wraps(type(module).forward)
    def forward(*arguments: Any, **options: Any) -> Any:
        options.pop(ignored, None)
        if not module.training:
            return type(module).forward(module, *arguments, **options)
        return compiled(module, *arguments, **options)

    return forward
