"""What training reads and divides by: packed documents are documents alone, and padding is nothing at all."""

import numpy as np
import pytest
import torch
from small_runs.fixture import make_bin

from yxanul.data.bins import open_bin
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import Stream
from yxanul.training.loader import MicroBatches

LENGTH, ROWS, STEPS = 32, 8, 4


@pytest.fixture(scope="module")
def bins(tmp_path_factory):
    """Documents of up to 30 tokens, one behind the other, and whole ones in rows of 32 with padding behind them."""
    folder = tmp_path_factory.mktemp("short")
    return {
        "stream": make_bin(folder / "stream", 200, seed=1, longest=30),
        "packed": make_bin(folder / "packed", 40, seed=2, longest=30, row_length=LENGTH),
    }


@pytest.fixture
def stream(bins, layout):
    """Of a run in which each step has 8 rows of 32 tokens."""
    token_bin = open_bin(bins[layout])
    size = token_bin.rows * LENGTH if token_bin.row_length else token_bin.tokens
    stage = Stage("one", (Source("it", size, row_length=token_bin.row_length),), (Phase(LENGTH, ROWS),), steps=STEPS)
    return Stream(Plan([stage]), {"it": token_bin}, seed=1)


both = pytest.mark.parametrize("layout", ["stream", "packed"])


@pytest.fixture
def model(tiny_model):
    """In training, where the loss makes its own gradients."""
    return tiny_model("factorised-tied", initializer_range=0.3, vocab_size=61).train()


def micro_batches(stream, step, accumulation, document_mask):
    batches = MicroBatches(stream, 0, 1, accumulation, document_mask)
    return [batches.__getitems__(step * accumulation + micro) for micro in range(accumulation)]


def learn(model, batches):
    """The summed loss of micro-batches as the Trainer computes it, and the gradients that they add up to."""
    model.zero_grad()
    total = 0.0
    for batch in batches:
        targets = batch.pop("targets_in_step")
        loss = model(**batch, num_items_in_batch=targets).loss
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def learn_by_hand(model, pairs):
    """Of (inputs, targets), each computed alone: torch's own loss of all logits, divided by all targets that count."""
    model.zero_grad()
    count = sum(int((targets >= 0).sum()) for _, targets in pairs)
    total = 0.0
    for inputs, targets in pairs:
        logits = model(input_ids=inputs[None]).logits[0]
        loss = torch.nn.functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    for name, gradient in one[1].items():
        scale = other[1][name].abs().max().item()
        torch.testing.assert_close(gradient, other[1][name], rtol=0, atol=1e-4 * scale, msg=f"{name} differs")


def rows_of(stream, step):
    batch = stream.batch(step, 0, ROWS)
    return list(zip(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.targets), strict=True))


def documents_of(stream, step):
    """Each document of each row, cut where the token before it ends one; padding is in none."""
    for inputs, targets in rows_of(stream, step):
        starts = [0, *(np.flatnonzero(inputs[1:].numpy() == 0) + 1), LENGTH]
        for start, stop in zip(starts, starts[1:], strict=False):
            if (targets[start:stop] >= 0).any():
                yield inputs[start:stop], targets[start:stop]


@both
@pytest.mark.parametrize("accumulation", [1, 4])
def test_with_a_document_mask_documents_in_rows_are_documents_alone(stream, model, accumulation):
    documents = list(documents_of(stream, 1))
    assert len(documents) > ROWS
    together = learn(model, micro_batches(stream, 1, accumulation, document_mask=True))
    assert_same(together, learn_by_hand(model, documents))


@both
def test_without_it_a_row_is_one_text(stream, model):
    together = learn(model, micro_batches(stream, 1, 2, document_mask=False))
    assert_same(together, learn_by_hand(model, rows_of(stream, 1)))
    apart = learn(model, micro_batches(stream, 1, 2, document_mask=True))
    assert abs(together[0] - apart[0]) > 1e-2  # else neither test shows anything


def padded_step(stream):
    counts = [stream.targets(step) for step in range(STEPS)]
    assert min(counts) < ROWS * LENGTH
    return counts.index(min(counts))


@pytest.mark.parametrize("layout", ["packed"])
@pytest.mark.parametrize("accumulation", [1, 2, 8])
def test_a_step_is_divided_by_its_real_targets_however_it_is_accumulated(stream, model, accumulation):
    step = padded_step(stream)
    batches = micro_batches(stream, step, accumulation, document_mask=True)
    assert_same(learn(model, batches), learn_by_hand(model, list(documents_of(stream, step))))


@pytest.mark.parametrize("layout", ["packed"])
def test_padding_reaches_no_loss_and_no_gradient(stream, model):
    step = padded_step(stream)
    (batch,) = micro_batches(stream, step, 1, document_mask=True)
    padding = batch["shift_labels"] == -100
    spoilt = batch | {"input_ids": batch["input_ids"].masked_fill(padding, 60)}
    assert not torch.equal(spoilt["input_ids"], batch["input_ids"])
    assert learn(model, [dict(spoilt)])[0] == pytest.approx(learn(model, [dict(batch)])[0], rel=1e-6)
    spoilt, plain = (learn(model, [dict(one)])[1] for one in (spoilt, batch))
    for name, gradient in plain.items():
        torch.testing.assert_close(spoilt[name], gradient, rtol=0, atol=1e-6 * gradient.abs().max().item())
