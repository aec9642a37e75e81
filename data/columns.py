"""How a record (of jsonl, json, csv, parquet or a Hub data set) becomes a text: a column, a template, or messages.

A source says what it wants (`column=`, `template=`, `messages=`, `score_column=` with `min_score=`); `resolved` holds
that against the columns there are, once for each file, before any work. Records that differ later are counted.
"""

import string
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.documents import EMPTY, LOW_SCORE, NO_SCORE, NOT_TEXT, Finding

TEXT, LIST, NULL = "text", "list", "null"


def kind_of(value: Any) -> str:
    if value is None:
        return NULL
    if isinstance(value, str):
        return TEXT
    return LIST if isinstance(value, list) else type(value).__name__


@dataclass(frozen=True)
class Columns:
    column: str = ""
    template: str = ""
    messages: str = ""
    score_column: str = ""
    min_score: float | None = None

    def checked(self, spec: str) -> "Columns":
        """Complains about settings that contradict each other."""
        given = [f"{key}=" for key in ("column", "template", "messages") if getattr(self, key)]
        if len(given) > 1:
            raise BadInput(f"{spec}: {' and '.join(given)} exclude each other; give one.")
        if bool(self.score_column) != (self.min_score is not None):
            raise BadInput(f"{spec}: score_column= and min_score= belong together; give both.")
        if self.template and not any(field for _, field in template_pieces(self.template)):
            raise BadInput(f"{spec}: the template {self.template!r} names no column; write {{name}}.")
        return self

    def resolved(self, kinds: dict[str, str], place: str) -> "Columns":
        """With the column chosen, if none was named; `kinds` says what each column of the file at `place` holds."""
        there_are = f"there are {', '.join(map(repr, kinds)) or 'none'}"
        for name in self.used():
            if name not in kinds:
                raise BadInput(f"{place} has no column {name!r}; {there_are}.")
        chosen = self
        if not (self.column or self.template or self.messages):
            texts = [name for name, kind in kinds.items() if kind == TEXT]
            if "text" not in kinds and len(texts) != 1:
                choice = "choose with column=, template= or messages=."
                raise BadInput(f"{place} has no column 'text'; {there_are}: {choice}")
            chosen = replace(self, column="text" if "text" in kinds else texts[0])
        for name, wanted in ((chosen.messages, LIST), (chosen.column, TEXT)):
            if name and kinds[name] not in (wanted, NULL):
                raise BadInput(f"column {name!r} of {place} holds {kinds[name]}, not {wanted}; {there_are}.")
        return chosen

    def used(self) -> list[str]:
        """The names of the columns that are read."""
        fields = (field for _, field in template_pieces(self.template))
        return [name for name in dict.fromkeys((self.column, self.messages, self.score_column, *fields)) if name]

    def finding(self, record: dict[str, Any], place: str) -> Finding:
        if self.min_score is not None:
            try:
                if not float(record.get(self.score_column)) >= self.min_score:  # type: ignore[arg-type]
                    return Finding("", place, LOW_SCORE)
            except (TypeError, ValueError):
                return Finding("", place, NO_SCORE)
        if self.messages:
            return _conversation(record.get(self.messages), place)
        if self.template:
            return _filled(self.template, record, place)
        text = record.get(self.column)
        if isinstance(text, str):
            return Finding(text, place)
        return Finding("", place, EMPTY if text is None else NOT_TEXT)


@lru_cache
def template_pieces(template: str) -> tuple[tuple[str, str], ...]:
    """(literal text, name of the column after it or ""); {{ and }} stand for braces."""
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadInput(f"the template {template!r} is no template: {error}.") from None
    for _, field, form, conversion in pieces:
        if form or conversion or field == "":
            raise BadInput(f"the template {template!r} may hold plain {{name}} of columns only.")
    return tuple((literal, field or "") for literal, field, _, _ in pieces)


def _filled(template: str, record: dict[str, Any], place: str) -> Finding:
    text = ""
    for literal, field in template_pieces(template):
        value = record.get(field) if field else ""
        if not isinstance(value, str | int | float):
            return Finding("", place, EMPTY if value is None else NOT_TEXT)
        text += f"{literal}{value}"
    return Finding(text, place)


def _conversation(messages: Any, place: str) -> Finding:
    """[{"role": "user", "content": "Hi"}, ...] as "User: Hi", a blank line, and so on."""
    if not messages:
        return Finding("", place, EMPTY)
    text = ""
    for message in messages:
        match message:
            case {"role": str(role), "content": str(content)}:
                text += f"{role.capitalize()}: {content}\n\n"
            case _:
                return Finding("", place, NOT_TEXT)
    return Finding(text, place)
