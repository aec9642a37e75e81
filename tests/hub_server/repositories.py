"""What the loopback Hub holds: users, and repositories whose commits are dictionaries of files, all in memory.

    hub.add("datasets", "owner/stories", {"train.jsonl": b"..."})          # public, branch main
    hub.add("models", "owner/tiny", {"config.json": b"{}"}, private=True)  # for members of `owner` only
    hub.fail("GET", "train.jsonl", drop_after=1000)                        # the next answer breaks off there

Not here: HTTP (`server.py`), pull requests, gated repositories.
"""

import hashlib
import itertools
import json
import re
import threading
from dataclasses import dataclass, field
from functools import cached_property

LARGE_SUFFIXES = (".safetensors", ".bin", ".gguf", ".onnx", ".parquet", ".arrow", ".gz", ".zst")
LARGEST_REGULAR = 10 << 20
DATE = "2024-01-01T00:00:00.000Z"  # of everything: commits are the same in every run


class HubError(Exception):
    """Becomes the answer: `code` is the X-Error-Code by which the clients choose their exception."""

    def __init__(self, status, message, code=None, body=None):
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class User:
    name: str
    may_write: bool = True
    organisations: tuple[str, ...] = ()

    def is_member(self, namespace):
        return namespace in (self.name, *self.organisations)


@dataclass(frozen=True)
class File:
    data: bytes
    large: bool = False  # kept beside git (LFS): known by its sha256 and served from another host

    @cached_property
    def sha256(self):
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def pointer(self):
        lines = "version https://git-lfs.github.com/spec/v1", f"oid sha256:{self.sha256}", f"size {len(self.data)}"
        return "".join(f"{line}\n" for line in lines).encode()

    @cached_property
    def oid(self):
        """git's name for the content, or for the pointer to it."""
        content = self.pointer if self.large else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path, size):
    return path.endswith(LARGE_SUFFIXES) or size > LARGEST_REGULAR


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    files: dict[str, File]


class Repository:
    def __init__(self, kind, name, private):
        self.kind, self.name, self.private = kind, name, private
        self.commits, self.branches, self.tags = {}, {}, {}
        self.commit("initial commit", {})

    def commit(self, title, files, branch="main"):
        """`files` is the whole tree. Returns the commit's id."""
        parent = self.branches.get(branch)
        listing = [self.name, parent, title, sorted((path, file.oid) for path, file in files.items())]
        oid = hashlib.sha1(json.dumps(listing).encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, files)
        self.branches[branch] = oid
        return oid

    def at(self, revision):
        """The commit of a branch, a tag, refs/heads/..., or the beginning of a commit's id."""
        revision = revision or "main"
        oid = self.branches.get(revision.removeprefix("refs/heads/")) or self.tags.get(revision)
        begins = [oid] if oid else [oid for oid in self.commits if oid.startswith(revision)]
        if len(begins) != 1 or not (oid or re.fullmatch("[0-9a-f]{5,40}", revision)):
            raise HubError(404, f"no such revision: {revision}", "RevisionNotFound")
        return self.commits[begins[0]]


@dataclass
class Fault:
    method: str
    pattern: str
    times: int
    status: int | None
    drop_after: int | None


@dataclass
class Hub:
    users: dict[str, User]  # by token
    url: str = ""  # known once a server listens
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large ones that were uploaded, by sha256
    signed: dict[str, str] = field(default_factory=dict)  # signature of a large file's address -> its sha256
    faults: list[Fault] = field(default_factory=list)
    log: list[tuple[str, str, int | str]] = field(default_factory=list)  # method, path, status or what was done to it
    xet_folder: str | None = None  # where clients with Xet put large files; None: they use LFS
    lock: threading.Lock = field(default_factory=threading.Lock)  # never held while a client is being sent a body
    _numbers: itertools.count = field(default_factory=itertools.count)

    def add(self, kind, name, files, private=False):
        """A new repository with one commit of `files` (path -> bytes), if there are any."""
        repository = self.repositories[kind, name] = Repository(kind, name, private)
        if files:
            made = {path: File(data, is_large(path, len(data))) for path, data in files.items()}
            repository.commit("files", made)
        return repository

    def fail(self, method, pattern, status=None, drop_after=None, times=1):
        """The next `times` matching requests get `status`, or lose the connection after so many bytes of a body."""
        self.faults.append(Fault(method, pattern, times, status, drop_after))

    def next_fault(self, method, path):
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def sign(self, sha256):
        """Part of an address that works without a token, as those of the Hub's file host do."""
        signature = f"s{next(self._numbers)}"
        self.signed[signature] = sha256
        return signature

    def find(self, kind, name, user, write=False):
        """A private repository does not exist for those who may not see it: 404, and 401 without a token."""
        repository = self.repositories.get((kind, name))
        member = user is not None and user.is_member(name.split("/")[0])
        if repository is None or (repository.private and not member):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        if write and not (member and user.may_write):
            raise HubError(401 if user is None else 403, "this needs write access")
        return repository
