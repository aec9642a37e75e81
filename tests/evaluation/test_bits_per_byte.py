"""Exact evaluation: every token once, against plain logits document by document, for any number of processes."""

import math
import random

import numpy as np
import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter, PackedBinWriter
from yxanul.data.bins import open_bin
from yxanul.data.stream import IGNORED
from yxanul.evaluation.bits_per_byte import HeldOut, evaluate

VOCABULARY, END = 131, 0
LENGTHS = np.array([5, 1, 17, 40, 2, 9, 33, 21, 8, 3])  # tokens of each document, its end of text included
BYTES = LENGTHS * 3 - 3  # the second has no text
ALL = int(LENGTHS.sum())
CPU = torch.device("cpu")


@pytest.fixture
def write_bin(tmp_path):
    """`write_bin(lengths, byte_lengths, writer=BinWriter, ...)`: an open bin of random documents."""

    def write(lengths=LENGTHS, byte_lengths=BYTES, writer=BinWriter, vocabulary=VOCABULARY, **more):
        folder = tmp_path / f"bin-{len(list(tmp_path.iterdir()))}"
        ids = np.random.default_rng(0).integers(1, vocabulary, lengths.sum()).astype("<u4")
        ids[np.cumsum(lengths) - 1] = END
        made = writer(folder, np.dtype("<u4"), shard_tokens=50, **more)
        made.add_tokens(ids)
        made.add_documents(lengths, byte_lengths)
        maker = {"name": "t", "fingerprint": "f", "vocabulary_size": vocabulary, "end_of_text_id": END}
        made.finish(tokenizer=maker, source=[], dropped={})
        return open_bin(folder)

    return write


def documents_of(token_bin):
    return np.split(token_bin.read(0, token_bin.tokens), token_bin.document_ends.astype(int)[:-1])


def held_out_of(token_bin, length=16, rows=2, max_tokens=10**6, **more):
    return HeldOut(token_bin, length=length, rows=rows, max_tokens=max_tokens, **more)


def by_hand(model, token_bin, length, chosen=None):
    """Bits of each document and correct guesses: one window after the other through plain logits, in python."""
    chosen = range(token_bin.documents) if chosen is None else chosen
    stream, owners = [END], []
    for number, document in enumerate(documents_of(token_bin)):
        if number in chosen:
            stream += document.tolist()
            owners += [number] * len(document)
    bits, correct = dict.fromkeys(chosen, 0.0), 0
    for start in range(0, len(owners), length):
        window = torch.tensor(stream[start : start + length + 1])
        with torch.no_grad():
            logits = model(window[None, :-1]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits.double(), window[1:], reduction="none")
        for owner, loss in zip(owners[start:], losses.tolist(), strict=False):
            bits[owner] += loss / math.log(2)
        correct += int((logits.argmax(-1) == window[1:]).sum())
    return np.array(list(bits.values())), correct


@pytest.mark.parametrize("length, rows", [(16, 2), (7, 3), (200, 1)])
def test_every_token_is_a_target_once_behind_the_token_before_it(write_bin, length, rows):
    token_bin = write_bin()
    held_out = held_out_of(token_bin, length, rows)
    batches = [held_out.batch(number) for number in range(held_out.batches)]
    inputs, targets, documents = (np.concatenate([batch[part].ravel() for batch in batches]) for part in range(3))
    tokens = token_bin.read(0, ALL)
    assert targets[:ALL].tolist() == tokens.tolist() and (targets[ALL:] == IGNORED).all()
    assert inputs[:ALL].tolist() == [END, *tokens[:-1]]
    assert documents[:ALL].tolist() == np.repeat(np.arange(len(LENGTHS)), LENGTHS).tolist()
    assert all(batch.input_ids.shape == (rows, length) for batch in batches[:-1])
    assert len(targets) - ALL < length and batches[0].position_ids is None


@pytest.mark.parametrize("length, rows", [(16, 2), (64, 3)])
def test_scores_equal_plain_logits_document_by_document(tiny_model, write_bin, layout, length, rows):
    model, token_bin = tiny_model(layout, initializer_range=0.2, final_logit_softcapping=4.0), write_bin()
    score = evaluate(model, held_out_of(token_bin, length, rows), device=CPU)
    bits, correct = by_hand(model, token_bin, length)
    np.testing.assert_allclose(score.document_bits, bits, rtol=1e-6)
    assert score.accuracy == correct / ALL
    assert score.loss == pytest.approx(bits.sum() * math.log(2) / ALL, rel=1e-6)
    assert score.perplexity == pytest.approx(math.exp(score.loss))
    assert score.bits_per_byte == pytest.approx(bits.sum() / BYTES.sum(), rel=1e-6)
    assert (score.tokens, score.bytes, score.documents) == (ALL, BYTES.sum(), len(LENGTHS))
    assert np.array_equal(score.document_bytes, BYTES)


