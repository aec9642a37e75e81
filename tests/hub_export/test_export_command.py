"""The verb: bad input before any work, and what does not compute what the model computes is not there afterwards."""

import importlib.util
import json
import os
import shutil
from contextlib import contextmanager

import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.hub_export import llama
from yxanul.hub_export.export_command import main
from yxanul.hub_export.source import open_source
from yxanul.hub_export.verify import Limits, Reference, judge


class InThisProcess:
    """A client that spares a test the second process."""

    name = "here"

    def __init__(self, model, change=lambda logits: logits):
        self.model, self.change = model, change

    @torch.no_grad()
    def logits(self, ids):
        return self.change(self.model(torch.tensor([ids])).logits[0].numpy())

    def greedy(self, ids, count):
        made = list(ids)
        while len(made) < len(ids) + count:
            made.append(int(self.logits(made)[-1].argmax()))
        return made[len(ids) :]


@pytest.fixture
def here(monkeypatch):
    @contextmanager
    def opened(folder):
        from transformers import AutoModelForCausalLM

        yield InThisProcess(AutoModelForCausalLM.from_pretrained(folder).eval())

    monkeypatch.setattr(llama, "BareTransformers", opened)


def test_an_artefact_that_is_damaged_is_removed_and_the_code_is_5(exportable, tmp_path, here, monkeypatch, capsys):
    merged = llama.merged

    def damaged(source):
        model = merged(source)
        model.model.layers[1].mlp.down_proj.weight.data[3, 7] += 0.5
        return model

    monkeypatch.setattr(llama, "merged", damaged)
    out = tmp_path / "out"
    assert main([str(exportable()), "--to", "llama", "--out", str(out)]) == 5
    said = capsys.readouterr()
    assert "llama is not the model and was removed: in here, logits differ by" in said.err
    assert "logits differ by" in said.out
    assert list(out.iterdir()) == []


def test_one_that_is_whole_stays(exportable, tmp_path, here):
    out = tmp_path / "out"
    assert main([str(exportable()), "--to", "llama", "--out", str(out)]) == 0
    assert (out / "llama/model.safetensors").is_file() and "passed" in (out / "llama/verification.md").read_text()


def test_after_a_kill_the_same_command_goes_on(exportable, tmp_path, here, monkeypatch, capsys):
    model, out = exportable(), tmp_path / "out"
    words = [str(model), "--to", "llama", "--out", str(out)]
    assert main(words) == 0
    killed = out / "llama.123.partial"
    killed.mkdir()
    (killed / "model.safetensors").write_text("half")
    (out / "llama").rename(tmp_path / "first")
    assert main(words) == 0 and not killed.exists()
    before = (out / "llama/model.safetensors").stat()
    monkeypatch.setattr(llama, "write", None)
    capsys.readouterr()
    assert main(words) == 0 and (out / "llama/model.safetensors").stat() == before
    said = capsys.readouterr()
    assert "by an earlier command, whole and checked: it stays" in said.err and "| 72/72 |" in said.out

    (model / "generation_config.json").write_text("{}")
    with pytest.raises(BadInput, match="llama exists already, made of another model"):
        main(words)
    (out / "llama/model.safetensors").write_text("half")
    with pytest.raises(BadInput, match="llama exists already: give another --out"):
        main(words)


@pytest.mark.parametrize(
    "damage, failure",
    [
        (lambda logits: logits + 0.01, "logits differ by 0.01, more than 0.001"),
        (lambda logits: logits * 1.05, "logits err by"),
        (lambda logits: -logits, "bits per byte differ by"),
        (lambda logits: logits[:, :100], "logits of shape"),
        (lambda logits: logits * float("nan"), "logits are not finite"),
    ],
)
def test_the_judge_sees_what_is_wrong(exportable, damage, failure):
    source = open_source(str(exportable()))
    artefact = llama.Artefact(source.folder, "a", [], Limits(1e-3, 1e-3, 1e-3, True, "a test"))
    reference = Reference(source, ["What is nothing more? And then be brief."])
    assert judge(reference, artefact, InThisProcess(source.model)).failures == []
    row = judge(reference, artefact, InThisProcess(source.model, damage))
    assert not row.passed and any(each.startswith(failure) for each in row.failures), row.failures


