"""SuperBPE: a BPE of words goes on to merge across spaces, with the stock trainer, which cannot resume a training.

`extend(words, texts, vocabulary, pieces)` returns the merges of `words` and those that follow. For these, every token
of the corpus becomes one code point, a plain BPE is trained on such strings, and its merges are mapped back. That is
the continuation: the trainer breaks ties by code point, a resumed one would break them by id, and these agree.
The limits are the paper's: no ": " inside a token, and no more than four words. The second is applied after training,
so the merges it drops were counted as if they stood (it drops 59 of 9,600 on 5 MB of English and code).
Not here: the words (`train_tokenizer.py`); a corpus larger than memory; two ways to spell one token, which a resumed
training would count together (none among those 9,600).
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import PreTokenizer
from tokenizers.trainers import BpeTrainer

from yxanul.bad_input import BadInput
from yxanul.data.grouping import grouped

Merge = tuple[str, str]
MAX_WORDS = 4
MIN_FREQUENCY = 2  # a pair seen once says nothing about other text
FIRST_CODE_POINT = 0x10000  # above the surrogates there is room for a million tokens
SPACE, NEWLINE = "Ġ", "Ċ"  # as byte-level BPE writes them
SEPARATORS = re.compile("[ĉ-čĠ]+")  # and so the six of ASCII: tab, newline, VT, FF, CR, space


def extend(
    words: Tokenizer, texts: Sequence[str], vocabulary: int, pieces: PreTokenizer
) -> tuple[dict[str, int], list[Merge]]:
    """Vocabulary and merges of `words`, continued on the `pieces` of the texts up to `vocabulary` tokens."""
    room = int((vocabulary - words.get_vocab_size()) * 1.15) + 16  # some more, for those that the limits drop
    while True:
        found = _continuation(words, texts, room, pieces)
        vocab, merges = _with_limits(words, found, vocabulary)
        if len(vocab) == vocabulary:
            return vocab, merges
        if len(found) < room:
            raise BadInput(
                f"the text gives only {len(vocab):,} tokens with superwords, not {vocabulary:,}: "
                "give more text, or a smaller --vocabulary."
            )
        room *= 2


def vocabulary_and_merges(tokenizer: Tokenizer) -> tuple[dict[str, int], list[Merge]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def units(words: Tokenizer, texts: Iterable[str], pieces: PreTokenizer) -> Iterator[list[int]]:
    """The stretches of tokens in which merges are counted: pieces, cut behind line ends and inside every ": ".

    Cut after encoding, so that tokens stand as they will in any text: a line end and its indentation are one of them.
    """
    encoder = Tokenizer.from_str(words.to_str())
    encoder.pre_tokenizer = pieces
    encoder.encode_special_tokens = True
    tokens = _tokens_by_id(words)
    ends_line = np.array([NEWLINE in token for token in tokens])
    ends_in_colon = np.array([token.endswith(":") for token in tokens])
    opens_with_space = np.array([token.startswith(SPACE) for token in tokens])
    for batch in grouped(texts, len):
        for encoding in encoder.encode_batch(batch, add_special_tokens=False):
            ids, piece = np.array(encoding.ids, dtype=np.int64), np.array(encoding.word_ids)
            cuts = piece[1:] != piece[:-1]
            cuts |= ends_line[ids[:-1]]
            cuts |= ends_in_colon[ids[:-1]] & opens_with_space[ids[1:]]
            bounds = [0, *(np.flatnonzero(cuts) + 1).tolist(), len(ids)]
            values = ids.tolist()
            for start, end in pairwise(bounds):
                if end - start > 1:  # one token alone has nothing to merge with
                    yield values[start:end]


def _tokens_by_id(tokenizer: Tokenizer) -> list[str]:
    return [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]


def _continuation(words: Tokenizer, texts: Sequence[str], count: int, pieces: PreTokenizer) -> list[Merge]:
    """The next `count` merges, fewer if there are no more, in the strings of `words`."""
    tokens = _tokens_by_id(words)
    alphabet = [chr(FIRST_CODE_POINT + index) for index in range(len(tokens))]
    strings = ("".join([alphabet[index] for index in unit]) for unit in units(words, texts, pieces))
    trained = Tokenizer(BPE())
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + count,
        initial_alphabet=alphabet,
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
    )
    trained.train_from_iterator(strings, trainer)

    def back(code_points: str) -> str:
        return "".join([tokens[ord(code_point) - FIRST_CODE_POINT] for code_point in code_points])

    return [(back(left), back(right)) for left, right in vocabulary_and_merges(trained)[1]]


def _with_limits(words: Tokenizer, found: list[Merge], vocabulary: int) -> tuple[dict[str, int], list[Merge]]:
    """Appends merges until the vocabulary is full, without those beyond the limit and all that builds on them."""
    special = {token.content for token in words.get_added_tokens_decoder().values()}
    vocab, merges = vocabulary_and_merges(words)
    for left, right in found:
        if len(vocab) == vocabulary:
            break
        token = left + right
        known = left in vocab and right in vocab
        if not known or number_of_words(token) > MAX_WORDS or not special.isdisjoint((left, right, token)):
            continue
        merges.append((left, right))
        vocab.setdefault(token, len(vocab))  # a string that exists already gets one more merge and no second id
    return vocab, merges


def number_of_words(token: str) -> int:
    return sum(map(bool, SEPARATORS.split(token)))
