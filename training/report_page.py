"""The page of `yxanul report`: one HTML file without scripts, for wide and small screens, light and dark.

All that a model wrote is escaped. Not here: any figure (report.py), a line of a chart (line_chart.py).
"""

import time
from html import escape

from yxanul.evaluation.compare_page import STYLE as PAGE_STYLE
from yxanul.training.line_chart import Line, chart
from yxanul.training.report import Report

STYLE = (
    PAGE_STYLE
    + """
:root { --line-0: #1f6fb2; --line-1: #c2571a; --line-2: #12805c; --line-3: #a03a8a; --line-4: #8a6d00;
  --line-5: #3f51b5; --line-6: #b3261e; --line-7: #5b6570; }
@media (prefers-color-scheme: dark) { :root { --line-0: #6cb6ff; --line-1: #ffa26b; --line-2: #5fd39b;
  --line-3: #e59bd3; --line-4: #e0c352; --line-5: #a5b1ff; --line-6: #ff8a80; --line-7: #a0a9b4; } }
figure { margin: 1rem 0; min-width: 0; } figcaption { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 1.5rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; font-size: .85rem; }
.legend i { display: inline-block; width: .9rem; height: .25rem; margin-right: .35rem; vertical-align: middle; }
figure svg { max-width: none; } svg polyline { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .band { fill: var(--card); } figure details { font-size: .85rem; border: 0; background: none; padding: 0; }
figure td, figure th { padding: .1rem .4rem; } body { max-width: 76rem; }
.scroll { overflow-x: auto; }
@media (max-width: 40rem) { figure svg text { font-size: 17px; } } /* a phone shows 640 units at half size */
"""
)
# title, unit, which figures of metrics.jsonl (the group is the line's name), logarithmic
CHARTS = (
    ("Held-out text", "bits per byte", r"eval_(.+)_bits_per_byte", False),
    ("Training loss", "nats per token", r"(loss)", False),
    ("Loss in two parts", "nats per token; of the text, and from the teacher", r"distill/(.+)", False),
    ("Training less held-out loss", "nats per token; sinking: learnt by heart", r"gap/(.+)", False),
    ("Learning rate", "", r"(learning_rate)", False),
    ("Tokens per second", "", r"(tokens_per_second)", False),
    ("Share of the device's peak", "", r"(mfu)", False),
    ("Gradient norms", "", r"gradient/norm/(.+)", True),
    ("Change of weights in a step", "share of their norm", r"update_ratio/(.+)", True),
    ("Residual stream", "", r"activation/(rms|absmax)", True),
    (
        "Silent feed-forward channels",
        "share: of all, of the worst layer",
        r"(dead_neurons|layers/dead_neurons)",
        False,
    ),
    ("Greedy guesses", "right, and how sure", r"(accuracy|confidence/mean)", False),
    ("Entropy of predictions", "nats", r"entropy/(.+)", False),
    ("Memory", "bytes", r"memory/(.+)", False),
    ("Seconds of a step", "", r"time/(.+)", False),
    ("Power", "watts", r"(power)", False),
)


def page(reports: list[Report], reload_seconds: int | None) -> str:
    title = escape(", ".join(report.name for report in reports))
    reload = f'<meta http-equiv=refresh content="{reload_seconds}">' if reload_seconds else ""
    parts = [f"<p>{_state(report)}</p>{_scores(report)}{_gates(report)}" for report in reports]
    parts.append(f"<h2>Curves</h2><div class=charts>{_charts(reports)}</div>")
    for report in reports:
        parts += [_alerts(report), _samples(report), _facts(report)]
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width=device-width">'
        f"{reload}<title>{title}</title><style>{STYLE}</style><main><h1>{title}</h1>{''.join(parts)}</main></html>\n"
    )


