"""A chart of lines over a run's tokens as one SVG, readable in light and dark and by a screen reader.

    chart("Training loss", [Line("loss", tokens, values)], stages=[Band("language", 0, 405_504)], is_log=False)

Long lines are thinned to means. Colours are the page's variables (report_page.py). Not here: which figures, no script.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

COLORS = 8  # --line-0 to --line-7 of the page
MOST_POINTS = 240
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 250, 58, 10, 22, 24
TABLE_ROWS = 12


@dataclass(frozen=True)
class Line:
    name: str
    tokens: list[int]
    values: list[float]


@dataclass(frozen=True)
class Band:
    name: str
    begin: int
    end: int


def chart(title: str, unit: str, lines: list[Line], stages: list[Band], is_log: bool = False) -> str:
    lines = [_thinned(line) for line in lines]
    values = [value for line in lines for value in line.values]
    if is_log:
        floor = min((value for value in values if value > 0), default=1.0)
        low, high = floor, max(max(values), floor * 1.01)
    else:
        low, high = min(values), max(values)
        room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
        low, high = (0.0 if low == 0 or 0 < low < (high - low) / 2 else low - room), high + room
    end = max(max(line.tokens) for line in lines) or 1

    def x(tokens: float) -> float:
        return LEFT + tokens / end * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        share = math.log(max(value, low) / low) / math.log(high / low) if is_log else (value - low) / (high - low)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    drawn = [_band(band, number, x) for number, band in enumerate(stages)]
    for tick in _log_ticks(low, high) if is_log else _ticks(low, high):
        drawn.append(f"<line class=axis x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick):.1f} y2={y(tick):.1f} />")
        drawn.append(f"<text class=soft x={LEFT - 6} y={y(tick) + 4:.1f} text-anchor=end>{figure(tick)}</text>")
    for share, anchor in ((0, "start"), (0.5, "middle"), (1, "end")):
        label = figure(share * end) + (" tokens" if share == 1 else "")
        drawn.append(f"<text class=soft x={x(share * end):.1f} y={HEIGHT - 6} text-anchor={anchor}>{label}</text>")
    for number, line in enumerate(lines):
        points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(line.tokens, line.values, strict=True))
        color = f"var(--line-{number % COLORS})"
        dash = f" stroke-dasharray={'6,4' if number // COLORS % 2 else 'none'}"
        if len(line.values) == 1:
            drawn.append(f'<circle cx={x(line.tokens[0]):.1f} cy={y(line.values[0]):.1f} r=3 fill="{color}" />')
        drawn.append(f'<polyline points="{points}" stroke="{color}"{dash} />')
    said = "; ".join(f"{line.name} from {figure(line.values[0])} to {figure(line.values[-1])}" for line in lines)
    legend = "".join(
        f'<span><i style="background:var(--line-{number % COLORS})"></i>{escape(line.name)} '
        f"<b>{figure(line.values[-1])}</b></span>"
        for number, line in enumerate(lines)
    )
    return (
        f"<figure><figcaption>{escape(title)} <span class=soft>{escape(unit)}</span></figcaption>"
        f"<div class=legend>{legend}</div>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(f"{title}: {said}", quote=True)}">'
        f"{''.join(drawn)}</svg>{_table(lines)}</figure>"
    )


def figure(value: float) -> str:
    """Three digits that count, and thousands as k, M, G."""
    if value == 0:
        return "0"
    for size, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if sign == 'k' else size):.3g} {sign}"
    return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.4g}" if abs(value) >= 1000 else f"{value:.3g}"


def _thinned(line: Line) -> Line:
    size = math.ceil(len(line.values) / MOST_POINTS)
    if size == 1:
        return line
    starts = range(0, len(line.values), size)
    means = [sum(part := line.values[start : start + size]) / len(part) for start in starts]
    return Line(line.name, [line.tokens[min(start + size, len(line.tokens)) - 1] for start in starts], means)


def _band(band: Band, number: int, x: Callable[[float], float]) -> str:
    begin, end = x(band.begin), x(band.end)
    shade = (
        f"<rect class=band x={begin:.1f} y=0 width={end - begin:.1f} height={HEIGHT - BOTTOM} />" if number % 2 else ""
    )
    return f"{shade}<text class=soft x={begin + 4:.1f} y=14>{escape(band.name)}</text>"


def _ticks(low: float, high: float) -> list[float]:
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
    ticks = [tick for tick in powers if low <= tick <= high]
    return ticks if len(ticks) > 1 else [low, high]


def _table(lines: list[Line]) -> str:
    rows = []
    for line in lines:
        count = len(line.values)
        chosen = sorted({round(place * (count - 1) / max(TABLE_ROWS - 1, 1)) for place in range(TABLE_ROWS)})
        rows += [(line.name, figure(line.tokens[place]), figure(line.values[place])) for place in chosen]
    cells = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows)
    return f"<details><summary>figures</summary><table><tr><th>line<th>tokens<th>value{cells}</table></details>"
