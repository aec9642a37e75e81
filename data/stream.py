"""The rows of any step, from a plan and its bins: a pure function of (plan, seed, step), however a run got there.

`Stream(plan, bins, seed).batch(step, first, last)` reads rows first..last-1 of the step's rows, `micro_batch_rows`
says which are a rank's. Numpy only: training makes tensors of them.
Not here: a random state (the shuffle is a stateless permutation of blocks), masks (loader.py makes them).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from yxanul.data.bins import BEGINS, LEARNT, TokenBin
from yxanul.data.plan import Plan, Position
from yxanul.data.shuffle import permute

IGNORED = -100
# Shorter blocks are gathered by one index array; longer ones are copied one by one, which is faster (docs/LOG.md)
SHORT_BLOCK = 1024
# Blocks are located this many at a time: the shuffle of a few takes longer than reading them (docs/LOG.md)
LOCATED_AT_ONCE = 4096


class Batch(NamedTuple):
    """All of shape (rows, length), the first two int64; the target of a position is the token behind it."""

    input_ids: np.ndarray
    targets: np.ndarray
    begins: np.ndarray  # bool: a document begins here, at the end-of-text token before it; a conversation with its own


def micro_batch_rows(rows: int, micro: int, rank: int, processes: int, accumulation: int) -> range:
    """Which of a step's rows are micro-batch `micro` of `rank`: together all of them, whatever the number of ranks."""
    count = rows // (processes * accumulation)
    first = (micro * processes + rank) * count
    return range(first, first + count)


def restarting_positions(input_ids: np.ndarray, end_of_text_id: int) -> np.ndarray:
    """Position ids for a document mask: a document begins at the end-of-text token before it, or with its row."""
    places = np.broadcast_to(np.arange(input_ids.shape[1]), input_ids.shape)
    starts = np.where(input_ids == end_of_text_id, places, 0)
    return places - np.maximum.accumulate(starts, axis=1)


