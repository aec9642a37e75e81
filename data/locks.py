"""A lock that one process holds as long as it lives, so that no other works in the same place."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from yxanul.bad_input import BadInput


@contextlib.contextmanager
def only_process(lock: Path, at_work: str) -> Iterator[None]:
    """Makes the folder. `at_work`: what another process is doing there, for the message."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        os.register_at_fork(after_in_child=file.close)  # else a data worker that outlives its run keeps the lock
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another process is {at_work}: wait for it, or give another --out.") from None
        except OSError:  # a file system without locks: nobody watches
            pass
        yield
