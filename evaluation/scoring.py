"""How likely continuations are behind their contexts: sums of log-probabilities, and whether greedy would say them.

    pairs = [subject.pair("Question: 1+1?\nAnswer:", " 2"), subject.pair("Question: 1+1?\nAnswer:", " 3")]
    for score in log_likelihoods(subject, pairs): score.nats, score.is_greedy

A row holds a context and all of its continuations, told apart by a tree mask and restarting positions; what contexts
begin with in common goes through the model once, into a cache; the head computes scored positions only. What a model
cannot take so (seen on a probe, or by its kind of attention) is scored with one continuation in each row. Batches
depend on nothing but the pairs, not on the number of processes. Too long an input loses its beginning, as in lm-eval;
a continuation that alone is too long is scored in windows; one of no tokens is certain. Not here: whole benchmarks
(runner.py).
"""

import copy
import inspect
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from yxanul.evaluation.text_model import TextModel, evaluating

IGNORED = -100
TOKENS_IN_BATCH = {"cpu": 256}  # a CPU is busy with one row; more only pads
TOKENS_IN_BATCH_ELSEWHERE = 32_768
LOGIT_BYTES = {"cpu": 128 * 2**20}
LOGIT_BYTES_ELSEWHERE = 4 * 2**30
CHUNK_BYTES = {"cpu": 4 * 2**20}
CHUNK_BYTES_ELSEWHERE = 512 * 2**20
SHARED_PREFIX = 48  # tokens that contexts must have in common to go through a cache,
FEWEST_SHARING = 4  # and how many of them

Ids = tuple[int, ...]
Pair = tuple[Sequence[int], Sequence[int]]


class Score(NamedTuple):
    nats: float
    is_greedy: bool

    def __add__(self, other: "Score") -> "Score":  # type: ignore[override]
        return Score(self.nats + other.nats, self.is_greedy and other.is_greedy)


NOTHING = Score(0.0, True)  # of no tokens


@dataclass
class Row:
    """The last token of the context stands before each continuation, so every position has one target at most."""

    context: Ids
    continuations: list[Ids] = field(default_factory=list)
    pairs: list[int] = field(default_factory=list)

    def length(self, prefix: int) -> int:
        return len(self.context) - 1 - prefix + self.scored

    @property
    def scored(self) -> int:
        return sum(map(len, self.continuations))


@dataclass(frozen=True)
class Batch:
    rows: tuple[Row, ...]
    prefix: Ids = ()

    @property
    def length(self) -> int:
        return max(row.length(len(self.prefix)) for row in self.rows)


class Scorer:
    """`batches` in a fixed order; `run` scores one of them."""

    def __init__(
        self, subject: TextModel, pairs: Sequence[Pair], *, rows: int | None = None, prefixes: bool = True
    ) -> None:
        self.subject = subject
        self.cut: set[int] = set()  # pairs that lost the beginning of their context
        self._too_large: int | None = None  # tokens of a batch that met the end of the memory
        self._cache: tuple[Ids, Any] = (), None
        if subject.shares_rows is None:
            subject.shares_rows = shares_rows(subject)
        self._shares = subject.shares_rows
        self.batches = list(self._cut_batches(self._rows(pairs), rows, prefixes and self._shares))

    def _rows(self, pairs: Sequence[Pair]) -> list[Row]:
        rows: list[Row] = []
        latest: dict[Ids, Row] = {}
        for index, (context, continuation) in enumerate(pairs):
            assert context, f"pair {index} has nothing to score it behind"
            longest = self.subject.longest
            if len(continuation) <= longest < len(context) + len(continuation) - 1:
                self.cut.add(index)
            for before, after in _windows(tuple(context), tuple(continuation), longest):
                row = latest.get(before) if self._shares and len(before) > 1 else None
                if row is None or row.length(0) + len(after) > longest:  # attention grows with the square of a row
                    row = latest[before] = Row(before)
                    rows.append(row)
                row.continuations.append(after)
                row.pairs.append(index)
        return rows

    def _cut_batches(self, rows: list[Row], fixed: int | None, prefixes: bool) -> Iterator[Batch]:
        """Longest first; rows without a common beginning first."""
        device = self.subject.device.type
        most_tokens = TOKENS_IN_BATCH.get(device, TOKENS_IN_BATCH_ELSEWHERE)
        vocabulary = self.subject.model.config.get_text_config().vocab_size
        most_scored = LOGIT_BYTES.get(device, LOGIT_BYTES_ELSEWHERE) // (4 * vocabulary)
        for prefix, members in _by_prefix(rows) if prefixes else [((), rows)]:
            members.sort(key=lambda row: (-row.length(len(prefix)), row.context, row.pairs))
            begin = 0
            for end in range(1, len(members) + 1):
                together = members[begin : end + 1]
                tokens = together[0].length(len(prefix)) * len(together)
                full = tokens > most_tokens or sum(row.scored for row in together) > most_scored
                if end == len(members) or (len(together) > fixed if fixed else full):
                    yield Batch(tuple(members[begin:end]), prefix)
                    begin = end

    def run(self, batch: Batch) -> list[tuple[int, Score]]:
        """(pair, score) of each row's continuations. Halves what does not fit into memory."""
        tokens = batch.length * len(batch.rows)
        if len(batch.rows) > 1 and self._too_large is not None and tokens >= self._too_large:
            middle = len(batch.rows) // 2
            halves = Batch(batch.rows[:middle], batch.prefix), Batch(batch.rows[middle:], batch.prefix)
            return [found for half in halves for found in self.run(half)]
        try:
            with evaluating(self.subject.model):
                return _score(self.subject, batch, self._cached(batch.prefix, len(batch.rows)))
        except torch.OutOfMemoryError:
            if len(batch.rows) == 1:
                raise
            self._too_large = tokens
        torch.cuda.empty_cache()
        return self.run(batch)

    def _cached(self, prefix: Ids, rows: int) -> Any:
        if not prefix:
            return None
        if self._cache[0] != prefix:
            self._cache = prefix, _keys_of(self.subject, prefix)
        cache = copy.deepcopy(self._cache[1])  # the rows' own keys are appended
        cache.batch_repeat_interleave(rows)
        return cache


