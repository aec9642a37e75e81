"""How well a model predicts held-out text, in bits per byte: a figure that compares across vocabularies.

    held_out = HeldOut(open_bin("bins/books/held_out"), length=1024, rows=8, max_tokens=1_000_000)
    score = evaluate(model, held_out, device=device)
    score.bits_per_byte, score.loss, score.perplexity, score.accuracy

Every token of the chosen documents is a target exactly once, a document's end included; padding never counts. Which
rows are computed together does not depend on the number of processes, and so the figures do not either.
Not here: generation, tasks, a verdict on two scores. The model computes in the precision that its caller set up.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from yxanul.bad_input import BadInput
from yxanul.data.bins import TokenBin
from yxanul.data.shuffle import permute
from yxanul.data.stream import IGNORED, restarting_positions
from yxanul.evaluation.text_model import evaluating

# No seed of a run goes into the choice: all runs and all checkpoints answer for the same documents
ORDER = (0,)
DRAWN_AT_ONCE = 4096


class HeldOutBatch(NamedTuple):
    """All int64 and of shape (rows, length)."""

    input_ids: np.ndarray
    targets: np.ndarray
    documents: np.ndarray  # whose token a target is, counted among the chosen ones; any where the target is ignored
    position_ids: np.ndarray | None  # with a document mask


class HeldOut:
    """Whole documents of a bin, laid end to end behind one end-of-text token and cut in windows of one length."""

    def __init__(
        self, token_bin: TokenBin, *, length: int, rows: int, max_tokens: int, document_mask: bool = False
    ) -> None:
        """Takes as many documents as `max_tokens` holds, and at least one; `rows` windows make a batch."""
        if token_bin.row_length is not None:
            raise BadInput(
                f"{token_bin.folder} is packed, and only a bin that is not packed can be evaluated: name the held_out "
                "bin that `yxanul data prepare --held-out` makes."
            )
        self._bin, self._length, self._rows, self._document_mask = token_bin, length, rows, document_mask
        chosen = _choose(token_bin, max_tokens)
        self.document_bytes = token_bin.document_bytes[chosen].astype(np.int64)
        if not self.document_bytes.sum():
            raise BadInput(
                f"{token_bin.folder} has no text to evaluate: the {len(chosen):,} documents that were chosen from it "
                "have 0 bytes; name a held-out bin with text."
            )
        begins, lengths = _places(token_bin, chosen)
        self._ends = np.cumsum(lengths)
        self._shifts = begins - (self._ends - lengths)  # from a place among the chosen tokens to one in the bin
        self.documents = len(chosen)
        self.tokens = int(self._ends[-1])
        self.batches = -(-self.tokens // (length * rows))

    def batch(self, number: int) -> HeldOutBatch:
        """The last one has fewer rows if fewer are left, and padding behind its last token."""
        length = self._length
        first = number * self._rows * length
        last = min(first + self._rows * length, self.tokens)
        shape = (-(-(last - first) // length), length)
        places = first + np.arange(shape[0] * length)  # of the targets, among the chosen tokens
        tokens = np.full(len(places) + 1, self._bin.end_of_text_id, np.int64)
        tokens[int(first == 0) : last - first + 1] = self._read(max(first - 1, 0), last)
        inputs = tokens[:-1].reshape(shape)
        targets = np.where(places < last, tokens[1:], IGNORED).reshape(shape)
        documents = np.searchsorted(self._ends, np.minimum(places, last - 1), "right").reshape(shape)
        positions = restarting_positions(inputs, self._bin.end_of_text_id) if self._document_mask else None
        return HeldOutBatch(inputs, targets, documents, positions)

    def ids(self) -> list[int]:
        """All of the chosen documents."""
        return self._read(0, self.tokens).tolist()

    def opening(self, tokens: int) -> list[int]:
        """Of the first document, behind an end-of-text token."""
        return [self._bin.end_of_text_id, *self._read(0, min(tokens, int(self._ends[0]))).tolist()]

    def _read(self, first: int, last: int) -> np.ndarray:
        """Tokens first .. last - 1 of the chosen documents, from the disk."""
        pieces, document = [], int(np.searchsorted(self._ends, first, "right"))
        while first < last:
            stop = min(last, int(self._ends[document]))
            shift = int(self._shifts[document])
            pieces.append(self._bin.read(first + shift, stop + shift))
            first, document = stop, document + 1
        return np.concatenate(pieces)


def _choose(token_bin: TokenBin, max_tokens: int) -> np.ndarray:
    """Numbers of documents, ascending: those that come first in a fixed random order, up to one that does not fit."""
    chosen: list[np.ndarray] = []
    left = max_tokens
    for start in range(0, token_bin.documents, DRAWN_AT_ONCE):
        drawn = np.arange(start, min(start + DRAWN_AT_ONCE, token_bin.documents))
        drawn = permute(drawn, token_bin.documents, ORDER)
        together = np.cumsum(_places(token_bin, drawn)[1])
        fitting = int(np.searchsorted(together, left, "right"))
        chosen.append(drawn[: max(fitting, int(start == 0))])
        if fitting < len(drawn):
            break
        left -= int(together[-1])
    return np.sort(np.concatenate([np.empty(0, np.int64), *chosen]))


def _places(token_bin: TokenBin, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each document begins in the bin, and how many tokens it has."""
    ends = token_bin.document_ends[documents].astype(np.int64)
    begins = np.where(documents > 0, token_bin.document_ends[documents - 1].astype(np.int64), 0)
    return begins, ends - begins


