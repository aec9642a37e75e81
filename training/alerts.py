"""Which figures of a run are out of bounds: plain sentences for the line of metrics.jsonl.

A figure is compared with its own mean over the logs before, which a resumed run reads from metrics.jsonl; so its
lines are those of an undisturbed run. Memory alone is compared within a process.
"""

import math
from collections import deque
from typing import Any

MEAN_OVER, KNOWN_AFTER = 20, 5  # logs of the same stage: another has other data and another learning rate
# Above so many times the running mean, below such a part of it. Sound norms stay within a factor of three from one
# log to the next. Updates shrink with the learning rate, down to nothing.
WATCHED = {"gradient/norm/": (10.0, 0.01), "update_ratio/": (10.0, 0.0), "activation/absmax": (10.0, 0.0)}
VANISHED = 1e-4  # of the largest layer's gradient norm; sound layers are within a factor of 100 of each other
MOSTLY_DEAD = 0.5  # of a layer's channels
LEAK_LOGS, LEAK_GROWTH = 30, 1.05  # caches fill at first, and with a new shape; a leak goes on


class Alerts:
    def __init__(self) -> None:
        self.held_out_losses: dict[str, float] = {}  # the newest of each domain
        self._history: deque[dict[str, Any]] = deque(maxlen=MEAN_OVER)
        self._memory: deque[tuple[Any, dict[str, int]]] = deque(maxlen=LEAK_LOGS)

    def remember(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl, of this process or of those before it."""
        for name, value in line.items():
            if name.startswith("eval_") and name.endswith("_loss") and value is not None:
                self.held_out_losses[name.removeprefix("eval_").removesuffix("_loss")] = value
        if "stage" in line:
            watched = {name: value for name, value in line.items() if name.startswith(tuple(WATCHED))}
            self._history.append(watched | {"stage": line["stage"]})

    def of(self, figures: dict[str, Any], stage: str, shape: tuple[int, int]) -> list[str]:
        """Before the line of these figures is remembered."""
        found = [sentence for name in figures if (sentence := self._out_of_bounds(name, figures[name], stage))]
        for name in ("gradient/nan", "gradient/inf", "activation/nonfinite"):
            if figures.get(name):
                found.append(f"{name} is {figures[name]:.3g}, and should be 0")
        norms = figures.get("layers/gradient_norm", [])
        largest = max((norm for norm in norms if norm is not None), default=0.0)
        for layer, norm in enumerate(norms):
            if norm is not None and norm < VANISHED * largest:
                found.append(f"gradient norm of layer {layer} is {norm:.3g}, the largest of a layer {largest:.3g}")
        for layer, share in enumerate(figures.get("layers/dead_neurons", [])):
            if share is not None and share > MOSTLY_DEAD:
                found.append(f"{share:.0%} of the neurons of layer {layer} are dead")
        memory = {name: value for name, value in figures.items() if name in ("memory/host", "memory/device")}
        self._memory.append((shape, memory))
        return found + [sentence for name in memory if (sentence := self._leak(name))]

    def _out_of_bounds(self, name: str, value: float | None, stage: str) -> str | None:
        above, below = next((bounds for start, bounds in WATCHED.items() if name.startswith(start)), (0.0, 0.0))
        values = [line[name] for line in self._history if line["stage"] == stage and line.get(name) is not None]
        if not above or value is None or len(values) < KNOWN_AFTER:
            return None
        mean = sum(values) / len(values)
        if below * mean <= value <= above * mean:
            return None
        return f"{name} is {value:.3g}, {value / mean if mean else math.inf:.3g} times its running mean of {mean:.3g}"

    def _leak(self, name: str) -> str | None:
        """Every third of the last logs, all at one shape, lies above the third before it."""
        if len(self._memory) < LEAK_LOGS or len({shape for shape, _ in self._memory}) > 1:
            return None
        values = [memory[name] for _, memory in self._memory]
        first, middle, last = (values[start : start + LEAK_LOGS // 3] for start in range(0, LEAK_LOGS, LEAK_LOGS // 3))
        steady = max(first) < min(middle) and max(middle) < min(last)
        if not steady or values[-1] < LEAK_GROWTH * values[0]:
            return None
        return f"{name} has grown from {values[0]:,} to {values[-1]:,} bytes in {LEAK_LOGS} logs: something leaks"
