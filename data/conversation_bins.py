"""Bins of conversations: several whole ones in a row, and for every token whether it is learnt and begins one.

A packed bin (bins.py) with one file more, marks.idx: a byte for each stored id, LEARNT or BEGINS or both. A row is
length + 1 ids with nothing before its first conversation; rows.idx counts the targets that are learnt, so that plan,
stream and trainer take it as any other bin. documents.idx: where conversations end; bytes.idx: of their answers.
A conversation ends with its last answer; one that is longer than a row is cut, and counted.
Not here: reading conversations (conversations.py), parts, duplicates and kills (prepare.py).
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.data.bin_writer import PackedBinWriter
from yxanul.data.bins import BEGINS, BYTES, DOCUMENTS, LEARNT, MARKS, ROWS, dtype_for
from yxanul.data.chat_templates import ChatTokenizer, Messages
from yxanul.data.packing import pack
from yxanul.data.part_files import Job, Prepared, Preparer, Task

ANSWERS, EVERYTHING = LEARN = ("answers", "everything")
CUT, BEYOND = "conversations cut at the row's length, and kept", "no answer within the row's length"
SPECIAL = "special token in a message"
FLAG = np.uint32(1 << 31)  # of a learnt id in a part's file; a vocabulary of 2^31 ids would not fit a bin either


@dataclass(frozen=True)
class ConversationJob(Job):
    row_length: int
    learn: str

    @property
    def dtype(self) -> np.dtype:
        return np.dtype("<u4")

    def preparer(self) -> Preparer:
        return ConversationPreparer(self)

    def writer(self, folder: Path, row_length: int | None, shard_tokens: int) -> PackedBinWriter:
        """What is held out is packed too."""
        dtype = dtype_for(self.tokenizer.vocabulary_size)
        return ConversationWriter(folder, dtype, shard_tokens, self.row_length, self.tokenizer.end_of_text_id)

    def facts(self) -> dict[str, Any]:
        assert isinstance(self.tokenizer, ChatTokenizer)
        return {"learn": self.learn, "chat_template": self.tokenizer.template_digest}


class ConversationPreparer(Preparer):
    _job: ConversationJob
    _tokenizer: ChatTokenizer
    _ends_documents = False  # the template does

    def _text_documents(self, task: Task, counts: Counter[str]) -> Iterator[Prepared]:
        for text, held_out in self._kept(task.part.documents(counts), counts):
            messages: Messages = json.loads(text)
            if any(token in message["content"] for token in self._tokenizer.reserved for message in messages):
                counts[SPECIAL] += 1
                continue
            whole, all_learnt = self._encoded(messages)
            ids, learnt = (values[: self._job.row_length + 1] for values in (whole, all_learnt))
            if not learnt[1:].any():
                counts[BEYOND] += 1
                continue
            counts[CUT] += len(ids) < len(whole)
            roles = ("assistant",) if self._job.learn == ANSWERS else ("assistant", "user", "system")
            size = sum(len(message["content"].encode()) for message in messages if message["role"] in roles)
            size = round(size * learnt.sum() / all_learnt.sum())  # of one that is cut, its share
            yield Prepared(text, held_out, np.where(learnt, ids | FLAG, ids), size)

    def _encoded(self, messages: Messages) -> tuple[np.ndarray, np.ndarray]:
        ids, answers = (np.array(values) for values in self._tokenizer.encode_conversation(messages))
        end = int(np.flatnonzero(answers)[-1]) + 1  # nothing behind the last answer helps or is learnt
        learnt = answers if self._job.learn == ANSWERS else np.ones_like(answers)
        return ids[:end].astype(np.uint32), learnt[:end]


class ConversationWriter(PackedBinWriter):
    index_names = (DOCUMENTS, BYTES, ROWS, MARKS)

    def finish(self, **facts: Any) -> dict[str, Any]:
        if self._waiting:
            self._pack()
        return super().finish(learnt=self._learnt, **facts)

    _learnt = 0

    def _pack(self) -> None:
        lengths, byte_lengths, documents = self._take_waiting()
        width = self._row_length + 1
        pieces = pack(lengths, width)  # each is whole
        rows = int(pieces.row.max()) + 1
        stored = np.full(rows * width, self._end_of_text_id, self._dtype)
        marks = np.zeros(rows * width, np.uint8)
        begins = pieces.row * width + pieces.place
        for document, begin in zip(pieces.document.tolist(), begins.tolist(), strict=True):
            flagged = documents[document]
            own = slice(begin, begin + len(flagged))
            stored[own] = flagged & ~FLAG
            marks[own] = np.where(flagged & FLAG, LEARNT, 0)
            marks[begin] = BEGINS  # its first id has nothing before it that could predict it
        learnt = (marks.reshape(rows, width) & LEARNT).astype(bool).sum(1)
        stored_before = self._stored
        self._store(stored.reshape(rows, width), learnt)
        self._learnt += int(learnt.sum())
        self._index(MARKS, marks)
        self._index(DOCUMENTS, stored_before + begins + pieces.length)
        self._index(BYTES, byte_lengths[pieces.document])