@dataclass(frozen=True, eq=False)
class DomainScore:
    """The sums of an evaluation, document by document in the order of the bin, and the figures that they make."""

    tokens: int
    accuracy: float  # share of the tokens that a greedy guess hits
    document_bits: np.ndarray
    document_bytes: np.ndarray  # of the text in UTF-8; a document without text has 0

    @property
    def documents(self) -> int:
        return len(self.document_bits)

    @property
    def bytes(self) -> int:
        return int(self.document_bytes.sum())

    @property
    def bits_per_byte(self) -> float:
        return float(self.document_bits.sum()) / self.bytes

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.document_bits.sum()) * math.log(2) / self.tokens

    @property
    def perplexity(self) -> float:
        """Per token; infinite where it is too large for a number."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.loss))


def _unchanged(sums: Tensor) -> Tensor:
    return sums


def evaluate(
    model: nn.Module,
    held_out: HeldOut,
    *,
    device: torch.device,
    rank: int = 0,
    processes: int = 1,
    reduce: Callable[[Tensor], Tensor] = _unchanged,
) -> DomainScore:
    """Process `rank` computes every `processes`-th batch; `reduce`, called once, sums a tensor over the processes."""
    with evaluating(model):
        sums = reduce(_sums(model, held_out, device, rank, processes)).cpu().numpy()
    correct, tokens = sums[-2:]
    assert tokens == held_out.tokens, f"{tokens:,.0f} tokens were evaluated, not {held_out.tokens:,}"
    return DomainScore(held_out.tokens, float(correct / tokens), sums[:-2] / math.log(2), held_out.document_bytes)


def _sums(model: nn.Module, held_out: HeldOut, device: torch.device, rank: int, processes: int) -> Tensor:
    """This process's part of every document's loss in nats, of the correct guesses and of the tokens."""
    home = torch.device("cpu") if device.type == "mps" else device  # Metal has no float64
    sums = torch.zeros(held_out.documents + 2, dtype=torch.float64, device=home)
    for turn in range(-(-held_out.batches // processes)):
        number = turn * processes + rank
        mine = number < held_out.batches  # else it computes along, for the collectives of a sharded model
        batch = held_out.batch(number if mine else 0)
        input_ids, targets, documents = (_moved(values, device) for values in batch[:3])
        outputs = model(
            input_ids=input_ids,
            position_ids=None if batch.position_ids is None else _moved(batch.position_ids, device),
            shift_labels=targets,
            use_cache=False,
            return_logits=False,
            return_correct=True,
        )
        if mine:
            losses = outputs.token_losses.to(home).double()
            sums[:-2].index_add_(0, documents.to(home).reshape(-1), losses.reshape(-1))
            sums[-2] += outputs.token_correct.sum().to(home)
            sums[-1] += (targets != IGNORED).sum().to(home)
    return sums


def _moved(values: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(values)
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # else each copy would wait for the device
    return tensor.to(device, non_blocking=True)
