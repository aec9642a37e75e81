"""`yxanul push` against the loopback Hub, with the real client: what arrives, who sees it, what a failure leaves."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_server.fixture import OWNER, READER, STRANGER
from hub_server.server import client_environment
from small_runs.published import PUBLISHED, ROW, STATE, push, repository

ROOT = Path(__file__).resolve().parent.parent.parent


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
