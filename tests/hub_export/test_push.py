"""`yxanul push`: what leaves and what stays, what is refused before any work, what is opened first."""

import json
import re
from pathlib import Path

import pytest
import yaml
from hub_server.fixture import OWNER
from small_runs.published import PUBLISHED, ROW, push, repository


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
    (gguf / "verification.json").write_text("{")
    assert push(made_run.path, "--repo", "owner/talk", *words[:3]) == 2
    assert "verification.json is no JSON" in capfd.readouterr().err


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
    for name in ("yxanul-pushing-killed", "yxanul-pushing-running", "yxanul-pushing-just-begun", "another"):
        (tmp_path / name).mkdir()
    with claimed(tmp_path / "yxanul-pushing-running"):
        for name in ("yxanul-pushing-killed", "yxanul-pushing-running", "another"):
            (tmp_path / name / "model.safetensors").write_text("weights")
        assert push(made_run.path, "--repo", "owner/talk", "--dry-run") == 0
    left = {each.name for each in tmp_path.iterdir() if each.name.startswith(("yxanul-", "another"))}
    assert left == {"yxanul-pushing-running", "yxanul-pushing-just-begun", "another"}


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
    from yxanul.hub_export import facts

    def asked_too_late(reference, artefact, client):
        client._process.wait()
        return client.logits([1])

    monkeypatch.setattr(facts, "Reference", lambda source: None)
    monkeypatch.setattr(facts, "judge", asked_too_late)
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
