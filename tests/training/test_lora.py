"""Adapters: they alone learn and are saved, a stopped run goes on, PEFT loads them, a merge computes the same."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs.chat import recipe
from small_runs.fixture import Run

from yxanul import YxanulForCausalLM
from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.training.config import read_config
from yxanul.training.merge import merge
from yxanul.training.model import build

peft = pytest.importorskip("peft")
LORA = {"r": 4, "alpha": 8, "targets": "all"}
LAYERS = 2


def targets_of(model):
    return {name.rpartition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}


@pytest.mark.parametrize(
    "targets, each", [("attention", 4), ("mlp", 3), ("all", 7), (["q_proj", "down_proj"], 2), ("v_proj", 1)]
)
def test_adapters_sit_where_they_are_asked_for_and_alone_learn(chat, targets, each):
    model = build(read_config(str(recipe(chat, lora={"r": 2, "targets": targets})), []))
    assert len(targets_of(model)) == LAYERS * each
    assert all(parameter.requires_grad == (".lora_" in name) for name, parameter in model.named_parameters())
    base, ids = YxanulForCausalLM.from_pretrained(chat / "model"), torch.arange(3, 30)[None]
    assert torch.equal(model.eval()(ids).logits, base.eval()(ids).logits), "an adapter begins as nothing"


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}, {"lora": LORA | {"dropout": 0.2}}])
def test_a_run_of_adapters_that_was_killed_is_the_run_that_was_left_alone(chat, tmp_path, more):
    file = recipe(chat, **({"lora": LORA} | more))
    whole, killed = (Run(file, tmp_path / name) for name in ("whole", "killed"))
    assert whole() == 0, whole.said()
    assert killed(kill={"step": 7}) == -9
    assert killed() == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)
    assert whole.losses()[-1] < whole.losses()[0] - 0.5
    names = {file.name for file in (tmp_path / "whole/final").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names


def test_checkpointed_layers_learn_the_same(chat, tmp_path):
    runs = []
    for name, more in (("plain", {}), ("checkpointed", {"gradient_checkpointing": True})):
        runs.append(Run(recipe(chat, lora=LORA, **more), tmp_path / name))
        assert runs[-1]() == 0, runs[-1].said()
    assert runs[0].losses() == pytest.approx(runs[1].losses(), rel=1e-5)


@pytest.fixture
def trained(chat, tmp_path):
    run = Run(recipe(chat, lora=LORA), tmp_path / "run")
    assert run() == 0, run.said()
    return tmp_path / "run"


def test_peft_loads_the_adapter_and_a_merge_computes_the_same(chat, tmp_path, trained):
    base = YxanulForCausalLM.from_pretrained(chat / "model").eval()
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        before = base(ids).logits.clone()
        adapted = peft.PeftModel.from_pretrained(base, trained / "final").eval()
        logits = adapted(input_ids=ids).logits
    assert (logits - before).abs().max() > 0.1, "an adapter that does nothing merges well"
    assert main(["merge", str(trained), "--out", str(tmp_path / "merged")]) == 0
    merged = YxanulForCausalLM.from_pretrained(tmp_path / "merged").eval()
    assert not targets_of(merged) and (tmp_path / "merged/modeling_yxanul.py").exists()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, logits, rtol=0, atol=1e-5)
    merge(trained / "final", tmp_path / "again")
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    from transformers import AutoTokenizer

    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template


def test_the_adapter_names_its_base_for_auto_classes(chat, trained):
    config = json.loads((trained / "final/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(chat / "model") and config["inference_mode"]
    model = peft.AutoPeftModelForCausalLM.from_pretrained(trained / "final", trust_remote_code=True)
    assert len(targets_of(model)) == LAYERS * 7


def test_embeddings_are_adapted_where_the_head_is_another_table(chat, tiny_model):
    tiny_model("plain-untied", vocab_size=300).save_pretrained(chat / "model")
    model = build(read_config(str(recipe(chat, lora=LORA | {"embeddings": True})), []))
    assert any("embed_tokens.lora_embedding_A" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"lora": LORA | {"targets": ["q_prj"]}},
            "q_prj matches nothing in the model; there are attention, mlp, all",
        ),
        ({"lora": LORA | {"targets": "lm_head"}}, "lm_head matches nothing in the model; there are"),
        ({"lora": LORA | {"rank": 8}}, "lora: unknown key 'rank'"),
        ({"lora": LORA | {"r": 0}}, "lora.r=0 must be at least 1"),
        ({"lora": LORA | {"embeddings": True}}, "a merge would change the head too"),
        ({"lora": LORA, "init_from": None}, "lora adapts a model that knows something: set init_from"),
        ({"lora": LORA, "optimizer": "muon"}, "lora is for optimizer=adamw"),
        ({"lora": LORA, "model_config": {"vocab_size": 400}}, "lora learns no new tokens: keep model_config.vocab"),
    ],
)
def test_what_cannot_be_adapted_is_said_before_any_work(chat, tmp_path, capsys, changes, message):
    assert main(["pretrain", str(recipe(chat, **changes)), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and not (tmp_path / "run").exists(), said


def test_what_is_no_adapter_is_not_merged(chat, tmp_path):
    with pytest.raises(BadInput, match="has no adapter_config.json: name the folder of a LoRA adapter"):
        merge(chat / "model", tmp_path / "merged")
