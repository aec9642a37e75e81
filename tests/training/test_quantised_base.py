"""QLoRA: the layers' matrices alone are quantised; an adapter learns above them, exactly, and merges in full."""

import sys

import pytest
import torch
from small_runs.chat import recipe
from small_runs.fixture import Run

from yxanul import YxanulForCausalLM
from yxanul.__main__ import main
from yxanul.training.config import read_config
from yxanul.training.lora import frozen_bytes
from yxanul.training.model import build

peft, bitsandbytes = pytest.importorskip("peft"), pytest.importorskip("bitsandbytes")
KINDS = pytest.mark.parametrize("kind", ["nf4", "int8"])


WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def wide(chat, tiny_model):
    """The folder `chat` with a factorised model."""
    model = tiny_model("factorised-tied", vocab_size=300, initializer_range=0.1, head_dim=16, **WIDTHS)
    model.save_pretrained(chat / "model")
    return chat


@pytest.fixture
def built(wide):
    """`built(kind)`: that model below an adapter."""
    return lambda kind: build(read_config(str(recipe(wide, lora={"r": 4, "base": kind})), []))


@KINDS
def test_matrices_of_the_layers_are_quantised_and_nothing_else(built, kind):
    full, model = built("full"), built(kind)
    quantised = {name for name, part in model.named_modules() if type(part).__module__.startswith("bitsandbytes")}
    assert len(quantised) == 7 * 3 and all(".layers." in name for name in quantised)
    for name in ("model.embed_tokens.weight", "model.embed_proj.weight", "model.norm.weight"):
        assert torch.equal(model.get_parameter(name), full.get_parameter(name)), name
    layers, others = (
        sum(parameter.numel() for name, parameter in full.named_parameters() if (".base_layer." in name) == inside)
        for inside in (True, False)
    )
    others -= sum(parameter.numel() for parameter in full.parameters() if parameter.requires_grad)
    ratio = (frozen_bytes(model) - 4 * others) / (4 * layers)
    assert ratio == pytest.approx({"nf4": (0.5 + 4 / 64) / 4, "int8": 1 / 4}[kind], rel=0.1)
    for name in quantised:
        near, exact = model.get_submodule(name), full.get_submodule(name)
        x = torch.randn(1, 50, exact.in_features, generator=torch.Generator().manual_seed(1))
        error = (near(x) - exact(x)).norm() / exact(x).norm()
        assert 0 < error < {"nf4": 0.12, "int8": 0.02}[kind], name


@KINDS
def test_an_evaluation_leaves_the_base_as_it_was(built, kind):
    """bitsandbytes repacks 4-bit weights for a CPU's inference, and training would go on with those."""
    model, ids = built(kind), torch.arange(3, 40)[None]
    before = model.train()(input_ids=ids, labels=ids).loss
    with torch.no_grad():
        model.eval()(ids)
    assert torch.equal(model.train()(input_ids=ids, labels=ids).loss, before)


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_exactly_and_merges_into_full_weights(wide, tmp_path, capsys, kind):
    file = recipe(wide, lora={"r": 4, "base": kind})
    whole, killed = (Run(file, tmp_path / name) for name in ("whole", "killed"))
    assert whole() == 0, whole.said()
    assert killed(kill={"step": 7}) == -9
    assert killed() == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)
    assert whole.losses()[-1] < whole.losses()[0] - 0.5 and f"MB ({kind})" in whole.said()
    assert main(["merge", str(tmp_path / "whole"), "--out", str(tmp_path / "merged")]) == 0
    assert f"learnt above a base in {kind}; it was merged into the base in full precision" in capsys.readouterr().err
    merged, ids = YxanulForCausalLM.from_pretrained(tmp_path / "merged").eval(), torch.arange(3, 40)[None]
    full = YxanulForCausalLM.from_pretrained(wide / "model")
    adapted = peft.PeftModel.from_pretrained(full, tmp_path / "whole/final").eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted(input_ids=ids).logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, options", [({}, {"processes": 2}), ({"compile": "layers"}, {"eager_kernels": True})]
)
def test_two_processes_and_compiled_layers_learn_the_same(wide, tmp_path, changes, options):
    one, other = (Run(recipe(wide, lora={"base": "nf4"}), tmp_path / name) for name in ("one", "other"))
    assert one() == 0, one.said()
    recipe(wide, lora={"base": "nf4"}, **changes)
    assert other(**options) == 0, other.said()
    assert one.losses() == pytest.approx(other.losses(), rel=1e-5)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"lora": {"base": "nf5"}}, "unknown lora.base 'nf5': did you mean nf4?"),
        ({"precision": "fp8"}, "lora.base=nf4 is for precision fp32 or bf16 and parallel=ddp"),
        ({"parallel": "fsdp2"}, "lora.base=nf4 is for precision fp32 or bf16 and parallel=ddp"),
    ],
)
def test_what_cannot_be_had_is_said_before_any_work(wide, tmp_path, capsys, changes, message):
    file = recipe(wide, **{"lora": {"base": "nf4"}} | changes)
    assert main(["sft", str(file), "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_width_that_bitsandbytes_reads_wrongly_is_refused_before_any_work(chat, tmp_path, capsys):
    assert main(["sft", str(recipe(chat, lora={"base": "nf4"})), "--out", str(tmp_path / "run")]) == 2
    assert "needs widths that are multiples of 64, and q_proj has 32: take lora.base=int8." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_bitsandbytes_is_named_before_any_work(wide, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert main(["sft", str(recipe(wide, lora={"base": "nf4"})), "--out", str(tmp_path / "run")]) == 2
    assert 'lora.base needs bitsandbytes: pip install "yxanul[qlora]"' in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
