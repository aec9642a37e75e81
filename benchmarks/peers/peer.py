"""What the peers share: the case they are given, the rows of its bin, the lines they write, and a plain training loop.

Run: not by itself. `rows.py` starts a peer as `python peers/NAME.py case.json` with {shape, stages, accumulation,
every, bf16, compiled}; it writes run/metrics.jsonl as a run of ours does, and prints its figures as one JSON line.
Not here: models, and how each peer trains (its own file).
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LEARNING_RATE, BETAS, WEIGHT_DECAY, CLIP = 1e-3, (0.9, 0.95), 0.1, 1.0  # the defaults of ours


class Case:
    def __init__(self) -> None:
        case = json.loads(Path(sys.argv[1]).read_text())
        if not case["compiled"]:
            os.environ["TORCH_COMPILE_DISABLE"] = "1"  # before torch is imported: small runs on a CPU
        import torch

        from yxanul.configuration_yxanul import YxanulConfig
        from yxanul.data.bins import open_bin
        from yxanul.data.plan import Plan
        from yxanul.data.stages import read_stages
        from yxanul.data.stream import Stream

        self.bf16, self.every, self.accumulation = case["bf16"], case["every"], case["accumulation"]
        self.config = YxanulConfig(**{key: case["shape"][key] for key in YxanulConfig.__annotations__})
        self.plan = Plan(read_stages(case["stages"]))
        self.stream = Stream(self.plan, {name: open_bin(Path(name)) for name in self.plan.source_names}, seed=1)
        self.out, self.steps = Path("run"), self.plan.steps
        self.length, self.rows = self.plan.at(0).length, self.plan.at(0).rows
        self.micro_rows = self.rows // self.accumulation
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.autocast: Any = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def micro_batches(self) -> Iterator[tuple[Any, Any]]:
        """Inputs and targets on the device, copied while it computes."""
        import torch

        for number in range(self.steps * self.accumulation):
            step, micro = divmod(number, self.accumulation)
            batch = self.stream.batch(step, micro * self.micro_rows, (micro + 1) * self.micro_rows)
            tensors = [torch.from_numpy(part) for part in batch]
            if self.device.type == "cuda":
                tensors = [tensor.pin_memory().to(self.device, non_blocking=True) for tensor in tensors]
            yield tensors[0], tensors[1]


class Meter:
    """A line for every few steps. Reading the loss waits for the device."""

    def __init__(self, case: Case, parameters: int, flops_per_token: float | None = None) -> None:
        from yxanul.catalog import training_flops_per_token
        from yxanul.training.device import Device

        flops = flops_per_token or sum(training_flops_per_token(case.config, case.length).values())
        self.facts = {"parameters": parameters, "flops_per_token": flops, "length": case.length}
        self.case, self.device, self.step, self.lines = case, Device(case.device), 0, list[dict[str, Any]]()
        self.spans: list[tuple[str, Any, Any]] = []  # of the step that ends
        self.began = time.monotonic()
        case.out.mkdir(parents=True, exist_ok=True)

    def step_done(self, loss: Callable[[], float], steps: int = 1) -> None:
        from yxanul.training.device import seconds

        self.step += steps
        if self.step % self.case.every == 0:
            value, now = loss(), time.monotonic()
            tokens = self.case.rows * self.case.length
            line: dict[str, Any] = {"step": self.step, "tokens": self.step * tokens, "loss": value} | self.facts
            line["tokens_per_second"] = self.case.every * tokens / (now - self.began)
            for name, *ends in self.spans:
                line[f"time/{name}"] = line.get(f"time/{name}", 0.0) + seconds(*ends)
            line |= {f"memory/{name}": size for name, size in self.device.memory().items()}
            self.lines.append(line)
            with (self.case.out / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            self.began = now

    def finish(self) -> None:
        speeds = [line["tokens_per_second"] for line in self.lines[1:]]
        print(json.dumps(self.lines[-1] | {"tokens_per_second": statistics.median(speeds)}))


def train(case: Case, model: Any, loss_of: Callable[..., Any], flops_per_token: float | None = None) -> None:
    """The loop that everybody writes: autocast, torch.compile of the whole model, fused AdamW, clipped gradients."""
    import torch

    model = model.to(case.device).train()
    meter = Meter(case, sum(parameter.numel() for parameter in model.parameters()), flops_per_token)
    compiled = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    batches, mark = case.micro_batches(), meter.device.mark
    for _ in range(case.steps):
        marks = [mark()]
        for _ in range(case.accumulation):
            ids, targets = next(batches)
            marks.append(mark())
            with case.autocast:
                loss = loss_of(compiled, ids, targets) / case.accumulation
            marks.append(mark())
            loss.backward()
            marks.append(mark())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()
        marks.append(mark())
        names = ["data", "forward", "backward"] * case.accumulation + ["optimizer"]
        meter.spans = list(zip(names, marks, marks[1:], strict=False))
        meter.step_done(lambda loss=loss: loss.item() * case.accumulation)
    meter.finish()
