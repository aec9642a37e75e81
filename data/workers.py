"""Tasks done by several processes. No ids pass between them: each gets tasks, writes files, and says how far it is.

A worker that loses its parent ends with its next report; a parent that loses a worker says so.
Processes are spawned, because a fork copies the locks of threads that sources start (`datasets`, pyarrow).
Not here: what a task is (part_files.py).
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.part_files import Job, Preparer, Report, Task
from yxanul.data.progress import Progress

SECONDS_BETWEEN_REPORTS = 0.5

Work = tuple[Task, Path]


def do_tasks(tasks: list[Work], job: Job, workers: int, progress: Progress) -> None:
    if workers == 1 or len(tasks) == 1:
        preparer = Preparer(job)
        for task, folder in tasks:
            preparer.write(task, folder, progress.add)
            progress.end_part()
        return
    context = multiprocessing.get_context("spawn")
    processes: dict[Any, Any] = {}
    for _ in range(min(workers, len(tasks))):
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, job), daemon=True)
        process.start()
        theirs.close()  # so that we notice when the worker is gone
        processes[ours] = process
    try:
        _hand_out(iter(tasks), processes, progress)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()


def _hand_out(tasks: Iterator[Work], processes: dict[Any, Any], progress: Progress) -> None:
    busy = {connection for connection in processes if _give_next(connection, tasks)}
    while busy:
        for connection in wait(list(busy), timeout=1.0):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except (EOFError, ConnectionError):
                process = processes[connection]
                process.join()
                raise BadInput(
                    f"a worker ended with exit code {process.exitcode} (-9: killed, mostly for memory); finished "
                    "parts are kept: run the same command again, perhaps with fewer --workers."
                ) from None
            if isinstance(message, Exception):
                raise message
            if message is not None:
                progress.add(*message)
                continue
            progress.end_part()
            if not _give_next(connection, tasks):
                busy.remove(connection)
        progress.show()


def _give_next(connection: Any, tasks: Iterator[Work]) -> bool:
    work = next(tasks, None)
    if work is None:
        return False
    with contextlib.suppress(ConnectionError):  # the worker is gone; what it said last, or nothing, is read next
        connection.send(work)
    return True


def _serve(connection: Connection, job: Job) -> None:
    """A worker: documents and tokens are reported as pairs, a finished task as None, what went wrong as itself."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent sees to it
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}  # the processes are the parallelism
    try:
        preparer = Preparer(job)
        while True:
            try:
                task, folder = connection.recv()
            except (EOFError, ConnectionError):
                return  # the parent is gone
            report, finish = _reporting(connection)
            preparer.write(task, folder, report)
            finish()
            _tell(connection, None)
    except (BadInput, OSError) as error:
        _tell(connection, error)
    except Exception:
        _tell(connection, RuntimeError(f"a worker failed:\n{traceback.format_exc()}"))


def _tell(connection: Connection, message: Any) -> None:
    try:
        connection.send(message)
    except ConnectionError:
        sys.exit(1)  # the parent is gone


def _reporting(connection: Connection) -> tuple[Report, Any]:
    """`report` sends what has come together when the time has come, `finish` sends the rest."""
    gathered, sent_at = [0, 0], time.monotonic()

    def report(documents: int, tokens: int) -> None:
        nonlocal sent_at
        gathered[0] += documents
        gathered[1] += tokens
        if time.monotonic() - sent_at >= SECONDS_BETWEEN_REPORTS:
            finish()
            sent_at = time.monotonic()

    def finish() -> None:
        _tell(connection, tuple(gathered))
        gathered[:] = 0, 0

    return report, finish
