"""Conversations in the forms in which people keep them, each as one JSON text: [{"role": ..., "content": ...}, ...].

    messages: [{role, content}, ...]          conversations: [{from: human|gpt, value}, ...]      (ShareGPT)
    instruction, input, output  (Alpaca)      question, answer  (GSM8K, calculator brackets kept)
    prompt, completion  (texts, or lists of messages)

The columns of a file or a data set tell which form it has. What is no conversation stops the work with its file and
row, or is left out and counted (`bad=skip` in the source). The first question decides whether it is held out.
Not here: templates and tokens (chat_templates.py), bins (conversation_bins.py), where files are (sources.py).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data import problems
from yxanul.data.builtin import ProblemReader
from yxanul.data.columns import Columns
from yxanul.data.documents import Finding
from yxanul.data.formats import in_lines

Messages = list[dict[str, str]]
# the columns that make a form; the first form whose columns are all there is taken
FORMS = (
    ("messages",),
    ("conversations",),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
)
MORE = {"instruction": ("input",)}  # read where they are
ROLES = {"human": "user", "gpt": "assistant"} | {role: role for role in ("system", "user", "assistant")}


class NoConversation(Exception):
    """Its text says why."""


@dataclass(frozen=True)
class ConversationColumns(Columns):
    form: tuple[str, ...] = ()
    skip: bool = False

    def resolved(self, kinds: dict[str, str], place: str) -> "ConversationColumns":
        form = next((form for form in FORMS if set(form) <= set(kinds)), None)
        if form is None:
            known = "; ".join(" and ".join(form) for form in FORMS)
            there_are = ", ".join(map(repr, kinds)) or "none"
            raise BadInput(f"{place} holds no conversations: its columns are {there_are}, known are {known}.")
        return replace(self, form=(*form, *(name for name in MORE.get(form[0], ()) if name in kinds)))

    def used(self) -> list[str]:
        return list(self.form)

    def finding(self, record: dict[str, Any], place: str) -> Finding:
        try:
            return conversation([record.get(name) for name in self.form], self.form[0], place)
        except NoConversation as error:
            if self.skip:
                return Finding("", place, str(error))
            raise BadInput(
                f"{in_lines(place)}: {error}; mend it, or add bad=skip to the source to leave such conversations "
                "out, counted."
            ) from None


@dataclass(frozen=True)
class ProblemConversations(ProblemReader):
    """Built-in problems, a question and its answer each."""

    def findings(self) -> Iterator[Finding]:
        for question, answer, group in problems.generate(self.kind, self.count, self.seed, self.level):
            found = conversation([question, answer], "question", f"builtin:{self.kind}")
            yield found._replace(group=group or question)


def conversation(values: list[Any], form: str, place: str) -> Finding:
    messages = _checked(_messages(values, form))
    question = next(message["content"] for message in messages if message["role"] == "user")
    return Finding(json.dumps(messages, ensure_ascii=False), place, group=question)


def _messages(values: list[Any], form: str) -> list[Any]:
    if form in ("messages", "conversations"):
        return _list(values[0], form)
    if form == "prompt" and isinstance(values[0], list):
        return [*values[0], *_list(values[1], "completion")]
    question, answer, *rest = values
    if form == "instruction" and rest and rest[0]:
        question = f"{question}\n\n{rest[0]}"
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise NoConversation(f"{name} holds no list of messages")
    return value


def _checked(entries: list[Any]) -> Messages:
    """Questions and answers in turn, behind one system message at most."""
    messages: Messages = []
    before = ""
    for entry in entries:
        match entry:
            case {"role": str(role), "content": str(text)} | {"from": str(role), "value": str(text)}:
                pass
            case _:
                raise NoConversation("a message is no role with a text")
        if role not in ROLES:
            raise NoConversation(f"unknown role {role!r} (known are {', '.join(ROLES)})")
        role = ROLES[role]
        if role == before:
            raise NoConversation(f"two messages of {role} in a row")
        if role == "system" and before:
            raise NoConversation("a system message that is not the first")
        if role == "assistant" and before != "user":
            raise NoConversation("an answer without a question")
        if not text.strip():
            raise NoConversation("empty answer" if role == "assistant" else f"empty message of {role}")
        messages.append({"role": role, "content": text})
        before = role
    if all(message["role"] != "assistant" for message in messages):
        raise NoConversation("no answer")
    return messages
