"""A tokenizer of 300 ids, and the same with a chat template, for tests of conversations."""

import pytest


def trained(special):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["What is nothing more? User: Assistant: Be brief and then"] * 5, trainer)
    return backend


@pytest.fixture
def base(tmp_path):
    from yxanul.data.tokenizers import save_tokenizer

    save_tokenizer(trained(["<|endoftext|>", "<|pad|>"]), tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def made(base, tmp_path):
    """`made(template)`: the folder of that tokenizer with the template."""
    from yxanul.data.chat_templates import make_chat_tokenizer

    def make(template):
        make_chat_tokenizer(str(base), template, tmp_path / "chat")
        return tmp_path / "chat"

    return make
