"""Stand-in for what the upstream mixins import to start several processes; the processes run on the CPU with gloo.

The children come from a fork server that has imported torch and transformers once, so a start takes a moment and not
the ten seconds of a fresh import. A child that outlives the deadline is killed, and its test fails.
"""

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

import yxanul

DEADLINE_SECONDS = 240

yxanul.register()  # the children import this module and look our classes up through the Auto classes
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.test_fsdp_mixin", "tests.test_tensor_parallel_mixin"])


def _get_distributed_device_type() -> str:
    return "cpu"


def _get_distributed_backend() -> str:
    return "gloo"


def _get_rank_device(rank: int) -> torch.device:
    return torch.device("cpu")


def _set_rank_device(rank: int) -> None: ...


def _start_rank_processes(function: Callable, args: tuple, nprocs: int) -> None:
    """Runs function(rank, *args) in nprocs processes and waits for all of them."""
    errors = _context.SimpleQueue()
    ranks: list = []
    try:
        for rank in range(nprocs):
            ranks.append(_context.Process(target=_call, args=(errors, function, rank, args), daemon=True))
            ranks[-1].start()
        _wait(ranks)
        codes = [process.exitcode for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.join()
    if codes != [0] * nprocs:
        explanation = f"no end within {DEADLINE_SECONDS} s, or a crash" if errors.empty() else errors.get()
        raise RuntimeError(f"The exit codes of the ranks are {codes}: {explanation}")


def run_distributed(world_size: int) -> Callable[[Callable], Callable[..., None]]:
    """run_distributed(2)(function)(*args) runs function(rank, *args) in a process group of two."""

    def prepare(function: Callable) -> Callable[..., None]:
        def start(*args: Any) -> None:
            store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
            _start_rank_processes(_in_group, (world_size, store.port, function, args), world_size)

        return start

    return prepare


def _in_group(rank: int, world_size: int, port: int, function: Callable, args: tuple) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
    )
    store = dist.TCPStore("localhost", port, is_master=False)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    function(rank, *args)
    dist.barrier()
    dist.destroy_process_group()


def _call(errors: Any, function: Callable, rank: int, args: tuple) -> None:
    torch.set_num_threads(1)
    try:
        function(rank, *args)
    except BaseException:
        errors.put(f"rank {rank}:\n{traceback.format_exc()[-10_000:]}")  # a full pipe would hold the process
        sys.exit(1)


def _wait(ranks: list) -> None:
    """Until all have ended, one has failed (the others would wait for it for ever), or the deadline has passed."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while any(process.exitcode is None for process in ranks):
        if any(process.exitcode for process in ranks) or time.monotonic() > deadline:
            return
        time.sleep(0.05)
