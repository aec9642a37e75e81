"""Tokens per second, MFU, peak memory and time split of whole runs, by preset, precision, attention, compile, length.

    python benchmarks/throughput.py --presets yxanul-177m --peers llama llama-equal bare     (a GPU, under ten minutes)
    python benchmarks/throughput.py --small                                     (a CPU; it shows that the script works)

Every row of ours is `yxanul pretrain` on a bin: loader, Trainer, optimizer, health, logging. The peers (peers/, each
with its settings on top) eat the same rows of the same bin in as many steps. Speeds are those of the lines behind the
first, which compiles. The bin holds made-up ids of the preset's vocabulary: what is learnt changes no time.
Not here: the loss that comes out (fp8.py), other lengths in one run (scaling.py).
"""

import statistics
from itertools import product
from typing import Any

from rows import Result, Row, Work, arguments, measure
from tables import header, say_what_mfu_is, show, show_aims

PEERS = {  # what a table calls it, and its file
    "llama": ("Trainer + Llama, same shape", "llama_trainer.py"),
    "llama-equal": ("Trainer + Llama, as many parameters", "llama_trainer.py"),
    "bare": ("bare loop, our model", "bare_loop.py"),
    "gpt2": ("plain GPT, same shape", "gpt2.py"),
    "litgpt": ("litgpt, same shape", "litgpt_peer.py"),
}
LLAMA = PEERS["llama"][0]
KINDS = ("precision", "attention", "compile")
AIMS = {"elite-112m": (503_000, 603_000), "yxanul-177m": (297_000, 357_000)}  # tokens/s at 2,048, and the stretch
AIMS |= {"yxanul-197m": (274_000, 328_000), "yxanul-270m": (232_000, 278_000)}
# The public baseline's shape in our layers: three matrices of 2048 are as many parameters as two of 4 x 768
GPT2 = {"vocab_size": 50_304, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
GPT2 |= {"num_attention_heads": 12, "num_key_value_heads": 12, "max_position_embeddings": 1024}
SMALL = {"num_hidden_layers": 2, "embedding_rank": 32}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--presets", nargs="+", default=["elite-112m"], help="and gpt2: the public baseline's shape")
    for name in KINDS:
        parser.add_argument(f"--{name}", nargs="+", default=["auto"], help="of our rows")
    parser.add_argument("--lengths", nargs="+", type=int, default=[2048])
    parser.add_argument("--documents", action="store_true", help="ours: no attention across documents (of 512 tokens)")
    parser.add_argument("--peers", nargs="*", default=[], choices=PEERS)
    options = parser.parse_args()
    tokens, steps, every = 65_536, 50, 10
    if options.small:
        options.presets, options.lengths, tokens, steps, every = ["tiny"], [64], 512, 15, 3
    kinds = [f"{kind} {' '.join(values)}" for kind in KINDS if (values := getattr(options, kind)) != ["auto"]]
    title = [f"Throughput of {' '.join(options.presets)}", *kinds, *["documents apart"] * options.documents]
    header(", ".join(title), options)
    say_what_mfu_is()
    for preset, length in product(options.presets, options.lengths):
        work, rows = Work((length,), tokens, steps, every), rows_of(preset, options)
        results = measure(rows, work, options)
        print(f"### {preset}, {length:,} tokens a row, {tokens:,} a step\n")
        show(rows, results, work, against=LLAMA if LLAMA in results else None)
        if preset in AIMS and length == 2048 and not options.documents:
            show_aims(aims(preset, rows, results))


def rows_of(preset: str, options: Any) -> list[Row]:
    model, changes = ("tiny", GPT2) if preset == "gpt2" else (preset, SMALL if options.small else {})
    rows = []
    for values in product(options.precision, options.attention, options.compile):
        asked = zip(KINDS, values, strict=True)
        settings = [f"{key}={value}" for key, value in asked if value != "auto"]
        apart = ["document_mask=true"] * options.documents
        rows.append(Row(" ".join(["ours", *settings]), model, changes, (*settings, *apart)))
    for peer in options.peers:
        own = changes if peer == "bare" else {**changes, "embedding_rank": None}
        own = llama_of_equal_size(model, changes) if peer == "llama-equal" else own
        rows.append(Row(PEERS[peer][0], model, own, peer=PEERS[peer][1]))
    return rows


def llama_of_equal_size(model: str, changes: dict[str, Any]) -> dict[str, Any]:
    """Changes for a Llama of the same vocabulary and depth with as many parameters: narrower, its table is whole."""
    from yxanul.catalog import load_shape, parameter_table

    config = load_shape(model, changes).config
    wanted, size, layers = sum(parameter_table(config).values()), config.head_dim, config.num_hidden_layers
    fitting = []
    for heads in range(1, config.num_attention_heads + 1):
        most = max(1, heads * config.num_key_value_heads // config.num_attention_heads)
        keys = max(count for count in range(1, most + 1) if heads % count == 0)
        shape = {**changes, "embedding_rank": None, "hidden_size": size * heads, "head_dim": size}
        shape |= {"num_attention_heads": heads, "num_key_value_heads": keys, "intermediate_size": 16}
        rest = wanted - sum(parameter_table(load_shape(model, shape).config).values())
        shape["intermediate_size"] += round(rest / (3 * size * heads * layers) / 16) * 16
        if shape["intermediate_size"] >= size * heads:
            fitting.append(shape)
    ratio = config.intermediate_size / config.hidden_size
    return min(fitting, key=lambda shape: abs(shape["intermediate_size"] / shape["hidden_size"] - ratio))


def aims(preset: str, rows: list[Row], results: dict[str, Result]) -> list[tuple[str, float, float | None]]:
    """Of the fastest row of ours."""
    ours = [statistics.median(results[row.name].speeds()) for row in rows if not row.peer and results[row.name].turns]
    best = max(ours, default=None)
    theirs = results[LLAMA].speeds() if LLAMA in results else []
    ratio = best / statistics.median(theirs) if best and theirs else None
    names = (f"{preset}, tokens/s", f"{preset}, tokens/s, the stretch", "over Trainer + Llama, same shape")
    return list(zip(names, (*AIMS[preset], 1.5), (best, best, ratio), strict=True))


if __name__ == "__main__":
    main()
