"""A chat is the one-shot encoding of its conversation, says what it drops, and works through a pipe."""

import json

import pytest
import torch

from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.evaluation.chat import Chat, talk
from yxanul.evaluation.text_model import load


@pytest.fixture(params=["yxanul", "llama"])
def subject(request, checkpoint):
    return load(str(checkpoint(request.param, positions=160)))


def test_several_turns_are_the_one_shot_encoding_of_the_conversation(subject, capsys, monkeypatch):
    """And the answers are what `generate` writes behind that encoding."""
    chat = Chat(subject, new_tokens=8, system="Be brief.")
    fed, written = [], chat._written
    monkeypatch.setattr(chat, "_written", lambda ids: fed.append(ids) or written(ids))
    for text in ("Who wrote Emma?", "And the man?", "the cat"):
        chat.turn(text)
    assert [message["role"] for message in chat.messages] == ["system", *["user", "assistant"] * 3]
    for turn, ids in enumerate(fed):
        messages = chat.messages[: 2 * turn + 2]
        text = subject.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert ids == subject.tokenizer.encode(text, add_special_tokens=False)
        row = torch.tensor([ids])
        made = subject.model.generate(
            row, attention_mask=torch.ones_like(row), max_new_tokens=8, do_sample=False, pad_token_id=0
        )
        answer = subject.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()
        assert chat.messages[2 * turn + 2]["content"] == answer
    assert capsys.readouterr().out


def test_what_was_dropped_is_said_and_the_system_prompt_stays(subject, capsys):
    chat = Chat(subject, new_tokens=40, system="Be brief.")
    for _ in range(12):
        chat.turn("Who wrote Emma and waits for the cat?")
        assert len(chat.encoded()) <= subject.longest + 40
        assert chat.messages[0]["role"] == "system" and chat.messages[1]["role"] == "user"
    assert "messages were dropped: 160 tokens are all that fit" in capsys.readouterr().err


def test_a_message_that_never_fits_is_not_answered_and_not_kept(subject, capsys):
    chat = Chat(subject, new_tokens=8)
    assert chat.turn("the cat " * 300) == "" and chat.messages == []
    assert "not answered" in capsys.readouterr().err


def test_reset_save_and_quit(subject, capsys, tmp_path):
    chat, file = Chat(subject, new_tokens=4), tmp_path / "chat.json"
    lines = ["the man\n", "\n", f"/save {file}\n", "/reset\n", "/what\n", "the cat\n", "/quit\n", "never\n"]
    assert talk(chat, lines) == 0
    saved = json.loads(file.read_text())["messages"]
    assert [message["role"] for message in saved] == ["user", "assistant"] and saved[0]["content"] == "the man"
    assert [message["content"] for message in chat.messages[::2]] == ["the cat"]
    assert "There are /reset" in capsys.readouterr().err


def interrupt_after(monkeypatch, tokens):
    """Ctrl-C, when so many tokens were written."""
    from transformers import TextStreamer

    put, left = TextStreamer.put, [tokens]

    def interrupted(self, value):
        put(self, value)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(TextStreamer, "put", interrupted)


def test_an_interrupt_at_a_terminal_ends_the_answer_and_not_the_chat(subject, capsys, monkeypatch):
    whole = Chat(subject, new_tokens=8)
    whole.turn("Who wrote Emma?")
    chat = Chat(subject, new_tokens=8, interruptible=True)
    with monkeypatch.context() as context:
        interrupt_after(context, 4)
        said = chat.turn("Who wrote Emma?")
    assert said and whole.messages[-1]["content"].startswith(said) and chat.messages[-1]["content"] == said
    assert "[stopped]" in capsys.readouterr().err
    chat.reset()
    assert chat.turn("Who wrote Emma?") == whole.messages[-1]["content"]  # the cache is not spoilt
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):  # a pipe ends
        interrupt_after(context, 4)
        whole.turn("the man")


def test_a_file_that_cannot_be_saved_does_not_end_the_chat(subject, capsys, tmp_path):
    chat = Chat(subject, new_tokens=4, calculator=True)
    assert talk(chat, ["the man\n", f"/save {tmp_path}/no/chat.json\n", f"/save {tmp_path}/chat.json\n"]) == 0
    assert "not saved" in capsys.readouterr().err
    talk(chat, ["/reset\n", f"/save {tmp_path}/chat.json\n"])
    assert "chat.json is there already; name another file" in capsys.readouterr().err
    assert json.loads((tmp_path / "chat.json").read_text())["calculator"] is True


def test_a_template_that_refuses_a_role_is_one_sentence(subject, capsys):
    subject.tokenizer.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(BadInput, match=r"refuses these roles \(system, user\): no system here"):
        Chat(subject, system="Be brief.").turn("the man")


def test_a_pipe_is_read_to_its_end(checkpoint, capsys, monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("Which river runs through Paris?\nthe man\n"))
    sampled = ["--temperature", "0.8", "--top-p", "0.9", "--top-k", "9", "--calculator"]
    assert main(["chat", str(checkpoint("yxanul")), "--new-tokens", "6", *sampled]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") >= 2 and "> " not in printed.out


@pytest.mark.parametrize("flag", ["--temperature=-1", "--top-p=0", "--top-k=0", "--new-tokens=0"])
def test_flags_out_of_range_are_one_sentence(flag, checkpoint, capsys):
    assert main(["chat", str(checkpoint("yxanul")), flag]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert flag.partition("=")[0] in said and said.count("--") == 1, "the wrong one is named, and no other"


def test_int8_is_for_our_models_alone(checkpoint, capsys):
    assert main(["chat", str(checkpoint("llama")), "--int8"]) == 2
    assert "--int8 is for our models on a CPU" in capsys.readouterr().err


def test_a_tokenizer_without_a_template_is_refused(subject, tmp_path, capsys):
    subject.model.save_pretrained(tmp_path / "bare")
    subject.tokenizer.chat_template = None
    subject.tokenizer.save_pretrained(tmp_path / "bare")
    assert main(["chat", str(tmp_path / "bare")]) == 2
    assert "has no chat template" in capsys.readouterr().err
