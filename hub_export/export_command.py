"""`yxanul export MODEL --to llama,gguf --out FOLDER`: the model as other tools read it, each file checked in one.

    yxanul export runs/demo/final --to llama,gguf --out exports/demo
    yxanul export runs/demo/final --to gguf --types f16,Q8_0,Q4_0 --out exports/demo
    yxanul export owner/name --to onnx,int4 --out exports/name --dry-run

Every target gets a folder of its own in --out, with verification.json and .md: a second client has opened the artefact
and its logits, greedy tokens, bits per byte and tokens were compared with the model's in fp32. What fails is removed.
After a kill the same command goes on: targets that are done are not made again.
Exit codes: 0 done, 2 bad input, 5 an artefact did not compute what the model computes.
"""

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.progress import answer, answer_json, insist, say
from yxanul.data.tokenizers import check_free
from yxanul.data.whole_files import check_folder, remove_abandoned, whole_folder
from yxanul.hub_export.staging import files_of
from yxanul.run_folder import DONE, FAILED
from yxanul.shell import command

# Each has TYPES, DEFAULT (some of them), NEEDS (package to extra), check(source, types), write(source, folder, types)
TARGETS = {
    "llama": "yxanul.hub_export.llama",
    "gguf": "yxanul.hub_export.gguf",
    "int8": "yxanul.hub_export.quantized:INT8",
    "int4": "yxanul.hub_export.quantized:INT4",
    "onnx": "yxanul.hub_export.onnx",
    "mobile": "yxanul.hub_export.mobile",
    "web": "yxanul.hub_export.web",
}
# Packages whose versions decide what is written, and what is computed with it
COMPUTE = ["yxanul", "torch", "transformers", "gguf", "llama-cpp-python", "onnxruntime", "torchao", "bitsandbytes"]


def main(arguments: list[str]) -> int:
    options = parser().parse_args(arguments)
    targets = options.to.split(",")
    out = options.out or Path("exports")
    for name in targets:
        if name not in TARGETS:
            raise unknown_name("target", name, TARGETS)
    modules = {name: load_target(name) for name in targets}
    types = _types(modules, options.types)
    check_folder(out, "--out")
    done = {name: found for name in targets if (found := _earlier(out / name, types[name]))}
    for name, module in modules.items():
        check_packages(name, module)

    from yxanul.hub_export.source import open_source

    source = open_source(options.model)
    for name, earlier in done.items():
        if earlier["revision"] != source.revision:
            raise BadInput(
                f"{out / name} exists already, made of another model ({earlier['model']}): give another --out, or "
                "remove it."
            )
    for name, module in modules.items():
        module.check(source, types[name])
    if options.dry_run:
        plan = [{"target": name, "folder": str(out / name), "types": list(types[name])} for name in modules]
        lines = [f"{each['folder']}: {', '.join(each['types'])} of {source.folder}" for each in plan]
        answer_json(plan) if options.json else answer("\n".join(lines))
        return DONE
    return export(source, modules, types, out, done, as_json=options.json)


def export(
    source: Any,
    modules: dict[str, Any],
    types: dict[str, Sequence[str]],
    out: Path,
    done: dict[str, Any],
    *,
    as_json: bool = False,
) -> int:
    """Whatever is there afterwards has passed. `done`: verification.json of targets that are there already."""
    from yxanul.hub_export.verify import Reference, Verdict, table, write_table

    reference: Any = None
    rows: list[Verdict] = []
    for name, module in modules.items():
        if name in done:
            say(f"{out / name} was made of this very model by an earlier command, whole and checked: it stays.")
            rows += [Verdict(**row) for row in done[name]["rows"]]
            continue
        remove_abandoned(out.glob(f"{name}.*.partial"))
        reference = reference or Reference(source)
        try:
            with whole_folder(out / name) as partial:
                found = _judged(reference, module.write(source, partial, types[name]))
                rows += found
                if not any(row.passed for row in found):
                    raise NothingPassed
                about = {
                    "model": source.name,
                    "revision": source.revision,
                    "target": name,
                    "types": list(types[name]),
                    "files": dict(files_of(partial)),
                    "bits_per_byte": reference.bits_per_byte,
                }
                write_table(partial, found, about | {"versions": _versions()})
        except NothingPassed:
            continue
    answer_json([vars(row) for row in rows]) if as_json else answer(table(rows))
    failed = [row for row in rows if not row.passed]
    for row in failed:
        insist(f"yxanul: {row.artefact} is not the model and was removed: in {row.client}, {'; '.join(row.failures)}.")
    return FAILED if failed else DONE


def _earlier(folder: Path, types: Sequence[str]) -> dict[str, Any] | None:
    """What an earlier command left there, if all that is asked for is in it; None: the folder is free."""
    try:
        found = json.loads((folder / "verification.json").read_text(encoding="utf-8"))
        whole = set(types) <= set(found["types"]) and found["versions"] == _versions()
        whole = whole and all(row["passed"] for row in found["rows"])
        whole = whole and all((folder / name).stat().st_size == size for name, size in found["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        check_free(folder)
    return found if whole else None


class NothingPassed(Exception):
    """Ends a target's folder before it gets its name."""


def _judged(reference: Any, artefacts: Any) -> list[Any]:
    from yxanul.hub_export.verify import Verdict, judge

    rows = []
    for artefact in artefacts:
        mine = []
        for opened in artefact.clients:
            try:
                with opened() as client:
                    mine.append(judge(reference, artefact, client))
            except (ChildProcessError, OSError, ValueError, RuntimeError) as error:
                mine.append(Verdict(artefact.name, "-", artefact.bytes, failures=[" ".join(str(error).split())]))
            say(f"{artefact.name}: {'; '.join(mine[-1].failures) or 'passed'} ({mine[-1].client})")
        if not all(row.passed for row in mine):
            for row in mine:
                row.passed = False
                row.failures = row.failures or ["another client refused it"]
            shutil.rmtree(artefact.path) if artefact.path.is_dir() else artefact.path.unlink()
        rows += mine
    return rows


def load_target(name: str) -> Any:
    module, _, instance = TARGETS[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, instance) if instance else loaded


def check_packages(name: str, module: Any) -> None:
    for package, extra in module.NEEDS.items():
        if importlib.util.find_spec(package) is None:
            raise BadInput(f'--to {name} needs the package {package}: pip install "yxanul[{extra}]".')


def _types(modules: dict[str, Any], given: str | None) -> dict[str, Sequence[str]]:
    """Of each target; a type that none of them has is refused."""
    if given is None:
        return {name: module.DEFAULT for name, module in modules.items()}
    asked = given.split(",")
    known = {kind.lower(): kind for module in modules.values() for kind in module.TYPES}
    for kind in asked:
        if kind.lower() not in known:
            raise unknown_name("type", kind, known.values())
    wanted = [known[kind.lower()] for kind in asked]
    return {
        name: [kind for kind in wanted if kind in module.TYPES] or module.DEFAULT for name, module in modules.items()
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in COMPUTE:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def parser() -> argparse.ArgumentParser:
    parser = command("export", __doc__)
    parser.add_argument("model", help="a run, a model's folder, or a name on the Hub")
    parser.add_argument("--to", required=True, metavar="TARGETS", help=f"of {', '.join(TARGETS)}; several by commas")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="a folder in it for each target (default: exports)")
    parser.add_argument(
        "--types", metavar="TYPES", help="of numbers, for instance f16,Q8_0 (docs/export.md lists them)"
    )
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    return parser
