"""Training steps are compiled once for each length, computed as they are without, and never eager in silence.

Graphs are counted by a backend that runs eager kernels, so results are equal to the bit. Not here: GPUs.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from yxanul.bad_input import BadInput
from yxanul.run_folder import RunFolder
from yxanul.training import compilation, session
from yxanul.training.beginning import Beginning
from yxanul.training.compilation import CACHE, keep_compiled, most_graphs, resolve_compile
from yxanul.training.inputs import open_held_out, open_stream
from yxanul.training.ranks import Ranks
from yxanul.training.training_arguments import training_arguments

LENGTHS = (4, 5, 6, 8, 10, 12, 16, 20, 24, 48)
STEP_TOKENS = 480


@pytest.fixture
def train(small_config, bins, tmp_path):
    """`train(lengths, **changes)`: the trainer after two steps of each length, the second of which logs."""

    def make(lengths=(24, 48), evaluate=False, **changes):
        phases = [{"length": length, "rows": STEP_TOKENS // length, "steps": 2} for length in lengths]
        sources = [{"bin": str(bins / "language/train")}]
        stages = [{"name": "language", "sources": sources, "phases": phases}]
        domains = {"language": str(bins / "language/held_out"), "code": str(bins / "code/held_out")}
        changes |= {"stages": stages, "validation": domains if evaluate else None, "logging_steps": 2}
        config = small_config(save_steps=1000, warmup_steps=0, **changes)
        plan, folder = config.plan(), RunFolder(tmp_path / "run")
        args = training_arguments(config, plan, folder, 1)
        stream = open_stream(config, plan, config.shape().config)
        held_out = open_held_out(config, plan, stream, config.shape().config, 4) if evaluate else {}
        begin = Beginning(None, 0, plan.steps)
        trainer = session.Session(config, folder, args, Ranks(args.ddp_timeout), stream, held_out, begin).trainer
        trainer._save_checkpoint = lambda *_: None
        trainer.train()
        assert trainer.state.global_step == 2 * len(lengths)
        return trainer

    return make


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


@pytest.mark.parametrize("how, each", [("layers", 1), pytest.param("model", 2, marks=pytest.mark.slow)])
def test_ten_lengths_are_a_graph_each_and_one_more_in_the_whole_model_where_it_logs(
    train, compiler, small_shape, how, each
):
    shape = small_shape | {"num_hidden_layers": 1}  # tracing is what takes its time
    plain = weights(train(LENGTHS, compile="none", model_config=shape))
    assert compiler == []
    compiled = weights(train(LENGTHS, compile=how, model_config=shape))
    assert len(compiler) == each * len(LENGTHS) and torch.equal(compiled, plain)


CASES = {
    "accumulation": {"gradient_accumulation_steps": 2},
    "every activation again": {"activation_checkpointing": True},
    "documents": {"document_mask": True},
    "fp8": {"precision": "fp8"},
    "muon, factors": {"optimizer": "muon", "model_config": {"embedding_rank": 16}},
}
OF_GRAPHS = ("every activation again", "documents", "fp8")  # the others change nothing inside of one


@pytest.mark.parametrize(
    "how, name", [*(("layers", name) for name in CASES), *(("model", name) for name in OF_GRAPHS)]
)
def test_what_else_a_run_does_changes_neither_graphs_nor_weights_nor_names(train, compiler, small_shape, how, name):
    shape = small_shape | ({"num_hidden_layers": 1} if how == "model" else {})
    changes = CASES[name] | {"model_config": shape | CASES[name].get("model_config", {})}
    plain, compiled = train((16,), **changes), train((16,), compile=how, **changes)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=0, atol=1e-6)
    assert len(compiler) == (2 if how == "model" else 1)
    assert compiled.model.state_dict().keys() == plain.model.state_dict().keys()


@pytest.mark.parametrize("every, most", [(1, 1), (2, 2)])
def test_layers_share_a_graph_however_many_there_are(train, compiler, small_shape, every, most):
    """With some of them checkpointed transformers 5.23 has two kinds of layers; 5.17 does that outside of them."""
    checkpointing = {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": every}}
    for layers in (2, 5):
        compiler.clear()
        torch._dynamo.reset()
        train((16,), compile="layers", model_config=small_shape | {"num_hidden_layers": layers}, **checkpointing)
        assert 1 <= len(compiler) <= most


@pytest.mark.parametrize("how", ["layers", "model"])
def test_evaluation_compiles_nothing_and_is_what_it_is_without(train, compiler, how):
    trainer = train((16,), evaluate=True, compile=how)
    graphs = len(compiler)
    first = trainer.evaluate()
    assert len(compiler) == graphs
    for module in trainer.model.modules():
        module.__dict__.pop("forward", None)
    assert trainer.evaluate() == first


@pytest.mark.slow
@pytest.mark.parametrize(
    "parallel, how, layout",
    [
        ("ddp", "layers", {}),
        ("ddp", "model", {}),
        ("fsdp2", "layers", {"embedding_rank": 16}),
        ("fsdp2", "layers", {"tie_word_embeddings": False}),
    ],
)
def test_two_processes_learn_what_they_learn_uncompiled(run, small_shape, parallel, how, layout):
    """With checkpointed activations, accumulation, evaluation and documents; what FSDP2 gathers is in no graph."""
    changes = {"activation_checkpointing": True, "gradient_accumulation_steps": 2, "document_mask": True}
    changes |= {"model_config": small_shape | layout}
    plain, compiled = run(**changes), run(**changes)
    options = {"processes": 2, "eager_kernels": True, "fsdp2": parallel == "fsdp2"}
    assert plain(f"parallel={parallel}", **options) == 0, plain.said()
    assert compiled(f"parallel={parallel}", f"compile={how}", **options) == 0, compiled.said()
    assert f"compile: {how} (asked for" in compiled.said()
    assert compiled.losses() == pytest.approx(plain.losses(), abs=1e-5) and len(plain.losses()) == 20
    assert compiled.lines("eval_bits_per_byte")[-1] == pytest.approx(plain.lines("eval_bits_per_byte")[-1], abs=1e-3)


def test_more_graphs_than_the_plan_has_use_for_end_the_run(train, compiler, monkeypatch):
    monkeypatch.setattr(compilation, "most_graphs", lambda plan, documents: 1)
    with (
        torch._dynamo.config.patch(recompile_limit=1),
        pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit, match="limit"),
    ):
        train(compile="layers")


def test_a_graph_that_breaks_ends_the_run(train, compiler, monkeypatch):
    from yxanul.modeling_yxanul import YxanulMLP

    whole = YxanulMLP.forward

    def breaking(module, states):
        torch._dynamo.graph_break()
        return whole(module, states)

    monkeypatch.setattr(YxanulMLP, "forward", breaking)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        train(compile="layers")


def test_the_limit_is_what_the_plan_can_need(small_config):
    plan = small_config().plan()
    assert (most_graphs(plan, False), most_graphs(plan, True)) == (6, 54)


# What is chosen


@pytest.fixture
def chosen(small_config, monkeypatch):
    """`chosen(compile, on_gpu, **changes)` on a machine that has everything that `without` does not name."""

    def choose(compile="auto", on_gpu=True, without="", attention="sdpa", **changes):
        import yxanul.training.training_arguments as arguments

        monkeypatch.setattr(arguments, "is_on_gpu", lambda config: on_gpu)
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(compilation, "which", lambda name: None if without == "compiler" else name)
        monkeypatch.setattr(compilation, "find_spec", lambda name: None if name == without else name)
        monkeypatch.setattr(compilation, "HEADER", SimpleNamespace(exists=lambda: without != "Python.h"))
        return resolve_compile(small_config(compile=compile, **changes), attention)

    return choose


@pytest.mark.parametrize(
    "circumstances, name, reason",
    [
        ({}, "layers", "a GPU"),
        ({"on_gpu": False}, "none", "a CPU"),
        ({"without": "compiler"}, "none", "SLOWER: torch compiles with gcc or clang"),
        ({"without": "triton"}, "none", "SLOWER: on a GPU torch compiles with triton"),
        ({"without": "Python.h"}, "none", "SLOWER: triton needs Python's headers"),
        ({"parallel": "zero3"}, "none", "SLOWER: zero3 gathers"),
        ({"parallel": "fsdp2"}, "layers", "a GPU"),
        ({"precision": "te"}, "none", "Transformer Engine's layers"),
        ({"compile": "none"}, "none", "asked for"),
        ({"compile": "model"}, "model", "asked for"),
        ({"compile": "layers", "on_gpu": False, "without": "triton"}, "layers", "asked for"),
    ],
)
def test_the_choice_and_its_reason(chosen, circumstances, name, reason):
    compilation = chosen(**circumstances)
    assert compilation.name == name and compilation.reason.startswith(reason)
    assert compilation.sentence().startswith(f"compile: {name} ({reason}")


@pytest.mark.parametrize(
    "circumstances, loss",
    [
        ({}, True),
        ({"parallel": "zero3"}, True),
        ({"precision": "te"}, True),
        ({"compile": "none"}, False),
        ({"without": "triton"}, False),
        ({"precision": "te", "without": "triton"}, False),
        ({"compile": "layers", "on_gpu": False}, False),
    ],
)
def test_the_loss_has_a_kernel_of_its_own_wherever_a_gpu_can_have_one(chosen, circumstances, loss):
    assert chosen(**circumstances).loss is loss


def test_the_loss_with_its_own_kernel_trains_the_same(train, monkeypatch):
    plain = weights(train((16,)))
    monkeypatch.setattr(session, "resolve_compile", lambda *_: compilation.Compilation("none", "test", loss=True))
    made = counters["stats"]["unique_graphs"]
    torch.testing.assert_close(weights(train((16,))), plain, rtol=0, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == made + 2, "one more for the step that logs"


@pytest.mark.parametrize(
    "circumstances, message",
    [
        (
            {"compile": "layers", "on_gpu": False, "without": "compiler"},
            r"g\+\+ or clang\+\+, and neither is installed",
        ),
        (
            {"compile": "layers", "without": "triton"},
            "compile=layers: .* triton, .*: install it; or take compile=none",
        ),
        ({"compile": "model", "parallel": "fsdp2"}, "compile=model: fsdp2 .*: take compile=layers; or"),
        ({"compile": "model", "attention": "flex_attention"}, "breaks the graph: take compile=layers; or"),
        ({"compile": "layers", "parallel": "zero3"}, "take fsdp2; or take compile=none"),
        ({"compile": "layers", "precision": "te"}, "cannot be traced: take precision=bf16; or take compile=none"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_back(chosen, circumstances, message):
    with pytest.raises(BadInput, match=message):
        chosen(**circumstances)


# The cache


@pytest.mark.parametrize("variables", [{}, {"XDG_CACHE_HOME": "/cache"}, {CACHE: "/mine"}])
def test_what_is_compiled_is_kept_in_the_users_cache_unless_they_say_where(monkeypatch, variables):
    for name in ("XDG_CACHE_HOME", CACHE):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    keep_compiled()
    home = str(Path.home() / ".cache/yxanul/compiled")
    assert os.environ[CACHE] == variables.get(CACHE, "/cache/yxanul/compiled" if variables else home)


def test_the_command_sets_the_cache_before_torch_is_there(tmp_path):
    code = (
        "import contextlib, os, sys; from yxanul.training import pretrain\n"
        "with contextlib.suppress(ValueError): pretrain.main(['nowhere', '--dry-run'])\n"
        f"print('torch' in sys.modules, os.environ['{CACHE}'])"
    )
    variables = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    variables.pop(CACHE, None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, cwd=tmp_path)
    assert done.stdout == f"False {tmp_path / 'yxanul/compiled'}\n", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("how", ["layers", "model"])
def test_a_restart_finds_its_graphs_in_the_cache(run, how, tmp_path, monkeypatch):
    """By inductor's own C++ compiler, in processes of their own."""
    monkeypatch.setenv(CACHE, str(tmp_path / "compiled"))
    counted = []
    for _ in range(2):
        started = run(compile=how)
        assert started(graphs=True) == 0, started.said()
        counted.append(next(line for line in started.said().splitlines() if "found in the cache" in line))
    assert "0 found in the cache" in counted[0] and ", 0 made" in counted[1] and "0 found" not in counted[1], counted
