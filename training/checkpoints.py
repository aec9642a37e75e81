"""Checkpoints that are complete or not there, by the names of the plain model, whatever trained it.

    model.safetensors, config.json, the model's code, tokenizer     what from_pretrained loads
    optimizer.safetensors     PARAMETER.exp_avg ... of every parameter: all of DDP, FSDP2 and ZeRO read it
    rank-00000.safetensors    random state and unlogged losses of each process
    scales.safetensors        of a run in precision=te with delayed scaling alone (precision/transformer_engine.py)
    trainer_state.json        the Trainer's own
    COMPLETE                  step, tokens, and the size of every file; written last

Rank 0 writes all of it to checkpoint-N.partial, syncs and renames. Not here: when to save (callbacks.py).
"""

import json
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from yxanul.bad_input import BadInput
from yxanul.data.progress import insist
from yxanul.data.whole_files import sync_folder, write_json
from yxanul.run_folder import COMPLETE, RunFolder, flaw, read_marker
from yxanul.training import lora
from yxanul.training.precision.te_layers import plain_names
from yxanul.training.precision.transformer_engine import SCALES
from yxanul.training.ranks import Ranks

OPTIMIZER, WEIGHTS, TRAINER_STATE = "optimizer.safetensors", "model.safetensors", "trainer_state.json"
PARTIAL = ".partial"

# A parameter -> its weight, and what the optimizer knows of it. ZeRO has both elsewhere (launch/zero.py)
Parts = Callable[[nn.Parameter], tuple[Tensor, dict[str, Tensor]]]


def parts_in(optimizer: torch.optim.Optimizer) -> Parts:
    return lambda parameter: (parameter, optimizer.state.get(parameter, {}))