def test_other_tokens_are_a_failure_and_an_excused_clients_a_note(exportable):
    source = open_source(str(exportable()))
    artefact = llama.Artefact(source.folder, "a", [], Limits(1e-3, 1e-3, 1e-3, True, "a test"))
    reference = Reference(source, ["What is nothing more?"])
    client = InThisProcess(source.model)
    client.tokenize = lambda text: source.tokenizer(text).input_ids[:20]
    row = judge(reference, artefact, client)
    assert any("texts become other tokens" in failure for failure in row.failures)
    client.excuses = {"tokenizer": "it is the client's"}
    row = judge(reference, artefact, client)
    assert row.passed and row.notes[0].endswith("it is the client's")


def test_bits_per_byte_are_those_of_the_loss(exportable):
    source = open_source(str(exportable()))
    reference = Reference(source, ["What is nothing more? And then be brief."])
    row = torch.tensor([reference.rows[0]])
    loss = source.model(row, labels=row).loss.item() * (row.shape[1] - 1)
    expected = loss / 0.6931471805599453 / len(b"What is nothing more? And then be brief.")
    assert reference.bits_per_byte == pytest.approx(expected, rel=1e-5)


def test_a_dry_run_checks_all_and_writes_nothing(exportable, tmp_path, capsys):
    words = [str(exportable()), "--to", "llama", "--out", str(tmp_path / "out"), "--dry-run"]
    assert main(words) == 0
    assert "out/llama: f32 of" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"target": "llama", "folder": str(tmp_path / "out/llama"), "types": ["f32"]}
    ]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--to", "lama"], "unknown target 'lama': did you mean llama?"),
        (["--to", "gguf", "--types", "Q8"], "unknown type 'Q8': did you mean Q8_0?"),
    ],
)
def test_unknown_words_name_the_nearest(exportable, words, sentence, tmp_path):
    with pytest.raises(BadInput, match=sentence.replace("?", r"\?")):
        main([str(exportable()), *words, "--out", str(tmp_path / "out")])


def test_a_missing_package_names_the_extra(exportable, monkeypatch, tmp_path):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torchao" else found(name))
    with pytest.raises(BadInput, match=r'--to int8 needs the package torchao: pip install "yxanul\[int8\]"'):
        main([str(exportable()), "--to", "int8", "--out", str(tmp_path / "out")])


def test_a_hub_that_is_not_there_is_asked_once(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadInput, match="is no folder here, and the Hub cannot be reached"):
        open_source("nobody/nothing")
    assert os.environ["HF_HUB_OFFLINE"] == "1", "so that nothing tries again and again"


def test_what_is_no_model_is_refused_with_what_to_give(exportable, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(BadInput, match="it has no config.json"):
        open_source(str(empty))
    (empty / "config.json").write_text('{"model_type": "gpt2"}')
    (empty / "tokenizer.json").write_text("{}")
    (empty / "model.safetensors").write_text("")
    with pytest.raises(BadInput, match="a model of the type gpt2"):
        open_source(str(empty))
    (empty / "adapter_config.json").write_text("{}")
    with pytest.raises(BadInput, match="is an adapter, not a model: `yxanul merge"):
        open_source(str(empty))

    folder = exportable()
    checkpoint = tmp_path / "checkpoints/checkpoint-10"
    shutil.copytree(folder, checkpoint)
    with pytest.raises(BadInput, match="is no complete checkpoint: it has no COMPLETE"):
        open_source(str(checkpoint))
    size = (checkpoint / "model.safetensors").stat().st_size
    (checkpoint / "COMPLETE").write_text(f'{{"step": 10, "files": {{"model.safetensors": {size + 1}}}}}')
    with pytest.raises(BadInput, match=r"model\.safetensors has .* bytes, not"):
        open_source(str(checkpoint))
    (checkpoint / "COMPLETE").write_text(f'{{"step": 10, "files": {{"model.safetensors": {size}}}}}')
    assert open_source(str(checkpoint)).folder == checkpoint
    with pytest.raises(BadInput, match="a run that is not finished"):
        open_source(str(tmp_path))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(BadInput, match=r"has no tokenizer\.json"):
        open_source(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="has no weights"):
        open_source(str(folder))


def test_a_file_where_a_folder_is_wanted_is_said_before_the_model_is_opened(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="file wants a folder, and .*file is a file: give another one"):
        main([str(tmp_path / "no model"), "--to", "llama", "--out", str(tmp_path / "file")])
