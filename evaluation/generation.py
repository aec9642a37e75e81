"""Greedy generation in batches, as lm-eval does it: padded on the left, ended by stop strings, cut at each in turn.

    writer = Writer(subject, [Prompt("Question: 1+1?\nAnswer:", ("\n", "."), 256)])
    for batch in writer.batches: writer.run(batch)      # (number of the prompt, text)

A prompt loses its beginning until `tokens` more fit into the model; the longest prompts come first. A row that is done
leaves, and a prompt that waits takes its place, where the model's cache is one of keys and values alone; else a batch
goes on until its last row is done. Not used: generate_batch of `transformers`, which knows no stop strings.
Not here: sampling, chat.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import DynamicLayer

from yxanul.bad_input import BadInput
from yxanul.evaluation.text_model import TextModel, evaluating

ROWS = {"cpu": 16}
ROWS_ELSEWHERE = 128
WAITING = 2  # times as many prompts are a batch, in which a row that is done is followed by another
DONE = 0.25  # of the rows, and they are


class Prompt(NamedTuple):
    text: str
    stops: tuple[str, ...]
    tokens: int


def ends_of(subject: TextModel) -> set[int]:
    """The tokenizer's end of text, and those of the model: some end a turn by one and a text by another."""
    ends = subject.model.generation_config.eos_token_id
    return {subject.end_id, *(ends if isinstance(ends, list) else [] if ends is None else [ends])}


class Writer:
    """As scoring.Scorer: `batches` in a fixed order, `run` makes the texts of one of them.

    `ended` are the numbers of those that an end-of-text token ended. `refills`: waiting prompts take the places of
    rows that are done.
    """

    def __init__(
        self, subject: TextModel, prompts: Sequence[Prompt], *, rows: int | None = None, refills: bool = True
    ) -> None:
        self.subject, self.prompts = subject, prompts
        self._ids = [subject.encode(prompt.text) or [subject.prefix_id] for prompt in prompts]
        self.cut: set[int] = set()
        self.ended: set[int] = set()
        self._merges = refills  # caches, until one of another kind is met
        for number, prompt in enumerate(prompts):
            room = subject.longest - prompt.tokens
            if room < 1:
                raise BadInput(f"the model takes {subject.longest} tokens, and {prompt.tokens} are to be generated.")
            if len(self._ids[number]) > room:
                self.cut.add(number)
                self._ids[number] = self._ids[number][-room:]
        order = sorted(range(len(prompts)), key=lambda number: (-len(self._ids[number]), prompts[number].text))
        alike: dict[tuple, list[int]] = {}
        for number in order:
            alike.setdefault(prompts[number][1:], []).append(number)
        self._rows = rows or ROWS.get(subject.device.type, ROWS_ELSEWHERE)
        size = WAITING * self._rows
        self.batches = [own[start : start + size] for own in alike.values() for start in range(0, len(own), size)]

    def run(self, numbers: list[int]) -> list[tuple[int, str]]:
        """Halves a batch that does not fit into memory."""
        try:
            with evaluating(self.subject.model):
                return self._run(numbers)
        except torch.OutOfMemoryError:
            if len(numbers) == 1:
                raise
        torch.cuda.empty_cache()
        middle = len(numbers) // 2
        return [found for half in (numbers[:middle], numbers[middle:]) for found in self.run(half)]

    def _run(self, numbers: list[int]) -> list[tuple[int, str]]:
        prompt, waiting, ends = self.prompts[numbers[0]], list(numbers), ends_of(self.subject)
        found: list[tuple[int, str]] = []
        ended: set[int] = set()
        going: _Rows | None = None
        while waiting or going:
            room = self._rows - (len(going.numbers) if going else 0)
            if waiting and room:
                new, waiting = self._padded(waiting[:room]), waiting[room:]
                self._advance(new, prompt, first=self._merges)
                if going:
                    going.join(new)
                else:
                    going = new
            elif going:
                self._advance(going, prompt)
            assert going is not None
            for number, ids in going.take():
                found.append((number, self._text(ids, prompt)))
                if ids[-1] in ends:
                    ended.add(number)
            going = going if going.numbers else None
        self.ended |= ended  # now, for a batch that does not fit into memory is done again
        return found

    def _padded(self, numbers: list[int]) -> "_Rows":
        width = max(len(self._ids[number]) for number in numbers)
        ids = torch.full((len(numbers), width), self.subject.end_id)
        mask = torch.zeros_like(ids)
        for row, number in enumerate(numbers):
            ids[row, width - len(self._ids[number]) :] = torch.tensor(self._ids[number])
            mask[row, width - len(self._ids[number]) :] = 1
        ids, mask = ids.to(self.subject.device), mask.to(self.subject.device)
        begins = torch.full_like(ids[:, 0], width)
        return _Rows(numbers, ids, mask, begins, torch.zeros_like(begins))

    def _advance(self, rows: "_Rows", prompt: Prompt, first: bool = False) -> None:
        """Until some rows are done; `first`: by one token, which tells what the cache is."""
        width, keeps = rows.ids.shape[1], first or rows.cache is not None
        rest = prompt.tokens - (width - int(rows.begins.max()))
        watch = _Watch(self.subject, prompt, rows.begins, DONE if keeps else 1.0)
        model: Any = self.subject.model
        made: Any = model.generate(
            input_ids=rows.ids,
            attention_mask=rows.mask,
            max_length=width + (1 if first else rest),
            do_sample=False,
            use_cache=True,
            pad_token_id=self.subject.end_id,
            stopping_criteria=StoppingCriteriaList([watch]),
            return_dict_in_generate=True,
            **({"past_key_values": rows.cache} if rows.cache is not None else {}),
        )
        layers: Any = getattr(made.past_key_values, "layers", ())
        plain = all(type(layer) is DynamicLayer and layer.is_initialized for layer in layers)
        if first and not (layers and plain and all(len(layer.keys) == len(rows.ids) for layer in layers)):
            self._merges = False
            return self._advance(rows, prompt)
        rows.mask = torch.cat([rows.mask, rows.mask.new_ones(len(rows.ids), made.sequences.shape[1] - width)], 1)
        rows.ids, rows.done, rows.cache = made.sequences, watch.done, made.past_key_values if keeps else None

    def _text(self, ids: list[int], prompt: Prompt) -> str:
        end = self.subject.end_id
        text = self.subject.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids, skip_special_tokens=True)
        for stop in (*prompt.stops, self.subject.tokenizer.decode(end)):
            text = text.split(stop)[0]
        return text


