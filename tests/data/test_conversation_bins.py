"""Bins of conversations: whole ones side by side, learnt where an answer is; what was cut or left out is counted."""

import json

import numpy as np
import pytest

from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.data.bins import BEGINS, LEARNT, open_bin
from yxanul.data.chat_templates import load_chat_tokenizer
from yxanul.data.conversation_bins import BEYOND, CUT, SPECIAL
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.prepare import prepare
from yxanul.data.stream import IGNORED, Stream

LENGTH = 64


def talk(number, answer="Nothing."):
    return {"question": f"What then, {number}?", "answer": answer}


@pytest.fixture
def prepared(made, tmp_path):
    """`prepared(records, **settings)`: the manifest and the bin, and the tokenizer."""

    def make(records, learn="answers", template="user-assistant", **settings):
        file = tmp_path / "talk.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        tokenizer = tmp_path / "chat" if (tmp_path / "chat").exists() else made(template)
        settings = {"pack": LENGTH, "conversations": learn} | settings
        manifests = prepare([str(file)], str(tokenizer), tmp_path / "bin", **settings)
        return manifests["train"], open_bin(tmp_path / "bin/train"), load_chat_tokenizer(tokenizer)

    return make


def stored(token_bin):
    width = token_bin.row_length + 1
    return token_bin.read(0, token_bin.tokens).reshape(-1, width), token_bin.marks.reshape(-1, width)


def conversations(token_bin, tokenizer):
    """Text and learnt text of each."""
    ids, marks = (values.reshape(-1) for values in stored(token_bin))
    begins = np.flatnonzero(marks & BEGINS)
    ends = token_bin.document_ends
    assert len(begins) == len(ends) == token_bin.documents
    for begin, end in zip(begins, ends.tolist(), strict=True):
        own = ids[begin:end]
        yield tokenizer.decode(own.tolist()), tokenizer.decode(own[marks[begin:end] & LEARNT > 0].tolist())


def test_the_answers_and_their_end_tokens_are_learnt_and_nothing_else(prepared):
    manifest, token_bin, tokenizer = prepared([talk(number, f"It is {number * 7}.") for number in range(20)])
    found = sorted(conversations(token_bin, tokenizer))
    assert found == sorted(
        (
            f"User: What then, {number}?\nAssistant:\nIt is {number * 7}.<|endoftext|>",
            f"It is {number * 7}.<|endoftext|>",
        )
        for number in range(20)
    )
    assert manifest["bytes"] == sum(len(f"It is {number * 7}.") for number in range(20))
    assert manifest["learnt"] == int((token_bin.marks & LEARNT).sum()) == int(token_bin.row_lengths.sum())
    assert token_bin.rows < 20, "several in a row"
    assert manifest["dropped"] == {}


def test_everything_but_a_first_token_is_learnt_if_asked_for(prepared):
    _, token_bin, tokenizer = prepared([talk(1), talk(2)], learn="everything")
    first = tokenizer.decode(tokenizer.encode_batch(["User: What"])[0][:1])
    found = list(conversations(token_bin, tokenizer))
    assert len(found) == 2 and all(learnt == text.removeprefix(first) != text for text, learnt in found)


def test_an_answer_cut_by_the_length_is_kept_and_counted_and_one_beyond_it_left_out(prepared):
    records = [talk(1), talk(2, "so " * 200), {"question": "why " * 200, "answer": "Never."}]
    records.append(talk(3, "<|endoftext|>"))
    manifest, token_bin, tokenizer = prepared(records)
    assert manifest["dropped"] == {CUT: 1, BEYOND: 1, SPECIAL: 1} and manifest["documents"] == 2
    (cut,) = (learnt for _, learnt in conversations(token_bin, tokenizer) if "so so" in learnt)
    assert not cut.endswith("<|endoftext|>") and max(token_bin.row_lengths) <= LENGTH


def test_the_same_question_is_on_one_side(prepared, tmp_path):
    records = [talk(number % 40, f"Answer {number}") for number in range(120)]
    manifest, train, tokenizer = prepared(records, held_out=0.3)
    sides = [
        {text.partition("\n")[0] for text, _ in conversations(open_bin(tmp_path / f"bin/{name}"), tokenizer)}
        for name in ("train", "held_out")
    ]
    assert all(sides) and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40


def test_a_batch_has_the_learnt_targets_alone_and_says_where_conversations_begin(prepared, tmp_path):
    _, token_bin, tokenizer = prepared([talk(number, "It is " + "so " * (number % 7)) for number in range(50)])
    name = str(tmp_path / "bin/train")
    tokens = token_bin.rows * LENGTH
    stage = Stage("chat", (Source(name, tokens, None, LENGTH),), (Phase(LENGTH, 2, steps=token_bin.rows // 2),))
    stream = Stream(Plan([stage]), {name: token_bin}, seed=3)
    texts = []
    for step in range(stream.plan.steps):
        batch = stream.batch(step, 0, 2)
        assert int((batch.targets != IGNORED).sum()) == stream.targets(step)
        for ids, targets, begins in zip(*batch, strict=True):
            for begin, end in zip(np.flatnonzero(begins), [*np.flatnonzero(begins)[1:], LENGTH], strict=True):
                own = targets[begin:end]
                texts.append(
                    (tokenizer.decode(ids[begin:end].tolist()), tokenizer.decode(own[own != IGNORED].tolist()))
                )
    assert len(texts) >= token_bin.documents - 8
    learnt = sum(stream.targets(step) for step in range(stream.plan.steps))
    assert stream.expected_targets() == pytest.approx(learnt, rel=0.1)
    known = dict(conversations(token_bin, tokenizer))
    for text, learnt in texts:
        whole = next(each for each in known if text.startswith(each) or each.startswith(text))
        assert learnt == known[whole]


def test_show_puts_what_is_learnt_in_brackets(prepared, tmp_path, capsys):
    prepared([talk(1, "Never."), talk(2, "Always.")])
    assert main(["data", "show", str(tmp_path / "bin/train"), "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("[conversation]") == 2 and "Assistant:\n[[Never.<|endoftext|>]]" in said
    assert main(["data", "verify", str(tmp_path / "bin")]) == 0
    assert main(["data", "info", str(tmp_path / "bin")]) == 0 and "tokens are learnt" in capsys.readouterr().out


def test_conversations_need_rows(prepared):
    with pytest.raises(BadInput, match="say with pack how many tokens a row holds"):
        prepared([talk(1)], pack=None)
