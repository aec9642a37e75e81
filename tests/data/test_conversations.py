"""Conversations of every known form; what is none is refused with file and row, or left out and counted."""

import gzip
import json
from collections import Counter

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.sources import open_source

TURNS = [("user", "What is 2+3?"), ("assistant", "<<2+3=5>>5")]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
FORMS = {
    "messages": {"messages": MESSAGES},
    "sharegpt": {"conversations": [{"from": "human", "value": TURNS[0][1]}, {"from": "gpt", "value": TURNS[1][1]}]},
    "alpaca": {"instruction": "What is", "input": "2+3?", "output": TURNS[1][1]},
    "alpaca-without-input": {"instruction": TURNS[0][1], "input": "", "output": TURNS[1][1]},
    "gsm8k": {"question": TURNS[0][1], "answer": TURNS[1][1]},
    "prompt-completion": {"prompt": TURNS[0][1], "completion": TURNS[1][1]},
    "prompt-completion-of-messages": {"prompt": MESSAGES[:1], "completion": MESSAGES[1:]},
}


@pytest.fixture
def source(tmp_path):
    def make(*records, settings="", ending="jsonl"):
        file = tmp_path / f"talk.{ending}"
        if ending == "parquet":
            pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            parquet.write_table(pyarrow.Table.from_pylist(list(records)), file)
        else:
            text = "".join(json.dumps(record) + "\n" for record in records).encode()
            file.write_bytes(gzip.compress(text) if ending.endswith("gz") else text)
        return open_source(f"{file}{settings}", conversations=True)

    return make


def read(source):
    counts = Counter()
    found = [document for part in source.parts() for document in part.documents(counts)]
    return [json.loads(document.text) for document in found], counts, found


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_known_by_its_columns(source, form, ending):
    (messages,), counts, (document,) = read(source(FORMS[form], ending=ending))
    asked = "What is\n\n2+3?" if form == "alpaca" else TURNS[0][1]
    assert [(message["role"], message["content"]) for message in messages] == [("user", asked), TURNS[1]]
    assert document.group == asked and not counts


def test_system_messages_and_several_turns_stay_in_order(source):
    turns = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "user", "content": "And 3+4?"}]
    turns.append({"role": "assistant", "content": "7"})
    assert read(source({"messages": turns}))[0] == [turns]


def test_builtin_problems_are_conversations_held_out_by_their_operands():
    conversations, _, documents = read(open_source("builtin:math,level=easy,count=30", conversations=True))
    assert len(conversations) == 30 and all("####" in messages[1]["content"] for messages in conversations)
    assert len({document.group for document in documents}) < 30, "problems of one pair of operands stay together"


def said(*turns):
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


BAD = [
    (said(*TURNS, ("assistant", "Five.")), "two messages of assistant in a row"),
    (said(TURNS[0], ("assistant", " \n")), "empty answer"),
    (said(("user", ""), TURNS[1]), "empty message of user"),
    (said(TURNS[0], ("tool", "5")), "unknown role 'tool' (known are human, gpt, system, user, assistant)"),
    (said(TURNS[1], TURNS[0]), "an answer without a question"),
    (said(TURNS[0]), "no answer"),
    (said(*TURNS, ("system", "Be brief.")), "a system message that is not the first"),
    ({"messages": [{"role": "user"}]}, "a message is no role with a text"),
    ({"messages": None}, "messages holds no list of messages"),
]


@pytest.mark.parametrize("record, problem", BAD)
def test_what_is_no_conversation_is_named_with_file_and_row(source, tmp_path, record, problem):
    good = {"messages": MESSAGES}
    with pytest.raises(BadInput) as error:
        read(source(good, record))
    assert str(error.value).startswith(f"{tmp_path}/talk.jsonl, line 2: {problem}; mend it, or add bad=skip")
    conversations, counts, _ = read(source(good, record, settings=",bad=skip"))
    assert conversations == [MESSAGES] and counts == {problem: 1}


@pytest.mark.parametrize("ending, row", [("jsonl", "line 3"), ("jsonl.gz", "line 3"), ("parquet", "row 3")])
def test_the_row_that_is_named_is_the_row_of_the_file(source, tmp_path, ending, row):
    records = [FORMS["gsm8k"]] * 2 + [{"question": "Why?", "answer": ""}]
    with pytest.raises(BadInput, match=f"talk.{ending}, {row}: empty answer; "):
        read(source(*records, ending=ending))


@pytest.mark.parametrize(
    "spec, message",
    [
        ("builtin:code", "builtin:code holds no conversations"),
        ("raw:train.bin", "raw:train.bin holds no conversations"),
        ("builtin:math,column=text", "unknown key 'column'"),
        ("builtin:math,bad=perhaps", "bad must be stop or skip"),
    ],
)
def test_sources_that_hold_none_are_refused(spec, message):
    with pytest.raises(BadInput, match=message):
        open_source(spec, conversations=True)


def test_columns_of_no_known_form_are_listed(source):
    with pytest.raises(BadInput, match="holds no conversations: its columns are 'text', 'id', known are messages; "):
        source({"text": "Hi", "id": 3})
