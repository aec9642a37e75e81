"""A tokenizer, the same with a chat template, and a small run of fine-tuning, for tests of conversations."""

import json
import shutil

import pytest
import yaml
from small_runs.fixture import SHAPE

LENGTH = 64


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


def make_base(folder):
    from yxanul.data.tokenizers import save_tokenizer

    save_tokenizer(trained(["<|endoftext|>", "<|pad|>"]), folder / "base")
    return folder / "base"


@pytest.fixture
def base(tmp_path):
    return make_base(tmp_path)


@pytest.fixture
def made(base, tmp_path):
    """`made(template)`: the folder of that tokenizer with the template."""
    from yxanul.data.chat_templates import make_chat_tokenizer

    def make(template):
        make_chat_tokenizer(str(base), template, tmp_path / "chat")
        return tmp_path / "chat"

    return make


@pytest.fixture(scope="session")
def first_chat(tmp_path_factory):
    """What `chat` copies; nobody changes it."""
    import torch

    from yxanul import YxanulConfig, YxanulForCausalLM
    from yxanul.data.chat_templates import load_chat_tokenizer, make_chat_tokenizer
    from yxanul.data.prepare import prepare

    folder = tmp_path_factory.mktemp("chat")
    file, tokenizer = folder / "talk.jsonl", folder / "chat"
    talks = [{"question": f"Say {'so ' * (n % 5)}{n}.", "answer": f"{n} " * (1 + n % 6)} for n in range(300)]
    file.write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    make_chat_tokenizer(str(make_base(folder)), "user-assistant", tokenizer)
    prepare([str(file)], str(tokenizer), folder / "bins", held_out=0.2, pack=LENGTH, conversations="answers")
    torch.manual_seed(3)
    vocabulary = load_chat_tokenizer(tokenizer).vocabulary_size
    model = YxanulForCausalLM(YxanulConfig(**SHAPE | {"vocab_size": vocabulary, "initializer_range": 0.2}))
    model.save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(folder / "base" / name, folder / "model")
    return folder


@pytest.fixture
def chat(first_chat, tmp_path):
    """The folder of a tokenizer with a template, bins of conversations, and a model of its vocabulary."""
    return shutil.copytree(first_chat, tmp_path, dirs_exist_ok=True)


def recipe(folder, **changes):
    content = {
        "model": str(folder / "model"),
        "init_from": str(folder / "model"),
        "tokenizer": str(folder / "chat"),
        "stages": [
            {
                "name": "chat",
                "sources": [{"bin": str(folder / "bins/train")}],
                "steps": 20,
                "phases": [{"length": LENGTH, "rows": 4}],
            }
        ],
        "validation": {"talk": str(folder / "bins/held_out")},
        "document_mask": True,
        "eval_steps": 5,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_steps": 5,
        "use_cpu": True,
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in (content | changes).items() if value is not None}))
    return file


def learn_by_heart(model, tokenizer, texts, steps):
    import torch

    batch = tokenizer(texts, return_tensors="pt", padding=True)["input_ids"]
    labels = batch.masked_fill(batch == tokenizer.pad_token_id, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(batch, labels=labels).loss.backward()
        optimizer.step()
