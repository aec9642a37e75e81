"""What can end a run from outside, in one sentence each: a full disk, too little memory, a lost process.

Not here: bad input, which ends before any work starts (bad_input.py).
"""

import os
import sys

import torch
import torch.distributed as dist

from yxanul.bad_input import BadInput
from yxanul.data.progress import insist
from yxanul.run_folder import FAILED
from yxanul.training.ranks import Ranks, WriteFailed

# As gloo, NCCL and the store say it; torch 2.11 to 2.13 have no one class for all of them
LOST = ("gloo", "nccl", "connection closed", "connection reset", "connection was lost", "broken pipe", "timed out")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def fail(error: Exception, ranks: Ranks) -> int:
    """The exit code. Of several processes the others are gone or stuck, and whatever waits for them waits for long."""
    sentence = explain(error)
    if sentence is None:
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if isinstance(error, TorchDynamoException | FailOnRecompileLimitHit):
            error.add_note("yxanul: torch could not compile this: the same command goes on with compile=none.")
        raise error
    insist(f"yxanul: {sentence}")
    if ranks.count > 1:
        sys.stdout.flush()
        os._exit(FAILED)
    return FAILED


def explain(error: BaseException) -> str | None:
    """None for bad input, which explains itself, and for somebody's bug, which deserves its traceback."""
    if isinstance(error, BadInput):
        return None
    if isinstance(error, WriteFailed):
        return f"the disk did not take a checkpoint ({error}): make room; the same command goes on from the last one."
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in NO_MEMORY):
        return (
            "out of memory: the same command goes on from the last checkpoint with less of it, if you set "
            "max_micro_batch_tokens lower (or gradient_accumulation_steps higher), activation_checkpointing=true, or "
            "parallel=fsdp2 on several GPUs."
        )
    if dist.is_initialized() and (isinstance(error, dist.DistError) or any(words in text for words in LOST)):
        last_line = str(error).strip().splitlines()[-1]
        return (
            f"another process of this run was lost ({last_line}): the same command goes on from the last checkpoint."
        )
    if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
        return f"{error}: when that is mended, the same command goes on from the last checkpoint."
    return None
