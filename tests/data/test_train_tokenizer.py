"""Trained tokenizers give every text back, cut digits as asked, hold their special tokens, and are deterministic."""

import ast
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.superbpe import vocabulary_and_merges
from yxanul.data.tokenizers import SPECIAL_TOKENS, Tokenizer, gguf_pre_tokenizer
from yxanul.data.train_tokenizer import SMALLEST, default_transition, train_bpe, train_superbpe

DOCUMENTS = [pathlib.Path(module.__file__).read_text() for module in (ast, textwrap, json)]
DOCUMENTS += [f"{number} times {number} makes {number * number}.\n" for number in range(300, 500)]
HARD_TEXTS = (
    "",
    " ",
    "  two  spaces, it's 1234567 and 0.50\ttabs\r\n\r\n",
    "".join(map(chr, range(256))),  # all control characters
    "naïve café “quotes” e\u0301 \ufeff\u200b\u2028",
    "🚀👩‍👩‍👧‍👦🏳️‍🌈 日本語の文章。한국어 ไทย עברית العربية",
    "١٢٣٤٥ ४५६७ ２０２４ ½ Ⅻ x²³",
    "a" + " " * 1000 + "b\n\n\n\n" + "\t" * 30 + "c",
    "key: value: other",
    "<|endoftext|><|pad|> <|user|>\nhello<|assistant|>",
    "\U0010ffff\x00",
)
KINDS = [(kind, digits) for kind in (train_bpe, train_superbpe) for digits in ("single", "groups")]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: f"{kind[0].__name__}-{kind[1]}")
def trained(request):
    train, digits = request.param
    return train, digits, Tokenizer("ours", train(DOCUMENTS, 1500, digits=digits), 0)


def test_every_text_comes_back_exactly_and_without_special_ids(trained):
    tokenizer = trained[2]
    for text, ids in zip(HARD_TEXTS, tokenizer.encode_batch(list(HARD_TEXTS)), strict=True):
        assert tokenizer.decode(ids) == text
        assert not set(ids) & set(range(len(SPECIAL_TOKENS)))


def test_digits_stand_one_by_one_or_in_groups(trained):
    train, digits, tokenizer = trained
    longest = max(sum(character in "0123456789" for character in token) for token in tokenizer.backend.get_vocab())
    tokens = tokenizer.backend.encode("=1234567").tokens
    if digits == "single":
        assert longest == 1 and tokens[-7:] == list("1234567")
    elif train is train_superbpe:  # in threes from the right: 1 234 567
        assert longest == 3 and "".join(tokens).endswith("1234567") and not {"12", "123", "45"} & set(tokens)
    else:
        assert longest >= 3


def test_the_vocabulary_has_the_size_asked_for_with_special_tokens_first(trained):
    tokenizer = trained[2]
    assert tokenizer.vocabulary_size == tokenizer.backend.get_vocab_size() == 1500
    assert [tokenizer.backend.id_to_token(index) for index in range(5)] == list(SPECIAL_TOKENS)
    assert all(token.special for token in tokenizer.backend.get_added_tokens_decoder().values())


def test_the_pre_tokenizer_has_a_name_in_gguf(trained):
    train, digits, tokenizer = trained
    name = "superbpe" if train is train_superbpe else {"single": "smollm", "groups": "gpt-2"}[digits]
    assert gguf_pre_tokenizer(tokenizer) == name


def test_superwords_make_text_shorter_than_words_do():
    bpe, superbpe = (train(DOCUMENTS, 1500, digits="groups") for train in (train_bpe, train_superbpe))
    assert any("Ġ" in token.strip("Ġ") for token in superbpe.get_vocab())
    assert not any("Ġ" in token.strip("Ġ") for token in bpe.get_vocab() if len(token) < 99)
    assert len(superbpe.encode(DOCUMENTS[0])) < 0.9 * len(bpe.encode(DOCUMENTS[0]))


def test_words_of_superbpe_are_its_first_merges():
    early, late = (vocabulary_and_merges(train_superbpe(DOCUMENTS, 1500, transition))[1] for transition in (600, 1400))
    assert early[: 600 - SMALLEST] == late[: 600 - SMALLEST]
    assert default_transition(200_000) == 80_000 and default_transition(300) == SMALLEST


@pytest.mark.parametrize("train", ["train_bpe", "train_superbpe"])
def test_the_same_texts_give_the_same_bytes_whatever_the_hash_seed_and_the_threads(train):
    code = f"""
import ast, hashlib, pathlib, yxanul.data.train_tokenizer as t
texts = pathlib.Path(ast.__file__).read_text().split("\\n\\n")
print(hashlib.sha256(t.{train}(texts, 900).to_str().encode()).hexdigest())
"""
    found = set()
    for seed, threads in (("1", "1"), ("2", "4")):
        environment = os.environ | {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        environment["TOKENIZERS_PARALLELISM"] = str(threads != "1").lower()
        found.add(subprocess.check_output([sys.executable, "-c", code], env=environment, text=True))
    assert len(found) == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"vocabulary": 260}, "--vocabulary 260 must be at least 261: 256 bytes, 5 special tokens"),
        ({"vocabulary": 1000, "transition": 1000}, "--transition 1,000 must be at least 261 and below the vocabulary"),
        ({"vocabulary": 1000, "transition": 260}, "--transition 260 must be at least 261"),
        ({"vocabulary": 90_000}, r"gives only [\d,]+ tokens that are words, not 36,000"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, message):
    with pytest.raises(BadInput, match=message):
        train_superbpe(DOCUMENTS[:1], **sizes)
