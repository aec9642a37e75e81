"""What a run came to, as its folder tells it."""

import gzip
import json
from types import SimpleNamespace

import pytest
from small_runs.fixture import make_bin

from yxanul.data.bins import open_bin
from yxanul.evaluation.bits_per_byte import HeldOut
from yxanul.run_folder import RunFolder
from yxanul.training.summary import gate_verdicts, gzip_bits_per_byte, print_summary, stages_and_domains


@pytest.fixture
def plan(small_config):
    return small_config().plan()  # stages end at 12 and 20


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path)


@pytest.fixture
def text(tmp_path):
    return HeldOut(open_bin(make_bin(tmp_path / "text", 20, 1)), length=16, rows=4, max_tokens=500)


LETTERS = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(chr(64 + number) for number in ids))


def write(run, *lines):
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def scored(step, **figures):
    return {"step": step} | {f"eval_{domain}_bits_per_byte": value for domain, value in figures.items()}


def test_stages_that_ended_have_their_figures(run, plan):
    write(run, scored(0, code=4.0), {"step": 5, "loss": 3.0}, scored(8, code=3.5), scored(12, code=3.0))
    assert stages_and_domains(run, plan) == {"at the start": {"code": 4.0}, "after language": {"code": 3.0}}


def test_a_run_that_began_behind_the_first_stage_has_the_model_that_it_began_with(run, plan):
    write(run, scored(12, code=4.0), scored(16, code=None), scored(20, code=3.0))
    assert stages_and_domains(run, plan) == {"after language": {"code": 4.0}, "after code": {"code": 3.0}}


def test_gzip_is_that_of_the_held_out_text(text):
    letters = LETTERS.decode(text.ids(), True).encode()
    assert len(letters) == text.tokens
    assert gzip_bits_per_byte(text, LETTERS) == 8 * len(gzip.compress(letters)) / len(letters)


def test_verdicts_say_what_was_accepted_and_why(run):
    found = {"one": {"passed": True}, "two": {"passed": False}}
    found["three"] = {"passed": False, "accepted": {"reason": "a try"}}
    run.gates.write_text(json.dumps(found))
    assert gate_verdicts(run) == {"one": "passed", "two": "failed", "three": "failed, accepted: a try"}


def test_the_table_has_gzip_where_there_is_a_tokenizer(run, plan, text, capsys):
    write(run, scored(0, code=4.0), scored(20, code=3.25))
    print_summary(run, plan, {"code": text}, LETTERS)
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in table] == [
        "code",
        "4.000",
        "3.250",
        f"{gzip_bits_per_byte(text, LETTERS):.3f}",
    ]
    print_summary(run, plan, {"code": text}, None)
    assert "gzip" not in capsys.readouterr().out


def test_a_run_without_held_out_text_has_no_table(run, plan, capsys):
    write(run, {"step": 5, "loss": 3.0})
    print_summary(run, plan, {}, LETTERS)
    assert capsys.readouterr().out == ""
