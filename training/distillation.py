"""Distillation: a student also learns what a teacher thinks likely at every place, not the text's own token alone.

    distillation = Distillation(teacher, weight=0.5, temperature=2.0)
    distillation.install(model)      # while it trains its head adds the teacher's loss; evaluation keeps the text's
    distillation.read(batch)         # before each forward pass: what the teacher makes of the same batch

With p the teacher's and q the student's probabilities of their logits over the temperature T, a target's loss is

    (1 - weight) cross-entropy + weight T^2 KL(p || q)         d logits of the second part = weight T (q - p)

Both heads run chunk by chunk inside of the student's head, where FSDP2 has gathered what they read; of neither model
do the logits of all rows ever exist. The z-loss is part of the cross-entropy. Not here: the teacher (teacher.py).
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from yxanul.loss_yxanul import (
    FEWEST_ROWS,
    _empty_figures,
    _empty_gradients,
    _figures_of,
    _keep_gradients,
    _padded,
    _scale_gradients,
    _sum_dtype,
    apply_softcap,
)
from yxanul.training.teacher import Teacher

BUFFERS = 5  # of a chunk's size, in fp32: both models' logits, both logarithms, the teacher's probabilities
OF_THE_TEXT = 13  # arguments and
RESULTS = 7  # results that the operator shares with that of the loss without a teacher


class Distillation:
    def __init__(self, teacher: Teacher, weight: float, temperature: float) -> None:
        self.teacher, self.weight, self.temperature = teacher, weight, temperature
        self.divergences: Tensor | None = None  # of the newest forward pass: KL(p || q) of every target, in nats
        self._latent: Tensor | None = None

    def install(self, model: Any) -> None:
        model.lm_head.register_forward_pre_hook(self._join, with_kwargs=True)

    def read(self, batch: dict[str, Any]) -> None:
        self._latent = self.teacher.read(batch)

    def _join(self, head: nn.Module, arguments: tuple, options: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        is_loss = head.training and len(arguments) > 1
        return arguments, options | ({"operator": self._loss} if is_loss else {})

    def _loss(self, *arguments: Any) -> tuple[Tensor, ...]:
        teacher = self.teacher
        own: tuple[Any, ...] = (self._latent, teacher.table, teacher.known, teacher.softcap or 0.0)
        *found, divergences = _distilling_loss(*arguments, *own, self.weight, self.temperature)
        self.divergences = divergences.detach()
        return tuple(found)


def fewer_rows(rows: int) -> int:
    """Of a chunk, than without a teacher."""
    return min(rows, max(FEWEST_ROWS, rows // BUFFERS))


@torch.library.custom_op("yxanul::distilling_loss", mutates_args=())
def _distilling_loss(
    latent: Tensor,
    weight: Tensor,
    targets: Tensor,
    row_weights: Tensor,
    z_loss: float,
    softcap: float,
    chunk_rows: int,
    padded_vocabulary: int,
    needs_correct: bool,
    needs_d_latent: bool,
    needs_d_weight: bool,
    entropy_every: int,
    compiled: bool,
    teacher_latent: Tensor,
    teacher_table: Tensor,
    known: int,
    teacher_softcap: float,
    share: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As `_chunked_loss`, and behind its results every row's KL. The teacher has rows for the first `known` ids."""
    rows, vocabulary, dtype = latent.shape[0], weight.shape[0], _sum_dtype(latent)
    cross_entropies = latent.new_empty(rows, dtype=dtype)
    divergences = torch.empty_like(cross_entropies)
    correct, entropy, confidence = _empty_figures(latent, needs_correct, entropy_every)
    z_terms = latent.new_zeros((), dtype=dtype)
    d_latent, d_weight = _empty_gradients(latent, padded_vocabulary, needs_d_latent, needs_d_weight)
    table = _padded(weight, padded_vocabulary, latent.dtype)
    chunk_rows = fewer_rows(chunk_rows)
    figures_of = _compile_figures() if compiled else _figures_with_teacher

    for start in range(0, rows, chunk_rows):
        part = slice(start, min(start + chunk_rows, rows))
        z, t, w = latent[part], targets[part], row_weights[part]
        logits, theirs = z @ table.t(), teacher_latent[part] @ teacher_table.t()
        some = slice(-start % entropy_every, None, entropy_every) if entropy_every else None
        if compiled:
            for tensor in (logits, theirs, t, w):
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        options: tuple[Any, ...] = (vocabulary, z_loss, softcap, needs_correct, needs_d_latent or needs_d_weight, some)
        figures = figures_of(logits, theirs, t, w, known, teacher_softcap, share, temperature, *options)
        divergences[part], cross_entropies[part], z_term, hits, entropies, confidences, d_logits = figures
        z_terms += z_term
        if needs_correct:
            correct[part] = hits
        if entropy_every:
            entropy[part][some], confidence[part] = entropies, confidences
        if needs_d_latent:
            d_latent[part] = d_logits @ table
        if needs_d_weight and z.dtype == dtype:
            d_weight.addmm_(d_logits.t(), z)
        elif needs_d_weight:
            d_weight += d_logits.t() @ z

    losses = (1 - share) * cross_entropies + share * temperature**2 * divergences
    total = (losses * row_weights).sum() + z_terms
    return total, cross_entropies, correct, entropy, confidence, d_latent, d_weight[:vocabulary], divergences


