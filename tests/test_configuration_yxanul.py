"""A config is checked when it is built, names what is wrong with it, and survives a file."""

import pytest

from yxanul import YxanulConfig


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"hidden_size": 770}, "hidden_size=770 is not divisible by num_attention_heads=12: 768 or 780 would be"),
        (
            {"num_key_value_heads": 5},
            r"num_key_value_heads=5 must divide num_attention_heads=12: .*\[1, 2, 3, 4, 6, 12\]",
        ),
        ({"num_key_value_heads": 24}, "num_key_value_heads=24 must divide num_attention_heads=12"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0: it must be at least 1"),
        ({"hidden_size": 36, "num_attention_heads": 12}, "head_dim=3 must be even"),
        ({"embedding_rank": 0}, "embedding_rank=0 must lie between 1 and hidden_size=768"),
        ({"embedding_rank": 769}, "embedding_rank=769 must lie between 1 and hidden_size=768"),
        ({"hidden_act": "swiglu"}, "hidden_act='swiglu' is unknown: take one of silu, gelu, gelu_pytorch_tanh"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0: it must be at least 1"),
        ({"attention_dropout": 1.0}, r"attention_dropout=1.0 must lie in \[0, 1\)"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps=0.0 must be above 0"),
        ({"final_logit_softcapping": -1.0}, "final_logit_softcapping=-1.0 must be above 0"),
        (
            {"rms_norm_eps": "1e-6"},
            r"'rms_norm_eps' expected float, got str \(value: '1e-6'\): write it without quotes",
        ),
        ({"hidden_size": 768.0}, "'hidden_size' expected int, got float .*: give hidden_size a value of that type"),
        ({"rope_parameters": {"rope_type": "yran"}}, "rope_type='yran' is unknown: take one of default, "),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "'factor' is missing|factor"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": "1e4"}}, "rope_theta='1e4' is text; write it"),
        ({"pad_token_id": 60_000}, "pad_token_id=60000 is outside of vocab_size=50257"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps=nan must be above 0"),
        ({"attention_bias": True}, "attention_bias=True: Yxanul models have no biases"),
    ],
)
def test_a_wrong_config_names_field_value_and_mend(fields, message):
    with pytest.raises(Exception, match=message):
        YxanulConfig(**fields)


def test_assignments_are_checked_too():
    config = YxanulConfig()
    with pytest.raises(ValueError, match="'hidden_size' expected int, got str"):
        config.hidden_size = "768"


def test_what_llama_configs_write_is_taken():
    assert YxanulConfig(attention_dropout=None, initializer_range=1).attention_dropout == 0.0


def test_left_out_head_counts_are_filled_in():
    config = YxanulConfig(num_key_value_heads=None)
    assert (config.num_key_value_heads, config.head_dim, config.embedding_size) == (12, 64, 768)
    assert YxanulConfig(embedding_rank=128).embedding_size == 128


def test_a_config_survives_its_file(tmp_path, tiny_config, layout):
    config = tiny_config(layout, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4})
    config.save_pretrained(tmp_path)
    assert YxanulConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


def test_nothing_of_a_run_is_stored_in_a_config():
    assert not {"precision", "fp8", "attn_implementation", "use_liger_kernel"} & YxanulConfig().to_dict().keys()


def test_the_pipeline_plan_names_the_projection_only_where_there_is_one(tiny_config):
    assert "embed_proj" in tiny_config("factorised-tied").base_model_pp_plan
    assert "embed_proj" not in tiny_config("plain-tied").base_model_pp_plan
    assert "base_model_pp_plan" not in tiny_config("factorised-tied").to_dict()
