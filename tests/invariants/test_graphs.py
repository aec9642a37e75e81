"""The model is one graph, the graph computes what eager computes, and a plain batch keeps the flash path.

torch.compile with `fullgraph`, one run of the default compiler, torch.export, and a look at the captured graph: with a
4D mask, or with key/value heads repeated, results stay right and only the speed goes. So no other test would see it.
"""

import pytest
import torch

LAYERS = 1  # tracing is what these tests wait for


@pytest.fixture(params=["plain", "everything"])
def model(request, tiny_model):
    """Two models that run every line between them."""
    if request.param == "plain":
        return tiny_model("plain-untied", initializer_range=0.2, num_hidden_layers=LAYERS)
    return tiny_model(
        "factorised-tied",
        initializer_range=0.2,
        num_hidden_layers=LAYERS,
        learned_position_embeddings=True,
        final_logit_softcapping=5.0,
    )


@pytest.fixture(autouse=True)
def fresh_compiler():
    """No test meets the graphs, or the recompile count, of another."""
    torch.compiler.reset()


def loss_and_gradients(model, forward, ids: torch.Tensor, **options) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = forward(ids, labels=ids, **options).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same_step(model, compiled, ids: torch.Tensor, **options) -> None:
    expected_loss, expected = loss_and_gradients(model, model, ids, **options)
    loss, gradients = loss_and_gradients(model, compiled, ids, **options)
    torch.testing.assert_close(loss, expected_loss, rtol=0, atol=1e-6)
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=f"{name} differs")


@pytest.mark.parametrize(("model", "use_cache"), [("plain", True), ("everything", False)], indirect=["model"])
@torch.no_grad()
def test_compiled_logits_equal_eager(model, random_ids, use_cache):
    compiled, ids = torch.compile(model, backend="aot_eager", fullgraph=True), random_ids()
    expected = model(ids, use_cache=use_cache).logits
    torch.testing.assert_close(compiled(ids, use_cache=use_cache).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["everything"], indirect=True)
@torch.no_grad()
def test_compiled_logits_of_changing_lengths_equal_eager(model, random_ids):
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for ids in (random_ids(length=12), random_ids(length=7)):
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "kind"),
    [("plain", "attention_mask"), ("everything", "position_ids"), ("everything", "cu_seq_lens")],
    indirect=["model"],
)
@torch.no_grad()
def test_compiled_packed_and_padded_logits_equal_eager(model, random_ids, kind):
    ids = random_ids(rows=1, length=12)
    boundaries = torch.tensor([0, 5, 12], dtype=torch.int32)
    batch = {
        "attention_mask": {"attention_mask": (torch.arange(12) >= 4).long()[None]},
        "position_ids": {"position_ids": torch.arange(12).remainder(5)[None]},
        "cu_seq_lens": {"cu_seq_lens_q": boundaries, "cu_seq_lens_k": boundaries},
    }[kind]
    expected = model(ids, **batch).logits
    assert not torch.allclose(expected, model(ids).logits, atol=1e-2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids, **batch).logits, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [("plain", {}), ("everything", {"z_loss": 1e-3}), ("plain", {"return_logits": True})],
    indirect=["model"],
)
def test_compiled_training_step_equals_eager(model, random_ids, options):
    compiled = torch.compile(model.train(), backend="aot_eager", fullgraph=True)
    assert_same_step(model, compiled, random_ids(), **options)


def test_inductor_training_step_equals_eager(tiny_model, random_ids):
    """The loss, one operator in that graph, is compiled apart."""
    model = tiny_model("factorised-tied", initializer_range=0.2, num_hidden_layers=1).train()
    assert_same_step(model, torch.compile(model, fullgraph=True), random_ids(), compiled_loss=True)


def test_compiled_static_cache_generation_equals_eager(tiny_model, random_ids):
    model = tiny_model("factorised-tied", initializer_range=0.4)
    options = {"do_sample": False, "max_new_tokens": 6, "cache_implementation": "static"}
    expected = model.generate(random_ids(), **options)
    model.forward = torch.compile(model.forward, backend="aot_eager", fullgraph=True)
    assert torch.equal(model.generate(random_ids(), **options), expected)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_plain_batches_keep_the_flash_path(model, random_ids, training):
    """One call of attention for each layer: no mask tensor, causal by flag, key/value heads not repeated."""
    calls = attention_calls(model.train(training), input_ids=random_ids(), labels=random_ids())
    assert len(calls) == LAYERS
    for call in calls:
        assert (call.get("attn_mask"), call["is_causal"], call.get("enable_gqa")) == (None, True, True)


def test_position_ids_bring_a_mask(model, random_ids):
    """The counterpart: what a pretraining batch must not carry."""
    positions = torch.arange(12).remainder(5).expand(2, -1)
    calls = attention_calls(model, input_ids=random_ids(), position_ids=positions)
    assert len(calls) == LAYERS
    assert all(call["attn_mask"] is not None and not call["is_causal"] for call in calls)


def attention_calls(model, **batch) -> list[dict]:
    """Keyword arguments of every scaled_dot_product_attention in the graph that dynamo captures."""
    calls = []

    def capture(graph: torch.fx.GraphModule, _):
        attention = torch.nn.functional.scaled_dot_product_attention
        calls.extend(node.kwargs for node in graph.graph.nodes if node.target is attention)
        return graph.forward

    torch.compile(model, backend=capture, fullgraph=True)(**batch)
    return calls


@torch.no_grad()
def test_exported_logits_equal_eager(model, random_ids):
    exported = torch.export.export(model, (), {"input_ids": random_ids(), "use_cache": False}).module()
    ids = random_ids(seed=1)
    logits = exported(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-6)
