"""Next-token cross-entropy from the last hidden state (or its low-rank latent) without logits in memory.

`linear_cross_entropy(latent, weight, targets)` works chunk by chunk through one (rows x vocabulary) buffer and makes
both gradients on the way forward; backward only scales them. `cross_entropy(logits, targets)` is the same loss from
logits that exist already: in evaluation, and behind heads that are not ours (LoRA, tensor parallelism).
Not here: label smoothing, a second backward through the loss, a CUDA kernel of our own.
This file travels to the Hub with every checkpoint and imports nothing but torch.

Shapes: N rows (tokens), R latent width (rank of the factorised head, else the hidden size), V vocabulary.
With p the unnormalised softmax of a row, s its sum, w the row's weight, c the z-loss coefficient and t its target:

    d logits = w ((1 + 2 c lse) p / s - onehot(t))     of one chunk, in fp32, then rounded once
    d latent = d logits @ weight
    d weight = d logits^T @ latent                     summed in fp32
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

# One chunk's logits, a power of two of rows. On a CPU 64 and 128 rows are the fastest, at 50,257 and at 200,005 ids;
# 16 and 32 are slower, 256 is not faster (docs/LOG.md). A GPU wants fewer, larger chunks; its value is not measured.
FEWEST_ROWS = 64
CHUNK_BYTES = {"cpu": 32 << 20}
CHUNK_BYTES_ELSEWHERE = 512 << 20
# Matrix products of odd sizes (50,257 or 200,005 columns) are slow on a GPU; a CPU does not mind (docs/LOG.md).
VOCABULARY_MULTIPLE = {"cpu": 1}
VOCABULARY_MULTIPLE_ELSEWHERE = 128


class TokenLoss(NamedTuple):
    loss: Tensor  # scalar, z-loss included
    token_losses: Tensor  # cross-entropy of each target, shaped like the targets; 0 where ignored; no gradient
    token_correct: Tensor | None = None  # on request: is the target the largest logit? False where ignored
    token_entropy: Tensor | None = None  # on request, of every n-th prediction, in nats; 0 elsewhere and where ignored
    token_confidence: Tensor | None = None  # on the same request, the largest probability of each; 0 where ignored


def linear_cross_entropy(
    latent: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    token_weights: Tensor | None = None,
    num_items: Tensor | int | None = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    ignore_index: int = -100,
    return_correct: bool = False,
    entropy_every: int = 0,
    compiled: bool = False,
    chunk_rows: int | None = None,
    vocabulary_multiple: int | None = None,
    operator: Callable[..., tuple] | None = None,
) -> TokenLoss:
    """Mean loss of `latent @ weight.T` against `targets`.

    latent (..., R), weight (V, R), targets (...) of class indices. `token_weights` (...) scale each token's part.
    The sum is divided by `num_items`, by default the number of targets that count, or the sum of their weights.
    Of several largest logits the first counts for `return_correct`, as for torch.argmax. `compiled` runs what is
    between the matrix products as a kernel that torch makes: for GPUs, on a CPU it is slower. `operator` adds a loss
    of its own: it takes the place of `_chunked_loss`, with its arguments and results.
    """
    device = latent.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # autocast does not reach into custom operators
        latent = latent.to(torch.get_autocast_dtype(device))
    if latent.dtype == torch.float16:
        latent = latent.float()  # gradients divided by the number of tokens would vanish before a scaler reaches them
    rows = latent.reshape(-1, latent.shape[-1])
    counted = targets != ignore_index
    row_weights = _row_weights(targets.reshape(-1), token_weights, ignore_index, _sum_dtype(latent))
    row_weights = row_weights / _divisor(num_items, row_weights)
    vocabulary = weight.shape[0]
    multiple = vocabulary_multiple or VOCABULARY_MULTIPLE.get(device, VOCABULARY_MULTIPLE_ELSEWHERE)
    padded_vocabulary = -(-vocabulary // multiple) * multiple
    if chunk_rows is None:
        chunk_rows = _rows_per_chunk(padded_vocabulary, latent.element_size(), device)
    wants_gradients = torch.is_grad_enabled()
    loss, token_losses, correct, entropy, confidence, _, _ = (operator or _chunked_loss)(
        rows,
        weight,
        torch.where(counted, targets, 0).reshape(-1),
        row_weights,
        z_loss,
        softcap or 0.0,
        chunk_rows,
        padded_vocabulary,
        return_correct,
        wants_gradients and rows.requires_grad,
        wants_gradients and weight.requires_grad,
        entropy_every,
        compiled,
    )

    def counted_only(figures: Tensor) -> Tensor:
        return torch.where(counted, figures.detach().view(targets.shape), 0.0)

    return TokenLoss(
        loss,
        counted_only(token_losses),
        correct.view(targets.shape) & counted if return_correct else None,
        counted_only(entropy) if entropy_every else None,
        counted_only(confidence) if entropy_every else None,
    )


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    token_weights: Tensor | None = None,
    num_items: Tensor | int | None = None,
    z_loss: float = 0.0,
    ignore_index: int = -100,
    return_correct: bool = False,
    entropy_every: int = 0,
) -> TokenLoss:
    """The same loss from finished logits (..., V), soft cap already applied; fp32 inside, whatever their dtype."""
    rows = logits.reshape(-1, logits.shape[-1]).to(_sum_dtype(logits))
    flat_targets = targets.reshape(-1)
    row_weights = _row_weights(flat_targets, token_weights, ignore_index, rows.dtype)
    row_losses = torch.nn.functional.cross_entropy(rows, flat_targets, ignore_index=ignore_index, reduction="none")
    total = (row_losses * row_weights).sum()
    if z_loss:
        total = total + z_loss * (rows.logsumexp(-1).square() * row_weights).sum()
    counted = targets != ignore_index
    correct = (logits.argmax(-1) == targets) & counted if return_correct else None
    entropy = confidence = None
    if entropy_every:
        p = rows.detach().softmax(-1).view(logits.shape)
        is_nth = torch.arange(targets.numel(), device=targets.device).view(targets.shape) % entropy_every == 0
        entropy = torch.special.entr(p).sum(-1).where(counted & is_nth, 0.0)
        confidence = p.amax(-1).where(counted, 0.0)
    loss = total / _divisor(num_items, row_weights)
    return TokenLoss(loss, row_losses.detach().view(targets.shape), correct, entropy, confidence)


def apply_softcap(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _row_weights(targets: Tensor, token_weights: Tensor | None, ignore_index: int, dtype: torch.dtype) -> Tensor:
    counted = (targets != ignore_index).to(dtype)
    return counted if token_weights is None else counted * token_weights.reshape(-1).to(dtype)


def _divisor(num_items: Tensor | int | None, row_weights: Tensor) -> Tensor:
    divisor = row_weights.sum() if num_items is None else torch.as_tensor(num_items, device=row_weights.device)
    # nothing counts: a loss of 0, and no NaN in the gradients
    return divisor.to(row_weights.dtype).clamp(min=torch.finfo(row_weights.dtype).tiny)


def _rows_per_chunk(vocabulary: int, element_size: int, device: str) -> int:
    fitting = max(FEWEST_ROWS, CHUNK_BYTES.get(device, CHUNK_BYTES_ELSEWHERE) // (vocabulary * element_size))
    return 1 << (fitting.bit_length() - 1)


# A custom operator, so that torch.compile keeps a full graph and does not unroll the loop over chunks. Each copy of
# this file (the installed package, a checkpoint's own code) registers under its own module's name.
@torch.library.custom_op(f"yxanul::chunked_loss_{__name__.replace('.', '_')}", mutates_args=())
def _chunked_loss(
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
    entropy_every: int = 0,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sum of the weighted losses, every row's cross-entropy, and, empty if not needed: is every row's target its
    largest logit, the entropy of some, the largest probabilities, and the gradients of the sum.

    All in fp32 (fp64 for fp64 inputs): the gradients are rounded to their own dtypes once, after the last scaling.
    """
    rows, vocabulary = latent.shape[0], weight.shape[0]
    if rows and latent.device.type == "cpu":  # a GPU would have to be waited for
        for target in (int(targets.min()), int(targets.max())):
            if not 0 <= target < vocabulary:
                raise IndexError(f"target {target} is outside of the vocabulary of {vocabulary}.")
    sum_dtype = _sum_dtype(latent)
    cross_entropies = latent.new_empty(rows, dtype=sum_dtype)
    correct, entropy, confidence = _empty_figures(latent, needs_correct, entropy_every)
    z_terms = latent.new_zeros((), dtype=sum_dtype)
    d_latent, d_weight_VR = _empty_gradients(latent, padded_vocabulary, needs_d_latent, needs_d_weight)
    weight_VR = _padded(weight, padded_vocabulary, latent.dtype)
    buffer = latent.new_empty(min(chunk_rows, rows), padded_vocabulary)

    for start in range(0, rows, chunk_rows):
        part = slice(start, min(start + chunk_rows, rows))
        z, t, w = latent[part], targets[part], row_weights[part]
        logits = torch.mm(z, weight_VR.t(), out=buffer[: z.shape[0]])
        some = slice(-start % entropy_every, None, entropy_every) if entropy_every else None
        arguments = logits, t, w, vocabulary, z_loss, softcap, needs_correct, needs_d_latent or needs_d_weight, some
        figures = _compiled_figures_of(*arguments) if compiled else _figures_of(*arguments)
        cross_entropies[part], z_term, hits, entropies, confidences, d_logits = figures
        z_terms += z_term
        if needs_correct:
            correct[part] = hits
        if entropy_every:
            entropy[part][some], confidence[part] = entropies, confidences
        if d_logits is None:
            continue
        if needs_d_latent:
            d_latent[part] = torch.mm(d_logits, weight_VR)
        if needs_d_weight:
            if d_logits.dtype == sum_dtype:
                d_weight_VR.addmm_(d_logits.t(), z)
            else:
                d_weight_VR += torch.mm(d_logits.t(), z)

    total = (cross_entropies * row_weights).sum() + z_terms
    return total, cross_entropies, correct, entropy, confidence, d_latent, d_weight_VR[:vocabulary]


