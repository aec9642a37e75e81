"""The scripts of docs/fine-tuning.md run as they are written, on a model and a tokenizer that are made here."""

import itertools
import math
import pathlib
import runpy
import shutil
import subprocess
import sys

import pytest
import torch
import transformers

pytest.importorskip("trl")
SCRIPTS = pathlib.Path(__file__).resolve().parent.parent / "docs"
LOAD = """
import sys; sys.modules["yxanul"] = None; import torch, transformers
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
assert torch.equal(model(torch.arange(3, 9)[None]).logits, torch.load(sys.argv[1] + "/logits.pt"))
"""


@pytest.fixture
def run(chat, tmp_path, monkeypatch):
    """`run(name)`: the script's trainer at its end, and what it logged in each step."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    shutil.copytree(chat / "chat", chat / "model", dirs_exist_ok=True)  # a tokenizer with a template

    def start(name):
        out = tmp_path / name
        trainer = runpy.run_path(str(SCRIPTS / f"{name}.py"))["main"](str(chat / "model"), str(out))
        with torch.no_grad():
            torch.save(trainer.model.eval()(torch.arange(3, 9)[None]).logits, out / "logits.pt")
        return trainer, [entry for entry in trainer.state.log_history if "loss" in entry]

    return start


def assert_loads_on_a_bare_machine(folder):
    loaded = subprocess.run([sys.executable, "-c", LOAD, folder], capture_output=True, text=True)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    assert transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True).chat_template


def test_sft_learns_the_answers_alone_from_packed_conversations(run, tmp_path):
    trainer, log = run("trl_sft")
    assert log[-1]["loss"] < log[0]["loss"] - 0.5
    rows, tokenizer = trainer.train_dataset, trainer.processing_class
    assert len(rows) < 400 and max(map(len, rows["input_ids"])) <= 256, "400 conversations are packed"
    answers = [
        tokenizer.decode([label for _, label in part])
        for labels in rows["labels"]
        for is_answer, part in itertools.groupby(enumerate(labels), lambda entry: entry[1] != -100)
        if is_answer
    ]
    assert all("User" not in answer for answer in answers)
    whole = [answer for answer in answers if answer.endswith(tokenizer.eos_token)]
    assert len(whole) > 0.9 * len(answers) and all("####" in answer for answer in whole)
    assert_loads_on_a_bare_machine(tmp_path / "trl_sft")


def test_dpo_begins_at_log_2_and_learns_to_prefer(run, tmp_path):
    _, log = run("trl_dpo")
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-4), "the reference is the model itself"
    assert log[-1]["loss"] < 0.5 and log[-1]["rewards/margins"] > 0.1
    assert_loads_on_a_bare_machine(tmp_path / "trl_dpo")
