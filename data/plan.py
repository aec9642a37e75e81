"""Which tokens each step eats: stages, lengths, rows and positions by pure arithmetic; no torch, no files, no state.

`Plan(stages)` answers `at(step)` in the time of a bisection; stages.py reads stages from YAML. What is not given is
computed: steps from tokens or epochs, the last phase from what the others leave.
Not here: reading tokens (stream.py), learning rates and gates (training).

A stage is a mixture of sources, a budget and a length schedule. A phase is a run of steps at one length. Sources are
cut in blocks as long as the least common multiple of the plan's lengths; a block has one source; a phase eats whole
blocks, so its steps are rounded up to that. So no row straddles two blocks, and in an epoch each token but a source's
first is a target exactly once, whatever the lengths. What is left at a source's end, less than a block, is its tail.
"""

import math
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from yxanul.bad_input import BadInput
from yxanul.data.mixture import Mixture

LARGEST_BLOCK = 65_536


@dataclass(frozen=True)
class Source:
    name: str  # the bin's folder
    tokens: int  # in the bin, or expected where it is not there yet
    weight: Fraction | None = None  # share of the stage's tokens, relative to the others'; None: by size
    row_length: int | None = None  # of a packed bin, whose rows keep their length

    @property
    def targets(self) -> int:
        """A stream's first token has none before it that could predict it."""
        return self.tokens if self.row_length else self.tokens - 1

    def blocks(self, block: int) -> int:
        """Whole blocks in an epoch."""
        return self.targets // block


@dataclass(frozen=True)
class Phase:
    length: int  # tokens in a row
    rows: int  # in an optimizer step, over all processes and accumulated micro-batches
    steps: int | None = None  # or
    tokens: int | None = None  # or neither: what the stage's other phases leave of its budget

    @property
    def step_tokens(self) -> int:
        return self.length * self.rows


@dataclass(frozen=True)
class Stage:
    name: str
    sources: tuple[Source, ...]
    phases: tuple[Phase, ...]
    tokens: int | None = None  # the budget: tokens, or
    epochs: Fraction | None = None  # passes over every source, or
    steps: int | None = None  # or none of them, where every phase has its own


@dataclass(frozen=True)
class Rounding:
    """What a phase asked for, and got so that it ends with a block."""

    stage: str
    length: int
    asked: int
    steps: int


@dataclass(frozen=True)
class Position:
    """Where a step stands."""

    stage_index: int
    phase: Phase
    first_token: int  # in the stage's stream
    tokens_before: int  # in the whole run

    @property
    def length(self) -> int:
        return self.phase.length

    @property
    def rows(self) -> int:
        return self.phase.rows


