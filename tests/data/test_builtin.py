"""The text that every Python carries: enough of it, the same whatever the hash seed, held out by file."""

import ast
import hashlib
import json
import os
import subprocess
import sys

import pytest

from yxanul.data import builtin
from yxanul.data.documents import is_held_out
from yxanul.data.sources import open_source

SCRIPT = """
import hashlib, itertools, json
from yxanul.data.sources import open_source
digests = {}
for name in ("language", "code", "math,count=2000", "reasoning,count=2000", "instructions,count=2000"):
    parts = open_source(f"builtin:{name}").parts()
    digest = hashlib.sha256()
    for part in parts[:2]:
        for document in part.documents():
            digest.update(repr(tuple(document)).encode())
    digests[name] = digest.hexdigest()
digests["identity"] = open_source("builtin:code").identity
print(json.dumps(digests))
"""


def documents(name):
    return [document for part in open_source(f"builtin:{name}").parts() for document in part.documents()]


@pytest.fixture(scope="session")
def library():
    """Built once: language takes some seconds."""
    return {name: documents(name) for name in builtin.LIBRARY}


def megabytes(found):
    return sum(len(document.text.encode()) for document in found) / 1e6


def test_there_is_enough_of_it(library):
    """Bounds, not sizes: the library differs with every patch release."""
    assert 1.5 < megabytes(library["language"]) < 6
    assert 5 < megabytes(library["code"]) < 20
    assert all(len(document.text) >= builtin.LEAST_CHARACTERS for found in library.values() for document in found)
    assert len({document.text for document in library["code"]}) == len(library["code"])


def test_a_file_is_held_out_of_both_domains_or_of_neither(library):
    groups = {name: {document.group for document in found} for name, found in library.items()}
    for found in library.values():
        assert len({document.group for document in found}) == len(found)
    assert len(groups["language"] & groups["code"]) > 200
    for found in library.values():
        held_out = [document for document in found if is_held_out(document.group, 1 / 16)]
        assert 0.01 < megabytes(held_out) / megabytes(found) < 0.2


def test_code_is_code_and_language_is_not(library):
    for document in library["code"]:
        ast.parse(document.text)
    assert sum("import " in document.text for document in library["code"]) > 0.9 * len(library["code"])
    lines = [line for document in library["language"] for line in document.text.splitlines()]
    assert sum(line.startswith(("def ", "import ", "#")) for line in lines) < 0.01 * len(lines)


def test_parts_are_several_and_do_not_hang_on_workers():
    for name in builtin.LIBRARY:
        assert 3 < len(open_source(f"builtin:{name}").parts()) < 20


def test_the_bytes_are_the_same_under_every_hash_seed():
    outputs = []
    for seed in ("0", "1"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.append(
            subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True)
        )
    assert outputs[0].stdout == outputs[1].stdout
    assert len(json.loads(outputs[0].stdout)) == 6


def test_prose_takes_docstrings_and_comment_blocks_in_order():
    long = "A docstring that is long enough to be more than a mere remark, " + "x" * 10
    source = (
        f'"""{long} (1)"""\n\n# one line alone\nx = 1\n\n# two lines\n## of comment\nclass A:\n    """{long} (2)"""\n'
    )
    source += '    def f(self):\n        """Short."""\n        return """\n# not a\n# comment\n"""\n\n# the\n# end'
    assert builtin.prose(source).split("\n\n") == [f"{long} (1)", "two lines\nof comment", f"{long} (2)", "the\nend"]
    assert builtin.prose("def broken(:") == ""


def test_files_with_the_same_content_count_once(tmp_path, monkeypatch):
    for name in ("b.py", "a.py", "tests/c.py", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setattr(builtin, "_root", lambda: tmp_path)
    builtin.library_files.cache_clear()
    try:
        (file,) = builtin.library_files()
        assert (file.name, file.sha256) == ("a.py", hashlib.sha256(b"x = 1\n").hexdigest())
    finally:
        builtin.library_files.cache_clear()
