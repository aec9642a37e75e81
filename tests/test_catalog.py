"""The presets have the sizes of their sources, and the arithmetic agrees with built models."""

import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.catalog import (
    cache_bytes_per_token,
    head_products,
    load_shape,
    parameter_table,
    preset_names,
    training_flops_per_token,
)
from yxanul.info import built_parameters

PARAMETERS = {
    "yxanul-177m": 177_230_720,
    "yxanul-197m": 196_398_464,
    "yxanul-270m": 273_284_480,
    "elite-112m": 112_085_760,
    "yxanul-317m": 317_100_288,
    "yxanul-0.6b": 341_479_680,
    "tiny": 1_000_576,
}


def test_every_preset_has_a_known_size():
    assert set(preset_names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_preset_is_built_with_its_parameter_count(name):
    shape = load_shape(name)
    assert built_parameters(shape.config) == PARAMETERS[name] == sum(parameter_table(shape.config).values())


def test_the_tied_count_of_system_4_is_the_one_its_source_calls_broken():
    assert built_parameters(load_shape("yxanul-317m", {"tie_word_embeddings": True}).config) == 278_502_912


def test_component_table_agrees_with_a_built_model(tiny_config, layout):
    from yxanul import YxanulForCausalLM

    config = tiny_config(layout, learned_position_embeddings=True)
    parameters = dict(YxanulForCausalLM(config).named_parameters())
    count = lambda *parts: sum(p.numel() for n, p in parameters.items() if any(part in n for part in parts))  # noqa: E731
    table = parameter_table(config)
    assert table["embedding table"] == count("embed_tokens")
    assert table.get("embedding projection", 0) == count("embed_proj")
    assert table["learned positions"] == count("embed_positions")
    assert table["attention"] == count("self_attn")
    assert table["feed-forward"] == count("mlp")
    assert table["norms"] == count("norm")
    assert table["head"] == count("lm_head")


def test_flops_agree_with_those_that_torch_counts(tiny_config, layout):
    """A forward pass in eager attention multiplies the whole square; ours counts the causal half."""
    from torch.utils.flop_counter import FlopCounterMode

    from yxanul import YxanulForCausalLM

    config, length = tiny_config(layout), 16
    model = YxanulForCausalLM._from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, length, dtype=torch.long))
    flops = training_flops_per_token(config, length)
    forward = (flops["layers"] + 2 * flops["attention"] + flops["head"]) / 3
    assert counter.get_total_flops() == forward * length
    assert flops["head"] == 6 * head_products(config)


def test_cache_bytes_agree_with_a_cache(tiny_config, tiny_model):
    cache = tiny_model()(torch.zeros(1, 8, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 8 * cache_bytes_per_token(tiny_config(), bytes_per_number=4)


def test_a_checkpoint_folder_has_the_shape_of_its_model(tiny_model, tmp_path):
    model = tiny_model("factorised-tied")
    model.save_pretrained(tmp_path)
    assert parameter_table(load_shape(str(tmp_path)).config) == parameter_table(model.config)


def test_a_llama_folder_is_read_as_the_plain_variant(tmp_path):
    from transformers import LlamaConfig

    LlamaConfig(hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    assert load_shape(str(tmp_path)).config.embedding_rank is None


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(BadInput, match="holds no readable config.json"):
        load_shape(str(tmp_path))


def test_another_architecture_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(BadInput, match="model_type is 'mamba'"):
        load_shape(str(tmp_path))


def test_a_classifier_is_no_language_model(tiny_config, tmp_path):
    from yxanul import YxanulForTokenClassification

    YxanulForTokenClassification(tiny_config()).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="holds a YxanulForTokenClassification; only language models"):
        load_shape(str(tmp_path))


def test_changed_heads_of_a_folder_take_their_own_width(tiny_config, tmp_path):
    tiny_config().save_pretrained(tmp_path)
    changes = {"num_attention_heads": 4, "num_key_value_heads": 4}
    assert load_shape(str(tmp_path), changes).config.head_dim == 12


@pytest.mark.parametrize("content", [b"[1, 2]", b'{"a": "\xff"}'])
def test_a_config_that_is_none_is_named(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(BadInput, match="config.json"):
        load_shape(str(tmp_path))
