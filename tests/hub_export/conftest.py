"""Small models with a tokenizer of their own, as folders that can be exported; a Hub to push to."""

import time

import pytest
from hub_server.fixture import OWNER
from small_runs.published import ROW

SHAPE = {
    "vocab_size": 320,  # more rows than the tokenizer has ids, as padded vocabularies have
    "hidden_size": 64,
    "intermediate_size": 112,  # no multiple of 32: quantisers want it filled up
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 192,
    "initializer_range": 0.1,  # logits that are apart
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LAYOUTS = {
    "plain-tied": {},
    "plain-untied": {"tie_word_embeddings": False},
    "factorised-tied": {"embedding_rank": 16},
    "factorised-untied": {"embedding_rank": 16, "tie_word_embeddings": False},
    "geglu": {"hidden_act": "gelu_pytorch_tanh", "embedding_rank": 16},
    "learned-positions": {"learned_position_embeddings": True},
    "softcap": {"final_logit_softcapping": 30.0},
}


def pre_tokenizer_of(name):
    from tokenizers import Regex, pre_tokenizers

    bare = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return {
        "gpt-2": whole,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), whole]),
        "superbpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\p{N}+"), "isolated"),
                pre_tokenizers.Split(Regex(r"(?=(\d{3})+(?!\d))"), "isolated"),
                bare,
            ]
        ),
        "its own": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated"), bare]),
    }[name]


@pytest.fixture
def exportable(tmp_path):
    """`exportable(layout, pre="gpt-2", **changes)`: the folder of a model from seed 0 with a trained tokenizer."""

    def make(layout="plain-tied", pre="gpt-2", **changes):
        import torch
        from small_runs.chat import trained

        from yxanul import YxanulConfig, YxanulForCausalLM
        from yxanul.data.tokenizers import SPECIAL_TOKENS, save_tokenizer

        torch.manual_seed(0)
        folder = tmp_path / "model"
        backend = trained(list(SPECIAL_TOKENS))
        backend.pre_tokenizer = pre_tokenizer_of(pre)
        save_tokenizer(backend, folder)
        YxanulForCausalLM(YxanulConfig(**SHAPE | LAYOUTS[layout] | changes)).save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def hub(loopback_hub, monkeypatch, tmp_path):
    """The client of this process talks to the loopback Hub as its owner."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    for name, value in {
        "ENDPOINT": loopback_hub.url,
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "no-token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "no-tokens"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", OWNER)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # the client waits before it tries again
    return loopback_hub


@pytest.fixture
def unchecked(monkeypatch):
    """Without opening the files in another process, which takes seconds; one test of test_upload.py does it."""
    from yxanul.hub_export import facts

    monkeypatch.setattr(facts, "_opened_bare", lambda *arguments: {"target": "transformers", "rows": [ROW]})
