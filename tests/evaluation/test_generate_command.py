"""Files in, files out: every prompt gets its answer, in order; conversations hold whole answers alone."""

import json

import pytest
from small_runs.chat import LENGTH, learn_by_heart, recipe
from small_runs.fixture import Run

from yxanul.__main__ import main
from yxanul.evaluation.answers import Answer


def lines_of(file):
    return [json.loads(line) for line in file.open()]


@pytest.fixture
def jsonl(tmp_path):
    def make(rows):
        file = tmp_path / "in.jsonl"
        file.write_text(
            "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)
        )
        return str(file)

    return make


def test_answers_stand_beside_their_prompts_and_other_fields_stay(checkpoint, jsonl, tmp_path):
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    rows = [{"prompt": "the man", "id": "\u2028"}, {"messages": talk}, {"prompt": "the cat waits for the cat"}]
    out = tmp_path / "out" / "answers.jsonl"
    model = str(checkpoint("yxanul"))
    assert main(["generate", model, "--input", jsonl(rows), "--out", str(out), "--new-tokens", "5"]) == 0
    found = lines_of(out)
    assert [{key: row[key] for key in given} for row, given in zip(found, rows, strict=True)] == rows
    assert all({"answer", "ended"} <= row.keys() and "calculator" not in row for row in found)


