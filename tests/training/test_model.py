"""The model that a run begins with: the seed's, or another checkpoint's, or none at all."""

import logging

import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.training.model import build, build_on_meta


def weights(config):
    return {name: parameter.detach() for name, parameter in build(config).named_parameters()}


def same(one, other):
    return {name for name in one if torch.equal(one[name], other[name])}


def test_a_seed_makes_the_same_weights_in_float32_whatever_came_before(small_config):
    first = weights(small_config())
    torch.rand(7)
    assert same(first, weights(small_config(precision="fp32"))) == set(first)
    assert {value.dtype for value in first.values()} == {torch.float32}


def test_another_seed_makes_other_weights(small_config):
    one, other = weights(small_config()), weights(small_config(seed=2))
    assert all(name.endswith("norm.weight") for name in same(one, other))


def test_on_meta_the_same_parameters_take_no_memory(small_config):
    shapes = {name: parameter.shape for name, parameter in build(small_config()).named_parameters()}
    model = build_on_meta(small_config())
    assert {name: parameter.shape for name, parameter in model.named_parameters()} == shapes
    assert all(parameter.is_meta for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_init_from_a_llama_is_that_llama(small_config, llama, random_ids, tied):
    theirs, folder = llama(tie_word_embeddings=tied)
    ids = random_ids() % 61
    for changes in ({"model": None, "model_config": None}, {"model": folder, "model_config": {}}):
        ours = build(small_config(init_from=folder, **changes)).eval()
        assert torch.equal(ours(ids).logits, theirs(ids).logits)


def test_init_from_half_precision_is_trained_in_float32(small_config, llama):
    theirs, folder = llama()
    theirs.to(torch.bfloat16).save_pretrained(folder)
    ours = weights(small_config(init_from=folder))
    assert {value.dtype for value in ours.values()} == {torch.float32}
    assert same(ours, {name: value.float() for name, value in theirs.named_parameters()}) == set(ours)


@pytest.mark.parametrize(
    "changes, name",
    [
        ({"hidden_size": 64}, "model.embed_tokens.weight"),
        ({"num_hidden_layers": 3}, "model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "model.layers.1.input_layernorm.weight"),
        ({"tie_word_embeddings": False}, "lm_head.weight"),
        ({"embedding_rank": 16}, "model.embed_proj.weight"),
    ],
    ids=["wider", "deeper", "shallower", "untied", "factorised"],
)
def test_weights_of_another_shape_are_refused_by_name(small_config, small_shape, llama, changes, name, monkeypatch):
    _, folder = llama()
    said = []
    monkeypatch.setattr(logging.Logger, "handle", lambda logger, record: said.append(record.getMessage()))
    with pytest.raises(BadInput, match=f"init_from={folder} does not fit the model: .*{name}.* take its own shape"):
        build(small_config(init_from=folder, model_config=small_shape | changes))
    assert not said, "one sentence, without the table of transformers"


def test_init_from_a_folder_without_weights_is_refused(small_config, tmp_path):
    with pytest.raises(BadInput, match=f"init_from={tmp_path} cannot be loaded: "):
        build(small_config(init_from=str(tmp_path)))


def test_a_resume_does_not_read_what_the_run_began_with(small_config):
    gone = small_config(init_from="a/folder/that/was/deleted")
    assert build(gone, with_weights=False).config.hidden_size == 32