class Stream:
    def __init__(self, plan: Plan, bins: Mapping[str, TokenBin], seed: int) -> None:
        """`bins` by the names of the plan's sources."""
        self.plan, self.bins, self.seed = plan, dict(bins), seed
        self._located: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def batch(self, step: int, first: int, last: int) -> Batch:
        position = self.plan.at(step)
        shape = (last - first, position.length)
        batch = Batch(np.empty(shape, np.int64), np.empty(shape, np.int64), np.empty(shape, bool))
        inputs, targets, begins = (values.reshape(-1) for values in batch)
        first_token = position.first_token + first * position.length
        if self.plan.block < SHORT_BLOCK and not self._is_packed(position):
            self._gather(position.stage_index, first_token, inputs, targets)
            begins[:] = inputs == self.end_of_text_id
            return batch
        for token_bin, begin, out in self._pieces(position.stage_index, first_token, len(inputs)):
            self._read(token_bin, begin, inputs[out], targets[out], begins[out])
        return batch

    def targets(self, step: int) -> int:
        """How many targets the whole step has: its tokens, but for padding and what conversations do not teach."""
        position = self.plan.at(step)
        length, count = position.length, position.rows * position.length
        if not self._is_packed(position):
            return count
        real = 0
        for token_bin, begin, out in self._pieces(position.stage_index, position.first_token, count):
            size = out.stop - out.start
            is_packed = token_bin.row_length is not None
            real += int(token_bin.row_lengths[begin // length :][: size // length].sum()) if is_packed else size
        return real

    def expected_targets(self) -> int:
        """Of the whole plan, by the share that counts of each bin."""
        total = 0.0
        for index, stage in enumerate(self.plan.stages):
            blocks = self.plan.blocks_of(index)
            for source in stage.sources:
                count, length, token_bin = blocks[source.name], source.row_length, self.bins[source.name]
                total += count * self.plan.block * (float(token_bin.row_lengths.mean()) / length if length else 1.0)
        return round(total)

    @property
    def end_of_text_id(self) -> int:
        return next(iter(self.bins.values())).end_of_text_id

    def _is_packed(self, position: Position) -> bool:
        return any(source.row_length for source in self.plan.stages[position.stage_index].sources)

    def _numbers(self, first_token: int, tokens: int) -> range:
        """The blocks of a stage's stream that hold these tokens."""
        return range(first_token // self.plan.block, (first_token + tokens - 1) // self.plan.block + 1)

    def _pieces(self, stage_index: int, first_token: int, tokens: int) -> Iterator[tuple[TokenBin, int, slice]]:
        """The stage's stream from `first_token` on, block by block: where a piece lies, and which tokens it is."""
        block, stage = self.plan.block, self.plan.stages[stage_index]
        numbers = self._numbers(first_token, tokens)
        sources, places = self._locate(stage_index, numbers)
        for number, source, place in zip(numbers, sources.tolist(), places.tolist(), strict=True):
            begin = max(first_token, number * block)
            end = min(first_token + tokens, (number + 1) * block)
            out = slice(begin - first_token, end - first_token)
            yield self.bins[stage.sources[source].name], begin + (place - number) * block, out

    def _locate(self, stage_index: int, numbers: range) -> tuple[np.ndarray, np.ndarray]:
        """For each block of the stage's stream: its source in the stage, and its place in that source's bin."""
        parts = []
        for chunk in range(numbers.start // LOCATED_AT_ONCE, (numbers.stop - 1) // LOCATED_AT_ONCE + 1):
            if (stage_index, chunk) not in self._located:
                if len(self._located) > 1:  # a batch may lie across two chunks; older ones do not come back
                    self._located.clear()
                begin = chunk * LOCATED_AT_ONCE
                blocks = np.arange(begin, begin + LOCATED_AT_ONCE)
                self._located[stage_index, chunk] = self._locate_afresh(stage_index, blocks)
            parts.append(self._located[stage_index, chunk])
        sources, places = (np.concatenate(column) for column in zip(*parts, strict=True))
        offset = numbers.start % LOCATED_AT_ONCE
        return sources[offset : offset + len(numbers)], places[offset : offset + len(numbers)]

    def _locate_afresh(self, stage_index: int, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        stage = self.plan.stages[stage_index]
        sources, drawn = self.plan.mixtures[stage_index].draw(numbers)
        places = np.empty_like(drawn)
        for index, source in enumerate(stage.sources):
            mine = np.flatnonzero(sources == index)
            count = source.blocks(self.plan.block)
            name_index = self.plan.source_names.index(source.name)
            epochs, within = np.divmod(drawn[mine] + self.plan.blocks_before[stage_index][source.name], count)
            for epoch in np.unique(epochs):
                here = epochs == epoch
                places[mine[here]] = permute(within[here], count, (self.seed, name_index, int(epoch)))
        return sources, places

    def _read(
        self, token_bin: TokenBin, begin: int, inputs: np.ndarray, targets: np.ndarray, begins: np.ndarray
    ) -> None:
        """A part of one block."""
        if token_bin.row_length is None:
            tokens = token_bin.read(begin, begin + len(inputs) + 1)
            inputs[:] = tokens[:-1]
            targets[:] = tokens[1:]
            begins[:] = inputs == token_bin.end_of_text_id
            return
        length = token_bin.row_length
        first_row, rows = begin // length, len(inputs) // length
        stored = token_bin.read(first_row * (length + 1), (first_row + rows) * (length + 1)).reshape(rows, length + 1)
        inputs.reshape(rows, length)[:] = stored[:, :-1]
        targets = targets.reshape(rows, length)
        targets[:] = stored[:, 1:]
        if token_bin.is_conversations:
            marks = token_bin.marks[first_row * (length + 1) : (first_row + rows) * (length + 1)]
            marks = marks.reshape(rows, length + 1)
            targets[marks[:, 1:] & LEARNT == 0] = IGNORED
            begins.reshape(rows, length)[:] = marks[:, :-1] & BEGINS
            return
        begins[:] = inputs == token_bin.end_of_text_id
        real = token_bin.row_lengths[first_row : first_row + rows]
        targets[np.arange(length) >= real[:, None]] = IGNORED

    def _gather(self, stage_index: int, first_token: int, inputs: np.ndarray, targets: np.ndarray) -> None:
        """Many short blocks by index arrays; of the first and the last, what is not asked for is cut off."""
        block = self.plan.block
        sources, places = self._locate(stage_index, self._numbers(first_token, len(inputs)))
        tokens = np.empty((len(places), block + 1), np.int64)
        for index, source in enumerate(self.plan.stages[stage_index].sources):
            mine = np.flatnonzero(sources == index)
            tokens[mine] = self.bins[source.name].gather(places[mine] * block, block + 1)
        wanted = slice(first_token % block, first_token % block + len(inputs))
        inputs[:] = tokens[:, :-1].reshape(-1)[wanted]
        targets[:] = tokens[:, 1:].reshape(-1)[wanted]
