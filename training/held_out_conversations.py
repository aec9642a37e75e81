"""Held-out conversations as an evaluation reads them: answers are scored, in bits per byte of the answers' text.

The same interface as evaluation/bits_per_byte.py's `HeldOut`, over a packed bin (data/conversation_bins.py): rows in
their order, until `max_tokens` are read. Not here: the scoring itself.
"""

from typing import Any

import numpy as np

from yxanul.data.bins import BEGINS, LEARNT, TokenBin
from yxanul.data.stream import IGNORED
from yxanul.evaluation.bits_per_byte import HeldOutBatch


class HeldOutConversations:
    def __init__(self, token_bin: TokenBin, *, rows: int, max_tokens: int, **of_text: Any) -> None:
        """`rows` of the bin make a batch. What text needs besides, a length and a mask, the bin itself decides."""
        assert token_bin.row_length is not None
        self._bin, self._rows, width = token_bin, rows, token_bin.row_length + 1
        taken = min(token_bin.rows, max(1, max_tokens // width))
        self._ids = token_bin.read(0, taken * width).reshape(taken, width).astype(np.int64)
        self._marks = token_bin.marks[: taken * width].reshape(taken, width)
        self._ends = token_bin.document_ends
        self.documents = int(np.searchsorted(self._ends, taken * width, "right"))
        self.document_bytes = token_bin.document_bytes[: self.documents].astype(np.int64)
        self.tokens = int((self._marks & LEARNT).sum())
        self.batches = -(-taken // rows)

    def batch(self, number: int) -> HeldOutBatch:
        own = slice(number * self._rows, (number + 1) * self._rows)
        ids, marks = self._ids[own], self._marks[own]
        places = np.broadcast_to(np.arange(ids.shape[1] - 1), (len(ids), ids.shape[1] - 1))
        starts = np.where(marks[:, :-1] & BEGINS, places, 0)
        stored = own.start * ids.shape[1] + np.arange(ids.size).reshape(ids.shape)[:, 1:]
        documents = np.minimum(np.searchsorted(self._ends, stored, "right"), self.documents - 1)
        targets = np.where(marks[:, 1:] & LEARNT, ids[:, 1:], IGNORED)
        return HeldOutBatch(ids[:, :-1], targets, documents, places - np.maximum.accumulate(starts, axis=1))

    def ids(self) -> list[int]:
        """What is scored."""
        return self._ids[(self._marks & LEARNT).astype(bool)].tolist()

    def opening(self, tokens: int) -> list[int]:
        """The first conversation up to its first answer, whole whatever `tokens` says."""
        return self._ids[0, : int(np.argmax(self._marks[0] & LEARNT))].tolist()
