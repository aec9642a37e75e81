"""Text that every Python carries, read where it lies and kept nowhere, and generated problems as documents.

language is the English of the standard library (docstrings, comments, help topics), code its source files; the group
of both is the file's name, so that a file is held out of both or of neither. Tests are left out, since slim machines
lack them, and so are files that are near-copies of each other. reasoning, math and instructions come from problems.py.
The library belongs to Python (PSF-2.0) and differs with every patch release; nothing of it is part of this package.
"""

import ast
import hashlib
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from yxanul.bad_input import BadInput
from yxanul.data import problems
from yxanul.data.documents import NOT_UTF8, Chain, Finding, Reader
from yxanul.data.grouping import grouped

LIBRARY = ("language", "code")
NAMES = (*LIBRARY, *problems.KINDS)

SKIPPED_FOLDERS = re.compile(
    "test|tests|idle_test|idlelib|lib2to3|encodings|turtledemo|pydoc_data|ensurepip|config-.*|lib-dynload|"
    "site-packages|dist-packages|__pycache__"
)
LEAST_CHARACTERS = 200
LEAST_DOCSTRING = 60  # shorter ones are remarks
PART_BYTES = 2 * 2**20  # a part of language takes about half a second


class LibraryFile(NamedTuple):
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class LibraryReader:
    domain: str
    names: tuple[str, ...]

    def findings(self) -> Iterator[Finding]:
        for name in self.names:
            try:
                source = (_root() / name).read_bytes().decode().replace("\r\n", "\n")
            except UnicodeDecodeError:
                yield Finding("", name, NOT_UTF8)
                continue
            text = source if self.domain == "code" else prose(source)
            if len(text) >= LEAST_CHARACTERS:
                yield Finding(text, name, group=f"python library: {name}")


@dataclass(frozen=True)
class HelpTopics:
    """What `help("topic")` says of the language."""

    def findings(self) -> Iterator[Finding]:
        from pydoc_data.topics import topics

        for name, text in sorted(topics.items()):
            if len(text) >= LEAST_CHARACTERS:
                yield Finding(text, f"help topic {name}", group=f"python help topic: {name}")


@dataclass(frozen=True)
class ProblemReader:
    kind: str
    count: int = 20_000
    seed: int = 7
    level: str = "hard"

    def findings(self) -> Iterator[Finding]:
        for question, answer, group in problems.generate(self.kind, self.count, self.seed, self.level):
            text = f"Question: {question}\nAnswer: {answer}"
            if self.kind == "instructions":  # as columns.py writes conversations
                text = f"User: {question}\n\nAssistant: {answer}\n\n"
            yield Finding(text, f"builtin:{self.kind}", group=group)


def library_readers(domain: str) -> list[Reader]:
    groups = grouped(library_files(), lambda file: file.bytes, PART_BYTES)
    readers: list[Reader] = [LibraryReader(domain, tuple(file.name for file in group)) for group in groups]
    if domain == "language":
        readers[-1] = Chain((readers[-1], HelpTopics()))
    return readers


def library_identity() -> dict[str, Any]:
    files = library_files()
    digest = hashlib.sha256("".join(f"{file.name} {file.sha256}\n" for file in files).encode()).hexdigest()
    return {
        "python": sys.version.split()[0],
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "names_contents": digest,
    }


@cache
def library_files() -> tuple[LibraryFile, ...]:
    """The library's source files by name; of files with the same content the first."""
    first: dict[str, LibraryFile] = {}
    for name in sorted(_names()):
        content = (_root() / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        first.setdefault(digest, LibraryFile(name, len(content), digest))
    if not first:
        raise BadInput(f"{_root()} holds no sources of Python's library; builtin:language and builtin:code need them.")
    return tuple(first.values())


def _names() -> Iterator[str]:
    for folder, folders, names in os.walk(_root()):
        folders[:] = [name for name in folders if not SKIPPED_FOLDERS.fullmatch(name)]
        yield from ((Path(folder) / name).relative_to(_root()).as_posix() for name in names if name.endswith(".py"))


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def prose(source: str) -> str:
    """The English of a source file, in the order in which a reader meets it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    docstrings: list[tuple[int, str]] = []
    string_lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) > LEAST_DOCSTRING:
                docstrings.append((getattr(node, "lineno", 0), text))
        elif isinstance(node, ast.Constant | ast.JoinedStr) and node.end_lineno:
            string_lines.update(range(node.lineno + 1, node.end_lineno + 1))
    pieces = sorted(chain(docstrings, _comments(source.split("\n"), string_lines)))
    return "\n\n".join(text for _, text in pieces)


def _comments(lines: list[str], string_lines: set[int]) -> Iterator[tuple[int, str]]:
    """(line, text) of every run of two or more comment lines; one inside of a string of many lines is none."""
    run: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        bare = line.strip()
        if bare.startswith("#") and number not in string_lines:
            run.append(bare.lstrip("#").strip())
            continue
        if len(run) >= 2:
            yield number - 1, "\n".join(run)
        run = []
