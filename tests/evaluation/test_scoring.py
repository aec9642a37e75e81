"""Every way of scoring equals the naive one: one pair after the other through plain logits."""

import random

import pytest
import torch

from yxanul.evaluation import scoring
from yxanul.evaluation.scoring import Scorer, log_likelihoods, shares_rows
from yxanul.evaluation.text_model import TextModel

VOCABULARY = 131


class FakeTokenizer:
    eos_token_id, bos_token_id, model_max_length = 1, None, 10**30

    def decode(self, token):
        return "<end>"


def subject_of(model):
    return TextModel(model, FakeTokenizer(), torch.device("cpu"))


def llama(attention="sdpa", kind=None, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": VOCABULARY, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3}
    sizes |= {"num_attention_heads": 6, "max_position_embeddings": 64, "initializer_range": 0.2}
    torch.manual_seed(0)
    return (
        (kind or LlamaForCausalLM)._from_config(LlamaConfig(**sizes | changes), attn_implementation=attention).eval()
    )


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, **shape)).eval()


def foreign():
    """As code that a repository brings: it takes ids and a mask, and always gives all logits."""
    from transformers import LlamaForCausalLM

    class Foreign(LlamaForCausalLM):
        def forward(self, input_ids, attention_mask=None, use_cache=None):
            return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)

    return llama(kind=Foreign)


def mamba():
    from transformers import MambaConfig, MambaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
    return MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, **shape)).eval()


@pytest.fixture
def model_of(tiny_model):
    def make(name):
        ours = {"initializer_range": 0.2, "final_logit_softcapping": 4.0}
        if name in ("plain-untied", "factorised-tied", "learned-positions"):
            return tiny_model(name, **ours)
        if name == "ours, eager":
            return tiny_model("plain-tied", attention="eager", **ours)
        others = {"llama": llama, "gpt2": gpt2, "foreign": foreign, "mamba": mamba}
        others["llama, eager"] = lambda: llama("eager")
        others["llama, windowed"] = lambda: llama(sliding_window=16)
        return others[name]()

    return make


def questions(longest=64):
    """Shared contexts, one of a beginning that many share, too long ones, single tokens, and a text in windows."""
    draw = random.Random(1)

    def ids(low, high):
        return [draw.randrange(3, VOCABULARY) for _ in range(draw.randint(low, high))]

    beginning, pairs = ids(50, 50), []
    for number in range(18):
        context = beginning + ids(2, 6) if number % 3 == 0 else ids(1, longest + 10)
        pairs += [(context, ids(1, 1) if number % 4 == 1 else ids(1, 12)) for _ in range(4)]
    pairs += [([1], ids(30, 60)) for _ in range(5)]  # texts: they share a token, which is no reason to share a row
    return [*pairs, ([1], ids(3 * longest + 5, 3 * longest + 5)), (ids(9, 9), ids(longest, longest))]


@torch.no_grad()
def naive(model, pairs, longest=64):
    found = []
    for context, continuation in pairs:
        nats, greedy = 0.0, True
        for before, after in scoring._windows(tuple(context), tuple(continuation), longest):
            assert len(before) + len(after) <= longest + 1
            logits = model(torch.tensor([before + after[:-1]])).logits[0, -len(after) :].double().log_softmax(-1)
            nats += logits.gather(1, torch.tensor(after)[:, None]).sum().item()
            greedy = greedy and logits.argmax(-1).tolist() == list(after)
        found.append((nats, greedy))
    return found


SHARING = ["plain-untied", "factorised-tied", "learned-positions", "ours, eager", "llama", "llama, eager", "gpt2"]


