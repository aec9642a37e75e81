"""What a recipe needs of GPUs, before it runs: memory at its peak, by part, then hours and money.

    yxanul plan RECIPE --gpu h200 --count 8 --price 2.5

All of it is arithmetic. Memory follows what the model keeps for the backward pass; tests hold it against steps on a
CPU, in fp32. A GPU's bf16, the buffers of DDP, FSDP2 and ZeRO, and speed are not measured. Not here: torch.compile,
which keeps less; a document mask, and fp32 attention on a GPU, which can keep more; evaluation; health figures.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from yxanul.bad_input import BadInput
from yxanul.catalog import parameter_table, training_flops_per_token
from yxanul.training.config import RunConfig
from yxanul.training.precision.policy import in_fp8, place, read_policy, sizes

if TYPE_CHECKING:
    from yxanul.training.teacher import Costs

GIB = 2**30
LOGS = "tokens/s of a GPT-2 124 M in modded-nanogpt's logs, 1,024 tokens a row, compiled"


class Gpu(NamedTuple):
    name: str  # the driver's
    gib: float  # that torch can see
    mfu: float  # share of the bf16 peak, causal attention at half
    source: str


GPUS = {
    "4090": Gpu("NVIDIA GeForce RTX 4090", 23.5, 0.51, "106 k tokens/s of nanoGPT's GPT-2 124 M on one, its PR 225"),
    "5090": Gpu("NVIDIA GeForce RTX 5090", 31.3, 0.35, "no public figure that we know; a guess"),
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 79.1, 0.48, f"187 k {LOGS}, 8 GPUs"),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 79.1, 0.36, f"442 k {LOGS}, 8 GPUs"),
    "h200": Gpu("NVIDIA H200", 139.8, 0.39, f"488 k {LOGS}, 1 GPU"),
}
RESERVED_GIB, HOLES = 1.0, 0.05  # CUDA's and NCCL's own, and what the allocator cannot use: our guesses
ZERO_BUCKET = 4 * 500_000_000  # DeepSpeed's default, in fp32
SHARDED = {"zero1": "moments", "zero2": "gradients moments"}
SHARDED |= dict.fromkeys(("zero3", "fsdp2"), "weights gradients moments")


def memory(
    config: RunConfig, tokens: int, accumulation: int, every: int, count: int = 1, on_gpu: bool = True
) -> dict[str, int]:
    """Bytes of one process, for a micro-batch of `tokens`. Every n-th layer is checkpointed, 0: none.

    In a step of one micro-batch gradients come while activations go: the peak is below the parts' sum.
    """
    shape, table = config.shape().config, parameter_table(config.shape().config)
    layers, hidden, wide = shape.num_hidden_layers, shape.hidden_size, shape.intermediate_size
    is_bf16, rank = on_gpu and config.precision != "fp32", shape.embedding_rank
    width = 2 if is_bf16 else 4
    numbers, of_layers = sum(table.values()), table["attention"] + table["feed-forward"]
    parts = dict.fromkeys(("weights", "gradients"), 4 * numbers)
    # AdamW has two numbers for each, Muon one for each of the layers' matrices
    parts["moments"] = 8 * numbers - (4 * of_layers if config.optimizer == "muon" else 0)
    split = SHARDED.get(config.parallel, "").split()
    parts = {part: size // count if part in split else size for part, size in parts.items()}

    # Two norms: input and output. A CPU's norm keeps a third.
    stream = 2 if is_bf16 and rank and not shape.learned_position_embeddings else 4  # bytes of a number between layers
    norm = (stream + (0 if on_gpu else 4)) * hidden
    kept, small = _kept_by_matrices(config, width, on_gpu)
    norms = 2 * norm + hidden * (kept("q", "k", "v") + kept("gate", "up"))
    # q, the attended values twice (o_proj reads a copy in another order), k, v; a softmax's sum for each head
    attention = width * 2 * (shape.query_width + shape.key_width) + 4 * shape.num_attention_heads
    attention += kept("o") * shape.query_width
    # gate, its activation, up, their product
    layer = tokens * (norms + attention + (width * 3 + kept("down")) * wide)
    last = tokens * (norm + width * hidden + (2 * width * rank if rank else 0))  # the norm after the layers
    again = layers // every if every else 0
    casts = small * layers + (2 * (of_layers - small * layers) if is_bf16 else 0)  # the weights in FP8 and bf16
    parts["activations"] = (layers - again) * layer + again * stream * tokens * hidden + last + casts

    tied = shape.tie_word_embeddings
    head = rank if rank and tied else hidden
    teacher = teacher_costs(config, on_gpu)
    parts["loss"], chunk = _loss(shape.vocab_size, head, tokens, is_bf16, on_gpu, taught=teacher is not None)
    # in the last layer's backward pass what came after it is gone
    passing = tokens * (2 * width * wide + 8 * hidden)
    backward = passing - 4 * head * tokens - last + (layer if every and layers % every == 0 else 0)
    # with nearly all gradients there: the first layer (or all up to the first that is computed again), what tables
    # have to add up, or Newton-Schulz of all gate and up: about seven copies
    n, own = max(every, 1), 4 * of_layers // layers
    stay = accumulation > 1 or (count > 1 and config.parallel in ("auto", "ddp"))  # gradients, from step to step
    missing = 0 if stay else n * own + 4 * shape.vocab_size * shape.embedding_size * (not tied)
    tables = 4 * shape.vocab_size * shape.embedding_size * (tied + stay)
    muon = (16 if is_bf16 else 28) * 2 * layers * hidden * wide if config.optimizer == "muon" else 0
    end = max(n * layer + passing - missing, tables, muon)

    gradients = parts["gradients"] if stay else 0
    forward = gradients + parts["activations"] + parts["loss"] + max(chunk, backward)
    backward_end = parts["gradients"] + end
    reading = 0
    if teacher:  # what it makes of the batch stays until the next batch; before that it passes through its layers
        parts["teacher"] = teacher.weights + tokens * teacher.latent
        reading = gradients + tokens * teacher.passing
    buffers = _buffers(config.parallel, count, 4 * numbers, 4 * of_layers, layers)
    parts["workspace"] = buffers + (max(chunk, backward) if forward > backward_end else end)
    parts["peak"] = parts["weights"] + parts["moments"] + buffers + parts.get("teacher", 0)
    parts["peak"] += max(forward, backward_end, reading)
    return parts


def _kept_by_matrices(config: RunConfig, width: int, on_gpu: bool) -> tuple[Callable[..., int], int]:
    """Bytes of each number that some matrices of a layer read and keep; how many weights a layer has in FP8."""
    if config.precision not in ("fp8", "te"):
        return lambda *readers: width, 0
    shape = config.shape().config
    policy = place(read_policy(config.precision_policy, config.recipe, config.precision), shape, on_gpu)
    small = in_fp8(policy)

    def kept(*readers: str) -> int:
        copies = sum(name in small for name in readers) if policy["weight_gradient"] == "fp8" else 0
        return copies + (width if copies < len(readers) else 0)

    return kept, sum(inputs * outputs for name, (inputs, outputs) in sizes(shape).items() if name in small)


def teacher_costs(config: RunConfig, on_gpu: bool = True) -> "Costs | None":
    if config.distill_teacher is None:
        return None
    from yxanul.training.teacher import costs

    return costs(config, on_gpu)


def _loss(vocabulary: int, head: int, tokens: int, is_bf16: bool, on_gpu: bool, taught: bool) -> tuple[int, int]:
    """Both gradients, which the loss makes on the way forward; and one chunk of logits, gone when they are made."""
    from yxanul.loss_yxanul import VOCABULARY_MULTIPLE_ELSEWHERE, _rows_per_chunk

    width, multiple = 2 if is_bf16 else 4, VOCABULARY_MULTIPLE_ELSEWHERE if on_gpu else 1
    height = -(-vocabulary // multiple) * multiple
    rows, each = _rows_per_chunk(height, width, "cuda" if on_gpu else "cpu"), 8 if is_bf16 else 4
    if taught:
        from yxanul.training.distillation import BUFFERS, fewer_rows

        rows, each = fewer_rows(rows), 4 * BUFFERS
    chunk = min(tokens, rows) * height * each
    if is_bf16 or height != vocabulary:
        chunk += (4 if is_bf16 else width) * head * height  # a copy of the weight; in bf16 a chunk's part of d_weight
    return 4 * head * (height + tokens), chunk


def _buffers(parallel: str, count: int, weights: int, of_layers: int, layers: int) -> int:
    """Bytes that more than one process takes, as we read torch and DeepSpeed."""
    if count == 1 or parallel in ("auto", "ddp"):  # DDP reduces the gradients where they are
        return 0
    if parallel == "fsdp2":  # weights and gradients of two layers, and of all that is in none, are whole
        return 2 * (weights - of_layers + 2 * of_layers // layers)
    # a copy of its part of the weights, and a bucket; stage 3 may keep all weights gathered
    bucket = min(weights, ZERO_BUCKET) if parallel == "zero1" else ZERO_BUCKET
    return weights // count + bucket + (weights if parallel == "zero3" else 0)


def estimate(config: RunConfig, phases: list[dict[str, Any]], name: str, count: int, price: float | None) -> dict:
    """`phases` are those of `yxanul plan`; `price` is of a GPU's hour."""
    from yxanul.training.device import peak_flops

    name = name.lower()
    if name not in GPUS:
        raise BadInput(f"unknown GPU {name!r}: take one of {', '.join(GPUS)}.")
    if config.parallel in SHARDED and count == 1:
        raise config.wrong(f"parallel={config.parallel} shards over processes, and there is one: add parallel=auto.")
    gpu, shape, accumulation = GPUS[name], config.shape().config, config.accumulation(count)
    given = {key.replace("gradient", "activation"): value for key, value in config.training_arguments.items()}
    every = (given.get("activation_checkpointing_kwargs") or {}).get("every_n_layers", 1)
    every = every if given.get("activation_checkpointing") else 0
    peak = peak_flops(gpu.name) if config.precision != "fp32" else None  # both it and the MFU are bf16's
    usable = int((gpu.gib - RESERVED_GIB) * GIB * (1 - HOLES))
    lengths: list[dict[str, Any]] = []
    for phase in phases:
        row = {"stage": phase["stage"], "length": phase["length"]}
        row["micro_batch_tokens"] = phase["length"] * phase["rows"] // (count * accumulation)
        row["memory"] = memory(config, row["micro_batch_tokens"], accumulation, every, count)
        flops = training_flops_per_token(shape, phase["length"])
        forward = (flops["layers"] + flops["attention"]) / 3 / shape.num_hidden_layers  # of a layer
        again = phase["tokens"] * forward * (shape.num_hidden_layers // every if every else 0)
        needed = phase["training_flops"] + again + phase["teacher_flops"]
        row["hours"] = peak and needed / (peak * gpu.mfu * count) / 3600
        lengths.append(row)
    hours = peak and sum(row["hours"] for row in lengths)
    facts = {
        "gpu": gpu.name,
        "precision": config.precision,
        "count": count,
        "usable_bytes": usable,
        "lengths": lengths,
    }
    facts |= {"accumulation": accumulation, "checkpointed_every": every}
    facts["fits"] = all(row["memory"]["peak"] <= usable for row in lengths)
    facts["largest_that_fits"] = _largest(config, phases, every, count, usable)
    facts |= {"peak_flops": peak, "assumed_mfu": gpu.mfu, "assumed_from": gpu.source}
    return facts | {"hours": hours, "cost": hours and price and hours * count * price}


def _largest(config: RunConfig, phases: list[dict[str, Any]], every: int, count: int, usable: int) -> str | None:
    """What to set for the largest micro-batch that fits with these rows; all layers checkpointed only if none does."""
    most = math.gcd(*(phase["rows"] for phase in phases)) // count
    tokens = max(phase["length"] * phase["rows"] for phase in phases) // count
    words = "gradient_accumulation_steps=null " if config.gradient_accumulation_steps else ""
    for n in dict.fromkeys((every, 1)):
        for accumulation in (parts for parts in range(1, most + 1) if most % parts == 0):
            if memory(config, tokens // accumulation, accumulation, n, count)["peak"] <= usable:
                words += f"max_micro_batch_tokens={tokens // accumulation}"
                every_layer = " activation_checkpointing=true activation_checkpointing_kwargs={}"
                return words + (every_layer if n != every else "")
    return None