def _figures_of(
    logits: Tensor,
    t: Tensor,
    w: Tensor,
    vocabulary: int,
    z_loss: float,
    softcap: float,
    needs_correct: bool,
    needs_gradient: bool,
    some: slice | None,
) -> tuple[Tensor, Tensor | float, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Of one chunk: cross-entropies, z-loss; on request hits, entropies of `some` rows, confidences, d logits."""
    dtype, in_graph = logits.dtype, torch.compiler.is_compiling()
    logits = logits.to(_sum_dtype(logits), copy=in_graph)  # a graph should write d logits alone
    slope = hits = entropies = confidences = None
    if softcap:
        logits.div_(softcap).tanh_()
        slope = logits.square().neg_().add_(1)
        logits.mul_(softcap)
    logits[:, vocabulary:] = -torch.inf

    if needs_correct:
        largest, guesses = logits.max(1, keepdim=True)
        hits = guesses.squeeze(1) == t
    else:
        largest = logits.amax(1, keepdim=True)
    target_logit = logits.gather(1, t[:, None]).squeeze(1)
    shifted = logits.sub_(largest)
    kept = shifted[some, :vocabulary].clone() if some else None  # without padding, where 0 x -inf would be no number
    p = shifted.exp_()
    p_sum = p.sum(1)
    if kept is not None:
        entropies = p_sum[some].log() - kept.mul_(p[some, :vocabulary]).sum(1) / p_sum[some]
        confidences = p_sum.reciprocal()
    lse = p_sum.log() + largest.squeeze(1)
    z_term = (lse.square() * w).sum() * z_loss if z_loss else 0.0
    if not needs_gradient:
        return lse - target_logit, z_term, hits, entropies, confidences, None

    # complete before it is rounded: what all rows of the weight share cancels inside of the products
    d_logits = p.mul_((w * (1 + 2 * z_loss * lse) / p_sum)[:, None])
    if in_graph:  # part of the one pass over the chunk, which a scattered sum would cut in two
        is_target = torch.arange(d_logits.shape[1], device=t.device) == t[:, None]
        d_logits = torch.where(is_target, d_logits - w[:, None], d_logits)
    else:
        d_logits.scatter_add_(1, t[:, None], -w[:, None])
    if slope is not None:
        d_logits.mul_(slope)
    return lse - target_logit, z_term, hits, entropies, confidences, d_logits.to(dtype)


def _compiled_figures_of(logits: Tensor, t: Tensor, w: Tensor, *options: Any) -> tuple:
    """Two passes over a chunk and one write, in place of ten. One graph for all numbers of rows."""
    for tensor in (logits, t, w):
        torch._dynamo.maybe_mark_dynamic(tensor, 0)
    return _compile_figures()(logits, t, w, *options)


@functools.cache
def _compile_figures() -> Callable[..., tuple]:
    return torch.compile(_figures_of)  # not where this file is loaded: that would import the compiler


def _empty_figures(latent: Tensor, needs_correct: bool, entropy_every: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every row: correct, entropy, confidence."""
    correct = latent.new_empty(latent.shape[0] if needs_correct else 0, dtype=torch.bool)
    entropy = latent.new_zeros(latent.shape[0] if entropy_every else 0, dtype=_sum_dtype(latent))
    return correct, entropy, torch.empty_like(entropy)


def _empty_gradients(
    latent: Tensor, vocabulary: int, needs_d_latent: bool, needs_d_weight: bool
) -> tuple[Tensor, Tensor]:
    dtype, rank = _sum_dtype(latent), latent.shape[1]
    d_latent = latent.new_empty(latent.shape[0] if needs_d_latent else 0, rank, dtype=dtype)
    return d_latent, latent.new_zeros(vocabulary if needs_d_weight else 0, rank, dtype=dtype)


def _padded(weight: Tensor, height: int, dtype: torch.dtype) -> Tensor:
    """The weight in the dtype of the products, with rows of zeros below; the weight itself where nothing changes."""
    if height == weight.shape[0]:
        return weight.to(dtype)
    padded = weight.new_zeros(height, weight.shape[1], dtype=dtype)
    padded[: weight.shape[0]] = weight
    return padded


@_chunked_loss.register_fake
def _(
    latent,
    weight,
    targets,
    row_weights,
    z_loss,
    softcap,
    chunk_rows,
    padded,
    correct,
    d_latent,
    d_weight,
    entropy=0,
    compiled=False,
):
    total = latent.new_empty((), dtype=_sum_dtype(latent))
    figures = _empty_figures(latent, correct, entropy)
    gradients = _empty_gradients(latent, weight.shape[0], d_latent, d_weight)
    return total, total.new_empty(latent.shape[0]), *figures, *gradients


def _keep_gradients(ctx, inputs, output) -> None:
    *_, needs_d_latent, needs_d_weight, _, _ = inputs
    *_, d_latent, d_weight = output
    ctx.dtypes = inputs[0].dtype if needs_d_latent else None, inputs[1].dtype if needs_d_weight else None
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(d_latent, d_weight)


def _scale_gradients(ctx, d_total, *_):
    """In place, for a V x R matrix should not exist twice; a graph that is kept for another backward gets a copy."""
    if d_total is None:
        return (None,) * 13
    if torch.is_grad_enabled():
        raise RuntimeError("This loss has no second derivative; return_logits=True takes one that has.")
    multiply = torch.mul if torch._C._autograd._get_current_graph_task_keep_graph() else Tensor.mul_
    scaled = (
        None if dtype is None else multiply(gradient, d_total).to(dtype)
        for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
    )
    return *scaled, *[None] * 11


_chunked_loss.register_autograd(_scale_gradients, setup_context=_keep_gradients)

__all__ = ["TokenLoss", "apply_softcap", "cross_entropy", "linear_cross_entropy"]
