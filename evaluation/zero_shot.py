"""Zero-shot tasks that a gate may watch: `holds: {hellaswag: 0.02}` in the gate of a recipe's stage.

A task gives each of its questions an error, 0 for a right answer and 1 for a wrong one, or the bits per byte of its
gold answer; the same questions in the same order each time, the same errors on every process. Accuracies of generated
answers are too noisy to decide anything. Without a network a task takes its data from a file:
`holds: {"hellaswag=validation.jsonl": 0.02}`. Not here: the verdict (training/gates.py).
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yxanul.bad_input import unknown_name
from yxanul.evaluation.task import TaskData, find_tasks, read_data

WATCHED = {  # by the metric's figure
    "hellaswag": "acc_norm",
    "triviaqa_bits": "bits_per_byte",
    "gsm8k_bits": "bits_per_byte",
    "humaneval_bits": "bits_per_byte",
}


def find_task(name: str) -> Callable[..., np.ndarray]:
    """errors_of for this task. Reads the data, so that what is wrong with it is said before any work."""
    task, _, file = name.partition("=")
    if task not in WATCHED:
        raise unknown_name("zero-shot task", task, WATCHED)
    _data(task, file)
    return partial(errors_of, task, file=file)


@cache
def _data(name: str, file: str) -> TaskData:
    from yxanul.evaluation.metrics import load_metric

    (task,) = find_tasks([name])
    load_metric(task.metric)  # whether `evaluate` is there
    return read_data(task, {name: file} if file else {}, shots=0)


def errors_of(
    name: str,
    model: torch.nn.Module,
    tokenizer: Any,
    *,
    device: torch.device,
    rank: int,
    processes: int,
    reduce: Callable[[Tensor], Tensor],
    file: str = "",
) -> np.ndarray:
    """Every process computes equally many batches, for the collectives of a sharded model."""
    from yxanul.evaluation.runner import engine_of, judge
    from yxanul.evaluation.text_model import TextModel

    (task,), data = find_tasks([name]), _data(name, file)
    scorer, items = engine_of(TextModel(model, tokenizer, device), data.requests, prefixes=False)
    home = torch.device("cpu") if device.type == "mps" else device  # Metal has no float64
    sums = torch.zeros(items[-1][-1] + 1, dtype=torch.float64, device=home)
    for turn in range(-(-len(scorer.batches) // processes)):
        number = turn * processes + rank
        found = scorer.run(scorer.batches[number if number < len(scorer.batches) else 0])
        if number < len(scorer.batches):
            for item, score in found:
                sums[item] += score.nats
    nats = reduce(sums).tolist()
    _, samples = judge(task, data, [[nats[item] for item in own] for own in items])
    values = np.array([sample["metrics"][WATCHED[name]] for sample in samples])
    return 1 - values if WATCHED[name].startswith("acc") else values
