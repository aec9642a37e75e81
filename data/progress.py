"""How a command speaks: what was asked for on standard output, everything else on standard error, or not (--quiet).

How far a long one is: a bar on a terminal, one line a minute elsewhere, so that a log stays readable. No threads: it
shows itself when it is told something. Not here: training's console.
"""

import io
import json
import sys
import time
from typing import Any

from yxanul.shell import is_quiet

SECONDS_BETWEEN_LINES = 60.0
SECONDS_BETWEEN_FRAMES = 0.2


def say(line: str) -> None:
    if not is_quiet():
        insist(line)


def insist(line: str) -> None:
    """Also with --quiet: what failed, or was asked for and is not had."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - the command line speaks here


def answer(line: str) -> None:
    """What was asked for, on standard output."""
    print(line)  # noqa: T201 - and here


def answer_json(facts: Any) -> None:
    answer(json.dumps(facts, indent=2))


def answer_table(table: Any, least: int = 0) -> None:
    """On a terminal as wide as that is, or `least`; a pipe has no edge to cut, fold or pad at."""
    from rich.console import Console

    console = Console(highlight=False)
    if console.is_terminal:
        Console(highlight=False, width=max(console.width, least)).print(table)
        return
    text = io.StringIO()
    Console(file=text, highlight=False, width=10_000).print(table)
    answer("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


class Progress:
    """Of `parts` parts, of which `done` were finished by an earlier run. A context manager."""

    def __init__(self, title: str, parts: int, done: int, stream: Any = None) -> None:
        self._title, self._parts, self._done = title, parts, done
        self._stream = stream or sys.stderr
        self._documents = self._tokens = 0
        self._began = self._shown_at = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        if self._stream.isatty() and not is_quiet():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar

            columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
            self._bar = Bar(*columns, console=Console(file=self._stream), auto_refresh=False)
            self._bar.start()
            self._bar_task = self._bar.add_task(self._line(), total=self._parts, completed=self._done)
        return self

    def __exit__(self, *error: Any) -> None:
        self._write()
        if self._bar:
            self._bar.stop()

    def add(self, documents: int, tokens: int) -> None:
        self._documents += documents
        self._tokens += tokens
        self.show()

    def end_part(self) -> None:
        self._done += 1
        self.show()

    def show(self) -> None:
        """If it is time."""
        pause = SECONDS_BETWEEN_FRAMES if self._bar else SECONDS_BETWEEN_LINES
        if time.monotonic() - self._shown_at >= pause:
            self._write()

    def _write(self) -> None:
        self._shown_at = time.monotonic()
        if self._bar:
            self._bar.update(self._bar_task, description=self._line(), completed=self._done, refresh=True)
        elif not is_quiet():
            print(self._line(), file=self._stream, flush=True)  # noqa: T201 - and here

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._began, 1e-9)
        line = f"{self._title}: {self._done:,} of {self._parts:,} parts"
        if self._documents:
            line += f", {self._documents:,} documents, {self._tokens:,} tokens, {self._tokens / seconds:,.0f} tokens/s"
        return line if self._bar else f"{line}, {seconds:,.0f} s"
