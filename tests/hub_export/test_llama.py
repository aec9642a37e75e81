"""The merged Llama: the same logits for every shape that has a Llama twin, and a reason for every other."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from yxanul.bad_input import BadInput
from yxanul.hub_export import llama
from yxanul.hub_export.export_command import main
from yxanul.hub_export.source import open_source

IDS = torch.randint(5, 300, (3, 40), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layout", ["plain-tied", "plain-untied", "factorised-tied", "factorised-untied", "geglu"])
def test_merged_logits_are_the_models(exportable, layout, tmp_path):
    source = open_source(str(exportable(layout)))
    merged = llama.merged(source)
    assert type(merged) is LlamaForCausalLM
    assert merged.config.tie_word_embeddings == source.config.tie_word_embeddings
    with torch.no_grad():
        expected = source.model(IDS).logits
        assert expected.std() > 0.5
        torch.testing.assert_close(merged(IDS).logits, expected, rtol=0, atol=1e-5)
        merged.save_pretrained(tmp_path / "llama")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
        torch.testing.assert_close(again(IDS).logits, expected, rtol=0, atol=1e-5)


def test_the_head_of_a_tied_model_is_its_table(exportable):
    merged = llama.merged(open_source(str(exportable("factorised-tied"))))
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize(
    "layout, reason", [("learned-positions", "learned positions"), ("softcap", "caps its logits")]
)
def test_what_no_llama_computes_is_refused_with_the_reason(exportable, layout, reason, tmp_path):
    with pytest.raises(BadInput, match=reason):
        main([str(exportable(layout)), "--to", "llama", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_process_without_yxanul_opens_it_and_the_table_is_written(exportable, tmp_path, capsys):
    folder = exportable("factorised-tied")
    assert main([str(folder), "--to", "llama", "--out", str(tmp_path / "out"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["passed"] and row["largest_logit_difference"] <= 1e-5 and row["greedy_equal"] == row["greedy_of"] > 40
    assert row["tokenizer_equal"] == row["tokenizer_of"] and row["chat_equal"] is True
    written = json.loads((tmp_path / "out/llama/verification.json").read_text())
    assert written["rows"] == [row] and written["versions"]["transformers"]
    config = json.loads((tmp_path / "out/llama/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    assert not list((tmp_path / "out/llama").glob("*.py")), "no code is needed"
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"llama"}


@pytest.mark.parametrize("layout", ["factorised-tied", "factorised-untied"])
def test_the_folder_keeps_to_what_servers_loaders_ask_of_a_llama(exportable, layout, tmp_path):
    """vLLM, SGLang and TGI stack q, k, v and gate, up by these names, and know no others; no biases, no pickles."""
    source = open_source(str(exportable(layout)))
    (artefact,) = llama.write(source, tmp_path / "llama", ("f32",))
    config = json.loads((artefact.path / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    part = {
        "self_attn.q_proj": (heads * config["head_dim"], width),
        "self_attn.k_proj": (config["num_key_value_heads"] * config["head_dim"], width),
        "self_attn.v_proj": (config["num_key_value_heads"] * config["head_dim"], width),
        "self_attn.o_proj": (width, heads * config["head_dim"]),
        "mlp.gate_proj": (config["intermediate_size"], width),
        "mlp.up_proj": (config["intermediate_size"], width),
        "mlp.down_proj": (width, config["intermediate_size"]),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    expected = {
        f"model.layers.{n}.{name}.weight": shape
        for n in range(config["num_hidden_layers"])
        for name, shape in part.items()
    }
    expected |= {"model.embed_tokens.weight": (config["vocab_size"], width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        expected["lm_head.weight"] = (config["vocab_size"], width)
    stored = {name: tuple(weight.shape) for name, weight in load_file(artefact.path / "model.safetensors").items()}
    assert stored == expected
    assert config["architectures"] == ["LlamaForCausalLM"] and config["hidden_act"] == "silu"
    assert not config["attention_bias"] and not config["mlp_bias"] and config["rope_parameters"]["rope_theta"] == 1e4
    assert {file.suffix for file in artefact.path.iterdir()} <= {".json", ".safetensors", ".jinja"}
    assert artefact.notes == ()


def test_a_geglu_says_which_servers_refuse_it(exportable, tmp_path):
    (artefact,) = llama.write(open_source(str(exportable("geglu"))), tmp_path / "llama", ("f32",))
    assert artefact.notes == (llama.NO_GEGLU,)