def log_likelihoods(subject: TextModel, pairs: Sequence[Pair], **how: Any) -> list[Score]:
    scorer = Scorer(subject, pairs, **how)
    return total(len(pairs), (found for batch in scorer.batches for found in scorer.run(batch)))


def total(count: int, found: Any) -> list[Score]:
    scores = [NOTHING] * count
    for pair, score in found:
        scores[pair] = scores[pair] + score
    return scores


def _takes(model: Any, *names: str) -> bool:
    return set(names) <= set(inspect.signature(model.forward).parameters)


def _keys_of(subject: TextModel, ids: Ids) -> Any:
    inputs = {"input_ids": torch.tensor([ids], device=subject.device), "use_cache": True}
    kept = {"logits_to_keep": 1} if _takes(subject.model, "logits_to_keep") else {}
    return subject.model(**inputs, **kept).past_key_values


def _score(subject: TextModel, batch: Batch, cache: Any = None) -> list[tuple[int, Score]]:
    inputs, targets = _layout(batch, subject)
    nats, correct = _token_scores(subject, inputs | ({"past_key_values": cache} if batch.prefix else {}), targets)
    found, at = [], 0
    for row in batch.rows:  # the figures are of the scored positions alone, row by row
        for pair, continuation in zip(row.pairs, row.continuations, strict=True):
            part = slice(at, at + len(continuation))
            found.append((pair, Score(float(nats[part].sum()), bool(correct[part].all()))))
            at = part.stop
    return found


def _windows(context: Ids, continuation: Ids, longest: int) -> Iterator[tuple[Ids, Ids]]:
    """The pair, its context cut from the left to what fits; or disjoint windows, each as long as the model takes."""
    if not continuation:
        return
    if len(continuation) <= longest:
        yield context[-(longest + 1 - len(continuation)) :], continuation
        return
    ids = context[-1:] + continuation
    for start in range(0, len(continuation), longest):
        stop = min(start + longest, len(continuation))
        yield ids[max(0, stop - longest) : start + 1], continuation[start:stop]


def _by_prefix(rows: list[Row]) -> list[tuple[Ids, list[Row]]]:
    """Rows whose contexts begin with the same tokens, enough of both for a cache; first all others."""
    groups: dict[Ids, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.context[:SHARED_PREFIX]].append(row)
    alone: list[Row] = []
    sharing: list[tuple[Ids, list[Row]]] = []
    for members in groups.values():
        prefix = tuple(os.path.commonprefix([row.context[:-1] for row in members]))
        if len(members) >= FEWEST_SHARING and len(prefix) >= SHARED_PREFIX:
            sharing.append((prefix, members))
        else:
            alone += members
    return [((), alone), *sharing]


