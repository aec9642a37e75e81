"""Documents packed into one row compute what each computes alone.

A row says where its documents begin by `position_ids` that restart, or by the cumulative lengths of flash attention.
`use_cache` is part of the property: a cache that is made before the mask hides the boundaries, in silence.
"""

import pytest
import torch
from transformers import DataCollatorWithFlattening

# two rows of 17 tokens, packed differently
LENGTHS = [[5, 9, 3], [7, 1, 1, 8]]
USE_CACHE = pytest.mark.parametrize(
    "cache", [{}, {"use_cache": True}, {"use_cache": False}], ids=["cache-default", "cache-on", "cache-off"]
)


@pytest.fixture
def packed(random_ids):
    """ids (2, 17) and their restarting positions (2, 17)."""
    positions = torch.tensor([[position for length in row for position in range(length)] for row in LENGTHS])
    return random_ids(2, 17), positions


def each_alone(model, ids: torch.Tensor, lengths: list[list[int]] = LENGTHS) -> torch.Tensor:
    """Logits (rows, time, V) from one forward for each document."""
    rows = [
        torch.cat([model(part[None]).logits[0] for part in row.split(row_lengths)])
        for row, row_lengths in zip(ids, lengths, strict=True)
    ]
    return torch.stack(rows)


def flattened(row: torch.Tensor, lengths: list[int], **options) -> dict:
    """The batch that the library's padding-free collator makes of one row's documents."""
    return DataCollatorWithFlattening(**options)([{"input_ids": part.tolist()} for part in row.split(lengths)])


def assert_same_documents(together: torch.Tensor, alone: torch.Tensor, mixed: torch.Tensor) -> None:
    """`mixed` is the reading as one long document: unless it differs, the comparison shows nothing."""
    scale = alone.abs().max().item()
    assert (mixed - alone).abs().max() > 0.3 * scale
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5 * scale)


@USE_CACHE
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ["plain-untied", "factorised-tied", "learned-positions"])
@torch.no_grad()
def test_restarting_positions_keep_documents_apart(tiny_model, packed, layout, attention, cache):
    model, (ids, positions) = tiny_model(layout, attention, initializer_range=0.3), packed
    together = model(ids, position_ids=positions, **cache).logits
    assert_same_documents(together, each_alone(model, ids), mixed=model(ids, **cache).logits)


@USE_CACHE
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("layout", ["plain-untied", "factorised-tied", "learned-positions"])
@torch.no_grad()
def test_cumulative_lengths_alone_keep_documents_apart(tiny_model, packed, layout, attention, cache):
    model, (ids, _) = tiny_model(layout, attention, initializer_range=0.3), packed
    for row, lengths in zip(ids, LENGTHS, strict=True):
        batch = flattened(row, lengths, return_flash_attn_kwargs=True, return_position_ids=False)
        assert "position_ids" not in batch and batch["cu_seq_lens_q"].dtype == torch.int32
        batch.pop("labels")
        alone, mixed = each_alone(model, row[None], [lengths]), model(row[None], **cache).logits
        assert_same_documents(model(**batch, **cache).logits, alone, mixed)


@pytest.mark.parametrize("by", ["position_ids", "cu_seq_lens"])
@torch.no_grad()
@torch.compiler.set_stance("force_eager")  # flex attention compiles itself: half a minute that proves nothing of ours
def test_flex_attention_keeps_documents_apart(tiny_model, packed, by):
    model, (ids, _) = tiny_model(attention="flex_attention", initializer_range=0.3), packed
    batch = flattened(
        ids[0], LENGTHS[0], return_flash_attn_kwargs=by == "cu_seq_lens", return_position_ids=by == "position_ids"
    )
    batch.pop("labels")
    sdpa = tiny_model(attention="sdpa", initializer_range=0.3)
    alone, mixed = each_alone(sdpa, ids[:1], LENGTHS[:1]), sdpa(ids[:1]).logits
    assert_same_documents(model(**batch).logits, alone, mixed)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_packed_gradients_are_the_sum_over_documents(tiny_model, packed, training):
    model, (ids, _) = tiny_model("factorised-tied", initializer_range=0.3).train(training), packed
    batch = flattened(ids[0], LENGTHS[0])
    model(**batch).loss.backward()
    together = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    targets = sum(length - 1 for length in LENGTHS[0])
    for part in ids[0].split(LENGTHS[0]):
        model(part[None], labels=part[None], num_items_in_batch=targets).loss.backward()
    for name, parameter in model.named_parameters():
        scale = parameter.grad.abs().max().item()
        torch.testing.assert_close(together[name], parameter.grad, rtol=0, atol=1e-4 * scale, msg=f"{name} differs")


@pytest.mark.parametrize("layout", ["plain-untied", "learned-positions"])
@torch.no_grad()
def test_cumulative_lengths_run_through_all_rows(tiny_model, packed, layout):
    """As flash attention reads them: over the rows laid end to end."""
    model, (ids, _) = tiny_model(layout, initializer_range=0.3), packed
    boundaries = torch.tensor([0, *(length for row in LENGTHS for length in row)]).cumsum(0).int()
    together = model(ids, cu_seq_lens_q=boundaries, cu_seq_lens_k=boundaries).logits
    assert_same_documents(together, each_alone(model, ids), mixed=model(ids).logits)


def test_cumulative_lengths_exclude_a_mask_and_a_cache(tiny_model, random_ids):
    """Together they would mix documents in silence: a mask, even of ones, switches the search for documents off."""
    from transformers import DynamicCache

    for more in ({"attention_mask": torch.ones(2, 12)}, {"past_key_values": DynamicCache()}):
        with pytest.raises(ValueError, match="cu_seq_lens_q excludes an attention_mask and a cache"):
            tiny_model()(random_ids(), cu_seq_lens_q=torch.tensor([0, 12, 24]), **more)
