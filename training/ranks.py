"""The processes of a run as one party: they agree over a group on the CPU, so nothing waits for a GPU.

A single process agrees with itself. Not here: gradients, and losses that are averaged on the device.
"""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from yxanul.bad_input import BadInput


class WriteFailed(Exception):
    """The disk did not take it; what was there before still is."""


class Ranks:
    def __init__(self, timeout_seconds: float) -> None:
        self._group = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        self.rank = dist.get_rank() if self._group else 0
        self.count = dist.get_world_size() if self._group else 1
        self._flag = torch.zeros(1)
        self._work: Any = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def close(self) -> None:
        """Before the group goes: the last exchange of flags may still be under way."""
        if self._work is not None:
            self._work.wait()

    def barrier(self) -> None:
        if self._group:
            dist.barrier(self._group)

    def raised_a_step_ago(self, flag: bool) -> bool:
        """Whether any rank raised its flag at the call before this one; the exchange runs while a step computes."""
        if not self._group:
            return flag
        seen = False
        if self._work is not None:
            self._work.wait()
            seen = bool(self._flag.item())
        self._flag.fill_(float(flag))
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=self._group, async_op=True)
        return seen

    def first_writes(self, write: Callable[[], None]) -> None:
        """Rank 0 writes to the disk; if that fails, all of them stop, not one while the others wait for it."""
        problem: BadInput | WriteFailed | None = None
        if self.is_first:
            try:
                write()
            except BadInput as error:
                problem = error
            except Exception as error:  # tokenizers has no class for a full disk
                if not isinstance(error, OSError | SafetensorError) and "space left" not in str(error):
                    raise
                problem = WriteFailed(str(error))
        problem = self.from_first(problem)
        if problem:
            raise problem

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on rank 0; elsewhere an empty list."""
        if not self._group:
            return [value]
        values: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values or []

    def from_first(self, value: Any) -> Any:
        """What rank 0 gave."""
        if not self._group:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group)
        return box[0]
