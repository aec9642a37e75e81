"""The target `onnx`: the graph computes what the model computes, and lies there as transformers.js asks for it."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from transformers import AutoTokenizer

from yxanul import YxanulConfig, YxanulForCausalLM
from yxanul.bad_input import BadInput
from yxanul.hub_export import mobile, onnx
from yxanul.hub_export.onnx_client import OnnxRuntime
from yxanul.hub_export.source import open_source
from yxanul.hub_export.verify import HARD_TEXTS, MESSAGES

IDS = [int(each) for each in np.random.default_rng(0).integers(5, 300, 23)]
DIGITS = {"type": "Digits", "individual_digits": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A factorised model of two layers with learned positions and GEGLU, and a tokenizer that splits digits."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()
    special, alphabet = ["<|endoftext|>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(["Words of nothing 123 more and more"] * 9, trainer)
    folder = tmp_path_factory.mktemp("model")
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=special[0], chat_template=template)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    kind = {"num_key_value_heads": 2, "embedding_rank": 16, "hidden_act": "gelu", "learned_position_embeddings": True}
    kind |= {"final_logit_softcapping": 20.0, "max_position_embeddings": 64, "initializer_range": 0.2}
    YxanulForCausalLM(YxanulConfig(vocab_size=1000, eos_token_id=0, **shape, **kind)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(folder):
    return open_source(str(folder))


@pytest.fixture(scope="module")
def exported(source, tmp_path_factory):
    """fp32, int8 and q4 of one graph, with their clients."""
    folder = tmp_path_factory.mktemp("onnx")
    return folder, list(onnx.write(source, folder, ("fp32", "int8", "q4")))


@pytest.fixture(scope="module")
def expected(source):
    with torch.no_grad():
        return source.model(torch.tensor([IDS])).logits[0].numpy()


@pytest.mark.parametrize("rows", [0, 1], ids=["one pass", "three padded rows, through the cache"])
def test_logits_are_the_models(exported, expected, rows):
    with exported[1][0].clients[rows]() as client:
        assert np.abs(client.logits(IDS) - expected).max() < 1e-4


def test_logits_of_the_last_tokens_alone_are_the_same(exported, expected):
    with exported[1][0].clients[0]() as client:
        mask = np.ones((1, len(IDS)), np.int64)
        assert np.abs(client._run(np.array([IDS]), mask, {}, keep=2)[0][0] - expected[-2:]).max() < 1e-4


def test_greedy_tokens_are_the_models(exported, source):
    with torch.no_grad(), exported[1][0].clients[0]() as client:
        made = source.model.generate(torch.tensor([IDS]), max_new_tokens=9, do_sample=False, eos_token_id=-1)
        assert client.greedy(IDS, 9) == made[0, len(IDS) :].tolist()


@pytest.mark.parametrize("number, kind, bound", [(1, "int8", 0.15), (2, "q4", 0.5)])
def test_quantised_ones_are_near_and_their_heads_are_quantised(exported, expected, number, kind, bound):
    import onnx as library

    artefact = exported[1][number]
    with artefact.clients[0]() as client:
        assert np.abs(client.logits(IDS) - expected).std() < bound * expected.std()
    weights = library.load(artefact.path).graph.initializer
    floats = [weight for weight in weights if weight.data_type == 1 and len(weight.dims) == 2 and min(weight.dims) > 4]
    assert not [list(weight.dims) for weight in floats if 1000 in weight.dims], kind


def test_factors_stay_factors(exported):
    import onnx as library

    shapes = [sorted(weight.dims) for weight in library.load(exported[1][0].path).graph.initializer]
    assert shapes.count([16, 1000]) == 1 and [64, 1000] not in shapes


def test_dimensions_have_the_names_that_transformers_js_knows(exported):
    import onnx as library

    graph = library.load(exported[1][0].path).graph
    named = {value.name: [each.dim_param for each in value.type.tensor_type.shape.dim] for value in graph.input}
    assert named["input_ids"] == ["batch_size", "sequence_length"]
    assert named["attention_mask"] == ["batch_size", "total_sequence_length"]
    assert named["past_key_values.1.value"] == ["batch_size", "", "past_sequence_length", ""]
    assert named["num_logits_to_keep"] == [] and not graph.value_info


def test_what_lies_beside_is_what_transformers_js_reads(exported, source):
    folder, artefacts = exported
    assert [artefact.path.name for artefact in artefacts] == ["model.onnx", "model_quantized.onnx", "model_q4.onnx"]
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "llama" and "auto_map" not in config
    assert config["transformers.js_config"]["device_config"]["wasm"]["dtype"] == "q8"
    assert (
        json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == source.tokenizer.chat_template
    )
    with OnnxRuntime(artefacts[0].path, folder, config=source.config) as client:
        assert client.chat(MESSAGES) == source.tokenizer.apply_chat_template(MESSAGES, tokenize=False)


def test_digits_are_split_by_a_pattern_with_the_same_tokens(exported, source):
    """transformers.js gives `Digits` another meaning for digits that are not 0 to 9."""
    folder, _ = exported
    assert DIGITS["type"] not in (folder / "tokenizer.json").read_text()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer(text).input_ids for text in HARD_TEXTS] == [
        source.tokenizer(text).input_ids for text in HARD_TEXTS
    ]


def test_a_graph_past_two_gigabytes_is_refused(source, monkeypatch):
    monkeypatch.setattr(type(source), "parameters", 600_000_000)
    with pytest.raises(BadInput, match="fp32 of 600,000,000 parameters is made from a graph of 2.4 GB"):
        onnx.check(source, ("fp16", "fp32"))
    onnx.check(source, ("fp16",))


def test_the_mobile_form_computes_the_same(exported, expected, source, tmp_path):
    path = tmp_path / "model.ort"
    mobile._convert(exported[1][0].path, path)
    for batch in (1, 3):
        with OnnxRuntime(path, source.folder, config=source.config, batch=batch) as client:
            assert np.abs(client.logits(IDS) - expected).max() < 1e-4


def test_one_graph_does_for_all_targets(exported, source, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "onnx_graph", None)
    (artefact,) = mobile.write(source, tmp_path, ("int8",))
    assert artefact.path.is_file() and [each.suffix for each in tmp_path.iterdir()].count(".ort") == 1
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]
