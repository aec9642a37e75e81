"""`yxanul push` against the loopback Hub, with the real client: what arrives, who sees it, what a failure leaves."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hub_server.fixture import OWNER, READER, STRANGER
from hub_server.server import client_environment
from small_runs.published import ROW, STATE

from yxanul.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent
PUBLISHED = {
    *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("configuration_yxanul.py", "loss_yxanul.py", "modeling_yxanul.py", "README.md"),
    *("training/config.yaml", "training/gates.json"),
}


@pytest.fixture
def hub(loopback_hub, monkeypatch, tmp_path):
    """The client of this process talks to the loopback Hub as its owner."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    for name, value in {
        "ENDPOINT": loopback_hub.url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits before it tries again
    return loopback_hub


@pytest.fixture
def unchecked(monkeypatch):
    """Without opening the files in another process, which takes seconds; one test below does it."""
    from yxanul.hub_export import facts

    monkeypatch.setattr(facts, "_opened_bare", lambda *arguments: {"target": "transformers", "rows": [ROW]})


def push(*words):
    return main(["push", *map(str, words)])


def repository(hub, kind="models", name="owner/talk"):
    return hub.repositories[kind, name]


def test_a_dry_run_lists_what_would_leave_without_a_network(made_run, unchecked, capsys):
    for name in (".env", "training_args.bin", "pytorch_model.bin", "optimizer.pt"):
        (made_run.final / name).write_text(OWNER)
    (made_run.final / "passwords.txt").symlink_to("/etc/passwd")
    assert push(made_run.path, "--repo", "owner/talk", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {file["path"] for file in found["files"]} == PUBLISHED
    assert {".env", "training_args.bin", "passwords.txt"} <= set(found["stays"])
    assert all(file["bytes"] > 0 for file in found["files"]) and "commit" not in found
    assert push(made_run.path, "--repo", "owner/talk", "--dry-run") == 0
    out = capsys.readouterr().out
    assert f"bytes in {len(PUBLISHED)} files would go to model owner/talk (private), branch main" in out


def test_a_push_is_one_private_commit_with_a_tag_and_a_second_one_changes_nothing(hub, made_run, unchecked, capfd):
    (made_run.final / ".env").write_text("HF_TOKEN=" + OWNER)
    assert push(made_run.path, "--repo", "owner/talk", "--license", "mit") == 0
    found = repository(hub)
    assert found.private and len(found.commits) == 2 and found.tags == {"v1": found.branches["main"]}
    files = found.at("main").files
    assert files.keys() == PUBLISHED
    config = json.loads(files["config.json"].data)
    assert len(config["auto_map"]) == 6 and not {"_name_or_path", "is_local"} & config.keys()
    assert b"/home/me" not in files["training/config.yaml"].data and b"books" in files["training/config.yaml"].data
    assert push(made_run.path, "--repo", "owner/talk", "--license", "mit") == 0
    assert len(found.commits) == 2 and found.tags.keys() == {"v1"}
    said = "".join(capfd.readouterr())
    assert "nothing had changed" in said and OWNER not in said
    assert not any(OWNER.encode() in file.data for file in files.values())


def test_a_later_push_takes_away_what_was_of_the_earlier_one_and_nothing_else(hub, made_run, unchecked):
    assert push(made_run.path, "--repo", "owner/talk") == 0
    found = repository(hub)
    more = {name: found.at("main").files["README.md"] for name in ("model-f16.gguf", "eval/old.json", "photo.png")}
    found.commit("more", found.at("main").files | more)
    assert push(made_run.path, "--repo", "owner/talk", "--license", "mit", "--tag", "first") == 0
    assert found.at("main").files.keys() == PUBLISHED | {"photo.png"}
    assert found.tags.keys() == {"v1", "first"}
    assert push(made_run.path, "--repo", "owner/talk", "--tag", "v1") == 2, "a tag does not move"
    assert push(made_run.path, "--repo", "owner/talk", "--tag", "first") == 2 and len(found.commits) == 5
    assert found.tags["first"] != found.branches["main"], "the commit is there, and the tag stays where it was"


def test_a_public_repository_opens_when_everything_is_in_it(hub, made_run, unchecked):
    assert push(made_run.path, "--repo", "team/talk", "--public") == 0
    assert not repository(hub, name="team/talk").private
    asked = [path.rpartition("/talk/")[2] for method, path, _ in hub.log if method in ("POST", "PUT")]
    assert asked[-1] == "settings" and "commit/main" in asked
    assert push(made_run.path, "--repo", "team/talk") == 2, "a push that seems private goes to nobody else"


def test_checkpoints_become_branches_that_begin_with_nothing(hub, made_run, unchecked, capsys):
    assert push(made_run.path, "--repo", "owner/talk") == 0
    assert push(made_run.path, "--repo", "owner/talk", "--checkpoint", "all", "--json") == 0
    found = repository(hub)
    assert found.branches.keys() == {"main", "step-5", "step-10"} and found.tags.keys() == {"v1"}
    for step in (5, 10):
        commit = found.at(f"step-{step}")
        weights = (made_run.checkpoint(step) / "model.safetensors").read_bytes()
        assert commit.files["model.safetensors"].data == weights and not set(STATE) & commit.files.keys()
        assert not found.commits[commit.parent].files
    assert push(made_run.path, "--repo", "owner/talk", "--checkpoint", "5", "--revision", "early") == 0
    assert found.at("early").files.keys() == found.at("step-5").files.keys()
    assert push(made_run.path, "--repo", "owner/talk", "--revision", "v1") == 2


def puts(hub):
    return sum(method == "PUT" and answer == 200 for method, _, answer in hub.log)


def test_a_failed_commit_changes_nothing_and_the_same_command_goes_on(hub, made_run, unchecked, capfd):
    hub.fail("POST", "/commit/main", status=500)
    words = [made_run.path, "--repo", "owner/talk"]
    assert push(*words) == 5
    assert len(repository(hub).commits) == 1 and not repository(hub).tags
    said = capfd.readouterr().err
    assert f"yxanul push {made_run.path} --repo owner/talk" in said and "answered 500" in said
    before = puts(hub)
    assert before and push(*words) == 0
    assert puts(hub) == before, "the weights went up again"
    assert len(repository(hub).commits) == 2


def test_dropped_connections_and_a_busy_hub_are_survived(hub, made_run, unchecked):
    hub.fail("PUT", "^/files/", drop_after=10)
    hub.fail("PUT", "^/files/", status=503, times=2)
    assert push(made_run.path, "--repo", "owner/talk") == 0
    assert repository(hub).at("main").files.keys() == PUBLISHED


def test_between_commit_and_tag_nothing_is_lost(hub, made_run, unchecked):
    hub.fail("POST", "/tag/", status=500, times=9)
    assert push(made_run.path, "--repo", "owner/talk", "--public") == 5
    assert repository(hub).private
    hub.faults.clear()
    assert push(made_run.path, "--repo", "owner/talk", "--public") == 0
    found = repository(hub)
    assert found.tags == {"v1": found.branches["main"]} and len(found.commits) == 2 and not found.private


def test_two_pushes_at_once_do_not_mix(hub, made_run, unchecked, monkeypatch, capfd):
    from huggingface_hub import HfApi

    real = HfApi.create_commit

    def overtaken(self, *arguments, **options):
        monkeypatch.setattr(HfApi, "create_commit", real)
        repository(hub).commit("another's", {})
        return real(self, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_commit", overtaken)
    assert push(made_run.path, "--repo", "owner/talk") == 5
    assert "somebody else pushed" in capfd.readouterr().err and not repository(hub).at("main").files


@pytest.mark.parametrize(
    "token, name, message",
    [
        (READER, "owner/talk", "may only read"),
        (STRANGER, "owner/talk", "this token is of stranger"),
        ("hf_" + "x" * 20, "owner/talk", "does not take the token"),
        (None, "owner/talk", "no token: set HF_TOKEN"),
        (OWNER, "owner/stories", "is the name of a dataset already"),
        (OWNER, "owner/open", "is public already: add --public"),
    ],
)
def test_who_may_not_push_hears_it_before_any_work(hub, made_run, monkeypatch, capfd, token, name, message):
    hub.add("datasets", "owner/stories", {})
    hub.add("models", "owner/open", {})
    monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
    before = dict(hub.repositories)
    assert push(made_run.path, "--repo", name) == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1 and not (token and token in said)
    assert hub.repositories == before and not any(method in ("POST", "PUT") for method, *_ in hub.log)


def test_without_a_network_the_command_for_later_is_printed(hub, made_run, monkeypatch, capfd):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert push(made_run.path, "--repo", "owner/talk") == 5
    assert "cannot be reached" in (said := capfd.readouterr().err) and "yxanul push" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(made_run.path, "--repo", "owner/talk") == 5
    assert "HF_HUB_OFFLINE is set" in capfd.readouterr().err


BAD = {
    "no folder": (["nowhere"], "is no folder"),
    "no model": (["."], "is no model: it has no config.json"),
    "no name": (["RUN", "--repo", "a b/c"], "is no name on the Hub"),
    "nobody's name": (["RUN", "--repo", "talk"], "say whose it is"),
    "unknown licence": (["RUN", "--license", "apache2"], "did you mean apache-2.0"),
    "other licence": (["RUN", "--license", "other"], "NAME=https://"),
    "language": (["RUN", "--language", "English"], "is no language code"),
    "cut off": (["RUN/checkpoints/checkpoint-15"], "is no complete checkpoint"),
    "no such step": (["RUN", "--checkpoint", "7"], "complete ones: 5, 10"),
    "no step": (["RUN", "--checkpoint", "last"], "must be a step's number, or all"),
    "no branch": (["RUN", "--revision", "a/b"], "--revision a/b is no name for it"),
    "no tag": (["RUN", "--tag", "a b"], "--tag a b is no name for it"),
    "a branch's tag": (["RUN", "--tag", "first", "--checkpoint", "5"], "--tag is of a commit on main"),
    "token": (["RUN", "--token=" + OWNER], "does not belong on a command line"),
    "no results": (["RUN", "--results", "nowhere"], "there is no nowhere/results.json"),
    "no export": (["RUN", "--with", "."], "no target of `yxanul export` lies there"),
    "no target": (["RUN", "--with", "ggup"], "unknown target of --with 'ggup': did you mean gguf?"),
    "no card": (["RUN", "--card", "nowhere.md"], "--card nowhere.md cannot be read: No such file"),
    "a card without a head": (["RUN", "--card", "RUN/config.yaml"], "the card has no front matter"),
    "what is kept": (["RUN", "--keep", "RUN"], "exists already: give another --keep"),
    "a data set's checkpoint": ([".", "--dataset", "--checkpoint", "5"], "are of models"),
    "no records": ([".", "--dataset"], "holds no data"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence(made_run, monkeypatch, tmp_path, capfd, name):
    """Before the files are opened in another process, too."""
    from yxanul.hub_export import facts

    monkeypatch.setattr(facts, "_opened_bare", None)
    monkeypatch.chdir(tmp_path)
    words, message = BAD[name]
    words = [word.replace("RUN", str(made_run.path)) for word in words]
    more = [] if "--repo" in words else ["--repo", "owner/talk"]
    assert push(*words, *more, "--dry-run") == 2
    said = capfd.readouterr().err
    assert message in said and said.count("\n") == 1 and OWNER not in said


def test_what_is_no_whole_plain_model_is_refused(made_run, unchecked, tmp_path, capfd):
    def refused(message):
        assert push(made_run.path, "--repo", "owner/talk", "--dry-run") == 2
        assert message in capfd.readouterr().err

    template = made_run.final / "chat_template.jinja"
    template.symlink_to("/etc/passwd")
    refused("is a symbolic link")
    template.unlink()
    template.write_text("{{ messages }}\n{# hf_" + "a" * 34 + " #}")
    refused("chat_template.jinja, line 2, holds an access token")
    template.unlink()
    weights = made_run.final / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(b"\x80\x04 no tensors")
    refused("damaged, or no safetensors file")
    weights.write_bytes(whole)
    tokenizer = (made_run.final / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    refused("has no tokenizer.json")
    tokenizer.rename(made_run.final / "tokenizer.json")
    made_run.final.rename(made_run.path / "later")
    refused("is a run that is not finished")


def test_a_checkpoint_that_is_given_as_a_folder_has_the_figures_of_its_step(made_run, unchecked, tmp_path):
    words = [made_run.checkpoint(5), "--repo", "owner/talk", "--dry-run", "--keep", tmp_path / "kept"]
    assert push(*words) == 0
    card = (tmp_path / "kept/README.md").read_text()
    assert "the checkpoint after step 5." in card and "| tokens | 1,000 |" in card
    assert "2.5000" not in card and "Gates" not in card


def test_of_an_exports_folder_only_what_export_makes_leaves(made_run, unchecked, tmp_path, capfd):
    from yxanul.evaluation.text_model import folder_hash

    gguf = tmp_path / "exports/gguf"
    gguf.mkdir(parents=True)
    check = {"revision": folder_hash(made_run.final), "model": "/home/me/final", "rows": [ROW]}
    (gguf / "verification.json").write_text(json.dumps(check))
    for name in ("talk-f16.gguf", "Modelfile", ".env", "optimizer.pt", "notes.txt"):
        (gguf / name).write_text("anything")
    words = ["--with", tmp_path / "exports", "--dry-run", "--keep", tmp_path / "kept"]
    assert push(made_run.path, "--repo", "owner/talk", *words) == 0
    kept = tmp_path / "kept"
    left = {file.relative_to(kept).as_posix() for file in kept.rglob("*") if file.is_file()}
    assert left == PUBLISHED | {"talk-f16.gguf", "Modelfile", "verification/gguf.json"}
    assert "/home" not in (kept / "verification/gguf.json").read_text()
    assert ".env stays here" in capfd.readouterr().err


def test_weights_that_nobody_would_load_stay(made_run, unchecked, capsys):
    stale = ["model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    (made_run.final / stale[0]).write_bytes((made_run.final / "model.safetensors").read_bytes())
    (made_run.final / stale[1]).write_text(json.dumps({"weight_map": {"a": stale[0]}}))
    words = [made_run.path, "--repo", "owner/talk", "--dry-run", "--json"]
    assert push(*words) == 0
    found = json.loads(capsys.readouterr().out)
    assert {file["path"] for file in found["files"]} == PUBLISHED and set(stale) <= set(found["stays"])
    (made_run.final / "model.safetensors").rename(made_run.final / "model-00002-of-00002.safetensors")
    assert push(*words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["stays"] == ["model-00002-of-00002.safetensors"], "the index names the other one"
    (made_run.final / stale[0]).unlink()
    assert push(*words) == 2
    assert f"lacks {stale[0]}, which {stale[1]} names" in capsys.readouterr().err


def test_what_a_killed_push_had_staged_goes_with_the_next(made_run, unchecked, tmp_path, monkeypatch):
    import tempfile

    from yxanul.data.whole_files import claimed

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("yxanul-pushing-killed", "yxanul-pushing-running", "another"):
        (tmp_path / name).mkdir()
    with claimed(tmp_path / "yxanul-pushing-running"):
        for name in ("yxanul-pushing-killed", "yxanul-pushing-running", "another"):
            (tmp_path / name / "model.safetensors").write_text("weights")
        assert push(made_run.path, "--repo", "owner/talk", "--dry-run") == 0
    left = {each.name for each in tmp_path.iterdir() if each.name.startswith(("yxanul-", "another"))}
    assert left == {"yxanul-pushing-running", "another"}


def test_two_results_do_not_become_one_file(made_run, unchecked, tmp_path, capfd):
    from yxanul.evaluation.text_model import folder_hash

    words = []
    for place in (tmp_path / "early/talk", tmp_path / "late/talk"):
        place.mkdir(parents=True)
        (place / "results.json").write_text(json.dumps({"revision": folder_hash(made_run.final), "tasks": {}}))
        words += ["--results", place]
    assert push(made_run.path, "--repo", "owner/talk", "--dry-run", *words) == 2
    assert "another one's folder is called talk, too" in capfd.readouterr().err


def test_a_client_that_ends_at_once_stops_the_push(made_run, monkeypatch, capfd):
    """Its pipe is broken then, which must not be taken for a reader of our output who has seen enough."""
    from yxanul.hub_export import verify

    def asked_too_late(reference, artefact, client):
        client._process.wait()
        return client.logits([1])

    monkeypatch.setattr(verify, "Reference", lambda source: None)
    monkeypatch.setattr(verify, "judge", asked_too_late)
    (made_run.final / "config.json").write_text('{"model_type": "yxanul", "num_hidden_layers": "none"}')
    assert push(made_run.path, "--repo", "owner/talk", "--dry-run") == 2
    assert "transformers alone cannot load these files, so nothing was sent" in capfd.readouterr().err


def test_an_adapter_is_pushed_with_a_base_that_others_have(hub, made_run, base):
    adapter = made_run.path / "adapter"
    adapter.mkdir()
    (made_run.final / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_text((base / name).read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(made_run.final)}))
    assert push(adapter, "--repo", "owner/talk") == 2
    (adapter / "adapter_config.json").write_text("{}")
    assert push(adapter, "--repo", "owner/talk") == 2
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/named"}')
    assert push(adapter, "--repo", "owner/talk") == 0
    assert b"base_model: owner/named" in repository(hub).at("main").files["README.md"].data
    assert push(adapter, "--repo", "owner/talk", "--base", "owner/base") == 0
    files = repository(hub).at("main").files
    assert json.loads(files["adapter_config.json"].data)["base_model_name_or_path"] == "owner/base"
    assert b"base_model: owner/base" in files["README.md"].data and b"library_name: peft" in files["README.md"].data
    assert b'PeftModel.from_pretrained(base, "owner/talk")' in files["README.md"].data
    assert not any(str(made_run.path).encode() in file.data for file in files.values())


@pytest.mark.slow
def test_an_adapter_whose_base_lies_here_is_opened_on_it(made_run, tmp_path, capsys):
    pytest.importorskip("peft")
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file, save_file

    from yxanul import YxanulForCausalLM

    torch.manual_seed(0)
    base, adapter = YxanulForCausalLM.from_pretrained(made_run.final), made_run.path / "adapter"
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(adapter)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (adapter / name).write_bytes((made_run.final / name).read_bytes())
    words = [adapter, "--repo", "owner/talk", "--base", "owner/base", "--dry-run"]
    assert push(*words, "--keep", tmp_path / "kept") == 0
    card = (tmp_path / "kept/README.md").read_text()
    assert re.search(r"so opened in peft [\d.]+, transformers [\d.]+, where 72 of 72 greedy tokens", card)
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: weight[:, 1:].contiguous() for name, weight in weights.items()}, adapter / "adapter_model.safetensors"
    )
    capsys.readouterr()
    assert push(*words) == 2
    assert "the adapter does not fit its base" in capsys.readouterr().err


def test_bins_and_records_become_data_sets(hub, tmp_path, capfd):
    from small_runs.fixture import make_bin

    from yxanul.data.bins import verify_bin

    for name in ("train", "held_out", "more/train"):
        make_bin(tmp_path / "talk" / name, 20, 1)
    (tmp_path / "talk/settings.json").write_text("{}")
    assert push("talk", "--repo", "owner/talk", "--license", "odc-by") == 0
    found = repository(hub, "datasets")
    assert found.private and not hub.repositories.get(("models", "owner/talk"))
    for path, file in found.at("main").files.items():
        (tmp_path / "back" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "back" / path).write_bytes(file.data)
    assert verify_bin("back/train") and verify_bin("back/more/train") and not Path("back/settings.json").exists()
    assert b"license: odc-by" in found.at("main").files["README.md"].data
    (tmp_path / "talk/train/tokens-00000.bin").write_bytes(b"damaged")
    assert push("talk", "--repo", "owner/talk") == 2

    (tmp_path / "said").mkdir()
    for name in ("samples-gsm8k", "samples-facts"):
        (tmp_path / f"said/{name}.jsonl").write_text('{"prompt": "1+1", "output": "2"}\n')
    (tmp_path / "said/.env").write_text("secret")
    (tmp_path / "said/broken.jsonl").write_text("no JSON\n")
    assert push("said", "--repo", "owner/said", "--dataset") == 2
    assert "broken.jsonl, line 1, is no JSON object" in capfd.readouterr().err
    (tmp_path / "said/broken.jsonl").unlink()
    assert push("said", "--repo", "owner/said", "--dataset") == 0
    files = repository(hub, "datasets", "owner/said").at("main").files
    assert files.keys() == {"README.md", "samples-gsm8k.jsonl", "samples-facts.jsonl"}
    configs = yaml.safe_load(files["README.md"].data.decode().split("---")[1])["configs"]
    assert [each["config_name"] for each in configs] == ["samples-facts", "samples-gsm8k"]


def test_large_files_go_over_xet_where_it_is_there(hub, made_run, unchecked, monkeypatch, tmp_path):
    pytest.importorskip("hf_xet")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    (tmp_path / "xet").mkdir()
    hub.xet_folder = str(tmp_path / "xet")
    assert push(made_run.path, "--repo", "owner/talk") == 0
    weights = (made_run.final / "model.safetensors").read_bytes()
    assert repository(hub).at("main").files["model.safetensors"].data == weights
    assert not puts(hub) and any("xet-write-token" in path for _, path, _ in hub.log)


LOAD = """
import sys; sys.modules["yxanul"] = None
import torch, transformers
options = {"trust_remote_code": True, "revision": sys.argv[1]}
model = transformers.AutoModelForCausalLM.from_pretrained("owner/talk", **options)
tokenizer = transformers.AutoTokenizer.from_pretrained("owner/talk", **options)
ids = tokenizer("What is nothing more?", return_tensors="pt").input_ids
torch.save(model(ids).logits, "logits.pt")
torch.save(ids, "ids.pt")
"""


def test_it_loads_from_the_hub_where_yxanul_is_not_installed(hub, made_run, tmp_path):
    """Also the one fast test in which push itself opens the files with bare transformers."""
    import torch

    from yxanul import YxanulForCausalLM

    assert push(made_run.path, "--repo", "owner/talk") == 0
    card = repository(hub).at("main").files["README.md"].data.decode()
    assert "72 of 72" in card and 'from_pretrained("owner/talk", trust_remote_code=True)' in card
    environment = client_environment(hub.url, tmp_path / "home", OWNER)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, "v1"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    model = YxanulForCausalLM.from_pretrained(made_run.final).eval()
    with torch.no_grad():
        assert torch.equal(model(torch.load("ids.pt")).logits, torch.load("logits.pt"))


KILLED = """
import sys
from yxanul.__main__ import main
from yxanul.hub_export import facts
facts._opened_bare = lambda *arguments: {"target": "transformers", "rows": [ROW]}
sys.exit(main(sys.argv[1:]))
"""
MOMENTS = {"upload": "^/files/", "commit": "/commit/main$", "tag": "/tag/", "opening": "/settings$"}


@pytest.mark.slow
@pytest.mark.parametrize("moment, xet", [*((name, False) for name in MOMENTS), ("commit", True)])
def test_a_kill_in_mid_push_publishes_nothing_by_halves(loopback_hub, made_run, tmp_path, moment, xet):
    if xet:
        (tmp_path / "xet").mkdir()
        loopback_hub.xet_folder = str(tmp_path / "xet")
    environment = client_environment(loopback_hub.url, tmp_path / "home", OWNER, xet)
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT.parent), environment.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", KILLED.replace("ROW", repr(ROW)), "push", str(made_run.path)]
    words += ["--repo", "owner/talk", "--public"]

    def started():
        return subprocess.Popen(words, env=environment, cwd=tmp_path, stdout=-1, stderr=-2, text=True)

    real = loopback_hub.next_fault

    def kill_there(method, path):
        if method in ("POST", "PUT") and re.search(MOMENTS[moment], path):
            process.kill()
            process.wait()
        return real(method, path)

    loopback_hub.next_fault = kill_there
    process = started()
    process.communicate()
    assert process.returncode == -9
    time.sleep(0.5)  # the Hub may still do what it was asked for
    loopback_hub.next_fault = real
    found = repository(loopback_hub)
    assert all(commit.files.keys() in (set(), PUBLISHED) for commit in found.commits.values())
    assert found.private or found.tags, "open before it was whole"
    process = started()
    said, _ = process.communicate()
    assert process.returncode == 0 and OWNER not in said, said
    assert found.at("v1").files.keys() == PUBLISHED and len(found.commits) == 2 and not found.private
