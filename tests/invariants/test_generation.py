"""Every way to generate gives the tokens of the plainest one: greedy, without a cache, one prompt at a time.

Weights are drawn wide (initializer_range 0.4), so that the largest logit does not hang on rounding.
"""

from functools import partial

import pytest
import torch
from transformers import DynamicCache, StaticCache

NEW_TOKENS = 10
PROMPT_LENGTHS = (7, 3, 5)
ALL_LAYOUTS = pytest.mark.parametrize(
    "layout", ["plain-tied", "plain-untied", "factorised-tied", "factorised-untied", "learned-positions"]
)


@pytest.fixture
def model(tiny_model, layout):
    return tiny_model(layout, initializer_range=0.4, pad_token_id=0)


@pytest.fixture
def prompt(random_ids):
    return random_ids(2, 6)


def greedy(model, prompt: torch.Tensor | None = None, **options) -> torch.Tensor:
    """Ids after the prompt, if any; no end token is set, so every row has NEW_TOKENS of them."""
    start = 0 if prompt is None else prompt.shape[1]
    return model.generate(prompt, do_sample=False, max_new_tokens=NEW_TOKENS, **options)[:, start:]


def argmax_by_hand(model, prompt: torch.Tensor) -> torch.Tensor:
    """The measure: the whole text through the model for each new token, no cache, no `generate`."""
    text = prompt
    for _ in range(NEW_TOKENS):
        text = torch.cat([text, model(text, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return text[:, prompt.shape[1] :]


@ALL_LAYOUTS
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"use_cache": False}, id="no-cache"),
        pytest.param({}, id="dynamic-cache"),
        pytest.param({"cache_implementation": "static"}, id="static-cache"),
        pytest.param({"prefill_chunk_size": 4}, id="prefill-in-chunks"),
    ],
)
@torch.no_grad()
def test_greedy_equals_argmax_by_hand(model, prompt, options):
    expected = argmax_by_hand(model, prompt)
    assert expected.unique().numel() > NEW_TOKENS, "a model that repeats itself would hide a broken cache"
    assert torch.equal(greedy(model, prompt, **options), expected)


@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # flex attention compiles itself: half a minute that proves nothing of ours
def test_cached_steps_of_every_attention_equal_sdpa_without_cache(tiny_model, prompt, attention):
    whole = tiny_model(initializer_range=0.4)(prompt).logits
    model = tiny_model(attention=attention, initializer_range=0.4)
    first = model(prompt[:, :-2])
    rest = model(prompt[:, -2:], past_key_values=first.past_key_values)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], dim=1), whole, rtol=1e-5, atol=1e-5)


@ALL_LAYOUTS
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_left_padded_batch_equals_each_prompt_alone(model, random_ids, cache):
    prompts = [random_ids(1, length, seed=length) for length in PROMPT_LENGTHS]
    width = max(PROMPT_LENGTHS)
    batch = torch.cat([torch.nn.functional.pad(one, (width - one.shape[1], 0), value=0) for one in prompts])
    together = greedy(model, batch, attention_mask=(batch != 0).long(), cache_implementation=cache)
    assert torch.equal(together, torch.cat([greedy(model, one) for one in prompts]))


@ALL_LAYOUTS
def test_beams_with_cache_equal_beams_without(model, prompt):
    with_cache, without = (greedy(model, prompt, num_beams=3, use_cache=use_cache) for use_cache in (True, False))
    assert torch.equal(with_cache, without)
    assert not torch.equal(with_cache, greedy(model, prompt)), "these beams never reordered the cache"


@ALL_LAYOUTS
@torch.no_grad()
def test_logits_to_keep_picks_positions(model, prompt):
    every = model(prompt).logits
    flags = torch.zeros(2, 6, dtype=torch.bool)
    flags[0, 2] = flags[1, 3] = flags[1, 4] = True
    by_row = torch.tensor([[1], [5]])
    for keep, expected in [
        (0, every),
        (1, every[:, -1:]),
        (3, every[:, -3:]),
        (torch.tensor([0, 4]), every[:, [0, 4]]),
        (by_row, every[torch.arange(2)[:, None], by_row]),
        (flags, every[flags]),
    ]:
        # products of another height may round differently in the last bit
        torch.testing.assert_close(model(prompt, logits_to_keep=keep).logits, expected, rtol=1e-6, atol=1e-5)


@ALL_LAYOUTS
@torch.no_grad()
def test_embeddings_generate_like_their_ids(model, prompt):
    table_wide = model.get_input_embeddings()(prompt)
    widths = [table_wide]
    if model.config.embedding_rank is not None:
        assert table_wide.shape[-1] == model.config.embedding_rank
        widths.append(model.model.embed_proj(table_wide))
    for embeddings in widths:
        assert torch.equal(greedy(model, inputs_embeds=embeddings), greedy(model, prompt))


@ALL_LAYOUTS
@pytest.mark.parametrize(
    "make_cache", [DynamicCache, partial(StaticCache, max_cache_len=32)], ids=["dynamic", "static"]
)
def test_continuing_from_a_cache_equals_one_go(model, prompt, make_cache):
    cache = make_cache(config=model.config)
    begun = model.generate(prompt, do_sample=False, max_new_tokens=4, past_key_values=cache)
    assert cache.get_seq_length() == begun.shape[1] - 1  # the last token has not been read yet
    both = model.generate(begun, do_sample=False, max_new_tokens=NEW_TOKENS - 4, past_key_values=cache)
    assert torch.equal(both[:, prompt.shape[1] :], greedy(model, prompt))


@pytest.mark.parametrize("layout", ["plain-tied", "factorised-tied"])
@pytest.mark.parametrize("drafts", ["prompt-lookup", "assistant"])
def test_drafted_tokens_equal_greedy(model, tiny_model, prompt, drafts):
    one = prompt[:1].repeat(1, 3)  # a repeated prompt has something to look up
    assistant = tiny_model("plain-tied", initializer_range=0.4, num_hidden_layers=1, pad_token_id=0)
    options = {"prompt_lookup_num_tokens": 3} if drafts == "prompt-lookup" else {"assistant_model": assistant}
    assert torch.equal(greedy(model, one, **options), greedy(model, one))
