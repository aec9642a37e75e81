"""Zero-shot tasks that a gate may watch: `holds: {NAME: 0.02}` in the gate of a recipe's stage.

A task gives each of its questions an error, 0 for a right answer and 1 for a wrong one, or anything between; the same
questions in the same order each time, the same errors on every process. A room that has tasks enters them in TASKS.
Not here: the tasks. None is entered yet.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from yxanul.bad_input import BadInput, unknown_name


class Task(Protocol):
    def __call__(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        *,
        device: torch.device,
        rank: int,
        processes: int,
        reduce: Callable[[Tensor], Tensor],
    ) -> np.ndarray: ...


TASKS: dict[str, Task] = {}


def find_task(name: str) -> Task:
    if not TASKS:
        raise BadInput(f"zero-shot task {name}: this version brings none; leave holds out of the gate.")
    if name not in TASKS:
        raise unknown_name("zero-shot task", name, TASKS)
    return TASKS[name]
