"""Fine-tuning on conversations: only answers count, none sees another, a run is exact, ends in time, keeps its best.

The engine itself is tested as pretraining's (tests/invariants); runs here are small, in processes of their own.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from small_runs.chat import LENGTH, recipe
from small_runs.fixture import Run

from yxanul import YxanulForCausalLM
from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.data.bins import BEGINS, LEARNT, open_bin
from yxanul.data.chat_templates import load_chat_tokenizer, make_chat_tokenizer
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.prepare import prepare
from yxanul.data.stream import IGNORED, Stream
from yxanul.evaluation.bits_per_byte import evaluate
from yxanul.training.config import read_config
from yxanul.training.held_out_conversations import HeldOutConversations
from yxanul.training.inputs import open_stream
from yxanul.training.loader import MicroBatches
from yxanul.training.model import build


def conversations(token_bin):
    """Ids, and whether each is learnt, of every conversation alone."""
    ids, marks = token_bin.read(0, token_bin.tokens).astype(np.int64), token_bin.marks
    for begin, end in zip(np.flatnonzero(marks & BEGINS), token_bin.document_ends.astype(int), strict=True):
        yield ids[begin:end], (marks[begin:end] & LEARNT).astype(bool)


def separate_losses(model, token_bin):
    for ids, learnt in conversations(token_bin):
        targets = torch.from_numpy(np.where(learnt, ids, IGNORED)[1:])[None]
        yield model(input_ids=torch.from_numpy(ids[:-1])[None], shift_labels=targets, num_items_in_batch=1).loss


def test_a_packed_step_has_the_losses_and_gradients_of_its_conversations_apart(chat):
    model = YxanulForCausalLM.from_pretrained(chat / "model").train()
    token_bin = open_bin(chat / "bins/train")
    name, rows = str(chat / "bins/train"), token_bin.rows
    stage = Stage("chat", (Source(name, rows * LENGTH, None, LENGTH),), (Phase(LENGTH, rows, steps=1),))
    batches = MicroBatches(Stream(Plan([stage]), {name: token_bin}, seed=1), 0, 1, 1, document_mask=True)
    batch = batches.__getitems__(0)
    assert batch.pop("targets_in_step") == token_bin.row_lengths.sum() > 500
    found = []
    for loss in (model(**batch, num_items_in_batch=1).loss, sum(separate_losses(model, token_bin))):
        model.zero_grad()
        loss.backward()
        found.append((loss.item(), torch.cat([each.grad.flatten() for each in model.parameters()])))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=2e-3 * found[1][1].abs().max().item())
    bounds = {key: value for key, value in batch.items() if not key.startswith(("cu_seq", "max_length"))}
    assert abs(model(**bounds, num_items_in_batch=1).loss.item() - found[0][0]) > 1, "the mask matters here"


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_a_held_out_score_is_that_of_its_answers_one_by_one(chat, rows):
    model = YxanulForCausalLM.from_pretrained(chat / "model").eval()
    token_bin = open_bin(chat / "bins/held_out")
    held_out = HeldOutConversations(token_bin, rows=rows, max_tokens=10**6)
    with torch.no_grad():
        score = evaluate(model, held_out, device=torch.device("cpu"))
        apart = [loss.item() / math.log(2) for loss in separate_losses(model, token_bin)]
    assert score.document_bits == pytest.approx(apart, rel=1e-4) and len(apart) > 20
    assert score.bytes == open_bin(chat / "bins/held_out").manifest["bytes"]
    fewer = HeldOutConversations(token_bin, rows=rows, max_tokens=2 * (LENGTH + 1))
    assert 0 < fewer.documents < len(apart) and fewer.tokens == token_bin.row_lengths[:2].sum()
    prompt = load_chat_tokenizer(chat / "chat").decode(held_out.opening(1))
    assert prompt.startswith("User: Say ") and prompt.endswith("\nAssistant:\n")


def test_a_run_that_was_killed_is_the_run_that_was_left_alone(chat, tmp_path):
    whole, killed = (Run(recipe(chat, keep_best=True), tmp_path / name) for name in ("whole", "killed"))
    assert whole() == 0, whole.said()
    assert killed(kill={"step": 7}) == -9
    assert killed() == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)
    assert len(whole.digests(20)) >= 3 and whole.losses()[-1] < whole.losses()[0] - 1
    answered(tmp_path / "whole/final", tmp_path)


def answered(final, cache):
    """By transformers alone, which is to decode what the template's marks hold, and to stop at an answer's end."""
    environment = {**os.environ, "HF_MODULES_CACHE": str(cache / "modules")}
    words = [sys.executable, "-c", WITHOUT_US, str(final)]
    done = subprocess.run(words, capture_output=True, env=environment, text=True)
    assert done.returncode == 0, done.stderr
    marked, made, stops = done.stdout.splitlines()
    assert marked == "3 3<|endoftext|>" and made.startswith("User: Say 3.|Assistant:|") and stops == "True"


WITHOUT_US = """
import sys
sys.modules["yxanul"] = None
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
talk = [{"role": "user", "content": "Say 3."}, {"role": "assistant", "content": "3 3"}]
found = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
ids = zip(found["input_ids"], found["assistant_masks"])
print(tokenizer.decode([index for index, answer in ids if answer]))
asked = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, return_dict=True, return_tensors="pt")
made = model.generate(**asked, max_new_tokens=20, do_sample=False)
print(tokenizer.decode(made[0]).replace("\\n", "|"))
print(tokenizer.eos_token_id in model.generation_config.eos_token_id)
"""


def test_a_run_that_gets_no_better_ends_early_with_its_best_and_stays_ended(chat, tmp_path):
    changes = {"learning_rate": 0.3, "lr_scheduler_type": "constant", "keep_best": True, "early_stopping": 2}
    changes["stages"] = [yaml.safe_load(recipe(chat).read_text())["stages"][0] | {"steps": 40}]
    run = Run(recipe(chat, **changes, max_grad_norm=100.0), tmp_path / "run")
    assert run() == 0, run.said()
    scores = {line["step"]: line["eval_bits_per_byte"] for line in run.lines("eval_bits_per_byte") if line["step"]}
    best = min(scores, key=scores.get)
    assert max(scores) == best + 10 < 40, "two evaluations behind the best"
    assert "stopped early" in run.said() and f"that of step {best}" in run.said()
    weights = (tmp_path / f"run/checkpoints/checkpoint-{best}/model.safetensors").read_bytes()
    final = tmp_path / "run/final"
    assert (final / "model.safetensors").read_bytes() == weights
    final.rename(tmp_path / "elsewhere")  # as a kill right before it was written leaves it
    assert run() == 0 and "where it stopped early" in run.said()
    assert (final / "model.safetensors").read_bytes() == weights and max(run.steps()) == best + 10


@pytest.mark.parametrize("layout", ["plain-tied", "plain-untied", "factorised-tied", "factorised-untied"])
def test_new_tokens_begin_as_the_mean_of_the_old_ones(chat, tiny_model, layout):
    old = tiny_model(layout, vocab_size=300)
    old.save_pretrained(chat / "model")
    config = read_config(str(recipe(chat, model_config={"vocab_size": 302})), [])
    new, ids = build(config).eval(), torch.arange(3, 40)[None]
    assert new.config.vocab_size == 302
    with torch.no_grad():
        logits = new(ids).logits
    torch.testing.assert_close(logits[..., :300], old(ids).logits)
    torch.testing.assert_close(logits[..., 300], logits[..., :300].mean(-1))
    table = new.get_input_embeddings().weight
    torch.testing.assert_close(table[301], old.get_input_embeddings().weight.mean(0))


def test_chatml_makes_room_for_its_tokens_by_itself_and_the_run_goes_on(chat, tmp_path):
    """The recipe says the template alone; tokenizer and bins are made by the run."""
    bins, tokenizer = f"{tmp_path}/ml/talk", f"{tmp_path}/ml/tokenizer"
    changes = {"tokenizer": tokenizer, "validation": {"talk": f"{bins}/held_out"}, "save_steps": 1}
    entry = {"sources": [str(chat / "talk.jsonl")], "held_out": 0.2, "pack": LENGTH, "conversations": "answers"}
    changes["data"] = {"tokenizer": {"from": str(chat / "model"), "template": "chatml"}, bins: entry}
    changes["stages"] = [yaml.safe_load(recipe(chat).read_text())["stages"][0] | {"steps": 2}]
    changes["stages"][0]["sources"] = [{"bin": f"{bins}/train"}]
    run = Run(recipe(chat, **changes), tmp_path / "run")
    assert run(kill={"step": 1}) == -9
    assert run() == 0, run.said()
    vocabulary = load_chat_tokenizer(tokenizer).vocabulary_size
    final = YxanulForCausalLM.from_pretrained(tmp_path / "run/final")
    assert final.config.vocab_size == vocabulary == load_chat_tokenizer(chat / "chat").vocabulary_size + 2
    assert vocabulary - 1 in np.atleast_1d(final.generation_config.eos_token_id), "generation stops at <|im_end|>"
    assert run.losses()[-1] < 10, "new rows are no noise"


def test_a_bin_of_a_larger_vocabulary_than_the_models_is_refused(chat):
    make_chat_tokenizer(str(chat / "base"), "chatml", chat / "ml")
    prepare([str(chat / "talk.jsonl")], str(chat / "ml"), chat / "mlbins", pack=LENGTH, conversations="answers")
    stage = yaml.safe_load(recipe(chat).read_text())["stages"][0] | {"sources": [{"bin": str(chat / "mlbins/train")}]}
    config = read_config(str(recipe(chat, tokenizer=str(chat / "ml"), stages=[stage], validation={})), [])
    with pytest.raises(BadInput, match="set model_config.vocab_size=[0-9]+, or take another"):
        open_stream(config, config.plan(), config.shape().config)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"init_from": None}, "fine-tuning begins with a model: set init_from"),
        ({"document_mask": None}, "conversations in a row would see each other: set document_mask: true"),
        ({"tokenizer": None}, "holds conversations: set tokenizer to the one with their chat template"),
        ({"early_stopping": 2}, "early_stopping ends a run at its worst: set keep_best: true"),
        ({"keep_best": True, "eval_steps": None}, "compare evaluations: set validation and eval_steps"),
    ],
)
def test_what_is_missing_is_said_before_any_work(chat, tmp_path, capsys, changes, message):
    assert main(["sft", str(recipe(chat, **changes)), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "run").exists()


def test_an_adapter_and_a_run_are_no_models_to_begin_with_and_it_is_said_what_is(chat, tmp_path, capsys):
    for place, file, hint in (
        ("lora", "adapter_config.json", "it is a LoRA adapter: give the model that `yxanul merge"),
        ("full", "config.json", "it is a run, and the model is in its final/: give"),
    ):
        (tmp_path / place / "final").mkdir(parents=True)
        (tmp_path / place / "final" / file).write_text("{}")
        words = ["sft", str(recipe(chat)), "--out", str(tmp_path / "run"), f"init_from={tmp_path / place}"]
        assert main(words) == 2
        assert hint in capsys.readouterr().err


def test_a_model_on_a_hub_that_cannot_be_reached_is_one_sentence_at_once(chat, tmp_path, capsys, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["sft", str(recipe(chat)), "--out", str(tmp_path / "run"), "init_from=nobody/nothing"]) == 2
    said = capsys.readouterr().err
    assert "127.0.0.1:9 cannot be reached" in said and "no model on the Hub that can be reached" in said
    assert constants.HF_HUB_OFFLINE, "so that nothing tries again and again"


def test_bins_of_another_template_are_refused(chat, tmp_path, capsys):
    make_chat_tokenizer(str(chat / "base"), str(_changed_template(chat)), chat / "other")
    assert main(["sft", str(recipe(chat, tokenizer=str(chat / "other"))), "--out", str(tmp_path / "run")]) == 2
    assert "was made with another chat template than that of" in capsys.readouterr().err


def _changed_template(folder):
    file = folder / "mine.jinja"
    file.write_text(load_chat_tokenizer(folder / "chat").template.replace("User: ", "Q: "))
    return file


@pytest.mark.parametrize("more", [{}, {"lora": {"r": 4}}])
def test_two_processes_learn_what_one_learns(chat, tmp_path, more):
    one, two = (Run(recipe(chat, **more), tmp_path / name) for name in ("one", "two"))
    assert one() == 0, one.said()
    assert two(processes=2) == 0, two.said()
    assert one.losses() == pytest.approx(two.losses(), rel=1e-5)
