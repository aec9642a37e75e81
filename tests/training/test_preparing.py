"""What a recipe says of its data is made if it is missing, once, by one process; and the demo recipe says it right."""

import fcntl
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.bins import open_bin
from yxanul.data.tokenizers import load_tokenizer
from yxanul.training import preparing
from yxanul.training.config import read_config
from yxanul.training.preparing import prepare_missing

MATH = {"sources": ["builtin:math,count=300"], "held_out": 0.1}
DATA = {"tokenizer": {"kind": "bpe", "vocabulary": 300, "held_out": 0.1} | MATH, "bins/math": MATH}
PREPARE = f"from yxanul.training.preparing import prepare_missing; prepare_missing({DATA!r}, 'bins/tokenizer')"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The data, made once for all tests that only look at it."""
    folder = tmp_path_factory.mktemp("prepared")
    subprocess.run([sys.executable, "-c", PREPARE], cwd=folder, check=True, timeout=120)
    return folder


def test_what_is_missing_is_made_and_what_is_there_is_left_alone(prepared, monkeypatch):
    monkeypatch.chdir(prepared)
    assert load_tokenizer("bins/tokenizer").vocabulary_size == 300
    fingerprint = load_tokenizer("bins/tokenizer").fingerprint
    counts = [open_bin(f"bins/math/{name}", fingerprint).documents for name in ("train", "held_out")]
    assert sum(counts) == 300 and 0 < counts[1] < 60
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*")}
    prepare_missing(DATA, "bins/tokenizer")
    assert {path: path.stat().st_mtime_ns for path in prepared.rglob("*")} == before
    assert sorted(os.listdir("bins")) == ["math", "tokenizer"]


def test_only_the_missing_bins_are_made(prepared, here):
    os.mkdir("bins")
    os.symlink(prepared / "bins/tokenizer", "bins/tokenizer")
    threads = os.environ["OMP_NUM_THREADS"]
    prepare_missing(DATA | {"bins/packed": MATH | {"pack": 64, "min_tokens": 5}}, "bins/tokenizer")
    assert open_bin("bins/packed/train").row_length == 64 and open_bin("bins/math/train").row_length is None
    assert os.environ["OMP_NUM_THREADS"] == threads


def test_bins_of_another_tokenizer_are_refused(prepared, here):
    pathlib.Path("bins").mkdir()
    os.symlink(prepared / "bins/math", "bins/math")
    changed = DATA | {"tokenizer": DATA["tokenizer"] | {"vocabulary": 301}}
    with pytest.raises(BadInput, match=r"math/held_out was made with another tokenizer \(bins/tokenizer"):
        prepare_missing(changed, "bins/other")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"bins/math": MATH | {"heldout": 0.1}}, "data: bins/math: unknown key 'heldout': did you mean held_out"),
        ({"bins/math": MATH | {"held_out": 1.5}}, "data: bins/math: held_out=1.5 must be below 1"),
        ({"bins/math": MATH | {"pack": "many"}}, "data: bins/math: pack='many' must be a whole number"),
        ({"bins/math": {"held_out": 0.1}}, "data: bins/math: sources is missing"),
        ({"bins/math": "builtin:math"}, "data: bins/math must hold 'key: value' lines; it holds 'builtin:math'"),
        ({"tokenizer": MATH | {"kind": "bpe"}}, "data: tokenizer: vocabulary is missing"),
        ({"tokenizer": DATA["tokenizer"] | {"kind": "bep"}}, "data: tokenizer: unknown kind 'bep': did you mean bpe"),
        ({"tokenizer": DATA["tokenizer"] | {"vocabulary": 10}}, "data: bins/tokenizer: --vocabulary 10 must be at"),
        (DATA | {"bins/math": {"sources": ["builtin:maths"]}}, "data: bins/math: .*did you mean math"),
    ],
)
def test_mistakes_are_named(data, message):
    with pytest.raises(BadInput, match=message):
        prepare_missing(data, "bins/tokenizer")


HUB = {"sources": ["builtin:math,count=300", "hf:openai/gsm8k,config=main"]}


def test_a_data_set_of_the_hub_without_a_network_says_what_to_do(here):
    """Before anything is made."""
    with pytest.raises(BadInput) as error:
        prepare_missing(DATA | {"bins/hub": HUB}, "bins/tokenizer")
    assert str(error.value).startswith("data: bins/hub: hf:openai/gsm8k cannot be opened: ")
    assert "`yxanul data prepare --tokenizer bins/tokenizer --out bins/hub`" in str(error.value)
    assert str(error.value).endswith("or run with --scale tiny.") and not list(here.glob("bins/*"))
    talks = {"sources": ["hf:openai/gsm8k,config=main"], "held_out": 0.1, "pack": 64, "conversations": "answers"}
    with pytest.raises(BadInput, match="--out bins/hub --held-out 0.1 --pack 64 --conversations answers` and a"):
        prepare_missing(DATA | {"bins/hub": talks}, "bins/tokenizer")


def test_bins_without_a_tokenizer_are_refused():
    with pytest.raises(BadInput, match="set `tokenizer`"):
        prepare_missing({"bins/math": MATH}, None)
    prepare_missing({}, None)


def test_the_first_process_prepares_and_the_others_wait(here):
    started = {
        rank: subprocess.Popen(
            [sys.executable, "-c", PREPARE],
            env={**os.environ, "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (1, 0)
    }
    said = {rank: process.communicate(timeout=120)[0] for rank, process in started.items()}
    assert all(process.returncode == 0 for process in started.values()), said
    assert "is made now" in said[0] and not said[1]


def test_who_waits_notices_that_nobody_prepares(here, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(preparing, "PATIENCE", 0.3)
    lock = here / "bins/tokenizer.preparing"
    lock.parent.mkdir()
    began = time.monotonic()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        threading.Timer(2.0, lambda: fcntl.flock(file, fcntl.LOCK_UN)).start()
        with pytest.raises(BadInput, match="nobody prepares bins/tokenizer any more"):
            prepare_missing(DATA, "bins/tokenizer")
    assert time.monotonic() - began > 2.0


def test_the_demo_can_be_planned_before_its_data_is_there():
    config = read_config("demo", [])
    plan = config.plan()
    made = {name for name in config.data if name != "tokenizer"}
    used = [source.name for stage in plan.stages for source in stage.sources] + list(config.validation.values())
    assert {str(pathlib.Path(name).parent) for name in used} == made
    assert sorted(stage.name for stage in plan.stages) == ["code", "language", "math", "reasoning"]
    assert not any(epochs > 1 for index in range(4) for epochs in plan.epochs(index).values())
    for processes in (1, 2, 4):
        plan.check_division(processes, accumulation=1)
    for name, entry in config.data.items():
        assert preparing.checked_entry(name, entry)["held_out"] == 0.05


@pytest.mark.slow
def test_the_demos_data_is_as_large_as_its_recipe_says(here):
    config = read_config("demo", [])
    prepare_missing(config.data, config.tokenizer)
    for stage in config.stages:
        for source in stage["sources"]:
            assert open_bin(source["bin"]).tokens == pytest.approx(source["tokens"], rel=0.15)


def test_a_tokenizer_with_another_template_is_not_taken_in_silence(prepared, here):
    chat = {"tokenizer": {"from": str(prepared / "bins/tokenizer")}}
    prepare_missing(chat, "chat")
    prepare_missing(chat, "chat")
    prepare_missing({"tokenizer": chat["tokenizer"] | {"template": "own"}}, "chat")
    with pytest.raises(BadInput, match="chat is there already, with another chat template than chatml: give the tok"):
        prepare_missing({"tokenizer": chat["tokenizer"] | {"template": "chatml"}}, "chat")
    with pytest.raises(BadInput, match="unknown chat template or file 'foo'"):
        prepare_missing({"tokenizer": chat["tokenizer"] | {"template": "foo"}}, "chat")