def test_accuracy_of_a_model_that_has_learnt(tiny_model, write_bin):
    """A fresh model hits next to nothing, and a count that is always 0 would pass."""
    model, token_bin = tiny_model("factorised-tied", initializer_range=0.1).train(), write_bin()
    held_out = held_out_of(token_bin)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for step in range(60):
        batch = held_out.batch(step % held_out.batches)
        optimizer.zero_grad()
        model(torch.from_numpy(batch.input_ids), shift_labels=torch.from_numpy(batch.targets)).loss.backward()
        optimizer.step()
    score = evaluate(model, held_out, device=CPU)
    assert model.training and 0.3 < score.accuracy < 1
    assert score.accuracy == by_hand(model.eval(), token_bin, 16)[1] / ALL


def test_documents_apart_equal_each_document_alone(tiny_model, write_bin):
    token_bin, changes = write_bin(), {"max_position_embeddings": 256}
    model = tiny_model("learned-positions", initializer_range=0.2, **changes)
    score = evaluate(model, held_out_of(token_bin, length=ALL, document_mask=True), device=CPU)
    alone = [by_hand(model, token_bin, ALL, [number])[0][0] for number in range(len(LENGTHS))]
    np.testing.assert_allclose(score.document_bits, alone, rtol=1e-5)
    together = evaluate(model, held_out_of(token_bin, length=ALL), device=CPU)
    assert np.abs(together.document_bits - alone).max() > 0.1


class TestChoice:
    def chosen(self, token_bin, max_tokens):
        """Numbers of the chosen documents, from what is read."""
        held_out = held_out_of(token_bin, length=1000, max_tokens=max_tokens)
        stream = held_out.batch(0).targets.ravel()[: held_out.tokens]
        parts = np.split(stream, np.flatnonzero(stream == END)[:-1] + 1)
        numbers = {document.tobytes(): number for number, document in enumerate(documents_of(token_bin))}
        return [numbers[part.astype("<u4").tobytes()] for part in parts]

    def test_whole_documents_within_the_limit_in_their_order(self, write_bin):
        lengths = np.random.default_rng(1).integers(5, 30, 40)
        token_bin = write_bin(lengths, lengths)
        for max_tokens in (60, 200, 500):
            chosen = self.chosen(token_bin, max_tokens)
            assert chosen == sorted(chosen) == self.chosen(token_bin, max_tokens)
            assert max_tokens - 30 < lengths[chosen].sum() <= max_tokens
            assert set(chosen) <= set(self.chosen(token_bin, 2 * max_tokens)), "more tokens add documents"
            assert chosen != list(range(len(chosen))), "not simply the first ones"
        assert self.chosen(token_bin, int(lengths.sum())) == list(range(40))

    def test_at_least_one(self, write_bin):
        assert len(self.chosen(write_bin(), 1)) == 1

    def test_more_documents_than_are_drawn_at_once(self, write_bin, monkeypatch):
        lengths = np.full(100, 4)
        token_bin = write_bin(lengths, lengths)
        at_once = held_out_of(token_bin, max_tokens=333).batch(0)
        monkeypatch.setattr("yxanul.evaluation.bits_per_byte.DRAWN_AT_ONCE", 7)
        by_sevens = held_out_of(token_bin, max_tokens=333)
        assert by_sevens.tokens == 332
        assert np.array_equal(by_sevens.batch(0).targets, at_once.targets)

    def test_scores_of_a_part_equal_plain_logits(self, tiny_model, write_bin):
        model, token_bin = tiny_model(initializer_range=0.2), write_bin()
        chosen = self.chosen(token_bin, 60)
        assert 1 < len(chosen) < len(LENGTHS)
        score = evaluate(model, held_out_of(token_bin, max_tokens=60), device=CPU)
        np.testing.assert_allclose(score.document_bits, by_hand(model, token_bin, 16, chosen)[0], rtol=1e-6)
        assert np.array_equal(score.document_bytes, BYTES[chosen])


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_any_number_of_processes_scores_alike(tiny_model, write_bin, processes):
    """One process after the other, their sums added; every one of them makes as many forward passes."""
    model, held_out = tiny_model(initializer_range=0.2), held_out_of(write_bin())
    assert held_out.batches == 5
    parts, passes = [], []
    model.register_forward_hook(lambda *_: passes.append(rank))
    for rank in range(processes):

        def keep(sums):
            parts.append(sums)
            return torch.cat([sums[:-1], torch.tensor([ALL]).double()])  # for the check that all tokens are there

        evaluate(model, held_out, device=CPU, rank=rank, processes=processes, reduce=keep)
    assert [passes.count(rank) for rank in range(processes)] == [-(-5 // processes)] * processes
    together = evaluate(model, held_out, device=CPU, rank=0, processes=processes, reduce=lambda _: sum(parts))
    one = evaluate(model, held_out, device=CPU)
    np.testing.assert_allclose(together.document_bits, one.document_bits, rtol=1e-12)
    assert together.accuracy == one.accuracy


def test_a_part_is_not_taken_for_the_whole(tiny_model, write_bin):
    with pytest.raises(AssertionError, match="tokens were evaluated, not 139"):
        evaluate(tiny_model(), held_out_of(write_bin()), device=CPU, rank=0, processes=2)


TWO_PROCESSES = """
import sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from yxanul import YxanulConfig, YxanulForCausalLM
from yxanul.data.bins import open_bin
from yxanul.evaluation.bits_per_byte import HeldOut, evaluate

rank, store, bin_folder, weights = int(sys.argv[1]), *sys.argv[2:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
model = YxanulForCausalLM.from_pretrained(weights)
held_out = HeldOut(open_bin(bin_folder), length=16, rows=2, max_tokens=10**6)

def total(sums):
    dist.all_reduce(sums)
    return sums

def show():
    score = evaluate(model, held_out, device=torch.device("cpu"), rank=rank, processes=2, reduce=total)
    print(score.bits_per_byte.hex(), score.accuracy.hex(), flush=True)

show()
for layer in model.model.layers:
    fully_shard(layer)
fully_shard(model)
show()
dist.destroy_process_group()
"""


def test_two_processes_score_as_one_whole_and_sharded(tiny_model, write_bin, tmp_path, said_by_two_ranks):
    """Five batches for two: a rank that skipped the odd one would leave FSDP2's gathering waiting."""
    model, token_bin = tiny_model("plain-untied", initializer_range=0.2), write_bin()
    model.save_pretrained(tmp_path / "weights")
    printed = said_by_two_ranks(TWO_PROCESSES, token_bin.folder, tmp_path / "weights")
    one = evaluate(model, held_out_of(token_bin), device=CPU)
    for line in printed.splitlines():
        bits_per_byte, accuracy = map(float.fromhex, line.split())
        assert bits_per_byte == pytest.approx(one.bits_per_byte, rel=1e-12) and accuracy == one.accuracy
    assert len(printed.splitlines()) == 2


@pytest.mark.parametrize("training", [True, False])
def test_neither_random_states_nor_the_training_flag_are_touched(tiny_model, write_bin, training):
    model = tiny_model(attention_dropout=0.5).train(training)
    held_out = held_out_of(write_bin())
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    score = evaluate(model, held_out, device=CPU)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1]) and random.getstate() == before[2]
    assert all(module.training == training for module in model.modules())
    assert np.array_equal(evaluate(model, held_out, device=CPU).document_bits, score.document_bits)
    model.forward = None
    with pytest.raises(TypeError):
        evaluate(model, held_out, device=CPU)
    assert model.training == training