def _layout(batch: Batch, subject: TextModel) -> tuple[dict[str, Any], Tensor]:
    """Inputs and, where a position is scored, its target."""
    seen, shape = len(batch.prefix), (len(batch.rows), batch.length)
    ids, targets = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORED)
    positions, segments = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    for number, row in enumerate(batch.rows):
        at = len(row.context) - 1 - seen
        ids[number, :at] = torch.tensor(row.context[seen:-1])
        positions[number, :at] = torch.arange(seen, seen + at)
        segments[number, :at] = 0
        for segment, continuation in enumerate(row.continuations, 1):
            part = slice(at, at + len(continuation))
            ids[number, part] = torch.tensor(row.context[-1:] + continuation[:-1])
            targets[number, part] = torch.tensor(continuation)
            positions[number, part] = torch.arange(len(continuation)) + len(row.context) - 1
            segments[number, part] = segment
            at = part.stop
    inputs: dict[str, Any] = {"input_ids": ids.to(subject.device), "use_cache": bool(seen)}
    if seen or any(len(row.continuations) > 1 for row in batch.rows):
        inputs["position_ids"] = positions.to(subject.device)
        inputs["attention_mask"] = _tree_mask(segments.to(subject.device), seen, subject.model)
    return inputs, targets.to(subject.device)


def _tree_mask(segments: Tensor, seen: int, model: Any) -> Tensor:
    """(B, 1, T, seen + T): a token sees the prefix, its context, and what came before it in its own continuation."""
    rows, length = segments.shape
    same = segments[:, :, None] == segments[:, None, :]
    allowed = (same | (segments[:, None, :] == 0)).tril()
    allowed = torch.cat([allowed.new_ones(rows, length, seen), allowed], 2)[:, None]
    if model.config._attn_implementation == "sdpa":
        return allowed
    return torch.zeros_like(allowed, dtype=model.dtype).masked_fill(~allowed, torch.finfo(model.dtype).min)


def _token_scores(subject: TextModel, inputs: dict[str, Any], targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of every target, and whether it is the largest logit; on the host, in fp32."""
    model, scored = subject.model, targets != IGNORED
    wanted = targets[scored]
    most = LOGIT_BYTES.get(subject.device.type, LOGIT_BYTES_ELSEWHERE)
    if subject.is_ours and 4 * len(wanted) * model.config.vocab_size > most:  # a long text: chunk by chunk
        found = model(**inputs, shift_labels=targets, return_logits=False, return_correct=True)
        return -found.token_losses[scored].cpu(), found.token_correct[scored].cpu()
    if subject.is_ours:
        logits, kept = model(**inputs, logits_to_keep=scored).logits, scored[scored]
    elif _takes(model, "logits_to_keep"):
        columns = scored.any(0).nonzero()[:, 0]
        logits, kept = model(**inputs, logits_to_keep=columns).logits, scored[:, columns]
    else:
        logits, kept = model(**inputs).logits, scored
    return _log_probabilities(logits.flatten(0, -2)[... if kept.all() else kept.flatten()], wanted)


def _log_probabilities(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """A few rows at a time, for they are read more than once: from the processor's cache, and in fp32."""
    nats, correct = [], []
    rows = max(1, CHUNK_BYTES.get(logits.device.type, CHUNK_BYTES_ELSEWHERE) // (4 * logits.shape[1]))
    for some, wanted in zip(logits.split(rows), targets.split(rows), strict=True):
        some = some.float()
        found = some.gather(1, wanted[:, None])[:, 0]
        nats.append(found - some.logsumexp(1))
        largest = found == some.amax(1)
        largest[largest.clone()] = some[largest].argmax(1) == wanted[largest]  # of equal ones the first
        correct.append(largest)
    return torch.cat(nats).cpu(), torch.cat(correct).cpu()


def shares_rows(subject: TextModel) -> bool:
    """Whether tree rows and a shared cache give this model's own figures: tried on a few tokens."""
    model, config = subject.model, subject.model.config.get_text_config()
    takes = _takes(model, "attention_mask", "position_ids")
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    windowed = getattr(config, "sliding_window", None) is not None
    if not (takes and full) or windowed or config._attn_implementation not in ("sdpa", "eager"):
        return False
    ids = tuple(index % config.vocab_size for index in range(3, 40, 3))
    rows = [Row(ids[:7], [ids[7:9]], [0]), Row(ids[:7], [ids[4:8]], [1]), Row(ids[:6] + ids[9:], [ids[2:5]], [2])]
    tree = Batch((Row(ids[:7], [ids[7:9], ids[4:8]], [0, 1]), rows[2]), ids[:5])
    try:
        with evaluating(model):
            cache = _keys_of(subject, tree.prefix)
            cache.batch_repeat_interleave(2)
            together = total(3, _score(subject, tree, cache))
            apart = total(3, [found for row in rows for found in _score(subject, Batch((row,)))])
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError):  # what models raise differs
        return False
    is_exact = model.dtype == torch.float32 and not torch.is_autocast_enabled(subject.device.type)
    far = max(abs(one.nats - other.nats) for one, other in zip(together, apart, strict=True))
    return far < (2e-4 if is_exact else 0.2)
