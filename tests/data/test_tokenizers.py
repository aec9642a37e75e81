"""Tokenizers load by folder, file or Hub name, are told apart by fingerprint, and mean the same to transformers."""

import json
import pathlib
import pickle
import shutil
import subprocess
import sys
import textwrap

import huggingface_hub
import pytest
import tokenizers
from huggingface_hub import errors as hub
from tokenizers import Regex, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from yxanul.bad_input import BadInput
from yxanul.data.tokenizers import (
    Tokenizer,
    gguf_pre_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from yxanul.data.train_tokenizer import train_bpe, train_superbpe

TEXT = pathlib.Path(textwrap.__file__).read_text()
SAMPLES = ["", TEXT, "1234567 naïve 🚀\r\n\t日本語  ١٢٣", " he said: 'it's  so'\n\n\n"]


@pytest.fixture(scope="module", params=[train_bpe, train_superbpe], ids=["bpe", "superbpe"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizers") / request.param.__name__
    save_tokenizer(request.param(TEXT.splitlines(keepends=True), 700), folder)
    return folder


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def edit(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_the_saved_folder_loads_in_transformers_with_equal_ids(folder):
    ours, theirs = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == theirs.vocab_size == ours.vocabulary_size == 700
    assert theirs.eos_token_id == theirs.bos_token_id == ours.end_of_text_id == 0 and theirs.pad_token_id == 1
    for text, ids in zip(SAMPLES, ours.encode_batch(SAMPLES), strict=True):
        assert theirs(text).input_ids == theirs.encode(text, add_special_tokens=False) == ids
        assert theirs.decode(ids) == text


def test_it_loads_beside_a_checkpoint_and_saved_again_keeps_its_fingerprint(copy, tiny_config, tmp_path):
    tiny_config().save_pretrained(copy)
    theirs = AutoTokenizer.from_pretrained(copy)
    assert theirs.encode(TEXT) == load_tokenizer(copy).encode_batch([TEXT])[0]
    theirs.save_pretrained(tmp_path / "again")
    ours, again = load_tokenizer(copy), load_tokenizer(tmp_path / "again")
    assert again.fingerprint == ours.fingerprint and again.end_of_text_id == ours.end_of_text_id


def test_the_chat_template_marks_what_the_assistant_says_and_its_end(folder):
    theirs = AutoTokenizer.from_pretrained(folder)
    turns = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "3+3?"), ("assistant", "6")]
    chat = [{"role": role, "content": content} for role, content in turns]
    text = theirs.apply_chat_template(chat, tokenize=False)
    assert text == "".join(f"<|{role}|>\n{content}<|endoftext|>\n" for role, content in turns)
    prompt = theirs.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(prompt) and prompt.endswith("<|assistant|>\n")
    encoded = theirs.apply_chat_template(chat, return_assistant_tokens_mask=True, return_dict=True)
    learnt = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert theirs.decode(learnt) == "4<|endoftext|>6<|endoftext|>"
    with pytest.raises(Exception, match="unknown role tool"):
        theirs.apply_chat_template([{"role": "tool", "content": ""}], tokenize=False)


def test_the_fingerprint_changes_with_the_tokenizer_alone(copy):
    file = copy / "tokenizer.json"
    original = load_tokenizer(copy).fingerprint
    assert len(original) == 64

    edit(file, lambda content: content["model"].update(merges=[" ".join(pair) for pair in content["model"]["merges"]]))
    edit(file, lambda content: content["model"].update(vocab=dict(reversed(content["model"]["vocab"].items()))))
    edit(file, lambda content: content["model"].pop("ignore_merges"))
    edit(file, lambda content: content.update(truncation={"direction": "Right", "max_length": 8, "stride": 0}))
    edit(file, lambda content: content["truncation"].update(strategy="LongestFirst"))
    assert load_tokenizer(copy).fingerprint == original
    assert len(load_tokenizer(copy).encode_batch([TEXT])[0]) > 8, "a file's truncation must not cut documents"

    def swap_ids(content):
        vocab = content["model"]["vocab"]
        vocab["a"], vocab["b"] = vocab["b"], vocab["a"]

    for change in (
        swap_ids,
        lambda content: content["model"]["merges"].pop(),
        lambda content: content.update(normalizer={"type": "NFC"}),
        lambda content: content["added_tokens"].pop(),
        lambda content: content["pre_tokenizer"]["pretokenizers"][-1].update(add_prefix_space=True),
    ):
        shutil.copy(file, copy / "kept")
        edit(file, change)
        assert load_tokenizer(copy).fingerprint != original
        shutil.move(copy / "kept", file)


def test_it_loads_from_the_file_alone_and_survives_pickling(folder):
    one, other = load_tokenizer(folder), load_tokenizer(folder / "tokenizer.json")
    assert one.fingerprint == other.fingerprint and one.end_of_text_id == other.end_of_text_id
    for tokenizer in (one, pickle.loads(pickle.dumps(one))):
        ids = tokenizer.encode_batch(["a<|endoftext|>"])[0]
        assert tokenizer.end_of_text_id not in ids and tokenizer.decode(ids) == "a<|endoftext|>"


def test_loading_needs_neither_torch_nor_transformers(folder):
    code = (
        "import sys; from yxanul.data.tokenizers import load_tokenizer;"
        f"load_tokenizer({str(folder)!r}).encode_batch(['text']);"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("text", ["{", '"text"', '{"model": 1}'])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BadInput, match="tokenizer.json is not a tokenizer"):
        load_tokenizer(tmp_path)


def test_what_cannot_be_loaded_is_refused_in_one_sentence(copy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty has no tokenizer.json: save it with"):
        load_tokenizer(tmp_path / "empty")
    with pytest.raises(BadInput, match="neither a folder, nor a tokenizer.json, nor a name on the Hub"):
        load_tokenizer(tmp_path / "no" / "such" / "folder")
    edit(copy / "tokenizer_config.json", lambda settings: settings.update(eos_token="</s>"))
    with pytest.raises(BadInput, match=r"has no end-of-text id \(</s> is none of its tokens\): name one"):
        load_tokenizer(copy)
    (copy / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadInput, match=r"tokenizer_config.json is not JSON"):
        load_tokenizer(copy)


def test_the_end_of_text_is_what_the_settings_name(copy):
    edit(copy / "tokenizer_config.json", lambda settings: settings.update(eos_token={"content": "<|user|>"}))
    assert load_tokenizer(copy).end_of_text_id == 3
    edit(copy / "tokenizer_config.json", lambda settings: settings.pop("eos_token"))
    edit(copy / "special_tokens_map.json", lambda settings: settings.update(eos_token="<|pad|>"))
    assert load_tokenizer(copy).end_of_text_id == 1


def test_ids_that_were_left_out_count():
    gap = Tokenizer("gap", tokenizers.Tokenizer(models.WordLevel({"a": 0, "z": 9}, unk_token="a")), 0)
    assert gap.vocabulary_size == 10


def test_save_leaves_a_folder_that_is_in_use_alone(folder, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(BadInput, match="used exists already"):
        save_tokenizer(load_tokenizer(folder).backend, tmp_path / "used")
    assert [path.name for path in tmp_path.rglob("*")] == ["used", "notes.txt"]


def byte_level(pre_tokenizer, normalizer=None, **options):
    backend = tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[], **options))
    backend.pre_tokenizer, backend.normalizer = pre_tokenizer, normalizer
    return Tokenizer("theirs", backend, 0)


def test_gguf_names_are_known_in_the_spellings_that_are_in_use():
    threes = pre_tokenizers.Split(Regex(r"(?=(\d{3})+(?!\d))"), "isolated")
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    papers = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), threes, by_bytes])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False)
    assert gguf_pre_tokenizer(byte_level(papers)) == "superbpe"
    assert gguf_pre_tokenizer(byte_level(gpt2, continuing_subword_prefix="", end_of_word_suffix="")) == "gpt-2"