@pytest.mark.parametrize("layout", ["plain-untied", "factorised-tied"])
def test_a_large_vocabulary_takes_the_memory_of_a_chunk(tiny_model, write_bin, layout):
    """256 rows x 200,005 in fp32 are 205 MB; the largest thing that evaluation allocates are a chunk's 64 rows."""
    lengths = np.array([100, 150])
    held_out = held_out_of(write_bin(lengths, lengths, vocabulary=200_005), length=64, rows=4)
    model = tiny_model(layout, vocab_size=200_005, num_hidden_layers=1)
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        score = evaluate(model, held_out, device=CPU)
    assert max(event.self_cpu_memory_usage for event in profiler.events()) == 64 * 200_005 * 4
    assert score.loss == pytest.approx(math.log(200_005), rel=0.01)


class TestRefusals:
    def test_a_packed_bin(self, write_bin):
        packed = write_bin(writer=PackedBinWriter, row_length=16, end_of_text_id=END)
        with pytest.raises(BadInput, match=r"bin-0 is packed, .*: name the held_out bin that `yxanul data prepare"):
            held_out_of(packed)

    @pytest.mark.parametrize("documents", [0, 3])
    def test_a_bin_without_text(self, write_bin, documents):
        empty = write_bin(np.ones(documents, int), np.zeros(documents, int))
        with pytest.raises(BadInput, match=f"bin-0 has no text to evaluate: the {documents} documents .* 0 bytes"):
            held_out_of(empty)


def test_a_model_that_diverged_scores_infinite_or_nan(tiny_model, write_bin):
    model, held_out = tiny_model(), held_out_of(write_bin())
    torch.nn.init.normal_(model.lm_head.weight, std=1e4)
    assert evaluate(model, held_out, device=CPU).perplexity == math.inf
    model.model.norm.weight.data[0] = math.nan
    assert math.isnan(evaluate(model, held_out, device=CPU).bits_per_byte)
