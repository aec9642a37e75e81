"""What a token costs by length, depth, vocabulary and processes, through `yxanul pretrain`.

    python benchmarks/scaling.py lengths            (one GPU; each part in under ten minutes)
    python benchmarks/scaling.py depth vocabulary processes
    python benchmarks/scaling.py lengths --small    (a CPU; it proves the script)

lengths: the ten of recipes/yxanul-197m.yaml in one run, as a curriculum has them, equally many tokens a step; no
length may fall below 60 % of the best one's tokens/s. The others are runs of their own, in turns.
Not here: several machines, memory (memory.py).
"""

import statistics
from typing import Any

from measuring import print_table
from rows import NOT_MEASURED, Row, Work, arguments, measure
from tables import header, show, show_aims

LENGTHS = (8, 16, 32, 64, 128, 256, 512, 768, 1536, 2048)
CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...]]] = {  # field of the shape, values on a CPU and on a GPU
    "depth": ("num_hidden_layers", (1, 2, 4), (7, 14, 28)),
    "vocabulary": ("vocab_size", (1024, 4096), (50_257, 100_352, 200_005)),
    "processes": ("", (1, 2), (1, 2, 4, 8)),
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("parts", nargs="+", choices=["lengths", *CASES])
    parser.add_argument("--preset", default="yxanul-177m")
    parser.add_argument("--set", nargs="*", default=[], metavar="key=value", help="settings of all rows")
    options = parser.parse_args()
    header(f"Scaling: {', '.join(options.parts)}", options)
    preset, changes = ("tiny", {"num_hidden_layers": 2}) if options.small else (options.preset, {})
    for part in options.parts:
        if part in CASES:
            side_by_side(part, options, preset, changes)
        else:
            lengths(options, preset, changes)


def lengths(options: Any, preset: str, changes: dict[str, Any]) -> None:
    """Steps of 16 blocks of the plan, whose length is the least common multiple of the ten."""
    work = Work((8, 16, 32, 64), 512, 12, 4) if options.small else Work(LENGTHS, 98_304, 30, 6)
    row = Row(preset, preset, changes, tuple(options.set))
    result = measure([row], work, options)[preset]
    lines = [line for turn in result.turns for line in turn]
    speeds = {
        length: [line["tokens_per_second"] for line in lines if line["length"] == length] for length in work.lengths
    }
    best = max((statistics.median(found) for found in speeds.values() if found), default=None)
    table = []
    for length, found in speeds.items():
        cells = [NOT_MEASURED] * 2
        if best and found:
            cells = [f"{statistics.median(found):,.0f}", f"{statistics.median(found) / best:.0%}"]
        table.append([f"{length:,}", f"{work.step_tokens // length:,}", *cells])
    if result.reason and result.reason != NOT_MEASURED:
        print(f"{preset} did not run: {result.reason}\n")
    print_table([f"length ({preset})", "rows", "tokens/s", "of the best length"], table)
    shares = [statistics.median(found) / best for found in speeds.values() if best and found]
    show_aims([("slowest length / best length", 0.6, min(shares, default=None))])


def side_by_side(part: str, options: Any, preset: str, changes: dict[str, Any]) -> None:
    field, small, full = CASES[part]
    rows = []
    for value in small if options.small else full:
        own = changes | {field: value} if field else changes
        processes = 1 if field else value
        rows.append(Row(f"{preset}, {part} {value:,}", preset, own, tuple(options.set), processes=processes))
    work = Work((64,), 512, 12, 4) if options.small else Work((2048,), 65_536, 40, 10)
    show(rows, measure(rows, work, options), work, against=rows[0].name)


if __name__ == "__main__":
    main()
