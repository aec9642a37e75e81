"""Tokens per CPU second of a training step, and its memory: ours against transformers' Llama.

Run: python benchmarks/training_step.py [--rank 96] [--vocabulary 32000] [--rows 2] [--length 512]
A step is forward, backward and a fused AdamW step in fp32 on one thread. The models take turns in one process. The
peak memory of each is from a process of its own, above its weights: gradients, optimizer state, activations, buffers.
Not here: the quality that the parameters buy (a factorised model is another model), bf16, torch.compile, GPUs.
"""

import argparse
import statistics
from dataclasses import dataclass

from measuring import (
    in_own_process,
    peak_growth,
    print_header,
    print_table,
    ratios,
    seconds_in_turns,
    summary,
    use_one_thread,
)

HEAD_SIZE = 64


@dataclass
class Shape:
    """One model; heads follow from the hidden size: one for each 64, and a third of them (at least one) for keys."""

    family: str
    vocabulary: int
    hidden: int = 384
    feed_forward: int = 1024
    layers: int = 6
    rank: int | None = None

    def config(self):
        from transformers import LlamaConfig

        from yxanul import YxanulConfig

        heads = self.hidden // HEAD_SIZE
        fields = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.feed_forward,
            "num_hidden_layers": self.layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(count for count in range(1, heads // 3 + 1) if heads % count == 0),
            "tie_word_embeddings": True,
            "use_cache": False,  # Llama would fill a cache in training as well
        }
        return LlamaConfig(**fields) if self.family == "llama" else YxanulConfig(**fields, embedding_rank=self.rank)

    def model(self):
        import torch
        from transformers import LlamaForCausalLM

        from yxanul import YxanulForCausalLM

        torch.manual_seed(0)
        return (LlamaForCausalLM if self.family == "llama" else YxanulForCausalLM)(self.config()).train()

    def parameters(self) -> int:
        import torch

        with torch.device("meta"):
            return self.model().num_parameters()


def llama_of_equal_size(reference: Shape) -> Shape:
    """Same vocabulary, depth and head size, parameters within 1 %, and the nearest ratio of feed-forward to width."""
    wanted = reference.parameters()
    ratio = reference.feed_forward / reference.hidden
    fitting = []
    for hidden in range(3 * HEAD_SIZE, reference.hidden + 1, HEAD_SIZE):
        small, step = (Shape("llama", reference.vocabulary, hidden, width, reference.layers) for width in (32, 64))
        per_step = step.parameters() - small.parameters()
        feed_forward = 32 * (1 + round((wanted - small.parameters()) / per_step))
        if feed_forward >= 32:
            candidate = Shape("llama", reference.vocabulary, hidden, feed_forward, reference.layers)
            if abs(candidate.parameters() / wanted - 1) <= 0.01:
                fitting.append(candidate)
    if not fitting:
        raise ValueError(f"No Llama of {reference.layers} layers has {wanted:,} parameters within 1 %: change --rank.")
    return min(fitting, key=lambda shape: abs(shape.feed_forward / shape.hidden - ratio))


def make_step(shape: Shape, rows: int, length: int):
    """One training step as a function without arguments; the model and its batch exist already."""
    import torch

    model = shape.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, shape.vocabulary, (rows, length), generator=generator)

    def step():
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def peak_of(shape: Shape, rows: int, length: int) -> float:
    use_one_thread()
    for family in ("llama", "yxanul"):  # libraries, thread pools and operators load here
        make_step(Shape(family, vocabulary=64, hidden=64 * 3, feed_forward=32, layers=1), rows=1, length=8)()
    step = make_step(shape, rows, length)
    return peak_growth(lambda: [step() for _ in range(2)])  # the second step has optimizer state from its start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--rank", type=int, default=96)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    use_one_thread()
    print_header()
    factorised = Shape("yxanul", arguments.vocabulary, rank=arguments.rank)
    shapes = {
        "Llama, same shape": Shape("llama", arguments.vocabulary),
        "ours, plain": Shape("yxanul", arguments.vocabulary),
        f"ours, rank {arguments.rank}": factorised,
        f"Llama, size of rank {arguments.rank}": llama_of_equal_size(factorised),
    }
    batch = arguments.rows, arguments.length
    peaks = {name: in_own_process(peak_of, shape, *batch) for name, shape in shapes.items()}
    works = {name: make_step(shape, *batch) for name, shape in shapes.items()}
    seconds = seconds_in_turns(works, arguments.repeats, calls=2)
    print_results(shapes, peaks, seconds, tokens=arguments.rows * arguments.length)


def print_results(
    shapes: dict[str, Shape], peaks: dict[str, float], seconds: dict[str, list[float]], tokens: int
) -> None:
    speeds = {name: [tokens / value for value in values] for name, values in seconds.items()}
    print_table(
        ["model", "hidden", "FFN", "parameters", "tokens per CPU s, median (range)", "CPU ms per step", "peak, MB"],
        [
            [
                name,
                str(shape.hidden),
                str(shape.feed_forward),
                f"{shape.parameters():,}",
                summary(speeds[name]),
                f"{statistics.median(seconds[name]) * 1e3:,.0f}",
                f"{peaks[name]:,.0f}",
            ]
            for name, shape in shapes.items()
        ],
    )
    llama, plain, factorised, small_llama = shapes
    print_table(
        ["ours against Llama", "speed in a turn, median (range)", "parameters", "peak memory"],
        [
            [
                f"{row}: {ours} / {peer}",
                summary(ratios(speeds[ours], speeds[peer]), digits=2),
                f"{shapes[ours].parameters() / shapes[peer].parameters():.3f}x",
                f"{peaks[ours] / peaks[peer]:.2f}x",
            ]
            for row, ours, peer in (("a", plain, llama), ("b", factorised, llama), ("c", factorised, small_llama))
        ],
    )


if __name__ == "__main__":
    main()
