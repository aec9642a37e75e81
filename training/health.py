"""The health of a run: 40+ figures, computed on the device in the steps that log, fetched once, with alerts.

    health.observes = will_log      timed(...)  see_predictions(...)  see_gradients()     while the step runs
    numbers = health.fetch(guard.values)       one sum and one maximum over ranks, one wait for the device
    health.figures(numbers, ...)               goes into the line of metrics.jsonl; docs/health.md explains each

Gradients are read after accumulation and before clipping, where the optimizer's own tensors hold them: not under ZeRO.
Nothing here changes a weight, a gradient or a random number. Not here: what a bad step leads to (guard.py), alerts
(alerts.py), the device's own figures (device.py).
"""

import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from yxanul.catalog import training_flops_per_token
from yxanul.data.plan import Plan, Position
from yxanul.data.stream import IGNORED
from yxanul.run_folder import RunFolder, read_metrics
from yxanul.training.alerts import MEAN_OVER, Alerts
from yxanul.training.device import Device, seconds
from yxanul.training.ranks import Ranks

GROUPS = {"self_attn": "attention", "mlp": "mlp", "norm": "norms", "embed": "embedding", "lm_head": "head"}
ENTROPY_EVERY = 4  # tokens: of all of them it would cost a third of the loss, of these a tenth
REQUESTS = {"entropy_every": ENTROPY_EVERY, "output_hidden_states": True}  # of the model's forward
SAME = 1e-5  # nats between a target and the likeliest token: a hit. An argmax would cost as much as the entropy
BINS = 100  # of the distributions of entropy and confidence: a quantile is right to a hundredth of their range
QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
PIECE = 1 << 17  # entries, up to which small parameters are laid together: fewer kernels, and half a MB to copy
SAMPLE = 1 << 14  # entries of a parameter whose change is measured: its norm is then right to about a hundredth
# SwiGLU is never exactly 0. A channel is dead if its column of down_proj's gradient, a sum over all tokens of the
# step, has less than this share of the layer's typical norm: it gives a thousandth of what others give (silu(-10) is
# -0.0005) for every token, or as much as they for one token in a million; its share in what is written is a millionth.
DEAD = 1e-3
DOWN_PROJ = "mlp.down_proj.weight"


# By how much of a parameter an entry stands for: the entries as they are, and as they were before the step
Samples = dict[float, tuple[list[Tensor], Tensor]]


class Part(NamedTuple):
    """A parameter, and whether this rank answers for what it holds of it: replicas are counted once."""

    name: str
    group: str
    layer: int | None
    parameter: nn.Parameter
    is_mine: bool