@pytest.mark.parametrize(
    ("pre_tokenizer", "options"),
    [
        (None, {}),
        (pre_tokenizers.Whitespace(), {}),
        (pre_tokenizers.ByteLevel(add_prefix_space=True), {}),
        (pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(add_prefix_space=False)]), {}),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), {"normalizer": normalizers.NFC()}),
        (pre_tokenizers.ByteLevel(add_prefix_space=False), {"ignore_merges": True}),
    ],
)
def test_gguf_refuses_what_llama_cpp_would_cut_otherwise(pre_tokenizer, options):
    with pytest.raises(BadInput, match="the tokenizer theirs cannot go to GGUF"):
        gguf_pre_tokenizer(byte_level(pre_tokenizer, **options))


def test_a_hub_tokenizer_loads_even_without_settings(folder, monkeypatch):
    asked = []

    def download(name, file):
        asked.append((name, file))
        if file != "tokenizer.json":
            raise hub.EntryNotFoundError("not there")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert load_tokenizer("owner/name").end_of_text_id == 0
    assert asked[0] == ("owner/name", "tokenizer.json") and len(asked) == 4


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (hub.GatedRepoError, "owner/name is gated: accept its terms on the Hub, then set HF_TOKEN"),
        (hub.RepositoryNotFoundError, "owner/name is no folder here, and none on the Hub that you may read"),
        (hub.EntryNotFoundError, "owner/name has no tokenizer.json on the Hub"),
        (hub.LocalEntryNotFoundError, "the Hub cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(error, message, monkeypatch):
    def download(*arguments, **options):
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(BadInput, match=message):
        load_tokenizer("owner/name")


def test_the_hub_is_named_when_it_cannot_be_reached():
    with pytest.raises(BadInput, match="the Hub cannot be reached"):
        load_tokenizer("nobody/nothing")
