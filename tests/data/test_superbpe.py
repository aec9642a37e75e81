"""SuperBPE is what its definition says: its merges are compared with a slow continuation written from it."""

import ast
import collections
import pathlib
import random
import sysconfig

import pytest

from yxanul.bad_input import BadInput
from yxanul.data import superbpe
from yxanul.data.superbpe import MIN_FREQUENCY, extend, number_of_words, vocabulary_and_merges
from yxanul.data.tokenizers import END_OF_TEXT
from yxanul.data.train_tokenizer import DIGITS_IN_THREES, NUMBER, WORDS, _pieces, _train, train_superbpe

TRANSITION, NEW_TOKENS, CHARACTERS = 900, 300, 60_000
OTHER_SCRIPTS = (
    "日本語の文、12345 と 67。\r\n",
    "Ünïcode 🚀🚀 works: ١٢٣٤ yes\r\n",
    "\tkey: value\n\n    indented\n",
) * 9
SUPERWORDS = _pieces(NUMBER["groups"], DIGITS_IN_THREES)


def library_documents(characters):
    """Docstrings and sources of Python's own modules, in name order, no text in both forms."""
    documents, size = [], 0
    for index, path in enumerate(sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py"))):
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        with_docstrings = (ast.Module, ast.ClassDef, ast.FunctionDef)
        docstrings = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, with_docstrings)]
        documents += [text[:2000]] if index % 4 == 0 else docstrings
        size = sum(map(len, documents))
        if size > characters:
            break
    return [*documents, *OTHER_SCRIPTS]


def words_of(documents, transition=TRANSITION, digits="groups"):
    return _train(documents, transition, _pieces(NUMBER[digits], f"{DIGITS_IN_THREES}|{WORDS}"))


def replaced(tokens, pair, merged):
    out, position = [], 0
    while position < len(tokens):
        found = tuple(tokens[position : position + 2]) == pair
        out.append(merged if found else tokens[position])
        position += 2 if found else 1
    return out


def encoded_slowly(piece, rank):
    """BPE by definition: the earliest merge that is present is applied, until none is."""
    tokens = list(piece)
    while len(tokens) > 1:
        pair = min(zip(tokens, tokens[1:], strict=False), key=lambda pair: rank.get(pair, len(rank)))
        if pair not in rank:
            break
        tokens = replaced(tokens, pair, "".join(pair))
    return tokens


def cut_slowly(tokens):
    """No merge goes on behind a line end, and none joins what a ": " separates."""
    units = [[]]
    for token in tokens:
        before = units[-1][-1] if units[-1] else ""
        if "Ċ" in before or (before.endswith(":") and token.startswith("Ġ")):
            units.append([])
        units[-1].append(token)
    return units


def continued_slowly(words, documents, count):
    """The next merges of a training that starts from the tokens and ids of `words`, without cuts at spaces."""
    vocab, merges = vocabulary_and_merges(words)
    rank = {pair: index for index, pair in enumerate(merges)}
    pieces = collections.Counter(piece for document in documents for piece, _ in SUPERWORDS.pre_tokenize_str(document))
    units = [[unit, n] for piece, n in pieces.items() for unit in cut_slowly(encoded_slowly(piece, rank))]
    pairs, found = collections.Counter(), []

    def count_pairs(tokens, n):
        for pair in zip(tokens, tokens[1:], strict=False):
            pairs[pair] += n

    for tokens, n in units:
        count_pairs(tokens, n)
    while len(found) < count:
        most = max(pairs.values())
        if most < MIN_FREQUENCY:
            break
        best = min((pair for pair, n in pairs.items() if n == most), key=lambda pair: (vocab[pair[0]], vocab[pair[1]]))
        found.append(best)
        merged = "".join(best)
        vocab.setdefault(merged, len(vocab))
        for unit in units:
            if best[0] in unit[0]:
                count_pairs(unit[0], -unit[1])
                unit[0] = replaced(unit[0], best, merged)
                count_pairs(unit[0], unit[1])
    return found


