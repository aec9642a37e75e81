"""The page of `yxanul compare`: one HTML file without scripts, readable on a phone, light and dark.

Run: by compare.py. All that models wrote is escaped. Not here: any figure; they are computed in compare.py.
"""

import json
from html import escape
from itertools import groupby
from typing import Any

from yxanul.evaluation.compare import MOST_SAMPLES, Difference, Pair, Result, figure, signed

STYLE = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #5b6570; --back: #ffffff; --card: #f5f6f8; --line: #d8dde3;
  --better: #12754a; --worse: #b3261e; --same: #6b7480; }
@media (prefers-color-scheme: dark) { :root { --text: #e7eaee; --soft: #a0a9b4; --back: #14171a; --card: #1d2226;
  --line: #353c44; --better: #5fd39b; --worse: #ff8a80; --same: #98a2ad; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; } h3 { font-size: 1rem; margin: 1rem 0 .3rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); } .better { color: var(--better); } .worse { color: var(--worse); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: right; color: var(--soft); font-weight: 600; } th:first-child { text-align: left; }
td { text-align: right; } td:first-child { text-align: left; white-space: normal; }
th, td { padding: .35rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; font-size: .95rem; }
@media (max-width: 44rem) { thead { display: none; } tr { display: block; padding: .5rem 0; }
  tr { border-bottom: 1px solid var(--line); } td { display: flex; justify-content: space-between; gap: 1rem; }
  td, td:first-child { border: 0; padding: .1rem 0; } td::before { content: attr(data-name); color: var(--soft); }
  td:first-child { font-weight: 600; } td:first-child::before, td:empty { display: none; } }
details { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; margin: .4rem 0; }
details { padding: .4rem .7rem; }
summary { cursor: pointer; } pre { white-space: pre-wrap; margin: .2rem 0 .6rem; font-size: .85rem; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 0 1.5rem; }
svg { width: 100%; max-width: 36rem; height: auto; display: block; }
svg text { fill: var(--text); font: 13px system-ui, sans-serif; paint-order: stroke; stroke: var(--back); }
svg text { stroke-width: 5px; } svg .soft { fill: var(--soft); }
.axis { stroke: var(--line); } .zero { stroke: var(--soft); }
"""
HEADINGS = ("task", "samples", "first", "other", "difference", "95 % interval", "gained / lost", "McNemar p")


def page(results: list[Result], pairs: list[Pair], refusals: list[str]) -> str:
    first, parts = results[0], []
    for label, group in groupby(pairs, key=lambda pair: pair.other.label):
        mine = list(group)
        parts.append(f"<h2>{escape(label)} <span class=soft>against {escape(first.label)}</span></h2>{_table(mine)}")
        parts += [f"<p class=soft>{escape(pair.task)}: {escape(note)}.</p>" for pair in mine for note in pair.notes]
    parts += [f"<p>Not compared: {escape(sentence)}.</p>" for sentence in refusals]
    parts.append(f"<h2>Differences</h2><div class=two>{_charts(pairs)}</div><h2>Samples that changed</h2>")
    parts += [_samples(pair, first) for pair in pairs]
    title = f"{escape(', '.join(result.label for result in results[1:]))} against {escape(first.label)}"
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{_about(results)}{''.join(parts)}</html>\n"
    )


def _about(results: list[Result]) -> str:
    lines = [
        "<p>Every difference is the other result less the first, on the same samples. An interval holds the true "
        "difference in 95 of 100 cases, so of twenty figures one is outside by chance: a single one is a hint, not a "
        "proof.</p>"
    ]
    for result in results:
        words = [f"model {result.facts.get('model')}"]
        words += [f"{name} {result.facts[name]}" for name in ("revision", "date") if result.facts.get(name)]
        lines.append(f"<p class=soft><b>{escape(result.label)}</b>: {escape(', '.join(words))}</p>")
    return "".join(lines)


def _table(pairs: list[Pair]) -> str:
    rows = []
    for pair in pairs:
        for each in pair.differences:
            counts = ("", "") if each.p is None else (f"{each.gained:,} / {each.lost:,}", f"{each.p:.3g}")
            name = f"{escape(pair.task)} <span class=soft>{escape(each.metric)}</span>"
            change, bounds = signed(each.value), f"{signed(each.low)} to {signed(each.high)}"
            if each.verdict != "not shown":
                change = f"<b class={each.verdict}>{change} {each.verdict}</b>"
            cells = (name, f"{each.n:,}", figure(each.first), figure(each.other), change, bounds, *counts)
            named = zip(HEADINGS, cells, strict=True)
            rows.append("<tr>" + "".join(f'<td data-name="{name}">{cell}</td>' for name, cell in named))
    head = "".join(f"<th>{name}" for name in HEADINGS)
    return f"<table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _charts(pairs: list[Pair]) -> str:
    """One for each metric, for their units differ: a dot with its interval for each task and result."""
    found: dict[str, list[tuple[Pair, Difference]]] = {}
    for pair in pairs:
        for each in pair.differences:
            found.setdefault(each.metric, []).append((pair, each))
    return "".join(_chart(metric, lines) for metric, lines in found.items())


def _chart(metric: str, lines: list[tuple[Pair, Difference]]) -> str:
    width, row, left, right = 360, 44, 12, 12
    reach = 1.05 * max(max(abs(each.low), abs(each.high)) for _, each in lines) or 1.0

    def x(value: float) -> str:
        return f"{left + (value / reach + 1) / 2 * (width - left - right):.1f}"

    height = row * len(lines) + 24
    drawn = [f"<line class=axis x1={left} x2={width - right} y1={height - 20} y2={height - 20} />"]
    drawn.append(f"<line class=zero x1={x(0)} x2={x(0)} y1=0 y2={height - 20} stroke-dasharray=3 />")
    for value, anchor in ((-reach, "start"), (0.0, "middle"), (reach, "end")):
        label = signed(value) if value else "0"
        drawn.append(f"<text class=soft x={x(value)} y={height - 5} text-anchor={anchor}>{label}</text>")
    for number, (pair, each) in enumerate(lines):
        y, color = row * number + 30, f"var(--{'same' if each.verdict == 'not shown' else each.verdict})"
        name = f"{pair.task}: {pair.other.label}"
        drawn.append(f"<text x={left} y={y - 12}>{escape(name if len(name) < 52 else name[:50] + chr(8230))}</text>")
        drawn.append(f'<line x1={x(each.low)} x2={x(each.high)} y1={y} y2={y} stroke="{color}" stroke-width=3 />')
        drawn.append(f'<circle cx={x(each.value)} cy={y} r=5 fill="{color}" />')
    side = "right" if lines[0][1].higher_is_better else "left"
    title = f"{escape(metric)} <span class=soft>better to the {side}</span>"
    told = "; ".join(
        f"{pair.task}, {pair.other.label}: {signed(each.value)}, 95 % from {signed(each.low)} to {signed(each.high)}, "
        f"{each.verdict}"
        for pair, each in lines
    )
    about = f"<title>Differences of {escape(metric)}</title><desc>{escape(told)}</desc>"
    return f'<div><h3>{title}</h3><svg viewBox="0 0 {width} {height}" role=img>{about}{"".join(drawn)}</svg></div>'


def _samples(pair: Pair, first: Result) -> str:
    shown = pair.changed[:MOST_SAMPLES]
    title = f"<h3>{escape(pair.task)}: {escape(pair.other.label)}</h3>"
    more = f", the first {len(shown):,} are shown" if len(shown) < len(pair.changed) else ""
    blocks = [f"{title}<p class=soft>{len(pair.changed):,} samples changed{more}.</p>"]
    for name, one, two in shown:
        changes = [
            f"{escape(metric.replace('_', ' '))} {one['metrics'][metric]:.4g} \N{RIGHTWARDS ARROW} {value:.4g}"
            for metric, value in two["metrics"].items()
            if metric in one["metrics"] and one["metrics"][metric] != value
        ]
        expected = "bytes of the text" if "bits_per_byte" in one["metrics"] else "expected"
        sides = "".join(
            f"<div><b>{escape(label)}</b>{_unit(sample.get('output'))}{_text(sample.get('output'))}</div>"
            for label, sample in ((first.label, one), (pair.other.label, two))
        )
        blocks.append(
            f"<details><summary>{escape(name)} <span class=soft>{', '.join(changes)}</span></summary>"
            f"<b>prompt</b>{_text(one.get('prompt'))}<b>{expected}</b>{_text(one.get('expected'))}"
            f"<div class=two>{sides}</div></details>"
        )
    return "".join(blocks)


def _unit(output: Any) -> str:
    return "" if isinstance(output, str) else " <span class=soft>log-likelihood, nats</span>"


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"
