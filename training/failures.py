"""What can end a run from outside, in one sentence each: a full disk, too little memory, a lost process.

Not here: bad input, which ends before any work starts (bad_input.py).
"""

import errno

import torch
import torch.distributed as dist

from yxanul.training.ranks import WriteFailed

# As gloo, NCCL and the store say it; torch 2.11 to 2.13 have no one class for all of them
LOST = ("gloo", "nccl", "connection closed", "connection reset", "connection was lost", "broken pipe", "timed out")
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def explain(error: BaseException) -> str | None:
    """None if it is somebody's bug, which deserves its traceback."""
    if isinstance(error, WriteFailed):
        return f"the disk did not take a checkpoint ({error}): make room; the same command goes on from the last one."
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the disk is full ({error.filename}): make room; the same command goes on from the last checkpoint."
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in text for words in NO_MEMORY):
        return (
            "out of memory: the same command goes on from the last checkpoint with less of it, if you set "
            "max_micro_batch_tokens lower (or gradient_accumulation_steps higher), activation_checkpointing=true, or "
            "parallel=fsdp2 on several GPUs."
        )
    if dist.is_initialized() and (isinstance(error, dist.DistError) or any(words in text for words in LOST)):
        return "another process of this run was lost: the same command goes on from the last checkpoint."
    return None
