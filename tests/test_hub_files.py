"""A saved folder is a checkpoint that loads everywhere: its code and `auto_map` travel, whatever wrapped the model."""

import json
import pathlib
import subprocess
import sys

import pytest
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
HUB_FILES = {"configuration_yxanul.py", "modeling_yxanul.py", "loss_yxanul.py"}
AUTO_CLASSES = {
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
}
# `None` in sys.modules makes an import fail, as where Yxanul is not installed
BARE = "import sys; sys.modules['yxanul'] = None; import torch, transformers\n"


def run_python(code, folder, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def assert_complete(folder):
    assert {file.name for file in folder.glob("*.py")} == HUB_FILES
    for name in HUB_FILES:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map.keys() == AUTO_CLASSES | {"AutoConfig"}
    assert all("--" not in home for home in auto_map.values())


@pytest.fixture
def saved(tiny_model, random_ids, tmp_path):
    """A checkpoint in a folder, and the logits that it must give for ids 3, 4, 5, 6."""

    def save(layout):
        model = tiny_model(layout, pad_token_id=0)
        model.save_pretrained(tmp_path / "model")
        with torch.no_grad():
            torch.save(model(torch.arange(3, 7)[None]).logits, tmp_path / "logits.pt")
        return tmp_path

    return save


def test_a_saved_folder_holds_the_code_and_the_whole_map(saved, layout):
    assert_complete(saved(layout) / "model")


LOAD_EVERYWHERE = (
    BARE
    + """
ids = torch.arange(3, 7)[None]
for name in AUTO:
    model = getattr(transformers, name).from_pretrained("model", trust_remote_code=True)
    model.eval()(ids)
model, notes = transformers.AutoModelForCausalLM.from_pretrained(
    "model", trust_remote_code=True, output_loading_info=True
)
assert not any(notes[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), notes
expected = torch.load("logits.pt")
assert torch.equal(model.eval()(ids).logits, expected)
for target, source in model.all_tied_weights_keys.items():
    assert model.get_parameter(target) is model.get_parameter(source)
model.train()(ids, labels=ids).loss.backward()
model.save_pretrained("again")
again = transformers.AutoModelForCausalLM.from_pretrained("again", trust_remote_code=True)
assert torch.equal(again.eval()(ids).logits, expected)
assert again.generate(ids, max_new_tokens=3).shape == (1, 7)
"""
)


@pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied", "factorised-untied"])
def test_the_folder_loads_by_every_auto_class_where_yxanul_is_not_installed(saved, layout):
    folder = saved(layout)
    run_python(LOAD_EVERYWHERE.replace("AUTO", repr(sorted(AUTO_CLASSES))), folder)
    assert_complete(folder / "again")


def test_without_trust_a_bare_machine_refuses_the_folder(saved):
    code = BARE + (
        "try: transformers.AutoModelForCausalLM.from_pretrained('model')\n"
        "except ValueError as error: assert 'trust_remote_code' in str(error)\n"
        "else: raise SystemExit('loaded without trust')"
    )
    run_python(code, saved("plain-tied"))


@pytest.mark.parametrize("trust", [None, True])
def test_where_yxanul_is_registered_its_own_class_loads_the_folder(saved, trust):
    import yxanul

    yxanul.register()
    folder = saved("factorised-tied")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "model", trust_remote_code=trust)
    assert type(model) is yxanul.YxanulForCausalLM
    assert torch.equal(model.eval()(torch.arange(3, 7)[None]).logits, torch.load(folder / "logits.pt"))


def test_two_repositories_in_one_process_keep_their_own_code(saved):
    """Their loss operators and config classes must not collide."""
    code = BARE + (
        "import shutil; shutil.copytree('model', 'other')\n"
        "ids = torch.arange(3, 7)[None]\n"
        "load = transformers.AutoModelForCausalLM.from_pretrained\n"
        "models = [load(name, trust_remote_code=True) for name in ('model', 'other')]\n"
        "losses = [model.train()(ids, labels=ids).loss.item() for model in models]\n"
        "assert losses[0] == losses[1], losses"
    )
    run_python(code, saved("plain-tied"))


def test_a_classifier_carries_the_same_code_and_map(tiny_config, tmp_path):
    from yxanul import YxanulForSequenceClassification

    YxanulForSequenceClassification(tiny_config(num_labels=3, pad_token_id=0)).save_pretrained(tmp_path)
    assert_complete(tmp_path)
    code = BARE + (
        "model = transformers.AutoModelForSequenceClassification.from_pretrained('.', trust_remote_code=True)\n"
        "assert model(torch.arange(3, 7)[None]).logits.shape == (1, 3)"
    )
    run_python(code, tmp_path)


def test_a_compiled_model_saves_the_same_folder(tiny_model, tmp_path):
    torch.compile(tiny_model("factorised-tied")).save_pretrained(tmp_path)
    assert_complete(tmp_path)
    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_a_merged_adapter_saves_the_same_folder(tiny_model, random_ids, tmp_path):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        tiny_model("factorised-tied"), peft.LoraConfig(target_modules="all-linear", init_lora_weights=False)
    )
    merged = adapted.merge_and_unload()
    merged.save_pretrained(tmp_path)
    assert_complete(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(random_ids()).logits, merged.eval()(random_ids()).logits)


SHARD_AND_SAVE = """
import sys, torch, transformers, yxanul
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
yxanul.register()
torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
mesh = init_device_mesh("cpu", (1,))
model = transformers.AutoModelForCausalLM.from_pretrained("model")
fully_shard([model.model.embed_tokens, model.model.embed_proj, model.lm_head], mesh=mesh, reshard_after_forward=False)
for layer in model.model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(model, mesh=mesh)
assert type(model).__name__ == "FSDPYxanulForCausalLM"
ids = torch.arange(3, 7)[None]
loss = model.train()(ids, labels=ids).loss
loss.backward()
whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))
model.save_pretrained("sharded", state_dict=whole)
torch.distributed.destroy_process_group()
logits = torch.load("logits.pt")
torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]))
"""


def test_a_model_under_fsdp2_trains_by_our_loss_and_saves_the_same_folder(saved):
    """One process stands for many: the class that FSDP2 makes of ours is what confuses the library's own saving."""
    folder = saved("factorised-tied")
    run_python(SHARD_AND_SAVE, folder)
    assert_complete(folder / "sharded")
    config = json.loads((folder / "sharded" / "config.json").read_text())
    assert config["architectures"] == ["YxanulForCausalLM"]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "sharded").eval()
    assert torch.equal(model(torch.arange(3, 7)[None]).logits, torch.load(folder / "logits.pt"))


def test_saving_with_an_upload_sends_the_code_along(tiny_model, tmp_path, monkeypatch):
    """The library uploads inside `save_pretrained`; its Hub client is the only part that is not real here."""
    from transformers.utils import hub

    sent = []

    class Client:
        def create_repo(self, repo_id, *args, **kwargs):
            return type("Repository", (), {"repo_id": repo_id})

        def create_commit(self, *args, operations, **kwargs):
            sent.extend(operation.path_in_repo for operation in operations)

    for module in (hub, transformers.modeling_utils):  # 5.17 calls two functions, 5.23 a client's methods
        for name, stand_in in {
            "hf_api": Client,
            "create_repo": Client().create_repo,
            "create_commit": Client().create_commit,
        }.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, stand_in)
    tiny_model().save_pretrained(tmp_path / "model", push_to_hub=True, repo_id="somebody/model")
    assert HUB_FILES | {"config.json", "model.safetensors"} <= set(sent)
