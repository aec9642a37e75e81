"""When FP8 pays: the presets' matrix products, and whole runs on the same text, in bf16, fp8 and te; the loss as well.

    python benchmarks/fp8.py products [--presets elite-112m yxanul-177m yxanul-270m]    (one GPU)
    python benchmarks/fp8.py steps [--presets elite-112m]                               (one GPU; under ten minutes)
    python benchmarks/fp8.py products --small                                           (a CPU; it proves the script)

products: a linear layer's forward and backward (three products with their casts), compiled in bf16 and fp8, eager in
te; "off by" is the output's relative error against fp32. steps: `yxanul pretrain`, built-in text under a tokenizer of
2,048 ids, same seed and rows; te clean (weights cast in every micro-batch), cached, fused, and in its other scalings.
Not here: numerics over a whole training (docs/precision.md), attention in FP8, which nobody asks for.
"""

import statistics
from typing import Any

from measuring import in_own_process, print_table, use_one_thread
from rows import NOT_MEASURED, Row, Work, arguments, gpu, measure
from tables import header, show

TE = {"te": "", "te, cached": "weight_cache: true", "te, cached, fused": "weight_cache: true, fuse_accumulation: true"}
TE |= {"te, current scaling": "scaling: current", "te, block scaling": "scaling: block"}
PRECISIONS: dict[str, tuple[str, ...]] = {"bf16": (), "fp8": ("precision=fp8",)}
PRECISIONS |= {name: ("precision=te", f"precision_policy={{{policy}}}") for name, policy in TE.items()}


def main() -> None:
    parser = arguments(__doc__, turns=1)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--presets", nargs="+", default=["elite-112m"])
    options = parser.parse_args()
    header(f"FP8: {options.part}", options)
    PARTS[options.part](options)


def products(options: Any) -> None:
    """One row for each matrix that a layer of the preset has."""
    from yxanul.catalog import load_shape
    from yxanul.training.precision.policy import sizes

    tokens, table = 256 if options.small else 32_768, list[list[str]]()
    for preset in ["tiny"] if options.small else options.presets:
        by_size: dict[tuple[int, int], list[str]] = {}
        for name, size in sizes(load_shape(preset).config).items():
            by_size.setdefault(size, []).append(name)
        for (inputs, outputs), names in by_size.items():
            cells = [NOT_MEASURED] * 6
            if not options.layout:
                rate, cells = 6 * tokens * inputs * outputs / 1e12, []
                for found in in_own_process(time_layers, tokens, inputs, outputs):
                    if isinstance(found, str):
                        cells += [f"not run: {found}", "-"]
                    else:
                        cells += [f"{found[0] * 1e3:.3f} ({rate / found[0]:,.3g})", f"{found[1]:.1%}"]
            table.append([f"{preset}: {', '.join(names)}", f"{tokens:,} x {inputs:,} x {outputs:,}", *cells])
    precisions = ["fp32" if options.small and not gpu() else "bf16", "fp8", "te"]
    timed = [heading for name in precisions for heading in (f"{name}, ms (TFLOP/s)", "off by")]
    print_table(["matrix", "tokens x inputs x outputs", *timed], table)


def time_layers(tokens: int, inputs: int, outputs: int) -> list[tuple[float, float] | str]:
    """(seconds, relative error) in bf16 (fp32 on a CPU), fp8 and te, or why it did not run."""
    import torch
    from torch import nn

    from yxanul.training.device import Device, seconds
    from yxanul.training.precision.native_fp8 import enable_fp8
    from yxanul.training.precision.policy import read_policy

    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        use_one_thread()
    device, kind = torch.device("cuda" if on_gpu else "cpu"), torch.bfloat16 if on_gpu else torch.float32
    torch.manual_seed(0)
    clock, x = Device(device), torch.randn(tokens, inputs, device=device)
    plain = nn.Linear(inputs, outputs, bias=False, device=device)
    holder = nn.ModuleDict({"q_proj": nn.Linear(inputs, outputs, bias=False, device=device)})
    holder["q_proj"].load_state_dict(plain.state_dict())
    enable_fp8(holder, read_policy({}, "benchmark"))
    exact = plain(x).detach()
    inside, gradient = x.to(kind).requires_grad_(), torch.randn(tokens, outputs, device=device).to(kind)

    def work(layer: Any) -> Any:
        inside.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=on_gpu):
            y = layer(inside)
        y.backward(gradient)
        return y

    def timed(layer: Any) -> tuple[float, float]:
        y = [work(layer) for _ in range(5)][-1].detach().float()
        marks = [clock.mark()]
        for _ in range(30 if on_gpu else 5):
            work(layer)
            marks.append(clock.mark())
        if on_gpu:
            torch.cuda.synchronize()
        times = [seconds(before, after) for before, after in zip(marks, marks[1:], strict=False)]
        return statistics.median(times), float((y - exact).norm() / exact.norm())

    found: list[tuple[float, float] | str] = []
    for make in (lambda: plain, lambda: holder["q_proj"], lambda: _te_layer(plain)):
        try:
            found.append(timed(torch.compile(make(), disable=not on_gpu or len(found) == 2)))
        except Exception as error:  # no package, no GPU, a driver that is too old: whatever it is, it is the answer
            found.append(str(error).partition("\n")[0])
    return found


def _te_layer(plain: Any) -> Any:
    """Delayed scaling, E4M3 forward and E5M2 backward, history 16, as system 5 has it."""
    import torch
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import DelayedScaling, Format

    layer = te.Linear(plain.in_features, plain.out_features, bias=False)
    with torch.no_grad():
        layer.weight.copy_(plain.weight)
    recipe = DelayedScaling(fp8_format=Format.HYBRID, amax_history_len=16, amax_compute_algo="max")

    def forward(x: Any) -> Any:
        with te.autocast(enabled=True, recipe=recipe):
            return layer(x)

    return forward


def steps(options: Any) -> None:
    work = Work((2048,), 131_072, 100, 10, bin="text", accumulation=4)  # a cache of weights wants micro-batches
    runs, changes, presets = dict(PRECISIONS), {}, options.presets
    if options.small:
        work = Work((64,), 512, 24, 4, bin="small text", accumulation=2)
        changes, presets = {"num_hidden_layers": 2}, ["tiny"]
    if not gpu() and not options.layout:
        runs = {"fp32": ()} | {name: settings for name, settings in runs.items() if name != "bf16"}
    for preset in presets:
        rows = [Row(f"{preset}, {name}", preset, changes, settings) for name, settings in runs.items()]
        results = measure(rows, work, options)
        show(rows, results, work, against=rows[0].name)
        at = [2 * work.every, work.steps // 2 // work.every * work.every, work.steps]
        table = []
        for row in rows:
            losses = {line["step"]: f"{line['loss']:.4f}" for turn in results[row.name].turns for line in turn}
            table.append([row.name, *(losses.get(step, NOT_MEASURED) for step in at)])
        print_table([f"loss, mean of {work.every} steps, at step", *(f"{step:,}" for step in at)], table)


PARTS = {"products": products, "steps": steps}

if __name__ == "__main__":
    main()