def _state(report: Report) -> str:
    last = report.lines[-1] if report.lines else {"step": 0, "tokens": 0}
    state = "done" if report.is_done else "running" if report.is_running else "not finished"
    words = [f"step {last['step']:,}", f"{last['tokens']:,} tokens"]
    if len(report.lines) > 1:
        words.append(f"{_duration(report.lines[-1]['time'] - report.lines[0]['time'])} from first to last log")
    for start in report.environment[-1:]:
        words.append(f"{start['processes']} x {start['device']}, torch {start['packages']['torch']}")
        words.append(time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(start["time"])))
    return f"<b>{escape(report.name)}</b>: {state}; <span class=soft>{escape(', '.join(words))}</span>"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def _scores(report: Report) -> str:
    scores = report.bits_per_byte()
    if not scores:
        return "<p class=soft>No held-out text was evaluated.</p>"
    domains = list(dict.fromkeys(domain for found in scores.values() for domain in found))
    head = "".join(f"<th>{escape(name)}" for name in ("bits per byte", *domains))
    rows = "".join(
        f"<tr><td>{escape(place)}"
        + "".join(f'<td data-name="{escape(name)}">{found[name]:.3f}' if name in found else "<td>" for name in domains)
        for place, found in scores.items()
    )
    return f"<table><thead><tr>{head}</thead><tbody>{rows}</tbody></table>"


def _gates(report: Report) -> str:
    """Every rule of every gate, with the figure it rests on."""
    rows = []
    for stage, verdict in report.gates.items():
        word = "passed" if verdict["passed"] else "failed, accepted" if "accepted" in verdict else "failed"
        color = "better" if verdict["passed"] else "worse"
        rules = "".join(
            f"<li>{'' if found['passed'] else '<b class=worse>failed</b> '}{escape(found['domain'])}, "
            f"{escape(found['role'])}: {found['before']:.3f} to {found['after']:.3f}; the upper bound of the change "
            f"is {found['upper']:+.3f}, allowed {found['limit']:+.3f}"
            for found in verdict["findings"]
            if found.get("upper") is not None and found.get("limit") is not None
        )
        rows.append(
            f"<details{'' if verdict['passed'] else ' open'}><summary>gate of {escape(stage)}: "
            f"<b class={color}>{word}</b></summary><ul>{rules}</ul></details>"
        )
    return "".join(rows)


def _charts(reports: list[Report]) -> str:
    drawn = []
    for title, unit, pattern, is_log in CHARTS:
        lines = [
            Line(f"{report.name}: {line.name}" if len(reports) > 1 else line.name, line.tokens, line.values)
            for report in reports
            for line in report.curves(pattern)
        ]
        if lines:
            drawn.append(chart(title, unit, lines, reports[0].stages, is_log))
    return "".join(drawn) or "<p class=soft>Nothing was logged yet.</p>"


def _alerts(report: Report) -> str:
    alerts = report.alerts()
    if not alerts:
        return ""
    items = "".join(f"<li>step {step:,}: {escape(alert)}" for step, alert in alerts)
    name = escape(report.name)
    return f"<h2>Alerts of {name}</h2><details><summary>{len(alerts):,}</summary><ul>{items}</ul></details>"


def _samples(report: Report) -> str:
    if not report.samples:
        return ""
    blocks = "".join(
        f"<details><summary>step {sample['step']:,}, {escape(sample['domain'])}</summary>"
        f"<pre><span class=soft>{escape(sample['prompt'])}</span>{escape(sample['continuation'])}</pre></details>"
        for sample in report.samples
    )
    return f"<h2>How {escape(report.name)} went on from held-out text</h2>{blocks}"


def _facts(report: Report) -> str:
    starts = "\n".join(
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime(start['time']))}  {' '.join(start['command'])}\n  "
        + ", ".join(f"{name} {version}" for name, version in start["packages"].items())
        + f"\n  python {start['python']}, {start['platform']}"
        for start in report.environment
    )
    return (
        f"<h2>{escape(report.name)}</h2><details><summary>recipe, every value written out</summary>"
        f"<pre>{escape(report.config)}</pre></details><details><summary>its starts ({len(report.environment):,}), "
        f"and what they ran on</summary><pre>{escape(starts)}</pre></details>"
    )
