"""GGUF files: read back to what their type loses, tokens as the tokenizer's, and refusals that name the rule."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from yxanul.bad_input import BadInput
from yxanul.hub_export import gguf, llama_cpp
from yxanul.hub_export.bare import LlamaCpp
from yxanul.hub_export.gguf_file import tokenizer_of, write_gguf
from yxanul.hub_export.llama import merged
from yxanul.hub_export.ollama import modelfile
from yxanul.hub_export.source import open_source
from yxanul.hub_export.verify import HARD_TEXTS, MESSAGES, Reference, judge

reader = pytest.importorskip("gguf")
LOSES = {"f32": 1e-5, "f16": 2e-3, "bf16": 2e-2, "Q8_0": 4e-2, "Q4_0": 0.4}  # of the logits' spread
needs_llama_cpp = pytest.mark.skipif(not llama_cpp.is_installed(), reason="llama-cpp-python is not installed")


def written(folder, kind, tmp_path):
    source = open_source(str(folder))
    file = tmp_path / f"{kind}.gguf"
    notes = write_gguf(file, merged(source), tokenizer_of(source), kind)
    return source, file, notes


@pytest.mark.parametrize("kind", LOSES)
def test_transformers_reads_back_what_was_written(exportable, kind, tmp_path):
    source, file, notes = written(exportable("factorised-tied"), kind, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32)
    ids = torch.randint(5, 300, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = source.model(ids).logits, model(ids).logits
    error = ((found - expected).square().mean() / expected.var()).sqrt()
    assert error < LOSES[kind], error
    assert LOSES[kind] < 1e-4 or error > LOSES[kind] / 30, "it is of this type"
    assert model.config.intermediate_size == (128 if kind.startswith("Q") else 112)
    assert [note for note in notes if "filled up with zeros to 128" in note] == (notes if kind.startswith("Q") else [])


def test_a_width_that_no_block_divides_stays_in_f16(exportable, tmp_path):
    folder = exportable("plain-untied", hidden_size=72, head_dim=16)
    _, file, notes = written(folder, "Q4_0", tmp_path)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.GGUFReader(file).tensors}
    assert any("matrices of width 72 stay in f16" in note for note in notes)
    assert types["blk.0.ffn_gate.weight"] == types["token_embd.weight"] == "F16"
    assert types["blk.0.ffn_down.weight"] == types["blk.0.attn_output.weight"] == "Q4_0"
    assert types["output_norm.weight"] == "F32"


def test_the_table_and_the_head_of_four_bits_have_eight(exportable, tmp_path):
    _, file, _ = written(exportable("plain-untied"), "Q4_0", tmp_path)
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.GGUFReader(file).tensors}
    assert types["output.weight"] == types["token_embd.weight"] == "Q8_0"
    assert types["blk.1.attn_q.weight"] == "Q4_0"


def test_tokens_special_ones_and_the_template_are_in_the_file(exportable, tmp_path):
    source, file, _ = written(exportable(), "f16", tmp_path)
    fields = {name: field.contents() for name, field in reader.GGUFReader(file).fields.items()}
    assert fields["tokenizer.ggml.pre"] == "gpt-2"
    assert fields["tokenizer.ggml.eos_token_id"] == 0 and fields["tokenizer.ggml.padding_token_id"] == 1
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|pad|>", "<|system|>"]
    assert "generation" not in fields["tokenizer.chat_template"].replace("add_generation_prompt", "")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for text in HARD_TEXTS:
        assert tokenizer(text).input_ids == source.tokenizer(text).input_ids, text
    options = {"tokenize": False, "add_generation_prompt": True}
    assert tokenizer.apply_chat_template(MESSAGES, **options) == source.tokenizer.apply_chat_template(
        MESSAGES, **options
    )


@needs_llama_cpp
@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "superbpe"])
def test_llama_cpp_computes_and_cuts_text_as_the_model(exportable, pre, tmp_path):
    source, file, _ = written(exportable("factorised-untied", pre), "f32", tmp_path)
    artefact = gguf.Artefact(file, "gguf f32", [], gguf.LIMITS["f32"])
    with LlamaCpp(file, context=192) as client:
        row = judge(Reference(source), artefact, client)
    assert row.passed, row.failures
    assert row.tokenizer_equal == row.tokenizer_of and row.chat_equal and row.greedy_equal == row.greedy_of


@needs_llama_cpp
def test_llama_cpp_makes_k_quants_of_it(exportable, tmp_path):
    source, file, _ = written(exportable(hidden_size=256, intermediate_size=512), "f32", tmp_path)
    llama_cpp.quantize(file, tmp_path / "k.gguf", "Q4_K_M")
    types = {tensor.name: tensor.tensor_type.name for tensor in reader.GGUFReader(tmp_path / "k.gguf").tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_K"


@pytest.mark.parametrize(
    "layout, changes, reason",
    [
        ("geglu", {}, r"GEGLU \(hidden_act=gelu_pytorch_tanh\)"),
        ("learned-positions", {}, "learned positions"),
        ("plain-tied", {"pre": "its own"}, "is none of gpt-2, smollm, superbpe"),
        ("plain-tied", {"vocab_size": 280}, "has 300 ids and the model only 280 rows"),
        (
            "plain-tied",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type=linear",
        ),
    ],
)
def test_what_gguf_cannot_say_is_refused_with_the_rule(exportable, layout, changes, reason):
    with pytest.raises(BadInput, match=reason):
        gguf.check(open_source(str(exportable(layout, **changes))), ("f16",))


def test_added_tokens_with_rules_of_their_own_are_refused(exportable):
    folder = exportable()
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"][2]["lstrip"] = True
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match=r"its token '<\|system\|>' has lstrip=true"):
        gguf.check(open_source(str(folder)), ("f16",))


def test_k_quants_without_llama_cpp_are_refused_with_what_to_install(exportable, monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    with pytest.raises(BadInput, match="Q4_K_M need llama.cpp's own quantiser: pip install llama-cpp-python"):
        gguf.check(open_source(str(exportable())), ("Q8_0", "Q4_K_M"))


def test_the_modelfile_asks_in_the_chat_templates_words(exportable):
    tokenizer = open_source(str(exportable())).tokenizer
    text = modelfile("x.gguf", tokenizer, 128)
    assert text.startswith("FROM ./x.gguf\nTEMPLATE ") and "<|endoftext|>\n{{ end }}<|assistant|>\n" in text
    tokenizer.chat_template = "{{ messages }}"
    assert "TEMPLATE" not in modelfile("x.gguf", tokenizer, 128)


def test_the_modelfile_names_a_file_that_passed(exportable, tmp_path):
    for artefact in gguf.write(open_source(str(exportable())), tmp_path, ["f16", "Q8_0", "Q4_0"]):
        if artefact.name != "gguf f16":
            artefact.path.unlink()  # as one that failed
    assert (tmp_path / "Modelfile").read_text().startswith("FROM ./model-f16.gguf")


def test_a_tokenizer_that_no_client_here_reads_from_the_file_is_said_so(exportable, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    (artefact,) = gguf.write(open_source(str(exportable(pre="smollm"))), tmp_path, ["f16"])
    assert gguf.UNREAD in artefact.notes
