"""Trains byte-level BPE and SuperBPE, cut only as llama.cpp can cut too (`GGUF_PRE_TOKENIZERS` in `tokenizers.py`).

    backend = train_bpe(texts, vocabulary=32_000)           # digits one by one: smollm; in groups: gpt-2
    backend = train_superbpe(texts, vocabulary=32_000)      # digits in threes from the right: superbpe
    save_tokenizer(backend, folder)

The same texts in the same order give the same bytes. Special tokens come first and count as part of the vocabulary.
All in memory: superwords take 30 to 60 bytes for each byte of text (benchmarks/superbpe.py), so for gigabytes train on
a sample. Not here: reading texts, duplicates.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence, Split
from tokenizers.trainers import BpeTrainer

from yxanul.bad_input import BadInput
from yxanul.data.superbpe import MIN_FREQUENCY, extend
from yxanul.data.tokenizers import SPECIAL_TOKENS

SMALLEST = len(SPECIAL_TOKENS) + 256
NUMBER = {"groups": r"\p{N}+", "single": r"\p{N}"}
DIGITS_IN_THREES = r"(?=(\d{3})+(?!\d))"
WORDS = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PAPERS_SHARE = 0.4  # the paper's best: words up to 80,000 of 200,000


def train_bpe(texts: Iterable[str], vocabulary: int, digits: str = "single") -> Tokenizer:
    check_sizes(vocabulary)
    by_words: PreTokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    pre_tokenizer = by_words if digits == "groups" else Sequence([Digits(individual_digits=True), by_words])
    return _train(texts, vocabulary, pre_tokenizer)


def train_superbpe(
    texts: Iterable[str], vocabulary: int, transition: int | None = None, digits: str = "groups"
) -> Tokenizer:
    """Words up to `transition` tokens, then superwords. With digits "single" no merge joins two of them."""
    transition = default_transition(vocabulary) if transition is None else transition
    check_sizes(vocabulary, transition)
    texts = list(texts)
    words = _train(texts, transition, _pieces(NUMBER[digits], f"{DIGITS_IN_THREES}|{WORDS}"))
    vocab, merges = extend(words, texts, vocabulary, _pieces(NUMBER[digits], DIGITS_IN_THREES))
    tokenizer = _byte_level(BPE(vocab=vocab, merges=merges), _pieces(NUMBER["groups"], DIGITS_IN_THREES))
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def default_transition(vocabulary: int) -> int:
    return max(SMALLEST, int(vocabulary * PAPERS_SHARE))


def check_sizes(vocabulary: int, transition: int | None = None) -> None:
    if vocabulary < SMALLEST:
        raise BadInput(
            f"--vocabulary {vocabulary} must be at least {SMALLEST}: 256 bytes, {len(SPECIAL_TOKENS)} special tokens."
        )
    if transition is not None and not SMALLEST <= transition < vocabulary:
        raise BadInput(
            f"--transition {transition:,} must be at least {SMALLEST} and below the vocabulary of {vocabulary:,}: "
            "up to it tokens are words, above it superwords."
        )


def _train(texts: Iterable[str], vocabulary: int, pre_tokenizer: PreTokenizer) -> Tokenizer:
    tokenizer = _byte_level(BPE(), pre_tokenizer)
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(ByteLevel.alphabet()),
        min_frequency=MIN_FREQUENCY,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    size = tokenizer.get_vocab_size()
    if size < vocabulary:
        raise BadInput(
            f"the text gives only {size:,} tokens that are words, not {vocabulary:,}: "
            "give more text, or a smaller --vocabulary or --transition."
        )
    return tokenizer


def _byte_level(model: BPE, pre_tokenizer: PreTokenizer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces(number: str, pattern: str) -> PreTokenizer:
    # Split, where the paper's own tokenizers have Digits: transformers.js reads Digits differently for Arabic digits
    return Sequence(
        [
            Split(Regex(number), "isolated"),
            Split(Regex(pattern), "isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
