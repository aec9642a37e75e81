"""Memory and CPU time of the loss behind a factorised head, forward and backward: ours against all logits at once.

Run: python benchmarks/head_memory.py [--vocabulary 50257] [--rank 768] [--rows 512]
Ours is `linear_cross_entropy`, naive is a matrix product and `F.cross_entropy`; fp32, one thread. Memory is the peak
of each in a process of its own, above weights and inputs; it includes both gradients, and the weight's is named apart.
Not here: the projection from the hidden size to the rank (both need it), bf16, GPUs, other projects' losses.
"""

import argparse
from collections.abc import Callable

from measuring import (
    MEGABYTE,
    in_own_process,
    peak_growth,
    print_header,
    print_table,
    ratios,
    seconds_in_turns,
    summary,
    use_one_thread,
)

VARIANTS = ("naive", "ours")


def make_work(variant: str, vocabulary: int, rank: int, rows: int, **chunking: int | None) -> Callable[[], tuple]:
    """Forward and backward of one variant as a function without arguments; weight and inputs exist already."""
    import torch
    from torch.nn import functional

    from yxanul.loss_yxanul import linear_cross_entropy

    torch.manual_seed(0)
    latent = torch.randn(rows, rank).requires_grad_()
    weight = (
        torch.empty(vocabulary, rank).normal_(0, 0.05).requires_grad_()
    )  # in place: no second copy before the peak
    targets = torch.randint(0, vocabulary, (rows,))

    def work():
        latent.grad = weight.grad = None
        if variant == "naive":
            loss = functional.cross_entropy(functional.linear(latent, weight), targets)
        else:
            loss = linear_cross_entropy(latent, weight, targets, **chunking).loss
        loss.backward()
        return loss.item(), latent.grad, weight.grad

    return work


def peak_of(variant: str, vocabulary: int, rank: int, rows: int, chunk_rows: int | None) -> float:
    use_one_thread()
    for name in VARIANTS:  # libraries, thread pools and operators load here
        make_work(name, vocabulary=64, rank=8, rows=8)()
    return peak_growth(make_work(variant, vocabulary, rank, rows, chunk_rows=chunk_rows))


def largest_difference(one, other) -> float:
    """Relative to the largest entry: single entries of a gradient may be near 0."""
    return ((one - other).abs().max() / other.abs().max()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--vocabulary", type=int, default=200_005)
    parser.add_argument("--rank", type=int, default=128, help="width of the latent: the rank, or the hidden size")
    parser.add_argument("--rows", type=int, default=1024, help="tokens")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--chunk-rows", type=int, help="rows per chunk in ours; default: its own choice")
    arguments = parser.parse_args()
    shape = (arguments.vocabulary, arguments.rank, arguments.rows)

    use_one_thread()
    print_header()
    peaks = {name: in_own_process(peak_of, name, *shape, arguments.chunk_rows) for name in VARIANTS}
    works = {name: make_work(name, *shape, chunk_rows=arguments.chunk_rows) for name in VARIANTS}
    seconds = seconds_in_turns(works, arguments.repeats)

    weight_gradient = arguments.vocabulary * arguments.rank * 4 / MEGABYTE
    print_table(
        ["variant", "peak, MB", "without weight gradient, MB", "CPU ms, median (range)", "memory", "time"],
        [
            [
                name,
                f"{peaks[name]:,.0f}",
                f"{peaks[name] - weight_gradient:,.0f}",
                summary(seconds[name], 1e3),
                f"{peaks[name] / peaks['naive']:.3f}x",
                summary(ratios(seconds[name], seconds["naive"]), digits=2),
            ]
            for name in VARIANTS
        ],
    )
    print(
        f"The peak of both includes the weight's gradient, {arguments.vocabulary:,} x {arguments.rank} in fp32 = "
        f"{weight_gradient:,.0f} MB. Memory and time: ours over naive; time in each turn, median (range)."
    )
    (loss, *gradients), (naive_loss, *naive_gradients) = works["ours"](), works["naive"]()
    differences = [largest_difference(*pair) for pair in zip(gradients, naive_gradients, strict=True)]
    print(
        f"Loss {loss:.6f} (naive {naive_loss:.6f}); largest difference of the gradients, relative to their largest "
        f"entry: latent {differences[0]:.1e}, weight {differences[1]:.1e}."
    )


if __name__ == "__main__":
    main()
