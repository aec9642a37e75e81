"""The fast decoder writes the tokens that `generate` writes, in every shape of ours, also behind a cache of before."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TemperatureLogitsWarper

from yxanul.evaluation import decoding
from yxanul.evaluation.decoding import Decoder, is_supported

SHAPES = [
    *("plain-tied", "plain-untied", "factorised-tied", "factorised-untied"),
    *("learned-positions", "geglu", "one-key-per-query-head", "wide-heads"),
]


def theirs(model, ids, tokens):
    row = torch.tensor([ids])
    made = model.generate(
        row, attention_mask=torch.ones_like(row), max_new_tokens=tokens, do_sample=False, pad_token_id=0
    )
    return made[0, len(ids) :].tolist()


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_and_logits_are_generates(tiny_model, random_ids, shape):
    model = tiny_model(shape, initializer_range=0.3)
    decoder = Decoder(model)
    for seed in range(3):
        ids = random_ids(1, 9 + seed, seed)[0].tolist()
        assert decoder.generate(ids, 20, ends=set()) == theirs(model, ids, 20)
        decoder._seen = []
        torch.testing.assert_close(decoder.logits(ids), model(torch.tensor([ids])).logits[:, -1])


@pytest.mark.parametrize(
    "changes",
    [
        {"final_logit_softcapping": 5.0},
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0}},
    ],
)
def test_softcaps_and_stretched_positions_are_kept(tiny_model, random_ids, changes):
    model = tiny_model(initializer_range=0.3, **changes)
    ids = random_ids(1, 12)[0].tolist()
    assert Decoder(model).generate(ids, 20, ends=set()) == theirs(model, ids, 20)


def test_a_prompt_that_goes_on_with_the_last_one_is_as_a_new_one(tiny_model, random_ids):
    model = tiny_model(initializer_range=0.3)
    decoder, ids = Decoder(model), random_ids(1, 50)[0].tolist()
    for prompt in (ids[:8], ids[:20], ids[:19], ids[:5] + ids[30:40], ids[:5] + ids[30:40], ids[:1]):
        assert decoder.generate(prompt, 8, ends=set()) == Decoder(model).generate(prompt, 8, ends=set())
    fed = []
    decoder._seen, state = ids[:8] + [3], decoder._state
    decoder.generate(ids[:8], 1, ends=set())
    decoder._state = lambda rest: fed.append(list(rest)) or state(rest)
    decoder.generate(ids[:20], 3, ends=set())
    assert [len(rest) for rest in fed] == [12, 1, 1]


def test_it_stops_at_an_end_and_where_the_positions_do(tiny_model, random_ids):
    model = tiny_model(initializer_range=0.3)
    decoder, ids = Decoder(model), random_ids(1, 10)[0].tolist()
    free = decoder.generate(ids, 100, ends=set())
    assert len(free) == model.config.max_position_embeddings - 10
    stopped = decoder.generate(ids, 100, ends={free[3]})
    assert stopped == free[: free.index(free[3]) + 1]


def test_an_interrupt_leaves_no_tokens_that_the_cache_has_not(tiny_model, random_ids):
    model, ids = tiny_model(initializer_range=0.3), random_ids(1, 10)[0].tolist()
    decoder, layers = Decoder(model), None
    layers, decoder._layers = decoder._layers, [None]
    with pytest.raises(TypeError):  # as Ctrl-C, between two layers
        decoder.generate(ids, 4, ends=set())
    decoder._layers = layers
    assert decoder.generate(ids, 8, ends=set()) == theirs(model, ids, 8)


def test_it_samples_by_the_processed_probabilities_and_streams_every_token(tiny_model, random_ids):
    model, seen = tiny_model(initializer_range=0.3), []
    decoder, ids = Decoder(model), random_ids(1, 10)[0].tolist()
    cold = [TemperatureLogitsWarper(1e-4)]
    found = decoder.generate(ids, 12, ends=set(), processors=cold, sample=True, on_token=seen.append)
    assert found == decoder.generate(ids, 12, ends=set()) == [int(token) for token in seen]
    torch.manual_seed(0)
    drawn = {tuple(decoder.generate(ids, 4, ends=set(), sample=True)) for _ in range(8)}
    assert len(drawn) > 1


@pytest.mark.parametrize("shape", ["plain-tied", "factorised-tied"])
@pytest.mark.filterwarnings("ignore")  # torch means to replace it
def test_int8_is_as_near_to_fp32_as_torchs_own(tiny_model, random_ids, shape):
    model = tiny_model(shape, initializer_range=0.1)
    theirs = torch.ao.quantization.quantize_dynamic(tiny_model(shape, initializer_range=0.1), {torch.nn.Linear})
    errors = []
    for seed in range(5):
        ids = random_ids(1, 20, seed)
        exact, coarse = (Decoder(model, int8=int8).logits(ids[0].tolist()) for int8 in (False, True))
        errors.append([(exact - coarse).norm(), (exact - theirs(ids).logits[:, -1]).norm(), exact.norm()])
    ours, torchs, size = torch.tensor(errors).mean(0)
    assert 0 < ours < 1.5 * torchs  # which leaves the head as it is
    assert torchs < 0.2 * size


def test_a_screened_head_gives_the_greedy_token_or_none(monkeypatch):
    """Against all rows; where rounding could hide a likelier one, all are read; of equals the first is taken."""
    monkeypatch.setattr(decoding, "FEW", 40)
    torch.manual_seed(0)
    found = []
    for spread in (0.0, 0.5, 3.0):
        weight = torch.randn(500, 64) * torch.exp(spread * torch.randn(500, 1))
        weight[300] = weight[77]
        screen = decoding._Screen(weight)
        states = [*torch.randn(20, 1, 64), weight[77:78], -weight[77:78], torch.zeros(1, 64), torch.ones(1, 64)]
        for state in states:
            token = screen.greedy(state)
            assert token in (None, int((state @ weight.T).argmax()))
            found.append(token is None)
    assert 0 < sum(found) < len(found)


def test_screened_greedy_tokens_are_generates(tiny_model, random_ids, monkeypatch):
    monkeypatch.setattr(decoding, "WORTH_SCREENING", 0)
    monkeypatch.setattr(decoding, "FEW", 20)
    for shape in ("plain-tied", "plain-untied"):
        model, ids = tiny_model(shape, initializer_range=0.3), random_ids(1, 9)[0].tolist()
        decoder = Decoder(model)
        assert decoder._screen is not None and decoder.generate(ids, 20, ends=set()) == theirs(model, ids, 20)


def test_others_models_and_angles_that_depend_on_the_length_are_left_to_generate(tiny_model):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    assert not is_supported(LlamaForCausalLM(LlamaConfig(vocab_size=9, **sizes)))
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert is_supported(tiny_model()) and not is_supported(tiny_model(rope_parameters=dynamic))
