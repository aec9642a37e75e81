"""Batched generation equals one prompt after the other, ends at stops, and leaves the model as it was."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from yxanul.bad_input import BadInput
from yxanul.evaluation.generation import Prompt, Writer
from yxanul.evaluation.text_model import TextModel

TEXTS = ["Question: Who wrote Emma?\nAnswer:", "Question: What", "The man", "the cat waits for the cat " * 6, "x"]


@pytest.fixture
def subject(checkpoint):
    folder = checkpoint("learnt", "bpe", 512)
    model = AutoModelForCausalLM.from_pretrained(folder)
    return TextModel(model, AutoTokenizer.from_pretrained(folder), torch.device("cpu"))


def written(subject, prompts, **how):
    writer = Writer(subject, prompts, **how)
    return [text for _, text in sorted(found for batch in writer.batches for found in writer.run(batch))]


def alone(subject, prompt):
    ids = torch.tensor([subject.encode(prompt.text)])
    made = subject.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=prompt.tokens, do_sample=False, pad_token_id=1
    )
    text = subject.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    for stop in prompt.stops:
        text = text.split(stop)[0]
    return text


@pytest.mark.parametrize("stops", [(), ("\n", "."), ("n",), ("e A", "Aus")])
def test_left_padded_batches_equal_one_after_the_other(subject, stops):
    prompts = [Prompt(text, stops, 40) for text in TEXTS]
    wanted = [alone(subject, prompt) for prompt in prompts]
    assert len(set(wanted)) > 2
    for rows in (1, 2, 5):
        assert written(subject, prompts, rows=rows) == wanted


def test_rows_that_are_done_leave_and_others_take_their_places(subject, monkeypatch):
    """A row comes with one token; from then on few go through the model for nothing."""
    prompts = [Prompt(text, ("\n", "."), 60) for text in TEXTS * 4]
    tokens, forward = [], subject.model.model.forward
    wanted = written(subject, prompts, rows=1)

    def counted(input_ids, *given, **more):
        tokens.append(tuple(input_ids.shape))
        return forward(input_ids, *given, **more)

    monkeypatch.setattr(subject.model.model, "forward", counted)
    assert written(subject, prompts, rows=4) == wanted
    steps = sum(rows for rows, columns in tokens if columns == 1)
    needed = [len(subject.tokenizer.encode(text)) for text in wanted]
    assert len(set(needed)) > 2 and steps < 1.4 * sum(needed)
    assert max(rows for rows, _ in tokens) == 4


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_row_is_given_after_it_is_done_is_not_its_own(subject, ends):
    """One that a stop or its number of tokens ended: no end of text, no more tokens, whoever is beside it."""
    subject.model.generation_config.eos_token_id = subject.end_id if ends else None
    texts = [f"{word} {text}" for word in ("the", "man", "Emma", "x", "who") for text in TEXTS]
    for prompts in ([Prompt(text, (), 12) for text in texts], [Prompt(text, ("n",), 12) for text in texts]):
        found = []
        for how in ({"rows": 1}, {"rows": 12}, {"rows": 5, "refills": False}):
            writer = Writer(subject, prompts, **how)
            found.append((sorted(pair for batch in writer.batches for pair in writer.run(batch)), writer.ended))
        assert found[0] == found[1] == found[2] and 0 < len(found[0][1]) < len(prompts)


def test_an_empty_prompt_is_the_beginning_of_a_text(subject):
    assert written(subject, [Prompt("", (), 4)]) == [alone(subject, Prompt("<|endoftext|>", (), 4))]


def test_a_model_with_another_kind_of_cache_goes_on_to_the_last_row(checkpoint):
    from transformers import MambaConfig, MambaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(checkpoint("learnt", "bpe", 512))
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.2}
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id}
    model = MambaForCausalLM(MambaConfig(vocab_size=len(tokenizer), **shape, **ends)).eval()
    mamba = TextModel(model, tokenizer, torch.device("cpu"))
    prompts = [Prompt("the man is", ("n",), 12), Prompt("the cat is", ("n",), 12), Prompt("the man of", ("n",), 12)]
    assert written(mamba, prompts, rows=2) == [alone(mamba, prompt) for prompt in prompts]


def test_a_batch_ends_when_its_last_row_does(subject, monkeypatch):
    steps = []
    forward = subject.model.model.forward
    monkeypatch.setattr(subject.model.model, "forward", lambda *a, **k: steps.append(1) or forward(*a, **k))
    (text,) = written(subject, [Prompt(TEXTS[0], ("Austen",), 400)])
    assert text.strip() == "Jane" and len(steps) < 30


def test_prompts_of_other_stops_or_lengths_are_not_mixed(subject):
    prompts = [Prompt(TEXTS[0], ("\n",), 8), Prompt(TEXTS[0], (), 4), Prompt(TEXTS[0], ("\n",), 8)]
    texts = written(subject, prompts)
    assert texts[0] == texts[2] and texts[0].startswith(texts[1])


def test_a_prompt_loses_its_beginning_until_what_is_generated_fits(subject):
    long = Prompt("the man is standing " * 60 + TEXTS[0], (".",), 500)
    writer = Writer(subject, [long, Prompt("x", (".",), 500)])
    assert writer.cut == {0} and len(writer._ids[0]) == 12
    with pytest.raises(BadInput, match="takes 512 tokens, and 512 are to be generated"):
        Writer(subject, [Prompt("x", (), 512)])


def test_what_does_not_fit_into_memory_is_halved(subject, monkeypatch):
    prompts = [Prompt(text, (".",), 10) for text in TEXTS]
    whole, generate, sizes = written(subject, prompts), subject.model.generate, []

    def short_of_memory(input_ids, **options):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError
        return generate(input_ids=input_ids, **options)

    monkeypatch.setattr(subject.model, "generate", short_of_memory)
    assert written(subject, prompts) == whole and max(sizes) == 5


def test_mode_and_random_state_are_as_they_were(subject):
    subject.model.train()
    state = torch.get_rng_state()
    written(subject, [Prompt("x", (), 3)])
    assert all(module.training for module in subject.model.modules()) and torch.equal(state, torch.get_rng_state())
