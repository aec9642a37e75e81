"""A file or a folder that is there whole or not at all, whenever the process or the machine stops."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput


def write_whole(file: Path, pieces: Iterable[str]) -> None:
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.writelines(pieces)
        handle.flush()
        os.fsync(handle.fileno())
    partial.replace(file)
    sync_folder(file.parent)


def write_json(file: Path, content: Any) -> None:
    write_whole(file, [json.dumps(content, indent=2, ensure_ascii=False), "\n"])


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which gets its name at the end; an empty one of that name is replaced."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with claimed(partial):
            yield partial
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
    sync_folder(folder.parent)


@contextlib.contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Until the process ends, however it does, `remove_abandoned` leaves it alone. To be claimed while it is empty."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_abandoned(folders: Iterable[Path]) -> list[Path]:
    """Of claimed folders those whose process was killed. A lock holds in every container, which no process id does."""
    removed = []
    for folder in folders:
        with contextlib.suppress(OSError):  # claimed, somebody else's, or gone
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if any(folder.iterdir()):  # an empty one may be about to be claimed
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(folder)
            finally:
                os.close(handle)
    return removed


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """Where temporary files go; what killed processes left there under this prefix goes first."""
    remove_abandoned(Path(tempfile.gettempdir()).glob(f"{prefix}*"))
    with tempfile.TemporaryDirectory(prefix=prefix) as folder, claimed(Path(folder)):
        yield Path(folder)


def check_folder(folder: Path, flag: str) -> None:
    """That files can be put there, before they are made."""
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not above.is_dir():
        raise BadInput(f"{flag} {folder} wants a folder, and {above} is a file: give another one.")
    if not os.access(above, os.W_OK):
        raise BadInput(f"{flag} {folder}: {above} cannot be written into: give another one.")


def sync_folder(folder: Path) -> None:
    """Puts a folder's names on the disk: after a rename, the new name is there even if the power fails."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