def test_merges_equal_a_slow_continuation_of_the_words(monkeypatch):
    monkeypatch.setattr(superbpe, "MAX_WORDS", 10**9)
    documents = library_documents(CHARACTERS)
    words = words_of(documents)
    vocab, merges = extend(words, documents, TRANSITION + NEW_TOKENS, SUPERWORDS)
    old = vocabulary_and_merges(words)[1]
    assert merges[: len(old)] == old and len(merges) == len(old) + NEW_TOKENS == len(vocab) - 256 - 5
    assert merges[len(old) :] == continued_slowly(words, documents, NEW_TOKENS)


@pytest.fixture(scope="module")
def repetitive():
    """Long phrases that repeat, as in licences: without limits they would become single tokens."""
    draw = random.Random(0)
    words = [f"{onset}{rime}" for onset in ("b", "pl", "s", "tr") for rime in ("ar", "elt", "im", "oon", "ust", "y")]
    phrases = [" ".join(draw.choice(words) for _ in range(9)) for _ in range(40)]
    sentences = [
        f"{draw.choice(phrases)} {draw.choice(words)}: {draw.choice(words)} {draw.choice(phrases)}.\n"
        for _ in range(600)
    ]
    return ["".join(sentences[start : start + 6]) for start in range(0, 600, 6)]


def test_no_superword_has_more_than_four_words_or_a_colon_and_a_space_inside(repetitive):
    tokenizer = train_superbpe(repetitive, 500, 310)
    tokens = list(vocabulary_and_merges(tokenizer)[0])
    counts = collections.Counter(map(number_of_words, tokens))
    assert max(counts) == 4 and counts[4] > 10
    assert not any(":Ġ" in token for token in tokens)
    assert not any("Ċ" in token.rstrip("ĊĠĉ") for token in tokens), "a superword goes on in the next line"


def test_more_merges_are_trained_when_the_limit_drops_many_of_them(repetitive, monkeypatch):
    asked = []
    original = superbpe._continuation

    def noting(words, texts, count, pieces):
        asked.append(count)
        return original(words, texts, count, pieces)

    monkeypatch.setattr(superbpe, "_continuation", noting)
    tokenizer = train_superbpe(repetitive, 500, 310)
    assert len(asked) > 1 and tokenizer.get_vocab_size() == 500


def test_text_that_cannot_fill_the_vocabulary_is_refused_with_the_size_it_gives(repetitive):
    with pytest.raises(BadInput, match=r"gives only [\d,]+ tokens with superwords, not 5,000"):
        train_superbpe(repetitive, 5000, 310)


def test_the_text_of_a_special_token_does_not_become_that_token():
    documents = [f"{END_OF_TEXT} is written here {number} times {END_OF_TEXT}\n" for number in range(50)]
    vocab, merges = vocabulary_and_merges(train_superbpe(documents, 289, 280))
    assert vocab[END_OF_TEXT] == 0
    assert not any(END_OF_TEXT in (left, right, left + right) for left, right in merges)


def test_nothing_is_built_on_a_merge_that_was_dropped():
    words = words_of(["of the book\n"] * 2, 262)
    special = [("<", "|"), (END_OF_TEXT, "Ġ"), (f"{END_OF_TEXT}Ġ", "a")]
    long = [("aĠb", "ĠcĠd"), ("aĠbĠcĠd", "Ġe"), ("aĠbĠcĠdĠe", "f")]
    allowed = [("a", "Ġ"), ("aĠ", "b"), ("c", "Ġ"), ("cĠ", "d"), ("Ġ", "cĠd")]
    vocab, merges = superbpe._with_limits(words, [*special, *allowed, *long, ("x", "y"), ("x", "z")], 270)
    assert len(vocab) == 270 and merges[1:] == [("<", "|"), *allowed, ("aĠb", "ĠcĠd"), ("x", "y")]


def test_words_are_counted_between_white_space_of_every_kind():
    assert number_of_words("ĠofĠtheĊĊ") == 2 and number_of_words("ĠĠĠĠ") == 0 and number_of_words("aĉbčĊc") == 3
