"""transformers' own common model tests on the family, in four embedding layouts: `python tests/upstream/run.py`.

The tests come from the source distribution of the installed transformers version, which pip downloads once into
build/upstream/; nothing of them is committed. What that distribution lacks stands in stand_ins/, in our words, and is
copied beside them. Each layout is one pytest process; a table and the reason of every skip end the output.

    python tests/upstream/run.py --layout FactorisedTied -k "not fsdp and not tp_"
    python tests/upstream/run.py --workers 2     # two layouts at a time
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LAYOUTS = ("PlainTied", "PlainUntied", "FactorisedTied", "FactorisedUntied")
REPOSITORY = Path(__file__).resolve().parents[2]
STAND_INS = Path(__file__).with_name("stand_ins")


def main() -> int:
    arguments = parse_arguments()
    version = importlib.metadata.version("transformers")
    workspace = prepare_workspace(REPOSITORY / "build" / "upstream" / f"transformers-{version}")
    start = time.monotonic()
    with ThreadPoolExecutor(arguments.workers) as pool:
        codes = list(pool.map(lambda layout: run_layout(workspace, layout, arguments.k), arguments.layout))
    print(summarise({layout: read_results(workspace, layout) for layout in arguments.layout}))
    print(f"\ntransformers {version}, {time.monotonic() - start:.0f} s, exit codes of pytest: {codes}")
    return int(any(codes))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--layout", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="default: all four")
    parser.add_argument("--workers", type=int, default=1, help="layouts at a time; each starts up to four processes")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests whose names match, as pytest's -k")
    return parser.parse_args()


def prepare_workspace(workspace: Path) -> Path:
    """A folder with the package `tests` (upstream's files and our stand-ins) and a link to this checkout."""
    if not (workspace / "tests").is_dir():
        unpack_upstream_tests(workspace)
    shutil.copytree(STAND_INS, workspace / "tests", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    for package in ("tests", "tests/exporters", "tests/generation", "tests/utils", "src/transformers"):
        (workspace / package).mkdir(parents=True, exist_ok=True)
        (workspace / package / "__init__.py").touch()
    (workspace / "tests/utils/tiny_model_summary.json").write_text("{}")
    checkout = workspace / "yxanul"
    checkout.unlink(missing_ok=True)
    checkout.symlink_to(REPOSITORY)
    return workspace


def unpack_upstream_tests(workspace: Path) -> None:
    version = workspace.name.partition("-")[2]
    workspace.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=workspace.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
        if subprocess.run([*pip, "--dest", folder, f"transformers=={version}"]).returncode:
            raise SystemExit(f"pip could not download the source distribution of transformers {version}.")
        (archive,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder, filter="data")
        (tests,) = Path(folder).glob("*/tests")
        workspace.mkdir(exist_ok=True)
        tests.rename(workspace / "tests")


def run_layout(workspace: Path, layout: str, expression: str | None) -> int:
    """One pytest process over one class. On the CPU everywhere: kernels of a GPU are tested elsewhere."""
    results = workspace / f"{layout}.jsonl"
    results.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", ".", "--results", str(results)]
    command += ["-k", expression] if expression else []
    environment = {
        **os.environ,
        "PYTHONPATH": str(workspace),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "RUN_SLOW": "1",
    }
    return subprocess.run([*command, f"tests/test_yxanul.py::{layout}"], cwd=workspace, env=environment).returncode


def read_results(workspace: Path, layout: str) -> list[dict]:
    path = workspace / f"{layout}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def summarise(layouts: dict[str, list[dict]]) -> str:
    """The figures of each layout and their sum, the reason of every skip, and the failures."""
    every = [test for tests in layouts.values() for test in tests]
    lines = ["", f"{'layout':<20}{'passed':>8}{'failed':>8}{'skipped':>9}"]
    for name, tests in {**layouts, "total": every}.items():
        count = Counter(test["outcome"] for test in tests)
        lines.append(f"{name:<20}{count['passed']:>8}{count['failed']:>8}{count['skipped']:>9}")

    names: dict[str, set[str]] = defaultdict(set)
    times: Counter[str] = Counter()
    for test in every:
        if test["outcome"] == "skipped":
            layout, _, name = test["test"].partition("::")
            # the pipeline tests put themselves and their class into the reason
            reason = test["reason"].rpartition(" is skipped: ")[2].replace(f" for `{layout}`", "").rstrip(".")
            names[reason].add(name.removeprefix("test_"))
            times[reason] += 1
    lines += ["", "skipped: how often, why (upstream's words), which"]
    for reason, count in times.most_common():
        lines += [f"{count:>4}  {reason}", f"      {', '.join(sorted(names[reason]))}"]
    lines += ["", *(f"FAILED {test['test']}: {test['reason']}" for test in every if test["outcome"] == "failed")]
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    sys.exit(main())
