"""Adapters: they alone learn and are saved, a stopped run goes on, PEFT loads them, a merge computes the same."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from hub_server.fixture import OWNER
from hub_server.server import client_environment
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


@pytest.fixture(scope="module")
def finished(first_chat, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    run = Run(recipe(first_chat, lora=LORA).rename(folder / "recipe.yaml"), folder / "run")
    assert run() == 0, run.said()
    return run


@pytest.mark.parametrize("more", [{}, {"gradient_checkpointing": True}, {"lora": LORA | {"dropout": 0.2}}])
def test_a_run_of_adapters_that_was_killed_is_the_run_that_was_left_alone(chat, finished, tmp_path, more):
    file = recipe(chat, **({"lora": LORA} | more)) if more else finished.recipe
    whole, killed = (Run(file, tmp_path / name) for name in ("whole", "killed"))
    if more:
        assert whole() == 0, whole.said()
    else:
        whole = finished
    assert killed(kill={"step": 7}) == -9
    assert killed() == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)
    assert whole.losses()[-1] < whole.losses()[0] - 0.5
    if "lora" not in more:  # layers that are checkpointed learn the same
        assert whole.losses() == pytest.approx(finished.losses(), rel=1e-5)
    names = {file.name for file in (whole.folder / "final").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert "model.safetensors" not in names


FSDP2 = {"processes": 2, "fsdp2": True}
EAGER = {"eager_kernels": True, "seconds": 400}


def learns(chat, folder, options, **changes):
    run = Run(recipe(chat, lora=LORA, **changes), folder)
    assert run(**options) == 0, run.said()
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, options",
    [
        ({"compile": "layers"}, EAGER),
        ({"compile": "layers", "gradient_checkpointing": True}, EAGER),
        ({"compile": "model"}, EAGER),
        ({"parallel": "fsdp2"}, FSDP2),
        ({"parallel": "fsdp2", "gradient_checkpointing": True, "compile": "layers"}, FSDP2 | EAGER),
    ],
)
def test_compiled_and_split_runs_learn_the_same(chat, tiny_model, tmp_path, changes, options):
    tiny_model("factorised-tied", vocab_size=300, initializer_range=0.2).save_pretrained(chat / "model")
    plain, other = learns(chat, tmp_path / "plain", {}), learns(chat, tmp_path / "other", options, **changes)
    assert other.losses() == pytest.approx(plain.losses(), rel=1e-4) and len(plain.losses()) == 20
    one, two = (load_file(run.folder / "final/adapter_model.safetensors") for run in (plain, other))
    assert one.keys() == two.keys() and all(one[name].shape == two[name].shape for name in one)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, options", [({"precision": "fp8"}, {}), ({"precision": "fp8", "parallel": "fsdp2"}, FSDP2)]
)
def test_in_fp8_the_base_multiplies_and_the_adapter_learns_nearly_the_same(chat, tmp_path, changes, options):
    plain, fp8 = learns(chat, tmp_path / "plain", {}), learns(chat, tmp_path / "fp8", options, **changes)
    assert fp8.losses() == pytest.approx(plain.losses(), rel=0.02) and fp8.losses()[0] != plain.losses()[0]


@pytest.mark.slow
@pytest.mark.parametrize("changes, options", [({"precision": "fp8"}, {}), ({"parallel": "fsdp2"}, FSDP2)])
def test_in_fp8_and_split_a_killed_run_goes_on_exactly(chat, tmp_path, changes, options):
    file = recipe(chat, lora=LORA, **changes)
    whole, killed = (Run(file, tmp_path / name) for name in ("whole", "killed"))
    assert whole(**options) == 0, whole.said()
    if options:
        assert killed(signal={"step": 7, "rank": 1, "name": "SIGTERM"}, **options) == 4, killed.said()
    else:
        assert killed(kill={"step": 7}) == -9
    assert killed(**options) == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)


@pytest.fixture
def trained(finished, tmp_path):
    return shutil.copytree(finished.folder, tmp_path / "run")


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


def test_the_adapter_names_its_base_for_auto_classes(first_chat, trained):
    config = json.loads((trained / "final/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(first_chat / "model") and config["inference_mode"]
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
        ({"lora": LORA, "optimizer": "muon"}, "lora is for adamw: set optimizer=adamw matrix_learning_rate=null"),
        ({"lora": LORA, "precision": "te"}, "precision fp32, bf16 or fp8"),
        ({"lora": LORA, "parallel": "zero1"}, "parallel ddp or fsdp2"),
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


def test_an_adapter_that_fits_no_base_is_one_sentence(chat, tiny_model, tmp_path, trained):
    config = trained / "final/adapter_config.json"
    tiny_model("plain-tied", vocab_size=300).save_pretrained(tmp_path / "other")
    named = json.loads(config.read_text())
    for base, message in ((str(tmp_path / "other"), "cannot be merged into"), (None, "names no base: write a folder")):
        config.write_text(json.dumps(named | {"base_model_name_or_path": base}))
        with pytest.raises(BadInput, match=message):
            merge(trained / "final", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_merged_model_stops_where_the_template_of_its_adapter_ends(chat, tmp_path, trained):
    settings = trained / "final/tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"eos_token": "<|pad|>"}))
    merge(trained / "final", tmp_path / "merged")
    stops = YxanulForCausalLM.from_pretrained(tmp_path / "merged").generation_config.eos_token_id
    assert 1 in (stops if isinstance(stops, list) else [stops])


def test_an_adapter_alone_brings_its_bases_tokenizer(chat, tmp_path, trained):
    for file in (trained / "final").glob("*token*"):
        file.unlink()
    merge(trained / "final", tmp_path / "merged")
    from transformers import AutoTokenizer

    own, bases = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "merged", chat / "model"))
    assert own.get_vocab() == bases.get_vocab()


PUSH = """
import sys; sys.modules["yxanul"] = None
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter = sys.argv[1:]
ids = torch.arange(3, 40)[None]
def load(name):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True), name).eval()
model = load(adapter)
model.push_to_hub("owner/adapter")
torch.save(model(input_ids=ids).logits, sys.argv[2] + "/logits.pt")
assert torch.equal(load("owner/adapter")(input_ids=ids).logits, model(input_ids=ids).logits)
"""


def test_an_adapter_is_pushed_and_loaded_where_yxanul_is_not_installed(chat, tmp_path, trained, loopback_hub):
    base, final = str(chat / "model"), str(trained / "final")
    environment = client_environment(loopback_hub.url, tmp_path / "home", OWNER)
    words = [sys.executable, "-c", PUSH, base, final]
    pushed = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert pushed.returncode == 0, pushed.stderr[-3000:]
    ours = peft.PeftModel.from_pretrained(YxanulForCausalLM.from_pretrained(base), final).eval()
    with torch.no_grad():
        logits = ours(input_ids=torch.arange(3, 40)[None]).logits
    torch.testing.assert_close(torch.load(f"{final}/logits.pt"), logits, rtol=0, atol=1e-6)