class Plan:
    def __init__(self, stages: list[Stage]) -> None:
        self.stages = tuple(stages)
        self.block = block_length(sorted({phase.length for stage in stages for phase in stage.phases}))
        self.roundings: list[Rounding] = []
        self.mixtures: list[Mixture] = []
        self.steps = self.tokens = 0
        self.stage_steps: list[range] = []
        self.phase_steps: list[range] = []
        self._first_positions: list[Position] = []  # of the phases
        for index, stage in enumerate(self.stages):
            self._check(stage)
            self.mixtures.append(Mixture(_whole_weights(stage, self.block)))
            begin = self.steps
            self._lay_out(index, stage)
            self.stage_steps.append(range(begin, self.steps))
        self.stage_ends = {steps.stop for steps in self.stage_steps}

    def at(self, step: int) -> Position:
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside of 0..{self.steps - 1}")
        index = bisect_right(self.phase_steps, step, key=lambda steps: steps.start) - 1
        first = self._first_positions[index]
        eaten = (step - self.phase_steps[index].start) * first.phase.step_tokens
        return Position(first.stage_index, first.phase, first.first_token + eaten, first.tokens_before + eaten)

    def tokens_of_length(self) -> Counter[int]:
        """How many tokens are trained on in rows of each length."""
        tokens: Counter[int] = Counter()
        for position, steps in zip(self._first_positions, self.phase_steps, strict=True):
            tokens[position.length] += len(steps) * position.phase.step_tokens
        return tokens

    def blocks_of(self, stage_index: int) -> dict[str, int]:
        """How many blocks a stage takes of each source."""
        last = self.at(self.stage_steps[stage_index][-1])
        counts = self.mixtures[stage_index].counts((last.first_token + last.phase.step_tokens) // self.block)
        return {source.name: count for source, count in zip(self.stages[stage_index].sources, counts, strict=True)}

    @cached_property
    def source_names(self) -> tuple[str, ...]:
        """Every source of the plan once, in the order of their first stage."""
        return tuple(dict.fromkeys(source.name for stage in self.stages for source in stage.sources))

    @cached_property
    def blocks_before(self) -> list[dict[str, int]]:
        """For each stage, the blocks that earlier stages drew from each source: a later stage goes on behind them."""
        drawn = dict.fromkeys(self.source_names, 0)
        before = []
        for index in range(len(self.stages)):
            before.append(dict(drawn))
            for name, count in self.blocks_of(index).items():
                drawn[name] += count
        return before

    def epochs(self, stage_index: int) -> dict[str, float]:
        """Passes over each source in a stage."""
        blocks = self.blocks_of(stage_index)
        return {
            source.name: blocks[source.name] / source.blocks(self.block) for source in self.stages[stage_index].sources
        }

    def tails(self) -> dict[str, int]:
        """Tokens at each source's end that no block reaches."""
        return {source.name: source.targets % self.block for stage in self.stages for source in stage.sources}

    def check_division(self, processes: int, accumulation: int) -> None:
        """Every phase's rows must divide among processes and micro-batches."""
        parts = processes * accumulation
        for stage in self.stages:
            for phase in stage.phases:
                if phase.rows % parts:
                    lower = phase.rows // parts * parts
                    fitting = [str(rows) for rows in (lower, lower + parts) if rows]
                    raise BadInput(
                        f"stage {stage.name}, length {phase.length}: rows={phase.rows} does not divide by {processes} "
                        f"processes x {accumulation} accumulation; {' or '.join(fitting)} would."
                    )

    def _check(self, stage: Stage) -> None:
        _check_budget(stage)
        names = [source.name for source in stage.sources]
        for name in names:
            if names.count(name) > 1:
                raise BadInput(f"stage {stage.name} names the source {name} twice: add the two weights up.")
        for source in stage.sources:
            if source.blocks(self.block) < 1:
                raise BadInput(
                    f"stage {stage.name}: {source.name} has {source.tokens:,} tokens, not one block of {self.block:,} "
                    "(the least common multiple of the plan's lengths) with its targets: use shorter lengths, or more "
                    "text."
                )
            for phase in stage.phases:
                if source.row_length and phase.length != source.row_length:
                    raise BadInput(
                        f"stage {stage.name}: length {phase.length} would cut the rows of {source.name}, packed at "
                        f"{source.row_length}: use that length, or a bin that is not packed."
                    )

    def _lay_out(self, stage_index: int, stage: Stage) -> None:
        """Turn the stage's budget and phases into runs of steps that end with a block."""
        first_token = steps_before = 0
        for phase in stage.phases:
            asked = self._steps_asked(stage, phase, first_token, steps_before)
            if asked < 1:
                raise BadInput(
                    f"stage {stage.name}: its budget leaves nothing for length {phase.length}: "
                    "raise it, or shorten the phases before."
                )
            multiple = self.block // math.gcd(self.block, phase.step_tokens)
            steps = -(-asked // multiple) * multiple
            if steps != asked:
                self.roundings.append(Rounding(stage.name, phase.length, asked, steps))
            self.phase_steps.append(range(self.steps, self.steps + steps))
            self._first_positions.append(Position(stage_index, phase, first_token, self.tokens))
            first_token += steps * phase.step_tokens
            steps_before += steps
            self.steps += steps
            self.tokens += steps * phase.step_tokens

    def _steps_asked(self, stage: Stage, phase: Phase, first_token: int, steps_before: int) -> int:
        if phase.steps is not None:
            return phase.steps
        if phase.tokens is not None:
            return -(-phase.tokens // phase.step_tokens)
        if stage.steps is not None:
            return stage.steps - steps_before
        tokens = stage.tokens
        if stage.epochs is not None:
            tokens = math.ceil(stage.epochs * sum(source.blocks(self.block) for source in stage.sources)) * self.block
        assert tokens is not None
        return -(-(tokens - first_token) // phase.step_tokens)


def _check_budget(stage: Stage) -> None:
    """One budget, and one phase to spend what the others leave of it; or none of both."""
    given = [name for name in ("tokens", "epochs", "steps") if getattr(stage, name) is not None]
    *closed, last = stage.phases
    is_open = last.steps is None and last.tokens is None
    if any(phase.steps is None and phase.tokens is None for phase in closed):
        raise BadInput(f"stage {stage.name}: only its last phase may go without steps or tokens of its own.")
    if len(given) > 1:
        raise BadInput(f"stage {stage.name}: {' and '.join(given)} are both given; a budget is one of them.")
    if is_open and not given:
        raise BadInput(f"stage {stage.name} has no budget: give tokens, epochs or steps.")
    if given and not is_open:
        raise BadInput(f"stage {stage.name}: {given[0]} and the size of every phase are given; leave one of them out.")
    if stage.epochs is not None and len(stage.sources) > 1 and stage.sources[0].weight is not None:
        raise BadInput(
            f"stage {stage.name}: epochs and weights exclude each other; give tokens or steps, or no weights."
        )


def block_length(lengths: list[int]) -> int:
    """Their least common multiple; above LARGEST_BLOCK the plan is refused with a nearby one that fits."""
    block = math.lcm(*lengths)
    if block <= LARGEST_BLOCK:
        return block
    fitting = min(
        (
            (changed, abs(math.log(other / length)), length, other)
            for length in lengths
            for other in range(max(1, length // 2), min(2 * length, LARGEST_BLOCK) + 1)
            if (changed := math.lcm(*(other if kept == length else kept for kept in lengths))) <= LARGEST_BLOCK
        ),
        default=None,
    )
    if fitting is None:
        powers = sorted({min(1 << round(math.log2(length)), LARGEST_BLOCK) for length in lengths})
        mend = f"powers of two would do: {powers}"
    else:
        mend = f"length {fitting[3]} in place of {fitting[2]} would do"
    raise BadInput(f"the lengths {lengths} have the least common multiple {block:,}, above {LARGEST_BLOCK:,}: {mend}.")


def _whole_weights(stage: Stage, block: int) -> list[int]:
    weights = [source.weight for source in stage.sources]
    if all(weight is None for weight in weights):
        return [source.blocks(block) for source in stage.sources]
    given = [weight for weight in weights if weight is not None]
    if len(given) < len(weights):
        raise BadInput(f"stage {stage.name}: give every source a weight, or none.")
    denominator = math.lcm(*(weight.denominator for weight in given))
    return [int(weight * denominator) for weight in given]
