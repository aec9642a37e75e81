"""Makes `pytest` run in a bare checkout, always on this checkout, on one thread and without a network."""

import gc
import importlib.util
import os
import pathlib
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # spinning threads can make two cores slower than one; read when torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

root = pathlib.Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("yxanul", root / "__init__.py", submodule_search_locations=[str(root)])
assert spec is not None and spec.loader is not None
sys.modules["yxanul"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["yxanul"])

import pytest  # noqa: E402  after the environment is set

sys.path.append(str(root / "tests"))  # for `hub_server` and `small_runs`
pytest_plugins = ["hub_server.fixture", "small_runs.fixture", "small_runs.chat", "small_runs.published"]
collect_ignore = ["upstream"]  # upstream/run.py runs those, beside files that pip has to fetch first


def pytest_collection_finish(session):
    """The Trainer collects garbage after each run: it need not look at what all test files have imported."""
    gc.collect()
    gc.freeze()


# A member of the family in every shape that its code tells apart; fixtures below build them small.
LAYOUTS = {
    "plain-tied": {},
    "plain-untied": {"tie_word_embeddings": False},
    "factorised-tied": {"embedding_rank": 16},
    "factorised-untied": {"embedding_rank": 16, "tie_word_embeddings": False},
}
VARIATIONS = {
    "learned-positions": {"learned_position_embeddings": True},
    "geglu": {"hidden_act": "gelu_pytorch_tanh"},
    "one-key-per-query-head": {"num_key_value_heads": 6},
    "wide-heads": {"head_dim": 12},
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    """Runs a test once for each embedding layout; `parametrize("layout", [...])` picks some, or a variation."""
    return request.param


@pytest.fixture
def tiny_config():
    """`tiny_config(layout, **changes)`: a config whose sizes all differ, so that no two can be mistaken."""

    def make(layout="plain-tied", **changes):
        from yxanul import YxanulConfig

        sizes = {
            "vocab_size": 131,
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "attention_dropout": 0.0,
        }
        return YxanulConfig(**(sizes | LAYOUTS.get(layout, {}) | VARIATIONS.get(layout, {}) | changes))

    return make


@pytest.fixture
def tiny_model(tiny_config):
    """`tiny_model(layout, attention=..., **changes)`: a causal model from seed 0, in evaluation mode."""

    def make(layout="plain-tied", attention="sdpa", **changes):
        import torch

        from yxanul import YxanulForCausalLM

        torch.manual_seed(0)
        return YxanulForCausalLM._from_config(
            tiny_config(layout, **changes), attn_implementation=attention, dtype=torch.float32
        ).eval()

    return make


@pytest.fixture
def random_ids():
    """`random_ids(rows, length)`: token ids from a seed; 0 to 2 are left to padding, start and end."""

    def make(rows=2, length=12, seed=0):
        import torch

        return torch.randint(3, 131, (rows, length), generator=torch.Generator().manual_seed(seed))

    return make


class CountingBin:
    """Stands for a TokenBin: the id of a token is its position, so a batch shows where it was read."""

    row_length, is_conversations, end_of_text_id = None, False, -1

    def __init__(self, tokens, start=0):
        import numpy as np

        self.ids = np.arange(start, start + tokens)

    def read(self, start, stop):
        assert 0 <= start < stop <= len(self.ids)
        return self.ids[start:stop]

    def gather(self, starts, width):
        import numpy as np

        return self.ids[starts[:, None] + np.arange(width)]


@pytest.fixture
def counting_bin():
    """`counting_bin(tokens, start=0)`: a bin whose ids are start, start + 1, ..."""
    return CountingBin


@pytest.fixture
def packed_counting_bin():
    """`packed_counting_bin(rows, length)`: row r holds 1000 r, 1000 r + 1, ...; length - r % 5 targets are real."""

    def make(rows, length):
        import numpy as np

        packed = CountingBin(0)
        packed.ids = (np.arange(rows)[:, None] * 1000 + np.arange(length + 1)).reshape(-1)
        packed.row_length, packed.row_lengths = length, length - np.arange(rows) % 5
        return packed

    return make