@dataclass
class _Rows:
    """What is being written, padded on the left."""

    numbers: list[int]
    ids: Any
    mask: Any
    begins: Tensor  # columns
    done: Tensor  # behind so many new tokens; 0: not yet
    cache: Any = None  # of all columns but the last

    def pad(self, columns: int) -> None:
        """To the left of all, or off there, if negative."""
        self.ids, self.mask = (pad(values, (columns, 0)) for values in (self.ids, self.mask))
        self.begins = self.begins + columns
        for layer in self.cache.layers:
            layer.keys, layer.values = (pad(values, (0, 0, columns, 0)) for values in (layer.keys, layer.values))

    def join(self, other: "_Rows") -> None:
        width = max(self.ids.shape[1], other.ids.shape[1])
        for rows in (self, other):
            rows.pad(width - rows.ids.shape[1])
        self.numbers = self.numbers + other.numbers
        for name in ("ids", "mask", "begins", "done"):
            setattr(self, name, torch.cat([getattr(self, name), getattr(other, name)]))
        for mine, new in zip(self.cache.layers, other.cache.layers, strict=True):
            mine.keys, mine.values = torch.cat([mine.keys, new.keys]), torch.cat([mine.values, new.values])

    def take(self) -> list[tuple[int, list[int]]]:
        """The rows that are done, which are no more here."""
        gone, left = self.done.nonzero()[:, 0].tolist(), (self.done == 0).nonzero()[:, 0]
        begins, counts = self.begins.tolist(), self.done.tolist()
        own = {row: self.ids[row, begins[row] : begins[row] + counts[row]] for row in gone}  # `generate` pads the rest
        taken = [(self.numbers[row], ids.tolist()) for row, ids in own.items()]
        self.numbers = [self.numbers[row] for row in left.tolist()]
        if self.numbers and gone:
            for name in ("ids", "mask", "begins", "done"):
                setattr(self, name, getattr(self, name)[left])
            self.cache.batch_select_indices(left)
            self.pad(-int(self.mask.argmax(1).min()))
        return taken


class _Watch(StoppingCriteria):
    """Which rows are done; the others go on, until a share of all is. A stop is looked for in the last tokens that can
    hold it."""

    def __init__(self, subject: TextModel, prompt: Prompt, begins: Tensor, share: float) -> None:
        self._tokenizer, self._prompt, self._begins, self._share = subject.tokenizer, prompt, begins, share
        self._tail = 1 + max((len(stop.encode()) for stop in prompt.stops), default=0)
        self._ends = torch.tensor(sorted(ends_of(subject)), device=begins.device)
        self.done = torch.zeros_like(begins)  # behind so many new tokens

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Tensor:
        written = input_ids.shape[1] - self._begins
        tails = zip(input_ids[:, -self._tail :].tolist(), written.tolist(), strict=True)
        texts = self._tokenizer.batch_decode([ids[-min(count, self._tail) :] for ids, count in tails])
        stopped = [any(stop in text for stop in self._prompt.stops) for text in texts]
        now = torch.tensor(stopped, device=input_ids.device) | torch.isin(input_ids[:, -1], self._ends)
        now |= written >= self._prompt.tokens
        self.done = torch.where(now & (self.done == 0), written, self.done)
        done = self.done > 0
        return done | (done.float().mean() >= self._share)
