"""The optimizer with sound groups, and the learning rate of every step as a function of the plan.

    rate = learning_rates(config, plan)      # rate(0), rate(1), ...: nothing to save, nothing to resume
    optimizer = build_optimizer(model, config)

A schedule warms up, stays or falls, and ends near `lr_end` of its peak; no step is wasted at a rate of 0. The run's
schedule spans the whole plan; a stage that names a key of its own has one over its own steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from yxanul.bad_input import BadInput
from yxanul.data.plan import Plan
from yxanul.training.checkpoints import named_parameters
from yxanul.training.config import STAGE_LEARNING_KEYS, RunConfig
from yxanul.training.muon import Muon


@dataclass(frozen=True)
class Schedule:
    kind: str
    peak: float
    steps: int
    warmup: int
    decay: float  # share of the steps; warmup_stable_decay alone
    end: float  # share of the peak

    def at(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        falls_from = self.steps - round(self.decay * self.steps) if self.kind == "warmup_stable_decay" else self.warmup
        if self.kind == "constant" or step < falls_from:
            return self.peak
        done = min(1.0, (step - falls_from) / (self.steps - falls_from))
        left = (1 + math.cos(math.pi * done)) / 2 if self.kind == "cosine" else 1 - done
        return self.peak * (self.end + (1 - self.end) * left)


def learning_rates(config: RunConfig, plan: Plan) -> Callable[[int], float]:
    whole = _schedule({}, config, plan, range(plan.steps), "the run")
    own: dict[int, Schedule] = {}
    for index, entry in enumerate(config.stages):
        keys = {key: entry[key] for key in STAGE_LEARNING_KEYS if key in entry}
        if keys:
            own[index] = _schedule(keys, config, plan, plan.stage_steps[index], f"stage {entry['name']}")

    def rate(step: int) -> float:
        step = min(step, plan.steps - 1)  # the scheduler asks once more after the last step
        index = plan.at(step).stage_index
        return own[index].at(step - plan.stage_steps[index].start) if index in own else whole.at(step)

    return rate


def _schedule(keys: dict, config: RunConfig, plan: Plan, steps: range, where: str) -> Schedule:
    values = {key: keys.get(key, getattr(config, key)) for key in STAGE_LEARNING_KEYS}
    if "warmup_steps" in keys and "warmup_tokens" not in keys:
        values["warmup_tokens"] = None
    warmup = values["warmup_steps"]
    if values["warmup_tokens"] is not None:
        target = plan.at(steps.start).tokens_before + values["warmup_tokens"]
        warmup = next((step for step in steps if plan.at(step).tokens_before >= target), steps.stop) - steps.start
    if warmup >= len(steps):
        raise BadInput(f"{where}: a warm-up of {warmup:,} steps leaves nothing of its {len(steps):,}: shorten it.")
    return Schedule(
        values["lr_scheduler_type"],
        values["learning_rate"],
        len(steps),
        warmup,
        min(values["lr_decay"], 1 - warmup / len(steps)),
        values["lr_end"],
    )


def build_optimizer(model: Any, config: RunConfig) -> torch.optim.AdamW:
    """Matrices decay. Norms do not, nor do embedding tables, whose rows would shrink whenever they are not met."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    of_layers = {id(parameter) for parameter in model.model.layers.parameters() if parameter.ndim == 2}
    muons = of_layers if config.optimizer == "muon" else set()
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    pairs: list[nn.Parameter] = []
    for names, parameter in named_parameters(model):
        decays = parameter.ndim >= 2 and id(parameter) not in tables
        of_muon = pairs if len(names) == 2 else matrices
        (of_muon if id(parameter) in muons else decaying if decays else others).append(parameter)
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "fused": True,  # the fastest on a CPU too, and it can skip a step by a tensor (guard.py)
    }
    if not matrices:
        return torch.optim.AdamW(groups, **options)
    rate = config.matrix_learning_rate or config.learning_rate
    return Muon(matrices, groups, rate, weight_decay=config.weight_decay, pairs=pairs, **options)
