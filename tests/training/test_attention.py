"""What attends is chosen and said, and documents stay apart in it: in training, and in evaluation.

No kernel of a GPU runs here. In the place of torch's variable-length kernel stands plain torch that takes the same
arguments and computes document by document; what it is given, and what comes of it, is tested.
"""

import re

import pytest
import torch
from transformers.utils import import_utils

from yxanul.bad_input import BadInput
from yxanul.data.stream import restarting_positions
from yxanul.training import attention
from yxanul.training.attention import Attention, resolve_attention
from yxanul.training.loader import document_bounds

ROWS, LENGTH, END = 3, 24, 0


def one_by_one(query, key, value, bounds, bounds_k, longest, longest_k, *, scale, window_size, **options):
    """Documents of (tokens, heads, d), each alone; an empty one is nothing."""
    assert bounds.dtype == torch.int32 and bounds is bounds_k and longest == longest_k == LENGTH
    assert window_size == (-1, 0) and int(bounds[-1]) == len(query) == ROWS * LENGTH
    parts = []
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        q, k, v = (states[start:stop].transpose(0, 1)[None] for states in (query, key, value))
        gqa = q.shape[1] != k.shape[1]
        assert gqa and options.get("enable_gqa", True)
        attended = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scale, enable_gqa=gqa
        )
        parts.append(attended[0].transpose(0, 1) if stop > start else query[start:stop])
    calls.append(len(parts))
    return torch.cat(parts)


calls: list[int] = []


@pytest.fixture
def kernel(monkeypatch):
    """The documents of every call."""
    calls.clear()
    monkeypatch.setattr(attention, "varlen_attn", one_by_one)
    return calls


@pytest.fixture
def batch():
    """Rows of documents of about six tokens, as a run would read them, without what tells of documents."""
    ids = torch.randint(0, 131, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    ids[torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.15] = END
    return {"input_ids": ids, "shift_labels": torch.roll(ids, -1, 1)}


def bounds_of(batch):
    bounds = torch.from_numpy(document_bounds(batch["input_ids"].numpy() == END))
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": LENGTH, "max_length_k": LENGTH}


def positions_of(batch):
    return {"position_ids": torch.from_numpy(restarting_positions(batch["input_ids"].numpy(), END))}


def loss_and_gradients(model, **batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("layout", ["factorised-tied", "learned-positions"])
def test_document_by_document_is_the_dense_mask(tiny_model, batch, kernel, layout):
    dense, apart = (tiny_model(layout, initializer_range=0.3).train() for _ in range(2))
    Attention("varlen", "").install(apart)
    expected, found = (loss_and_gradients(model, **batch, **bounds_of(batch)) for model in (dense, apart))
    assert len(kernel) == 3 and kernel[0] > 2 * ROWS
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected[1].abs().max()))
    mixed = loss_and_gradients(dense, **batch)
    assert abs(mixed[0] - expected[0]) > 1e-2


@pytest.mark.parametrize("name", ["varlen", "flash_attention_3"])
@torch.no_grad()
def test_an_evaluation_by_positions_is_told_its_documents(tiny_model, batch, kernel, monkeypatch, name):
    """transformers finds documents for flash attention in a batch of one row alone, and mixes them in more."""
    dense, apart = (tiny_model("learned-positions", initializer_range=0.3) for _ in range(2))
    monkeypatch.setattr(
        apart, "set_attn_implementation", lambda name: setattr(apart.config, "_attn_implementation", name)
    )
    monkeypatch.setitem(attention.AttentionInterface._global_mapping, "flash_attention_3", attention.varlen_attention)
    Attention(name, "").install(apart)
    found, expected = (model(**batch, **positions_of(batch)).logits for model in (apart, dense))
    assert len(kernel) == 3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_what_brings_no_documents_is_sdpa(tiny_model, batch, kernel, padded):
    """Generation: prompts, caches, padding on the left."""
    plain, apart = (tiny_model(initializer_range=0.3) for _ in range(2))
    Attention("varlen", "").install(apart)
    ids = batch["input_ids"]
    mask = torch.ones_like(ids)
    mask[1, : 5 * padded] = 0
    options = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "eos_token_id": 200, "pad_token_id": 0}
    assert torch.equal(plain.generate(ids, **options), apart.generate(ids, **options)) and not kernel


