"""Long documents: slices have the ids of the whole, for every pre-tokenizer that people use."""

import random

import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from yxanul.data import cutting
from yxanul.data.cutting import cut, decode_long
from yxanul.data.tokenizers import Tokenizer
from yxanul.data.train_tokenizer import train_bpe, train_superbpe

# What GPT-4's, Llama 3's and OLMo's tokenizers split by: line breaks go with the punctuation before them
FOUR = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PIECES = [
    "word", "Wörter", "数据", "ひらがな", "🙂", "17", "3,000.5", " ", "  ", "\t", "\n", "\n\n", "\r\n", ".\n", ".\n\n",
    "\n    ", "\n\n\n", ":\n", "/\n/", "x = 1\n", "\xa0", "\x00", "e\N{COMBINING ACUTE ACCENT}", "\N{LINE SEPARATOR}",
]  # fmt: skip


def hard_text(seed, pieces=4000):
    return "".join(random.Random(seed).choices(PIECES, k=pieces))


def prose(separator):
    return separator.join(f"Paragraph {n} has a sentence. And a second one, of {n * n} words" for n in range(600))


TEXTS = {
    "hard": hard_text(1),
    "lines": prose("\n"),
    "paragraphs": prose("\n\n"),
    "sentences": prose(".\n\n"),
    "dos": prose("\r\n"),
    "code": "def f(x):\n    if x:\n        return x + 1\n\n\n" * 400,
    "one line": prose(" "),
}


@pytest.fixture(scope="module", params=["bytes", "digits apart", "superbpe", "four"])
def tokenizer(request):
    words = " ".join(a + b + c for a in "bdfgkl" for b in "aeiou" for c in ("n", "st", "rd", "mp"))
    training = [*TEXTS.values(), hard_text(2), f"{words}\n" * 3]
    if request.param == "four":
        backend = tokenizers.Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(FOUR), "isolated")
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        backend.train_from_iterator(training, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet))
    elif request.param == "superbpe":
        backend = train_superbpe(training, 700, 500)
    else:
        backend = train_bpe(training, 700, "groups" if request.param == "bytes" else "single")
    return Tokenizer(request.param, backend, 0)


@pytest.mark.parametrize("name", TEXTS)
def test_slices_have_the_ids_of_the_whole(tokenizer, name):
    text = TEXTS[name]
    slices = list(cut(text, tokenizer, 1000))
    assert "".join(slices) == text
    assert sum(tokenizer.encode_batch(slices), []) == tokenizer.encode_batch([text])[0]
    if name == "one line":
        assert len(slices) == 1, "there is no place to cut"
    else:
        assert max(map(len, slices)) < 3500 and len(slices) > 4


def test_a_short_text_is_one_slice(tokenizer):
    assert list(cut("a\nb", tokenizer, 1000)) == ["a\nb"]


def test_decoding_by_slices_does_not_break_characters(tokenizer, monkeypatch):
    text = TEXTS["hard"]
    ids = np.array(tokenizer.encode_batch([text])[0])
    monkeypatch.setattr(cutting, "DECODED_AT_ONCE", 10)
    assert decode_long(ids, tokenizer) == text