@pytest.mark.parametrize("name", [*SHARING, "foreign", "mamba"])
def test_all_ways_equal_one_pair_after_the_other(name, model_of, monkeypatch):
    model, pairs = model_of(name), questions()
    subject, wanted = subject_of(model), naive(model, pairs) if name != "mamba" else None
    if wanted is None:
        monkeypatch.setattr(TextModel, "longest", 64)
        wanted = naive(model, pairs)
    assert shares_rows(subject) == (name in SHARING)
    batches = Scorer(subject, pairs).batches
    assert max(len(batch.prefix) + batch.length for batch in batches) <= 64, "no row is longer than the model takes"
    prefixes = [batch.prefix for batch in batches]
    assert any(map(len, prefixes)) == (name in SHARING), "a shared beginning goes through a cache"
    for how in ({}, {"rows": 3}, {"rows": 1}, {"prefixes": False}):
        found = log_likelihoods(subject, pairs, **how)
        assert [score.nats for score in found] == pytest.approx([nats for nats, _ in wanted], abs=2e-4), how
        assert [score.is_greedy for score in found] == [greedy for _, greedy in wanted], how
    monkeypatch.setitem(scoring.LOGIT_BYTES, "cpu", 4 * VOCABULARY * 3)  # long texts of our model: chunk by chunk
    monkeypatch.setitem(scoring.CHUNK_BYTES, "cpu", 4 * VOCABULARY * 2)
    found = log_likelihoods(subject, pairs)
    assert [score.nats for score in found] == pytest.approx([nats for nats, _ in wanted], abs=2e-4)


def test_a_continuation_of_no_tokens_is_certain(model_of):
    nothing, something = log_likelihoods(subject_of(model_of("llama")), [([1, 5], []), ([1, 5], [7])])
    assert nothing == (0.0, True) and something.nats < 0


def test_greedy_is_what_greedy_would_say(model_of):
    """Random continuations never are."""
    model = model_of("llama")
    context = list(range(3, 20))
    said = model.generate(torch.tensor([context]), max_new_tokens=5, do_sample=False, pad_token_id=0)[0, 17:].tolist()
    right, wrong = log_likelihoods(subject_of(model), [(context, said), (context, [*said[:-1], said[-1] ^ 1])])
    assert right.is_greedy and not wrong.is_greedy


def test_a_window_that_slides_is_scored_one_pair_in_a_row(model_of):
    assert not shares_rows(subject_of(model_of("llama, windowed")))


def test_what_does_not_fit_into_memory_is_halved(model_of, monkeypatch):
    model, pairs = model_of("llama"), questions()
    subject, whole, sizes = subject_of(model), log_likelihoods(subject_of(model), pairs, rows=16), []
    score = scoring._score

    def short_of_memory(subject, batch, cache=None):
        sizes.append(len(batch.rows))
        if len(batch.rows) > 4:
            raise torch.OutOfMemoryError
        return score(subject, batch, cache)

    monkeypatch.setattr(scoring, "_score", short_of_memory)
    found = log_likelihoods(subject, pairs, rows=16)
    assert [score.nats for score in found] == pytest.approx([score.nats for score in whole], abs=1e-4)
    assert max(sizes) == 16 and sizes.count(16) == 1, "what was too large once is not tried again"


def test_the_head_computes_scored_positions_only(tiny_model, monkeypatch):
    model, pairs = tiny_model("plain-untied"), questions()[:8]
    kept = []
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: kept.append(len(hidden)) or forward(hidden))
    subject = subject_of(model)
    subject.shares_rows = True
    log_likelihoods(subject, pairs, prefixes=False)
    assert sum(kept) == sum(len(continuation) for _, continuation in pairs)


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_random_states_are_as_they_were(tiny_model, training):
    model = tiny_model(attention_dropout=0.5).train(training)
    model.model.layers[1].eval()  # frozen by somebody
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    log_likelihoods(subject_of(model), questions()[:8])
    assert modes == [module.training for module in model.modules()] and torch.equal(state, torch.get_rng_state())
    model.forward = None
    with pytest.raises(TypeError):
        log_likelihoods(subject_of(model), questions()[:8])
    assert modes == [module.training for module in model.modules()]