def test_a_compiled_step_with_documents_is_a_graph(tiny_model, batch, monkeypatch):
    """Under the meta kernel that torch brings; the number of documents changes no graph."""
    torch.compiler.reset()
    model, graphs = tiny_model().train(), []
    Attention("varlen", "").install(model)

    def capture(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        raise InterruptedError  # the kernel has no code for a CPU

    compiled = torch.compile(model, backend=capture, fullgraph=True)
    with pytest.raises(Exception, match="InterruptedError"):
        compiled(**batch, **bounds_of(batch))
    (graph,) = graphs
    assert sum("_varlen_attn" in target for target in graph) == 3
    assert not any("scaled_dot_product" in target for target in graph)


def test_a_checkpoint_does_not_say_what_attended(tiny_model, tmp_path):
    model = tiny_model()
    Attention("varlen", "").install(model)
    model.save_pretrained(tmp_path)
    assert "varlen" not in (tmp_path / "config.json").read_text()


# What is chosen


@pytest.fixture
def chosen(small_config, small_shape, monkeypatch):
    """`chosen(asked, documents, installed=...)` on a GPU that exists in name only."""

    def choose(asked="auto", documents=True, on_gpu=True, installed=(), bf16=True, capability=(9, 0), **shape):
        monkeypatch.setattr(attention, "is_on_gpu", lambda config: on_gpu)
        monkeypatch.setattr(attention, "uses_bf16", lambda config: bf16 and on_gpu)
        monkeypatch.setattr(attention.torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(attention, "_backend", lambda config: "torch's kernel cudnn_attention")
        for version in (2, 3, 4):
            name = f"flash_attention_{version}"
            known = attention.FLASH[name]
            monkeypatch.setitem(attention.FLASH, name, (lambda name=name: name in installed, known[1]))
        shape = small_shape | shape
        return resolve_attention(small_config(attention=asked, document_mask=documents, model_config=shape))

    return choose


FLASH_2 = ("flash_attention_2",)
ALL_FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4")


@pytest.mark.parametrize(
    "circumstances, name, reason",
    [
        ({"on_gpu": False, "documents": False}, "sdpa", "no mask, torch's kernel cudnn_attention"),
        ({"on_gpu": False}, "sdpa", "a dense mask, which is exact"),
        ({"on_gpu": False, "asked": "sdpa"}, "sdpa", "a dense mask, which is exact"),
        ({"documents": False, "installed": ALL_FLASH}, "sdpa", "no mask, torch's kernel cudnn_attention"),
        ({}, "varlen", "torch's own, document by document"),
        ({"installed": ALL_FLASH}, "varlen", "torch's own, document by document"),
        ({"installed": FLASH_2, "attention_dropout": 0.1}, "flash_attention_2", "varlen has no dropout: .*"),
        ({"bf16": False}, "flex_attention", "varlen computes in bf16, and this run in fp32"),
        ({"head_dim": 12}, "flex_attention", "varlen takes heads of up to 256 in multiples of 8, and .*head_dim=12"),
        ({"asked": "varlen"}, "varlen", "asked for"),
        ({"asked": "flex_attention", "documents": False}, "flex_attention", "asked for"),
        ({"asked": "flash_attention_2", "documents": False, "installed": FLASH_2}, "flash_attention_2", "asked for"),
    ],
)
def test_the_choice_and_its_reason(chosen, circumstances, name, reason):
    found = chosen(**circumstances)
    assert found.name == name
    (said,) = found.sentences()
    assert re.fullmatch(rf"attention: {name} \({reason}\)\.", said)


@pytest.mark.parametrize(
    "circumstances, message",
    [
        ({"asked": "varlen", "on_gpu": False}, "attention=varlen is for GPUs, .*: take attention=sdpa, or auto."),
        (
            {"asked": "flash_attention_3"},
            "flash_attention_3 is not installed, and nothing is fetched from the Hub: take",
        ),
        ({"asked": "flash_attention_4", "installed": ALL_FLASH, "capability": (8, 9)}, "of compute capability 9.0"),
        ({"asked": "varlen", "documents": False}, "tells documents apart, and this run has no document_mask: take"),
        ({"asked": "varlen", "bf16": False}, "computes in bf16, and this run in fp32: take attention=auto"),
        ({"asked": "varlen", "head_dim": 264}, "and this model has head_dim=264"),
        (
            {"asked": "flex_attention", "attention_dropout": 0.1},
            "has no dropout: set model_config.attention_dropout=0",
        ),
        (
            {"attention_dropout": 0.1},
            "document_mask on this GPU: .*: change that, or take attention=sdpa, whose dense",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_way_back(chosen, circumstances, message):
    with pytest.raises(BadInput, match=message):
        chosen(**circumstances)


def test_transformer_engine_has_attention_of_its_own_and_the_run_says_so(small_config):
    assert (
        "Transformer Engine's own kernels in training"
        in resolve_attention(small_config(precision="te")).sentences()[0]
    )
    with pytest.raises(BadInput, match="attention=varlen: precision=te has kernels of its own: take attention=auto"):
        resolve_attention(small_config(precision="te", attention="varlen"))


def test_a_dense_mask_on_a_gpu_is_had_on_request_alone_and_said_loudly(chosen):
    _, loud = chosen(asked="sdpa").sentences()
    assert loud.startswith("ATTENTION=SDPA WITH A DOCUMENT MASK: a dense mask on the GPU")
    assert len(chosen(asked="sdpa", documents=False).sentences()) == 1


def test_installed_means_installed_and_nothing_is_asked_of_the_hub(monkeypatch):
    """With the package `kernels` transformers would fetch flash attention from there without a word."""
    monkeypatch.setattr(import_utils, "is_kernels_available", lambda *_, **__: True)
    assert not any(is_installed() for is_installed, _ in attention.FLASH.values())


def test_the_backend_is_what_torch_would_run(small_config, small_shape):
    choice = resolve_attention(small_config())
    assert choice.reason in ("no mask, torch's kernel flash_attention", "no mask, torch's kernel math")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert resolve_attention(small_config()).reason == "no mask, torch's kernel math"


@pytest.mark.parametrize(
    "documents, said", [(True, "a dense mask, which is exact"), (False, "no mask, torch's kernel")]
)
def test_a_run_says_it(run, documents, said):
    started = run(document_mask=documents)
    assert started("--stage", "language") == 0, started.said()
    assert f"attention: sdpa ({said}" in started.said() and "compile: none (a CPU)." in started.said()
