"""A sample is the greedy continuation of a held-out document, and leaves the model as it was."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from small_runs.fixture import SHAPE, make_bin

from yxanul.configuration_yxanul import YxanulConfig
from yxanul.data.bins import open_bin
from yxanul.evaluation.bits_per_byte import HeldOut
from yxanul.modeling_yxanul import YxanulForCausalLM
from yxanul.training.samples import NEW_TOKENS, PROMPT_TOKENS, Samples, continuation


@pytest.fixture
def trainer(tmp_path, small_config):
    torch.manual_seed(0)
    held_out = HeldOut(open_bin(make_bin(tmp_path / "code", 20, 1)), length=16, rows=4, max_tokens=500)
    return SimpleNamespace(
        model=YxanulForCausalLM(YxanulConfig(**SHAPE)).train(),
        processing_class=SimpleNamespace(decode=lambda ids, skip_special_tokens: " ".join(map(str, ids))),
        held_out={"code": held_out},
        plan=small_config().plan(),
        args=SimpleNamespace(device="cpu"),
        batches=SimpleNamespace(stream=SimpleNamespace(end_of_text_id=0)),
        _autocast=nullcontext,
    )


def test_it_is_what_a_greedy_guess_token_by_token_gives(trainer):
    prompt = trainer.held_out["code"].opening(PROMPT_TOKENS)
    random = torch.random.get_rng_state()
    made = continuation(trainer, prompt)
    assert trainer.model.training and torch.equal(torch.random.get_rng_state(), random)
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + NEW_TOKENS and (len(ids) == len(prompt) or ids[-1] != 0):
            ids.append(int(trainer.model.eval()(torch.tensor([ids])).logits[0, -1].argmax()))
    assert made == ids[len(prompt) :]


def test_it_is_shown_by_one_rank_and_computed_by_all(trainer):
    shown = []
    state = SimpleNamespace(global_step=15)  # in the stage `code`
    Samples(trainer, shown.append).on_evaluate(None, state, None)
    Samples(trainer, None).on_evaluate(None, state, None)
    assert len(shown) == 1 and (shown[0]["step"], shown[0]["domain"]) == (15, "code")


def test_there_is_none_without_held_out_text(trainer):
    trainer.held_out = {}
    Samples(trainer, pytest.fail).on_evaluate(None, SimpleNamespace(global_step=15), None)


def test_it_ends_where_the_positions_end(trainer):
    trainer.model.config.max_position_embeddings = 20
    assert len(continuation(trainer, trainer.held_out["code"].opening(12))) <= 7
    assert continuation(trainer, [0] * 20) == [], "a conversation's question may fill them all"


def test_there_is_none_before_the_first_step(trainer):
    Samples(trainer, pytest.fail).on_evaluate(None, SimpleNamespace(global_step=0), None)