def _figures_with_teacher(
    logits: Tensor,
    theirs: Tensor,
    t: Tensor,
    w: Tensor,
    known: int,
    teacher_softcap: float,
    share: float,
    temperature: float,
    vocabulary: int,
    z_loss: float,
    softcap: float,
    needs_correct: bool,
    needs_gradient: bool,
    some: slice | None,
) -> tuple:
    """Of one chunk: KL, what `_figures_of` finds, and the gradient of both parts, rounded once."""
    dtype = _sum_dtype(logits)
    rounded, logits = logits.dtype, logits.to(dtype)
    ours = apply_softcap(logits[:, :vocabulary], softcap or None)
    slope = 1 - (ours / softcap).square() if softcap else None
    log_q = (ours / temperature).log_softmax(1)
    log_p = (apply_softcap(theirs[:, :known].to(dtype), teacher_softcap or None) / temperature).log_softmax(1)
    p = log_p.exp()
    divergences = (log_p.sub_(log_q[:, :known]).mul_(p)).sum(1)
    # the part of the text comes second, for it takes the logits' place
    *figures, d_logits = _figures_of(
        logits, t, w * (1 - share), vocabulary, z_loss, softcap, needs_correct, needs_gradient, some
    )
    if d_logits is None:
        return divergences, *figures, None
    d_taught = log_q.exp_()
    d_taught[:, :known] -= p
    d_taught *= (share * temperature * w)[:, None]
    if slope is not None:
        d_taught *= slope
    d_logits[:, :vocabulary] += d_taught
    return divergences, *figures, d_logits.to(rounded)


@functools.cache
def _compile_figures() -> Any:
    return torch.compile(_figures_with_teacher)


@_distilling_loss.register_fake
def _(latent, weight, targets, row_weights, z_loss, softcap, chunk_rows, padded, *others):
    correct, needs_d_latent, needs_d_weight, entropy, *_ = others
    each = latent.new_empty(latent.shape[0], dtype=_sum_dtype(latent))
    figures = _empty_figures(latent, correct, entropy)
    gradients = _empty_gradients(latent, weight.shape[0], needs_d_latent, needs_d_weight)
    return each.new_empty(()), each, *figures, *gradients, torch.empty_like(each)


def _keep(ctx: Any, inputs: tuple, output: tuple) -> None:
    _keep_gradients(ctx, inputs[:OF_THE_TEXT], output[:RESULTS])
    ctx.others = len(inputs) - OF_THE_TEXT


def _scale(ctx: Any, d_total: Tensor | None, *gradients: Any) -> tuple:
    return (*_scale_gradients(ctx, d_total), *[None] * ctx.others)


_distilling_loss.register_autograd(_scale, setup_context=_keep)