class Health(TrainerCallback):
    def __init__(self, device: torch.device, ranks: Ranks, plan: Plan, config: Any, run: RunFolder) -> None:
        self.device, self.ranks, self.plan, self.config, self.run = Device(device), ranks, plan, config, run
        self.alerts = Alerts()
        self.observes = False
        self._parts: list[Part] = []
        self._forget()

    def know_parameters(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        self._parts = []
        for name, parameter in named:
            group = next((group for key, group in GROUPS.items() if key in name), "other")
            layer = re.search(r"layers\.(\d+)\.", name)
            self._parts.append(
                Part(name, group, int(layer[1]) if layer else None, parameter, self._is_mine(parameter))
            )
        self._groups = sorted({part.group for part in self._parts})

    def _is_mine(self, parameter: Tensor) -> bool:
        if not isinstance(parameter, DTensor):
            return self.ranks.is_first
        places: Any = parameter.device_mesh.get_coordinate()
        return all(kind.is_shard() or not place for kind, place in zip(parameter.placements, places, strict=True))

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A resumed run goes on with the means that it had."""
        if self.ranks.is_first:
            for line in read_metrics(self.run.metrics, containing='"eval_'):
                self.alerts.remember(line)
            for line in read_metrics(self.run.metrics, containing='"stage"', last=MEAN_OVER):
                self.alerts.remember(line)

    # While a step runs

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        began = self.device.mark() if self.observes else None
        yield
        if self.observes:
            self._spans.append((name, began, self.device.mark()))

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._optimizer_began = self.device.mark() if self.observes else None

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        if self.observes:
            self._spans.append(("optimizer", self._optimizer_began, self.device.mark()))

    @torch.no_grad()
    def see_predictions(self, outputs: Any, targets: Tensor) -> None:
        """Of a micro-batch."""
        if not self.observes:
            return
        entropy, confidence = outputs.token_entropy, outputs.token_confidence
        hits = (outputs.token_losses <= SAME - confidence.log()).logical_and(targets != IGNORED)
        counted = (targets != IGNORED).reshape(-1)
        self._add("accuracy", hits.sum())
        for name, values, every in (("entropy", entropy, ENTROPY_EVERY), ("confidence", confidence, 1)):
            edges = torch.linspace(0, self._largest(name), BINS + 1, device=targets.device)[1:-1]
            values, known = values.reshape(-1)[::every], counted[::every]
            self._add(f"{name} sums", torch.stack((known.sum().float(), values.sum().float())))
            self._add(name, (values.where(known, math.inf)[:, None] < edges).sum(0))
        states = [state.float() for state in outputs.hidden_states]
        norms = torch.stack([torch.linalg.vector_norm(state, dim=-1) for state in states])
        self._add("activation squares", norms.square().sum((1, 2)))
        self._add("activation nonfinite", norms.isfinite().logical_not().sum())
        lows, highs = (torch.stack(extremes) for extremes in zip(*map(torch.aminmax, states), strict=True))
        largest = torch.maximum(highs, -lows)
        self._maxima["activation"] = torch.maximum(largest, self._maxima.get("activation", largest))

    @torch.no_grad()
    def see_teacher(self, outputs: Any, divergences: Tensor | None, targets: Tensor) -> None:
        """Of a micro-batch: the two parts of its loss."""
        if self.observes and divergences is not None:
            counted = divergences.view(targets.shape).where(targets != IGNORED, 0.0)
            self._add("distill", torch.stack((outputs.token_losses.sum(), counted.sum())))

    def _largest(self, name: str) -> float:
        return math.log(self.config.vocab_size) if name == "entropy" else 1.0

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value

    @torch.no_grad()
    def see_gradients(self) -> None:
        """Before clipping, and of the weights that they are gradients of."""
        if not self.observes or not self._parts:
            return
        nothing = torch.zeros(1, device=self.device.device)
        gradients = [_local(part.parameter.grad) if part.is_mine else nothing for part in self._parts]
        self._sums["parameters"] = torch.stack(torch._foreach_norm(gradients)).square()
        down = [
            gradient for gradient, part in zip(gradients, self._parts, strict=True) if part.name.endswith(DOWN_PROJ)
        ]
        width = self.config.intermediate_size
        channels = [nothing.expand(width) if each is nothing else each.square().sum(0) for each in down]
        if channels:  # a LoRA adapter leaves down_proj itself without a gradient
            self._sums["channels"] = torch.stack(channels)
        for group in self._groups:
            mine = [index for index, part in enumerate(self._parts) if part.is_mine and part.group == group]
            weights = [_local(self._parts[index].parameter) for index in mine]
            samples = self._samples[group] = _samples(weights)
            laid_together = [before for factor, (_, before) in samples.items() if factor == 1]
            weights = laid_together + [weight for weight in weights if weight.numel() > SAMPLE]
            if group == "norms":  # near 1, where squares in fp32 would hide how they spread
                weights = [weight.to(_widest(self.device.device)) for weight in weights]
            for name, tensors in (("gradient", [gradients[index] for index in mine]), ("weight", weights)):
                self._sums[f"{name} {group}"], self._maxima[f"{name} {group}"] = _moments(tensors, nothing)

    def _see_update(self) -> None:
        """What the optimizer has changed. A sample stands for its parameter: the squares grow by the same factor."""
        for group, samples in self._samples.items():
            total = torch.zeros((), device=self.device.device)
            for factor, (now, before) in samples.items():
                change = torch.cat(now).sub_(before)
                total += change.dot(change) * factor
            self._sums[f"update {group}"] = total

    # When it logs

    @torch.no_grad()
    def fetch(self, guard: Tensor) -> dict[str, list[float]]:
        """The guard's values and this step's figures, summed over the ranks, or at their largest."""
        self._see_update()
        found = _over_ranks({"guard": guard} | self._sums, dist.ReduceOp.SUM, self.ranks.count)
        largest = _over_ranks(self._maxima, dist.ReduceOp.MAX, self.ranks.count)
        found |= {f"largest {name}": value for name, value in largest.items()}
        if "channels" in found:  # counted here: millions of numbers would be slow on the host
            typical = found["channels"].mean(1, keepdim=True)
            shares = (found["channels"] <= DEAD**2 * typical).float().mean(1)
            found["channels"] = shares.where(typical.squeeze(1).isfinite(), math.nan)
        numbers = iter(torch.cat([value.reshape(-1) for value in found.values()]).tolist())
        return {name: [next(numbers) for _ in range(value.numel())] for name, value in found.items()}

    def figures(
        self, numbers: dict[str, list[float]], step: int, loss: float, tokens_per_second: float, targets: int
    ) -> dict[str, Any]:
        position = self.plan.at(step - 1)
        found: dict[str, Any] = {}
        if "accuracy" in numbers:
            found |= self._of_predictions(numbers, targets) | self._of_activations(numbers, position)
        if "parameters" in numbers:
            found |= self._of_parameters(numbers)
        if "distill" in numbers:
            parts = zip(("cross_entropy", "divergence"), numbers["distill"], strict=True)
            found |= {f"distill/{name}": value / targets for name, value in parts}
            loss = found["distill/cross_entropy"]  # the text's part, which is what held-out losses are
        found |= {f"gap/{domain}": loss - held_out for domain, held_out in self.alerts.held_out_losses.items()}
        found |= self._epochs(position)
        flops = sum(training_flops_per_token(self.config, position.length).values()) * tokens_per_second
        peak = self.device.peak_flops
        found["mfu"] = flops / (peak * self.ranks.count) if peak else None
        memory, power = self.device.memory(), self.device.power()
        found |= {f"memory/{name}": value for name, value in memory.items()}
        found |= {} if power is None else {"power": power}
        for name, began, ended in self._spans:
            found[f"time/{name}"] = found.get(f"time/{name}", 0.0) + seconds(began, ended)
        self._forget()
        found = {name: _tidy(value) for name, value in found.items()}
        alerts = self.alerts.of(found, self.plan.stages[position.stage_index].name, (position.length, position.rows))
        return found | ({"alerts": alerts} if alerts else {})

    def _forget(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}
        self._spans: list[tuple[str, Any, Any]] = []
        self._samples: dict[str, Samples] = {}

    def _of_predictions(self, numbers: dict[str, list[float]], targets: int) -> dict[str, Any]:
        found: dict[str, Any] = {"accuracy": numbers["accuracy"][0] / targets}
        for name in ("entropy", "confidence"):
            count, total = numbers[f"{name} sums"]
            found[f"{name}/mean"] = total / count
            for label, share in QUANTILES.items():
                found[f"{name}/{label}"] = quantile(numbers[name], count, share) * self._largest(name)
        return found

    def _of_activations(self, numbers: dict[str, list[float]], position: Position) -> dict[str, Any]:
        """Of the residual stream as it enters each layer; what leaves the last is there behind the final norm."""
        squares, largest = numbers["activation squares"][:-1], numbers["largest activation"][:-1]
        tokens = position.phase.step_tokens
        entries = tokens * self.config.hidden_size
        return {
            "activation/rms": math.sqrt(sum(squares) / entries / len(squares)),
            "activation/absmax": max(largest),
            "activation/nonfinite": numbers["activation nonfinite"][0] / tokens / (len(squares) + 1),
            "layers/activation_rms": [math.sqrt(square / entries) for square in squares],
            "layers/activation_absmax": largest,
        }

    def _of_parameters(self, numbers: dict[str, list[float]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        squares = numbers["parameters"]
        for group in [*self._groups, "all"]:
            groups = self._groups if group == "all" else [group]
            entries = sum(part.parameter.numel() for part in self._parts if part.group in groups)
            for name in ("gradient", "weight"):
                total, square = (sum(numbers[f"{name} {each}"][i] for each in groups) for i in range(2))
                low, high = (max(numbers[f"largest {name} {each}"][i] for each in groups) for i in range(2))
                mean = total / entries
                found[f"{name}/norm/{group}"] = math.sqrt(square)
                found[f"{name}/std/{group}"] = math.sqrt(max(square / entries - mean**2, 0.0))
                if name == "gradient":
                    found |= {f"{name}/mean/{group}": mean, f"{name}/min/{group}": -low, f"{name}/max/{group}": high}
                else:
                    found[f"{name}/absmax/{group}"] = max(low, high)
            change = math.sqrt(sum(numbers[f"update {each}"][0] for each in groups))
            found[f"update_ratio/{group}"] = change / (found[f"weight/norm/{group}"] or math.nan)
        found["gradient/nan"] = sum(math.isnan(square) for square in squares)
        found["gradient/inf"] = sum(math.isinf(square) for square in squares)
        by_layer = dict.fromkeys((part.layer for part in self._parts if part.layer is not None), 0.0)
        for part, square in zip(self._parts, squares, strict=True):
            if part.layer is not None:
                by_layer[part.layer] += square
        found["layers/gradient_norm"] = [math.sqrt(square) for square in by_layer.values()]
        if "channels" in numbers:
            found["layers/dead_neurons"] = dead = numbers["channels"]
            found["dead_neurons"] = sum(dead) / len(dead)
        return found

    def _epochs(self, position: Position) -> dict[str, float]:
        """Passes over each source of this stage since the run began."""
        plan, index = self.plan, position.stage_index
        eaten = (position.first_token + position.phase.step_tokens) // plan.block
        return {
            f"epochs/{'/'.join(Path(source.name).parts[-2:])}": (plan.blocks_before[index][source.name] + blocks)
            / source.blocks(plan.block)
            for source, blocks in zip(plan.stages[index].sources, plan.mixtures[index].counts(eaten), strict=True)
        }


def quantile(below: list[float], count: float, share: float) -> float:
    """Of values between 0 and 1, of which `below[i]` lie under (i + 1) / (len(below) + 1)."""
    counts = [0.0, *below, count]
    place = next(index for index in range(1, len(counts)) if counts[index] >= share * count)
    inside = (share * count - counts[place - 1]) / (counts[place] - counts[place - 1])
    return (place - 1 + inside) / (len(counts) - 1)


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _widest(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64  # Metal has none


def _samples(weights: list[Tensor]) -> Samples:
    """About SAMPLE entries of each weight, from every column: the stride shares no factor with the width."""
    views: dict[float, list[Tensor]] = {}
    for weight in weights:
        stride = -(-weight.numel() // SAMPLE) or 1
        while math.gcd(stride, weight.shape[-1]) > 1:
            stride += 1
        view = weight.view(-1)[::stride]
        views.setdefault(weight.numel() / max(1, len(view)), []).append(view)
    return {factor: (alike, torch.cat(alike)) for factor, alike in views.items()}


def _moments(tensors: list[Tensor], nothing: Tensor) -> tuple[Tensor, Tensor]:
    """(sum, sum of squares) and (minus the least, the largest) of all entries together."""
    found = [(*piece.aminmax(), piece.sum(), piece.dot(piece)) for piece in _pieces(tensors)]
    if not found:
        return nothing.new_zeros(2), nothing.new_full((2,), -math.inf)
    low, high, sums, squares = (torch.stack(each) for each in zip(*found, strict=True))
    return torch.stack((sums.sum(), squares.sum())), torch.stack((-low.amin(), high.amax()))


def _pieces(tensors: list[Tensor]) -> Iterator[Tensor]:
    """All entries, flat: large tensors as they are, small ones laid together."""
    waiting: list[Tensor] = []
    size = 0
    for flat in (tensor.reshape(-1) for tensor in tensors if tensor.numel()):
        if waiting and size + len(flat) > PIECE:
            yield torch.cat(waiting) if len(waiting) > 1 else waiting[0]
            waiting, size = [], 0
        waiting.append(flat)
        size += len(flat)
    if waiting:
        yield torch.cat(waiting) if len(waiting) > 1 else waiting[0]


def _over_ranks(values: dict[str, Tensor], operation: Any, ranks: int) -> dict[str, Tensor]:
    """The same tensors with one exchange; a maximum of what is no number is infinite."""
    if not values:
        return {}
    kind = _widest(next(iter(values.values())).device)
    flat = torch.cat([value.to(kind).reshape(-1) for value in values.values()])
    if operation == dist.ReduceOp.MAX:
        flat = flat.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    if ranks > 1:
        dist.all_reduce(flat, operation)
    pieces = flat.split([value.numel() for value in values.values()])
    return {name: piece.view(value.shape) for (name, value), piece in zip(values.items(), pieces, strict=True)}


def _tidy(value: Any) -> Any:
    """Six digits, so that lines stay short; None for what is no number, which JSON has not."""
    if isinstance(value, list):
        return [_tidy(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