def named_parameters(model: nn.Module) -> Iterator[tuple[list[str], nn.Parameter]]:
    """Each parameter that learns once, by its name in a model that nothing wrapped or compiled.

    It has several names where several of the plain model's lie in it, one below the other in equal parts.
    """
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # of the model below a LoRA adapter
            continue
        yield plain_names(name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")), parameter


def save(
    folder: Path,
    model: nn.Module,
    parts: Parts,
    ranks: Ranks,
    rank_state: dict[str, Tensor],
    marker: dict[str, Any],
    write_more: Callable[[Path], None],
) -> None:
    """Every rank calls it. `write_more` adds files to the folder that it is given, on rank 0."""
    weights: dict[str, Tensor] = {}
    moments: dict[str, Tensor] = {}
    known: set[bool] = set()
    for names, parameter in named_parameters(model):
        weight, of_parameter = parts(parameter)
        _collect(weights, names, weight, ranks)
        for key, value in of_parameter.items():
            _collect(moments, [f"{name}.{key}" for name in names], value, ranks)
        known.add(bool(of_parameter))
    assert len(known) == 1, "some parameters have moments, and others have none"
    rank_states = ranks.gather(rank_state)
    ranks.first_writes(lambda: _write(folder, model, weights, moments, rank_states, marker, write_more))


def _collect(into: dict[str, Tensor], names: list[str], tensor: Tensor, ranks: Ranks) -> None:
    """The whole tensor on rank 0, or copies of its parts; what is split is put together by all."""
    whole = tensor.detach()
    if isinstance(whole, DTensor):
        whole = whole.full_tensor().cpu()
    if ranks.is_first and len(names) == 1:
        into[names[0]] = whole
    elif ranks.is_first:
        parts = whole.chunk(len(names)) if whole.ndim else [whole] * len(names)
        into |= {name: part.to("cpu", copy=True) for name, part in zip(names, parts, strict=True)}


def _read(file: Any, names: list[str]) -> Tensor:
    """What `_collect` took apart."""
    parts = [file.get_tensor(name) for name in names]
    return torch.cat(parts) if len(parts) > 1 and parts[0].ndim else parts[0]


def _write(
    folder: Path,
    model: Any,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    rank_states: list[dict[str, Tensor]],
    marker: dict[str, Any],
    write_more: Callable[[Path], None],
) -> None:
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if lora.is_adapted(model):
            lora.save_adapter(model, partial, weights)
        else:
            model.save_pretrained(partial, state_dict=weights)
        save_file(moments, partial / OPTIMIZER)
        for rank, state in enumerate(rank_states):
            save_file(state, partial / f"rank-{rank:05d}.safetensors")
        write_more(partial)
    except BaseException:  # a full disk has no room for half a checkpoint
        shutil.rmtree(partial, ignore_errors=True)
        raise
    sizes = {}
    for file in _files(partial):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        sizes[file.relative_to(partial).as_posix()] = file.stat().st_size
    write_json(partial / COMPLETE, marker | {"files": sizes})
    sync_folder(partial)
    if folder.exists():  # a run that went back to an earlier checkpoint comes by again
        remove(folder)
    partial.rename(folder)
    sync_folder(folder.parent)


def _files(folder: Path) -> list[Path]:
    """Some tokenizers bring folders of templates."""
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _partial(folder: Path) -> Path:
    return folder.with_name(folder.name + PARTIAL)


def remove(folder: Path) -> None:
    """The marker goes first, so that a kill leaves nothing that looks whole."""
    (folder / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(folder)


def best_step(folder: Path) -> int | None:
    """Of all that the run had evaluated when it saved this."""
    return json.loads((folder / TRAINER_STATE).read_text(encoding="utf-8"))["best_global_step"]


def _step(folder: Path) -> int:
    return read_marker(folder)["step"]


def in_order(folder: Path) -> list[Path]:
    """The complete checkpoints in a folder, oldest step first."""
    return sorted((found for found in folder.glob("*") if found.suffix != PARTIAL and flaw(found) is None), key=_step)


def find(run: RunFolder, name: str | None) -> Path | None:
    """The checkpoint of that name or path, or the newest complete one."""
    if name is None:
        complete = in_order(run.checkpoints)
        return complete[-1] if complete else None
    candidates = [Path(name), run.checkpoints / name, run.checkpoints / f"checkpoint-{name}", run.stages / name]
    found = next((candidate for candidate in candidates if candidate.is_dir()), None)
    if found is None:
        known = ", ".join(folder.name for folder in in_order(run.checkpoints)) or "none"
        raise BadInput(f"--resume {name}: there is no such checkpoint; complete ones in {run.checkpoints}: {known}.")
    problem = flaw(found)
    if problem:
        raise BadInput(
            f"--resume {found} is no complete checkpoint: {problem}; leave --resume out for the newest one."
        )
    return found


def tell_of_damaged(run: RunFolder) -> None:
    """One that was whole once, as its marker says. With nothing else left, to begin anew is for the user to say."""
    complete = in_order(run.checkpoints)
    for folder in run.checkpoints.glob("*"):
        problem = flaw(folder)
        if problem and folder.suffix != PARTIAL and (folder / COMPLETE).exists():
            if not complete:
                raise BadInput(
                    f"{folder} is damaged ({problem}) and the run has no other checkpoint: restore it, or delete it "
                    "to begin anew."
                )
            insist(f"{folder} is damaged ({problem}): the run goes on from {complete[-1].name}.")


def check_fits(folder: Path, model: nn.Module) -> None:
    """Before a run writes anything: --force lets a recipe of another model through."""
    named = named_parameters(model)
    parameters = {lora.stored_name(name): parameter for (name,), parameter in named}  # nothing is fused yet
    weights = _weights(folder)
    with safe_open(weights, "pt") as file:
        ours, theirs = set(parameters), set(file.keys())
        for verb, names in (("lacks", ours - theirs), ("has", theirs - ours)):
            if names:
                raise BadInput(f"{weights} {verb} {min(names)}: it is a checkpoint of another model.")
        for name, parameter in parameters.items():
            shape = tuple(file.get_slice(name).get_shape())
            if shape != tuple(parameter.shape):
                raise BadInput(f"{weights}: {name} is {shape}, this model's is {tuple(parameter.shape)}.")


def _weights(folder: Path) -> Path:
    """Of a model, or of an adapter alone."""
    return folder / (lora.FILE if (folder / lora.FILE).exists() else WEIGHTS)


def load_weights(folder: Path, model: nn.Module) -> None:
    with safe_open(_weights(folder), "pt") as file, torch.no_grad():
        for names, parameter in named_parameters(model):
            parameter.copy_(_placed_as(parameter, _read(file, [lora.stored_name(name) for name in names])))


def load_optimizer(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Moments for every parameter that the file knows; a checkpoint that begins a run knows none."""
    keys = defaultdict(list)
    with safe_open(folder / OPTIMIZER, "pt") as file:
        for entry in file.keys():  # noqa: SIM118 - no dictionary
            name, _, key = entry.rpartition(".")
            keys[name].append(key)
        for names, parameter in named_parameters(model):
            for key in keys[names[0]]:
                value = _read(file, [f"{name}.{key}" for name in names])
                if value.shape == parameter.shape:
                    optimizer.state[parameter][key] = _placed_as(parameter, value)
                else:
                    optimizer.state[parameter][key] = value.to(parameter.device)


def _placed_as(parameter: Tensor, whole: Tensor) -> Tensor:
    """On the parameter's device, or this rank's part of it."""
    if isinstance(parameter, DTensor):
        on_device = whole.to(parameter.device)
        return distribute_tensor(on_device, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return whole.to(parameter.device)


def rank_states(folder: Path) -> list[dict[str, Tensor]]:
    return [load_file(file) for file in sorted(folder.glob("rank-*.safetensors"))]


def prune(run: RunFolder, keep: int, best_step: int | None) -> None:
    """Leaves the newest `keep` complete checkpoints and the best one; what a kill left half written goes too."""
    complete = in_order(run.checkpoints)
    kept = {folder.name for folder in complete[-keep:]} | {f"checkpoint-{best_step}"}
    for folder in run.checkpoints.glob("checkpoint-*"):
        if folder.name not in kept:
            remove(folder)


def set_aside_later(run: RunFolder, step: int) -> Path | None:
    """A run that goes back has another future; what was there would be taken for newer. Returns where it is now."""
    later = [folder for top in (run.checkpoints, run.stages) for folder in in_order(top) if _step(folder) > step]
    later += [run.final] if run.final.exists() else []  # a run that goes on is not at its end
    if not later:
        return None
    aside = run.path / f"set-aside-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir()
    for folder in later:
        folder.rename(aside / folder.name)
    return aside


def keep(checkpoint: Path, target: Path) -> None:
    """The same files under a second name, which rotation does not see; copies where the disk has no links."""
    _place(checkpoint, target, _files(checkpoint), _link_or_copy)


def write_final(checkpoint: Path, final: Path) -> None:
    """What from_pretrained needs; copies, for people edit what they publish."""
    own = (OPTIMIZER, SCALES, TRAINER_STATE, COMPLETE)
    files = [file for file in _files(checkpoint) if file.name not in own and not file.name.startswith("rank-")]
    _place(checkpoint, final, files, shutil.copy2)


def _place(source: Path, target: Path, files: list[Path], put: Callable[[Path, Path], Any]) -> None:
    partial = _partial(target)
    shutil.rmtree(partial, ignore_errors=True)
    for file in files:
        new = partial / file.relative_to(source)
        new.parent.mkdir(parents=True, exist_ok=True)
        put(file, new)
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    sync_folder(target.parent)


def _link_or_copy(file: Path, new: Path) -> None:
    try:
        os.link(file, new)
    except OSError:
        shutil.copy2(file, new)
