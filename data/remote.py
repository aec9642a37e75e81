"""Token bins on any path that fsspec knows (s3://, gs://, hf://, memory:// ...): read through a local copy.

    yxanul data publish bins/books/train s3://bucket/books/train   # the manifest last: a URL without one is no bin
    token_bin = open_bin(fetch("s3://bucket/books/train"))         # copied once, compared with its sha256s

A plan's `bin:` may be such a URL.

Training reads single rows from everywhere in a bin, which a memory map serves and an object store does not; a bin that
is too large for the local disk belongs on a file system that all machines mount. Not here: credentials (each fsspec
protocol has its own package, such as s3fs, with its own settings), reading without a copy.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import fsspec

from yxanul.bad_input import BadInput
from yxanul.data.bins import MANIFEST, file_digest, open_bin

CACHE = Path("~/.cache/yxanul/bins")


def publish(folder: str | Path, url: str) -> None:
    """Copies a bin to a URL; files of an earlier one at the same URL are replaced."""
    token_bin = open_bin(folder)
    files, root = _place(url)
    files.makedirs(root, exist_ok=True)
    if files.exists(f"{root}/{MANIFEST}"):
        files.rm_file(f"{root}/{MANIFEST}")
    for name in (*token_bin.manifest["files"], MANIFEST):
        files.put_file(str(token_bin.folder / name), f"{root}/{name}")


def fetch(url: str, cache: str | Path = CACHE) -> Path:
    """A local folder with the bin at a URL; what is there from an earlier or an interrupted call is not copied."""
    files, root = _place(url)
    try:
        content: bytes = files.cat_file(f"{root}/{MANIFEST}")
    except FileNotFoundError:
        raise BadInput(f"{url} is no token bin: it has no {MANIFEST}.") from None
    folder = Path(cache).expanduser() / hashlib.sha256(url.encode() + content).hexdigest()[:20]
    if not (folder / MANIFEST).exists():
        wanted = _files_in(content, url)
        folder.mkdir(parents=True, exist_ok=True)
        missing = [name for name in wanted if not (folder / name).exists()]
        needed, room = sum(wanted[name]["bytes"] for name in missing), shutil.disk_usage(folder).free
        if needed > room:
            raise BadInput(
                f"{url} needs {needed:,} bytes, {folder} has room for {room:,}: give a cache on a larger disk."
            )
        for name in missing:
            _copy(files, f"{root}/{name}", folder / name, wanted[name]["sha256"])
        partial = _partial(folder / MANIFEST)
        partial.write_bytes(content)
        partial.replace(folder / MANIFEST)
    return folder


def _place(url: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # a package of the protocol is missing, or no such protocol
        raise BadInput(f"{url} cannot be opened: {str(error).rstrip('.')}.") from None


def _files_in(manifest: bytes, place: str) -> dict[str, dict[str, Any]]:
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        wanted = json.loads(manifest)["files"]
        if all(Path(name).name == name and facts["bytes"] >= 0 and facts["sha256"] for name, facts in wanted.items()):
            return wanted
    raise BadInput(f"{place} is damaged: its {MANIFEST} is not that of a token bin.")


def _copy(files: Any, source: str, target: Path, sha256: str) -> None:
    partial = _partial(target)
    try:
        files.get_file(source, str(partial))
    except FileNotFoundError:
        raise BadInput(f"{source} is missing: the bin is damaged, publish it again.") from None
    if file_digest(partial) != sha256:
        partial.unlink()
        raise BadInput(f"{source} has not the sha256 of its {MANIFEST}: the bin is damaged, publish it again.")
    partial.replace(target)


def _partial(file: Path) -> Path:
    """Of this process: several of one machine may want the same bin."""
    return file.with_name(f"{file.name}.{os.getpid()}.partial")
