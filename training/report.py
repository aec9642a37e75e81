"""`yxanul report RUN [RUN ...]`: what a run was and how it went, as one HTML file; several runs side by side.

    yxanul report runs/demo                        # writes runs/demo/report.html
    yxanul report runs/a runs/b --out both.html
    yxanul report runs/demo --watch                # writes it anew while the run goes on; the page reloads itself

Everything is read from the run's folder. The page has no script and asks nobody for anything. Not here: how it looks
(report_page.py, line_chart.py).
"""

import argparse
import fcntl
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import say
from yxanul.data.whole_files import write_whole
from yxanul.run_folder import RunFolder, bits_per_byte, read_metrics
from yxanul.shell import command
from yxanul.training.line_chart import Band, Line

WATCH_SECONDS = 10
SECONDS_OF_SILENCE = 600  # after which a run without a lock is held to have ended


@dataclass(frozen=True)
class Report:
    """Of one run, as far as it has come."""

    name: str
    lines: list[dict[str, Any]]
    gates: dict[str, dict[str, Any]]
    samples: list[dict[str, Any]]
    config: str
    environment: list[dict[str, Any]]
    is_running: bool
    is_done: bool

    @property
    def stages(self) -> list[Band]:
        """From the tokens at which a stage's first line came to those of its last; a stage begins where one ended."""
        bands: list[Band] = []
        for line in self.lines:
            if "stage" not in line:
                continue
            if bands and bands[-1].name == line["stage"]:
                bands[-1] = Band(bands[-1].name, bands[-1].begin, line["tokens"])
            else:
                bands.append(Band(line["stage"], bands[-1].end if bands else 0, line["tokens"]))
        return bands

    def curves(self, pattern: str) -> list[Line]:
        """One for each figure whose name matches; of a list, one figure a layer, its highest."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for line in self.lines:
            for key, value in line.items():
                match = re.fullmatch(pattern, key)
                numbers = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
                if match and numbers:
                    tokens, values = found.setdefault(match[1], ([], []))
                    tokens.append(line["tokens"])
                    values.append(float(max(numbers)))
        return [Line(name, *curve) for name, curve in found.items()]

    def bits_per_byte(self) -> dict[str, dict[str, float]]:
        """At the start and at each stage's end, by domain."""
        places = {"at the start": 0} | {f"after {stage.name}": stage.end for stage in self.stages}
        scored = {line["tokens"]: bits_per_byte(line) for line in self.lines if "eval_bits_per_byte" in line}
        return {place: scored[tokens] for place, tokens in places.items() if tokens in scored}

    def alerts(self) -> list[tuple[int, str]]:
        return [(line["step"], alert) for line in self.lines for alert in line.get("alerts", ())]


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    if options.out is None and len(options.runs) > 1:
        raise BadInput("the page of several runs belongs to none of them: say where it goes with --out FILE.")
    out = options.out or Path(options.runs[0], "report.html")
    if out.is_dir():
        raise BadInput(f"--out {out} is a folder: name the file, such as {out / 'report.html'}.")

    from yxanul.training.report_page import page

    while True:
        reports = [read_report(run) for run in options.runs]
        goes_on = options.watch and any(report.is_running for report in reports)
        write_whole(out, [page(reports, WATCH_SECONDS if goes_on else None)])
        if not goes_on:
            say(f"{out}")
            return 0
        time.sleep(WATCH_SECONDS)


def parser() -> argparse.ArgumentParser:
    parser = command("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs")
    parser.add_argument("--out", type=Path, help="where the page is written (default: RUN/report.html)")
    parser.add_argument("--watch", action="store_true", help="write it anew while a run goes on")
    return parser


def read_report(folder: str) -> Report:
    run = RunFolder(folder)
    if not run.metrics.exists():
        raise BadInput(f"{folder} has no {run.metrics.name}: give the folder of a run, the one that --out named.")
    return Report(
        name=run.path.name,
        lines=list(read_metrics(run.metrics)),
        gates=_json(run.gates, {}),
        samples=list(read_metrics(run.samples)),
        config=run.config.read_text(encoding="utf-8"),
        environment=_json(run.environment, []),
        is_running=_is_running(run),
        is_done=run.final.exists(),
    )


def _json(file: Path, nothing: Any) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else nothing


def _is_running(run: RunFolder) -> bool:
    """A run holds its lock as long as it lives."""
    if not run.lock.exists():
        return False
    with run.lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return not run.final.exists() and time.time() - run.metrics.stat().st_mtime < SECONDS_OF_SILENCE
    return False
