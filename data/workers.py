"""Tasks done by several processes. No ids pass between them: each gets tasks, writes files, and says how far it is.

A worker that loses its parent ends with its next report; a parent that loses a worker says so. (multiprocessing.Pool
waits for a lost worker for ever; concurrent.futures lets the others finish their parts when one has failed.)
Processes are spawned, because a fork copies the locks of threads that sources start (`datasets`, pyarrow).
Not here: what a task is (part_files.py).
"""

import contextlib
import multiprocessing
import os
import signal
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.part_files import Job, Task
from yxanul.data.progress import Progress

Work = tuple[Task, Path]


def do_tasks(tasks: list[Work], job: Job, workers: int, progress: Progress) -> None:
    if workers == 1 or len(tasks) == 1:
        preparer = job.preparer()
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
    with contextlib.suppress(EOFError, ConnectionError):  # the parent is gone
        try:
            preparer = job.preparer()
            while True:
                task, folder = connection.recv()
                preparer.write(task, folder, lambda *done: connection.send(done))
                connection.send(None)
        except (EOFError, ConnectionError):
            raise
        except (BadInput, OSError) as error:
            connection.send(error)
        except Exception:
            connection.send(RuntimeError(f"a worker failed:\n{traceback.format_exc()}"))
