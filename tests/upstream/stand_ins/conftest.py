"""Writes what became of each test, one JSON line each, into the file that `--results` names."""

import json
from collections import defaultdict
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--results", type=Path, required=True)


class Results:
    """A test whose subtests all skip says "passed" to pytest; here it is a skip, with the subtests' reason."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w", buffering=1)
        self.reports: dict[str, list[pytest.TestReport]] = defaultdict(list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.reports[report.nodeid].append(report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        reports = self.reports.pop(nodeid)
        outcome, reason = judge(reports)
        seconds = sum(report.duration for report in reports)
        name = nodeid.partition("::")[2]
        self.file.write(json.dumps({"test": name, "outcome": outcome, "reason": reason, "seconds": seconds}) + "\n")


def judge(reports: list[pytest.TestReport]) -> tuple[str, str]:
    if failed := [report for report in reports if report.failed]:
        return "failed", str(failed[0].longrepr).strip().splitlines()[-1]
    skipped = [report for report in reports if report.skipped]
    subtests = [report for report in reports if isinstance(report, pytest.SubtestReport)]
    if skipped and all(report.skipped for report in subtests):
        return "skipped", skipped[0].longrepr[2].removeprefix("Skipped: ")
    return "passed", f"in part skipped: {skipped[0].longrepr[2]}" if skipped else ""


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Results(config.getoption("results")))
