"""A Yxanul model computes what LlamaForCausalLM computes with the merged embedding table E = A @ P.T.

Llama is the measure that we did not write. Logits are equal to the bit wherever the sums run in the same order: in
every layout but the tied factorised head, which goes through the rank. Losses and gradients round differently.
"""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from yxanul import YxanulForCausalLM

SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
    "max_position_embeddings",
    "rope_parameters",
    "rms_norm_eps",
    "pad_token_id",
)
ROPE_SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


def merged_llama(model, attention: str = "sdpa") -> LlamaForCausalLM:
    """A Llama with the model's weights, its one embedding table the product of the two factors."""
    fields = {name: getattr(model.config, name) for name in SHARED_FIELDS}
    llama = LlamaForCausalLM._from_config(LlamaConfig(**fields), attn_implementation=attention, dtype=torch.float32)
    ours_alone = ("lm_head.", "model.embed_positions.")
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(ours_alone)}
    if model.config.embedding_rank is not None:
        projection = weights.pop("model.embed_proj.weight")
        weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] @ projection.T
    weights["lm_head.weight"] = model.lm_head.weight.detach()
    llama.load_state_dict(weights)
    return llama.eval()


def left_padding(ids: torch.Tensor) -> torch.Tensor:
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return mask


@pytest.mark.parametrize("padded", [False, True], ids=["no-padding", "left-padding"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_pytorch_tanh"])
@torch.no_grad()
def test_logits_equal_llamas(tiny_model, random_ids, layout, activation, attention, padded):
    model = tiny_model(layout, attention, hidden_act=activation, initializer_range=0.2)
    llama, ids = merged_llama(model, attention), random_ids()
    mask = left_padding(ids) if padded else None
    ours, theirs = (one(ids, attention_mask=mask).logits for one in (model, llama))
    assert theirs.std() > 0.5, "logits this small would hide a difference"
    if layout == "factorised-tied":
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * theirs.abs().max().item())
    else:
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("layout", ["one-key-per-query-head", "wide-heads"])
@torch.no_grad()
def test_other_head_shapes_equal_llamas(tiny_model, random_ids, layout):
    model = tiny_model(layout, initializer_range=0.2)
    assert torch.equal(model(random_ids()).logits, merged_llama(model)(random_ids()).logits)


@pytest.mark.parametrize("given", [False, True], ids=["counted-here", "given"])
@torch.no_grad()
def test_learned_positions_are_added_to_llamas_embeddings(tiny_model, random_ids, given):
    model, ids = tiny_model("learned-positions", initializer_range=0.2), random_ids()
    positions = torch.arange(20, 32)[None] if given else torch.arange(12)[None]
    batch = {"position_ids": positions} if given else {}
    summed = model.model.embed_tokens(ids) + model.model.embed_positions.weight[positions]
    assert torch.equal(model(ids, **batch).logits, merged_llama(model)(inputs_embeds=summed, **batch).logits)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@torch.no_grad()
def test_loss_equals_llamas(tiny_model, random_ids, layout, training):
    model, ids = tiny_model(layout, initializer_range=0.2).train(training), random_ids()
    labels = ids.masked_fill(ids % 5 == 0, -100)
    theirs = merged_llama(model)(ids, labels=labels).loss
    torch.testing.assert_close(model(ids, labels=labels).loss, theirs, rtol=0, atol=1e-6)


def test_gradients_equal_llamas_by_the_chain_rule(tiny_model, random_ids, layout):
    """With E = A @ P.T, dA = dE @ P and dP = dE.T @ A; a tied head adds its part to the same dE."""
    model, ids = tiny_model(layout, initializer_range=0.2).train(), random_ids()
    llama = merged_llama(model).train()
    for one in (model, llama):
        one(ids, labels=ids).loss.backward()
    expected = {name: parameter.grad for name, parameter in llama.named_parameters()}
    if model.config.embedding_rank is not None:
        d_table = expected["model.embed_tokens.weight"]
        expected["model.embed_tokens.weight"] = d_table @ model.model.embed_proj.weight
        expected["model.embed_proj.weight"] = d_table.T @ model.model.embed_tokens.weight
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == expected.keys()
    for name, gradient in ours.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=0, atol=1e-5 * scale, msg=f"{name} differs")


@pytest.mark.parametrize("scaling", ROPE_SCALINGS)
@torch.no_grad()
def test_every_rope_scaling_equals_llamas(tiny_model, random_ids, scaling):
    changes = {"max_position_embeddings": 16, "initializer_range": 0.2}  # 16: dynamic reacts to a longer input
    model = tiny_model(rope_parameters=ROPE_SCALINGS[scaling] | {"rope_theta": 10_000.0}, **changes)
    llama, unscaled = merged_llama(model), tiny_model(**changes)
    long, short = random_ids(length=40), random_ids(length=8)
    assert not torch.allclose(model(long).logits, unscaled(long).logits, atol=1e-2)
    for ids in (long, short, long):  # dynamic has a state: it stretches for a long input and goes back after it
        assert torch.equal(model(ids).logits, llama(ids).logits)


@pytest.mark.parametrize("layout", ["plain-tied", "plain-untied"])
@torch.no_grad()
def test_llama_checkpoints_load(tiny_model, random_ids, layout, tmp_path):
    llama = merged_llama(tiny_model(layout, initializer_range=0.2))
    llama.save_pretrained(tmp_path)
    model, report = YxanulForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(model.eval()(random_ids()).logits, llama(random_ids()).logits)


@pytest.mark.parametrize("bias", ["attention_bias", "mlp_bias"])
def test_llama_checkpoints_with_biases_are_refused(tmp_path, bias):
    sizes = {"vocab_size": 131, "hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 6}
    LlamaForCausalLM(LlamaConfig(**sizes, **{bias: True})).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{bias}=True: Yxanul models have no biases"):
        YxanulForCausalLM.from_pretrained(tmp_path)