def test_text_goes_in_and_out_line_by_line_and_plain_texts_are_continued(checkpoint, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    question = "Question: Which river runs through Paris??"
    source.write_text(f"{question}\n\nQuestion: Who wrote Emma?\n")
    model = str(checkpoint("learnt"))
    assert main(["generate", model, "--input", str(source), "--out", str(out), "--plain", "--new-tokens", "9"]) == 0
    answers = out.read_text().splitlines()
    assert len(answers) == 2 and answers[0].startswith("Answer: The Se")


def test_a_data_set_holds_whole_answers_alone_and_sampling_obeys_its_seed(
    checkpoint, jsonl, tmp_path, capsys, monkeypatch
):
    import yxanul.evaluation.answers as answers

    rows = [{"prompt": "one"}, {"prompt": "two"}, {"prompt": "three"}]
    made = [Answer(" 1 ", True), Answer("2", False), Answer(" ", True)]
    monkeypatch.setattr(answers, "write_answers", lambda *given, **how: made)
    out, model = tmp_path / "out.jsonl", str(checkpoint("yxanul"))
    words = ["generate", model, "--input", jsonl(rows), "--out", str(out)]
    assert main([*words, "--dataset", "--new-tokens", "8"]) == 0
    user = {"role": "user", "content": "one"}
    assert lines_of(out) == [{"messages": [user, {"role": "assistant", "content": "1"}]}]
    assert "2 answers were empty or cut off" in capsys.readouterr().err
    monkeypatch.undo()
    texts = []
    for seed in (1, 1, 2):
        assert main([*words, "--temperature", "1.5", "--seed", str(seed), "--new-tokens", "8", "--calculator"]) == 0
        assert all(row["calculator"] for row in lines_of(out))
        texts.append(out.read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "row, message",
    [
        ("{", "line 2 is not JSON"),
        ({"text": "x"}, 'line 2: give "prompt", a text, or "messages"'),
        ({"messages": []}, "line 2: give"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "line 2: give"),
    ],
)
def test_a_bad_row_is_named_before_any_work(row, message, jsonl, capsys, tmp_path):
    given = jsonl([{"prompt": "x"}, row])
    assert main(["generate", "nowhere", "--input", given, "--out", str(tmp_path / "o.jsonl")]) == 2
    assert message in capsys.readouterr().err


def test_an_end_of_the_models_own_is_an_end_and_a_prompt_that_is_cut_is_said(checkpoint, capsys):
    from yxanul.evaluation.answers import write_answers
    from yxanul.evaluation.generation import Prompt
    from yxanul.evaluation.text_model import load

    subject = load(str(checkpoint("llama")))
    prompts = [Prompt("the man " * 200, (), 12)]
    (free,) = write_answers(subject, prompts)
    assert not free.ended and "1 prompts are too long for 96 tokens" in capsys.readouterr().err
    made = subject.tokenizer.encode(free.text, add_special_tokens=False)
    subject.model.generation_config.eos_token_id = [subject.end_id, made[5]]
    assert write_answers(subject, prompts)[0].ended


def test_messages_that_are_none_leave_the_prompt_and_the_input_is_not_overwritten(checkpoint, jsonl, tmp_path, capsys):
    given, model = jsonl([{"prompt": "the man", "messages": None}]), str(checkpoint("yxanul"))
    assert main(["generate", model, "--input", given, "--out", given]) == 2
    assert "which would be overwritten" in capsys.readouterr().err
    out = tmp_path / "out.jsonl"
    assert main(["generate", model, "--input", given, "--out", str(out), "--new-tokens", "4"]) == 0
    assert lines_of(out)[0]["messages"] is None
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    assert main(["generate", model, "--input", str(tmp_path / "latin.txt"), "--out", str(out)]) == 2
    assert "not text in UTF-8" in capsys.readouterr().err


def test_a_model_learns_from_the_conversations_of_a_teacher_of_another_kind(checkpoint, chat, jsonl, tmp_path):
    """Sequence-level distillation: a Llama with its own tokenizer and template answers, `sft` trains ours on it."""
    from yxanul.data.prepare import prepare
    from yxanul.evaluation.text_model import load

    teacher, questions = load(str(checkpoint("llama"))), [f"Say {n}." for n in range(40)]
    tokenizer, said = teacher.tokenizer, "so be it"
    talks = [[{"role": "user", "content": each}, {"role": "assistant", "content": said}] for each in questions]
    texts = [tokenizer.apply_chat_template(talk, tokenize=False) for talk in talks]
    learn_by_heart(teacher.model, tokenizer, texts, steps=40)
    teacher.model.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")

    data = tmp_path / "teacher.jsonl"
    given = ["--input", jsonl([{"prompt": each} for each in questions]), "--out", str(data), "--dataset"]
    assert main(["generate", str(tmp_path / "teacher"), *given, "--new-tokens", "16"]) == 0
    assert [row["messages"] for row in lines_of(data)] == talks
    prepare([str(data)], str(chat / "chat"), tmp_path / "taught", held_out=0.2, pack=LENGTH, conversations="answers")
    stage = {"name": "chat", "sources": [{"bin": str(tmp_path / "taught/train")}], "steps": 20}
    stage["phases"] = [{"length": LENGTH, "rows": 4}]
    run = Run(recipe(chat, stages=[stage], validation={"talk": str(tmp_path / "taught/held_out")}), tmp_path / "run")
    assert run() == 0, run.said()
    student = load(str(tmp_path / "run/final"))
    assert type(student.model).__name__ == "YxanulForCausalLM"
    out = tmp_path / "student.jsonl"
    given = ["--input", jsonl([{"prompt": "Say 7."}]), "--out", str(out), "--new-tokens", "16"]
    assert main(["generate", str(tmp_path / "run/final"), *given]) == 0
    assert lines_of(out)[0]["answer"] == said and lines_of(out)[0]["ended"]


def test_files_of_no_known_form_are_refused(tmp_path, capsys):
    source = tmp_path / "in.txt"
    for words, message in (
        ([str(source), "--out", "o.jsonl"], "there is no such file"),
        ([str(tmp_path / "empty.txt"), "--out", "o.jsonl"], "holds no prompt"),
        ([str(tmp_path / "one.txt"), "--out", "o.csv"], "must end in .jsonl or .txt"),
        ([str(tmp_path / "one.txt"), "--out", "o.txt", "--dataset"], "must end in .jsonl."),
    ):
        (tmp_path / "empty.txt").write_text("\n")
        (tmp_path / "one.txt").write_text("x\n")
        assert main(["generate", "nowhere", "--input", *words]) == 2
        assert message in capsys.readouterr().err
