"""Progress of a run: one panel that updates in place on a terminal, one plain line for each log everywhere else.

    with Console(plan.steps, plan.tokens, stage_names, "demo") as console:
        console.log(line)            each line of metrics.jsonl, training and evaluation alike
        console.say("stage math begins")

Nothing moves between two logs: there is no thread here. A pipe, a dumb terminal or one without Unicode gets lines.
Not here: the figures themselves (metrics.jsonl has them, before they come here).
"""

import math
import time
from typing import Any, TextIO

from rich.console import Console as RichConsole
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from yxanul.run_folder import bits_per_byte
from yxanul.shell import is_quiet

BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST = 96
BESIDE_THE_GRAPH = 22  # columns: frame, labels, the loss as a number


class Console:
    def __init__(
        self, total_steps: int, total_tokens: int, stages: list[str], title: str, stream: TextIO | None = None
    ) -> None:
        self.total_steps, self.total_tokens, self.stages, self.title = total_steps, total_tokens, stages, title
        self.console = RichConsole(file=stream, highlight=False, markup=False, quiet=is_quiet())
        is_panel = self.console.is_interactive and not self.console.options.ascii_only
        self.live = Live(console=self.console, auto_refresh=False) if is_panel else None
        self.losses: list[float] = []
        self.last: dict[str, Any] = {}  # training line
        self.bits_per_byte: dict[str, float] = {}
        self.started = time.time()
        self.first: tuple[int, float] | None = None  # tokens and time of the first line, where a resumed run came in

    def __enter__(self) -> "Console":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def log(self, metrics: dict[str, Any]) -> None:
        scores = bits_per_byte(metrics)
        self.bits_per_byte |= scores
        if "loss" in metrics:
            self.last = metrics
            self.losses.append(metrics["loss"])
            self.first = self.first or (metrics["tokens"], metrics["time"])
        if self.live and self.last:
            self.live.update(self._panel(), refresh=True)
        elif not self.live and ("loss" in metrics or scores):
            self.say(self._line(metrics, scores))
        for alert in metrics.get("alerts", ()):
            self.say(f"step {metrics['step']}: {alert}")

    def say(self, text: str) -> None:
        """A line of its own, above the panel."""
        self.console.print(text, soft_wrap=True)

    def _left(self) -> float:
        """Seconds to go: by tokens, because steps grow with their length, and with evaluations and saves in it."""
        assert self.first is not None
        tokens, seconds = self.last["tokens"] - self.first[0], self.last["time"] - self.first[1]
        rate = tokens / seconds if tokens > 0 and seconds > 0 else self.last["tokens_per_second"]
        return (self.total_tokens - self.last["tokens"]) / rate if rate > 0 else math.inf

    def _line(self, metrics: dict[str, Any], scores: dict[str, float]) -> str:
        parts = [f"step {metrics['step']:>{len(str(self.total_steps))}}/{self.total_steps}"]
        if "loss" in metrics:
            parts += [
                f"{metrics['stage']:<{max(map(len, self.stages))}}",
                f"loss {metrics['loss']:5.3f}",
                f"lr {metrics['learning_rate']:.1e}",
                f"ctx {metrics['length']:>4}",
                f"{_speed(metrics):>12}",
                f"eta {duration(self._left())}",
            ]
            parts += [skipped] if (skipped := skipped_steps(metrics)) else []
        if scores:
            parts.append(f"| {_scores(scores, ' ')} bits/byte")
        return "  ".join(parts)

    def _panel(self) -> Panel:
        last, width = self.last, min(WIDEST, self.console.width - len("^C") - 1)
        graph = sparkline(self.losses, max(1, width - BESIDE_THE_GRAPH))
        rows: list[tuple[str, Text | ProgressBar]] = [
            ("stage", self._stage_names()),
            ("loss", Text.assemble((f"{last['loss']:.3f}  ", "bold"), (graph, "magenta"))),
            ("speed", Text(f"{_speed(last)} · ctx {last['length']} · lr {last['learning_rate']:.1e}")),
        ]
        if self.bits_per_byte:
            rows.append(("held-out", Text(f"{_scores(self.bits_per_byte, ' · ')} bits/byte")))
        if skipped := skipped_steps(last):
            rows.append(("health", Text(skipped, style="yellow")))
        elapsed = duration(time.time() - self.started)
        position = f"step {last['step']}/{self.total_steps} · {elapsed} elapsed · {duration(self._left())} left"
        # a row of its own: a ProgressBar ends without a line break
        rows += [("time", ProgressBar(self.total_tokens, last["tokens"])), ("", Text(position, style="dim"))]
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(ratio=1)
        for label, content in rows:
            grid.add_row(label, content)
        return Panel(grid, title=Text.assemble(("yxanul ", "bold"), self.title), border_style="blue", width=width)

    def _stage_names(self) -> Text:
        reached = self.stages.index(self.last["stage"])
        styles = ["green"] * reached + ["bold cyan"] + ["dim"] * len(self.stages)
        return Text(" → ").join(Text(stage, style) for stage, style in zip(self.stages, styles, strict=False))


def sparkline(values: list[float], width: int) -> str:
    """The values as blocks; more values than columns are averaged, and a column with nothing finite is a blank."""
    columns = min(width, len(values))
    edges = [column * len(values) // columns for column in range(columns + 1)]
    pieces = [[value for value in values[a:b] if math.isfinite(value)] for a, b in zip(edges, edges[1:], strict=False)]
    means = [sum(piece) / len(piece) if piece else math.nan for piece in pieces]
    known = [mean for mean in means if not math.isnan(mean)] or [0.0]
    low, span = min(known), (max(known) - min(known)) or 1.0
    return "".join(" " if math.isnan(mean) else BLOCKS[int((mean - low) / span * 7.999)] for mean in means)


def duration(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 60}m{whole % 60:02d}s"


def skipped_steps(metrics: dict[str, Any]) -> str:
    count = metrics["skipped_steps"]
    return f"{count} step{'s' if count > 1 else ''} skipped" if count else ""


def _scores(scores: dict[str, float], separator: str) -> str:
    return separator.join(f"{domain} {value:.2f}" for domain, value in scores.items())


def _speed(metrics: dict[str, Any]) -> str:
    return f"{metrics['tokens_per_second'] / 1e3:.1f}k tok/s"
