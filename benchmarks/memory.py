"""Peak memory of a training step and the largest micro-batch that fits, by vocabulary: ours and stock Llama.

    python benchmarks/memory.py                (one GPU; under ten minutes)
    python benchmarks/memory.py --small        (a CPU; it proves the script)

Forward, backward and fused AdamW in a process of its own for each model, eager, in bf16 autocast on a GPU; the peak is
the allocator's, weights included. The largest micro-batch is found by doubling until memory ends, then by halves. On a
CPU the peak is the growth of resident memory over the weights, in fp32, and nothing is searched. The last table is of
whole runs through `yxanul pretrain`. Not here: memory of other GPUs by arithmetic (`yxanul plan --gpu`).
"""

import gc
from itertools import product
from typing import Any

from measuring import in_own_process, peak_growth, print_table, use_one_thread
from rows import NOT_MEASURED, Row, Work, arguments, gpu, measure
from tables import header, show, show_aims

PRESETS = {"yxanul-177m": 50_257, "yxanul-197m": 200_005}
SMALL: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "head_dim": 64}
SMALL |= {"num_key_value_heads": 1, "intermediate_size": 256, "embedding_rank": 32}


def peak_of(preset: str, changes: dict[str, Any], family: str, rows: int, length: int) -> float | None:
    """Gigabytes; None where it does not fit."""
    import torch

    if not torch.cuda.is_available():
        use_one_thread()
        steps_of("tiny", {}, family, 1, 8)()  # libraries and operators load here
        return peak_growth(steps_of(preset, changes, family, rows, length)) / 1e3
    try:
        torch.cuda.reset_peak_memory_stats()
        steps_of(preset, changes, family, rows, length)()
        return torch.cuda.max_memory_allocated() / 1e9
    except torch.OutOfMemoryError:
        return None


def steps_of(preset: str, changes: dict[str, Any], family: str, rows: int, length: int) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from yxanul import YxanulForCausalLM
    from yxanul.catalog import load_shape

    on_gpu = torch.cuda.is_available()
    config: Any = load_shape(preset, changes | ({"embedding_rank": None} if family == "Llama" else {})).config
    if family == "Llama":
        shape = {key: value for key, value in config.to_dict().items() if key in LlamaConfig.__annotations__}
        config = LlamaConfig(**shape)
    config.use_cache = False
    with torch.device("cuda" if on_gpu else "cpu"):
        model = (LlamaForCausalLM if family == "Llama" else YxanulForCausalLM)(config).train()
        tokens = torch.randint(0, config.vocab_size, (rows, length))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def steps() -> None:
        for _ in range(2):  # the second has optimizer state from its start
            with torch.autocast("cuda", torch.bfloat16, enabled=on_gpu):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    return steps


def largest_that_fits(preset: str, changes: dict[str, Any], family: str, length: int) -> int:
    """Rows, to an eighth."""
    import torch

    def fits(rows: int) -> bool:
        gc.collect()
        torch.cuda.empty_cache()
        return peak_of(preset, changes, family, rows, length) is not None

    rows = 1
    while fits(2 * rows):
        rows *= 2
    for part in (rows // 2, rows // 4, rows // 8):
        rows += part if part and fits(rows + part) else 0
    return rows


def main() -> None:
    options = arguments(__doc__, turns=1).parse_args()
    header("Memory by vocabulary", options)
    changes, rows, length = (SMALL, 4, 128) if options.small else ({}, 16, 2048)
    table, peaks = [], list[float | None]()
    for preset, family in product(PRESETS, ("ours", "Llama")):
        cells = [NOT_MEASURED] * 3
        if not options.layout:
            peaks.append(in_own_process(peak_of, preset, changes, family, rows, length))
            cells[:2] = ["does not fit", "-"]
            if peaks[0] and peaks[-1]:
                cells[:2] = [f"{peaks[-1]:.2f}", f"{peaks[-1] / peaks[0]:.2f}"]
            if gpu():
                found = in_own_process(largest_that_fits, preset, changes, family, length)
                cells[2] = f"{found} rows, {found * length:,} tokens"
        name = f"{preset}, {'factorised' if family == 'ours' else 'Llama of its shape'}"
        table.append([name, f"{PRESETS[preset]:,}", *cells])
    heading = f"peak{' above the weights' * options.small}, GB, {rows} x {length:,}"
    print_table(["model", "vocabulary", heading, "over the first", "largest micro-batch"], table)
    work = Work((length,), length * rows, *((4, 2) if options.small else (20, 10)))
    runs = [Row(preset, preset, changes) for preset in PRESETS]
    results = measure(runs, work, options)
    show(runs, results, work)
    both = [results[run.name].all("memory/device_peak") or results[run.name].all("memory/host_peak") for run in runs]
    ratio = max(both[1]) / max(both[0]) if all(both) else None
    show_aims([("peak of yxanul-197m / yxanul-177m, through our Trainer", 1.15, ratio)], at_most=True)


if __name__ == "__main__":
    main()
