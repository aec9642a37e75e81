"""What is saved is what is loaded, on any device map, and tied weights stay one tensor through all of it.

Not here: remote code, the Hub.
"""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file

from yxanul import YxanulForCausalLM
from yxanul.modeling_yxanul import YxanulFactorisedHead, YxanulHead

TIED = pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied"])
# the head's name for each tied tensor, and its source
TIES = {
    "plain-tied": {"lm_head.weight": "model.embed_tokens.weight"},
    "plain-untied": {},
    "factorised-tied": {
        "lm_head.embedding_weight": "model.embed_tokens.weight",
        "lm_head.projection_weight": "model.embed_proj.weight",
    },
    "factorised-untied": {},
}


@pytest.fixture
def model(tiny_model, layout):
    return tiny_model(layout, initializer_range=0.2)


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    return tmp_path


def assert_tied(model, layout: str) -> None:
    for head_name, source in TIES[layout].items():
        assert model.get_parameter(head_name) is model.get_parameter(source)
    if not TIES[layout]:
        assert model.lm_head.weight is not model.model.embed_tokens.weight


def assert_same_logits(one, other, ids: torch.Tensor) -> None:
    with torch.no_grad():
        assert torch.equal(one(ids).logits, other(ids).logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_round_trip(saved, random_ids, tmp_path, layout, dtype):
    model = YxanulForCausalLM.from_pretrained(saved, dtype=dtype)
    model.save_pretrained(tmp_path / "again")
    stored = load_file(tmp_path / "again" / "model.safetensors")
    assert stored.keys() == {name for name, _ in model.named_parameters()}, "each tied tensor is stored once"
    assert all(tensor.dtype == dtype for tensor in stored.values())
    loaded, report = YxanulForCausalLM.from_pretrained(tmp_path / "again", output_loading_info=True)
    assert not any(report.values()), report
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert_tied(loaded, layout)
    assert_same_logits(loaded, model, random_ids())


def test_saving_a_loaded_model_writes_the_same_weights(saved, tmp_path, layout):
    again = tmp_path / "again"
    YxanulForCausalLM.from_pretrained(saved).save_pretrained(again)
    assert (again / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, "disk"], ids=["cpu", "auto", "dict", "disk"])
def test_every_device_map_computes_the_same(model, saved, random_ids, layout, device_map):
    if device_map == "disk":
        device_map = dict.fromkeys(["model.rotary_emb", "model.norm", "lm_head", "model.embed_tokens"], "cpu")
        device_map |= {"model.layers": "disk", "model.embed_proj": "cpu"}
    loaded = YxanulForCausalLM.from_pretrained(saved, device_map=device_map, offload_folder=saved / "offload")
    assert_same_logits(loaded, model, random_ids())
    labels = random_ids()
    assert torch.equal(loaded.train()(labels, labels=labels).loss, model.train()(labels, labels=labels).loss)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_can_be_chosen_at_load_and_later(model, saved, random_ids, attention):
    chosen = YxanulForCausalLM.from_pretrained(saved, attn_implementation=attention)
    switched = YxanulForCausalLM.from_pretrained(saved)
    switched.set_attn_implementation(attention)
    assert chosen.config._attn_implementation == switched.config._attn_implementation == attention
    assert_same_logits(chosen, switched, random_ids())


def test_deepcopy_keeps_ties_and_shares_nothing(model, random_ids, layout):
    copied = copy.deepcopy(model)
    assert_tied(copied, layout)
    assert_same_logits(copied, model, random_ids())
    storages = ({parameter.data_ptr() for parameter in one.parameters()} for one in (model, copied))
    assert set.isdisjoint(*storages)


@pytest.mark.parametrize("size", [160, 100])
def test_resizing_keeps_layout_logits_and_loss(model, random_ids, layout, size):
    ids = random_ids() % 100
    with torch.no_grad():
        before = model(ids).logits
    model.resize_token_embeddings(size)
    assert model.config.vocab_size == size
    assert model.get_input_embeddings().weight.shape[0] == size
    assert type(model.lm_head) is (YxanulFactorisedHead if layout == "factorised-tied" else YxanulHead)
    assert model.lm_head.out_features == size
    assert_tied(model, layout)
    with torch.no_grad():
        after = model(ids).logits
    assert after.shape[-1] == size
    kept = min(size, 131)
    torch.testing.assert_close(after[..., :kept], before[..., :kept], rtol=0, atol=1e-5)
    outputs = model.train()(ids, labels=ids)
    assert outputs.logits is None, "resizing left a head that cannot give our loss"
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_resized_model_survives_the_round_trip(model, random_ids, tmp_path, layout):
    model.resize_token_embeddings(140)
    model.save_pretrained(tmp_path)
    loaded = YxanulForCausalLM.from_pretrained(tmp_path)
    assert_tied(loaded, layout)
    assert_same_logits(loaded, model, random_ids())


@TIED
def test_resizing_pads_to_a_multiple(model):
    model.resize_token_embeddings(pad_to_multiple_of=64)
    assert model.config.vocab_size == model.lm_head.out_features == 192


def with_tied_tensors_in_the_file(folder, layout: str, changed: str | None) -> None:
    """Rewrites the checkpoint as other tools write it, each tied tensor twice; `changed` differs from its source."""
    tensors = load_file(folder / "model.safetensors")
    for head_name, source in TIES[layout].items():
        tensors[head_name] = tensors[source] + (1 if head_name == changed else 0)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("layout", "head_name"), [(layout, head_name) for layout, ties in TIES.items() for head_name in ties]
)
def test_a_checkpoint_whose_tied_tensors_differ_is_refused(saved, layout, head_name):
    with_tied_tensors_in_the_file(saved, layout, changed=head_name)
    with pytest.raises(ValueError, match=f"{head_name} and {TIES[layout][head_name]} with different values"):
        YxanulForCausalLM.from_pretrained(saved)


@TIED
def test_a_checkpoint_that_holds_equal_tied_tensors_loads(model, saved, random_ids, layout):
    with_tied_tensors_in_the_file(saved, layout, changed=None)
    loaded = YxanulForCausalLM.from_pretrained(saved)
    assert_tied(loaded, layout)
    assert_same_logits(loaded, model, random_ids())


@pytest.mark.parametrize("layout", ["plain-tied"])
def test_differing_tensors_load_untied_as_the_message_says(model, saved, layout):
    with_tied_tensors_in_the_file(saved, layout, changed="lm_head.weight")
    loaded = YxanulForCausalLM.from_pretrained(saved, tie_word_embeddings=False)
    torch.testing.assert_close(loaded.lm_head.weight, model.lm_head.weight + 1, rtol=0, atol=0)
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight)


@pytest.mark.parametrize("layout", ["factorised-tied"])
def test_a_cast_model_is_one_loaded_in_that_dtype(model, saved, random_ids, layout):
    """`to` must not touch the frequencies of RoPE, which `from_pretrained` keeps in fp32."""
    loaded = YxanulForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    assert_same_logits(model.to(torch.bfloat16), loaded, random_ids(length=60))
