"""Starts a module in several processes of this machine through accelerate's launcher, and gives back their exit code.

    exit_code = start("yxanul.training.pretrain", ["--config", "demo", "--out", "runs/demo"], processes=2)

One process for each GPU; on a machine without one they are gloo ranks on the CPU. Each rank's main() ends with
`leave(exit_code)`. Not here: several machines (docs/clusters.md), where a cluster's own launcher starts the module.

Ctrl-C, SIGTERM and SIGHUP reach every rank as one SIGTERM; they save and exit 4, and this process waits for them as
long as that takes. A second Ctrl-C kills them. When a rank is lost or fails, the launcher's agent notices within 0.1 s
and sends SIGTERM to the others, and SIGKILL 30 s later.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil  # one of accelerate's requirements

from yxanul.bad_input import BadInput
from yxanul.run_folder import DONE, FAILED, STOPPED
from yxanul.shell import silenced

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 10.0  # seconds that a rank gives local rank 0 to end first


def visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def start(module: str, arguments: list[str], processes: int) -> int:
    """Runs `python -m module arguments` in two or more processes and returns what they exit with."""
    from accelerate.commands.launch import launch_command_parser, multi_gpu_launcher
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    gpus = visible_gpus()
    if 0 < gpus < processes:
        raise BadInput(f"{processes} processes want {processes} GPUs and {gpus} can be seen: ask for {gpus} at most.")
    # every value is given, and multi_gpu_launcher itself is called: launch_command would read a file in the user's
    # cache and print a list of defaults
    options = launch_command_parser().parse_args(
        ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--machine_rank", "0"]
        + ["--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no", "--max_restarts", "0"]
        + ["--num_cpu_threads_per_process", str(_threads(processes)), "--gpu_ids", "all", "--monitor_interval", "0.1"]
        + ["--log_dir", os.devnull, "--module", module, *arguments]
    )
    options.signals_to_handle = "SIGQUIT"  # the agent would raise at the others, wait 30 s and kill
    with (
        environment({} if gpus else {"ACCELERATE_USE_CPU": "true"}),
        silenced(logging.CRITICAL),  # the agent's reports of how its ranks ended: a rank says that itself
        _Signals() as signals,
    ):
        try:
            multi_gpu_launcher(options)
        except ChildFailedError as error:
            failures = sorted(error.failures.values(), key=lambda failure: failure.timestamp)
            return common_exit_code([failure.exitcode for failure in failures], signals.received)
        except KeyboardInterrupt:
            return STOPPED
    return DONE


def common_exit_code(exit_codes: list[int], signalled: bool) -> int:
    """Of ranks that did not all end well, in the order in which they ended; below 0 it is the signal that ended one.

    SIGTERM is also how the agent ends the others when one has ended, so it says nothing beside another code.
    """
    telling = [code for code in exit_codes if code != -signal.SIGTERM]
    if not telling or signalled and all(code in (STOPPED, -signal.SIGKILL) for code in telling):
        return STOPPED if signalled else FAILED
    return telling[0] if telling[0] > 0 else FAILED


def leave(exit_code: int) -> int:
    """The last thing that a rank does before it exits with this code.

    A rank that ends with another code than 0 makes the launcher end the others, so local rank 0, whose messages people
    read, goes first: the others wait for the launcher's SIGTERM, or a few seconds if it does not come.
    """
    if exit_code != DONE and os.environ.get("LOCAL_RANK", "0") != "0":
        signal.signal(signal.SIGTERM, _wake)
        with suppress(InterruptedError):
            time.sleep(PATIENCE)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return exit_code


def _wake(*_: Any) -> None:
    raise InterruptedError


def _threads(processes: int) -> int:
    """What the user set, or the cores shared out."""
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // processes))


class _Signals:
    """Gives signals on to the ranks, which the agent starts in sessions of their own: a terminal reaches none."""

    def __init__(self) -> None:
        self.received = False

    def __enter__(self) -> "_Signals":
        # SIGHUP is left ignored under nohup
        self._earlier = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGQUIT)}
        for number in SIGNALS:
            if self._earlier[number] is not signal.SIG_IGN:
                signal.signal(number, self._pass_on)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _pass_on(self, number: int, _: Any) -> None:
        first, self.received = not self.received, True  # before anything else: the next signal may interrupt this
        if not first and number != signal.SIGINT:
            return  # a scheduler may repeat itself
        ranks = psutil.Process().children()
        if not ranks:
            raise KeyboardInterrupt
        for rank in ranks:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(rank.pid, signal.SIGTERM if first else signal.SIGKILL)


@contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    earlier = dict(os.environ)
    os.environ |= changes
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= earlier
