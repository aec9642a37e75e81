"""What a card says of one checkpoint: counted in its files, tested by opening it, or measured with it and no other.

Results are taken when their revision is the checkpoint's hash, exports when theirs is; others are refused or left out.
Not here: how it is said (card.py).
"""

import contextlib
import importlib.util
import itertools
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.progress import say
from yxanul.data.whole_files import scratch_folder, write_json
from yxanul.hub_export import export_command
from yxanul.hub_export.bare import BareTransformers
from yxanul.hub_export.card import About, Facts
from yxanul.hub_export.card_training import hub_sources
from yxanul.hub_export.card_use import BARE
from yxanul.hub_export.export_command import TARGETS
from yxanul.hub_export.source import Source, open_source
from yxanul.hub_export.staging import OF_EXPORTS, without_places
from yxanul.hub_export.subject import ADAPTER, CONFIG, Subject, read_object
from yxanul.hub_export.verify import JSON, Artefact, Limits, Reference, judge
from yxanul.strict_yaml import read_yaml


def collect(
    subject: Subject, staged: Path, about: About, results: list[str] | None, more: list[str], api: Any
) -> Facts:
    import yxanul
    from yxanul.evaluation.text_model import folder_hash

    yxanul.register()
    revision = folder_hash(subject.folder)
    asked = _asked(subject, more, revision)
    parameters, dtypes = count(staged)
    facts = Facts({}, parameters, dtypes, run=subject.run, step=subject.step, is_adapter=subject.is_adapter)
    if (staged / CONFIG).is_file():
        facts.config = read_object(staged / CONFIG)
    settings = (staged / "tokenizer_config.json").is_file() and (staged / "tokenizer_config.json").read_text("utf-8")
    template = (staged / "chat_template.jinja").is_file() or "chat_template" in (settings or "")
    of_talk = subject.run is None or "conversations" in subject.run.config.read_text(encoding="utf-8")
    facts.talks = template and of_talk
    for file in _results(subject, results):
        _add_result(facts, file, revision, staged, about, asked=results is not None)
    _keep_one_of_each_task(facts.results)
    if not subject.is_adapter:
        facts.checks.append(_opened_bare(staged, "float32" in dtypes))
    elif (base := _local_base(subject)) is not None:
        facts.checks.append(_opened_in_peft(staged, base))
    facts.checks += _exports(subject, staged, *asked)
    if subject.run is not None:
        _copy_recipe(subject, staged)
        facts.data_licences = dict(_licences(hub_sources(read_yaml(subject.run.config)), api))
    return facts


def count(staged: Path) -> tuple[int, tuple[str, ...]]:
    """Parameters, tied ones once as they are stored, and the types of numbers."""
    from safetensors import SafetensorError, safe_open

    parameters, dtypes = 0, set()
    for path in staged.glob("*.safetensors"):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dictionary
                    piece = file.get_slice(name)
                    parameters += math.prod(piece.get_shape())
                    dtypes.add(piece.get_dtype())
        except SafetensorError as error:
            raise BadInput(f"{path.name} is damaged, or no safetensors file: {error}.") from None
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return parameters, tuple(sorted(names.get(kind, kind) for kind in dtypes))


def _results(subject: Subject, given: list[str] | None) -> Iterator[Path]:
    if given is None:
        yield from sorted(Path("results").glob("*/results.json"))
        return
    for place in map(Path, given):
        file = place if place.suffix == ".json" else place / "results.json"
        if not file.is_file():
            raise BadInput(f"--results {place}: there is no {file}.")
        yield file


def _add_result(facts: Facts, file: Path, revision: str, staged: Path, about: About, *, asked: bool) -> None:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        of, entries = result["revision"], result["tasks"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        if asked:
            raise BadInput(f"--results {file} is no result of `yxanul evaluate` or `yxanul suite`.") from None
        return
    if of != revision:
        if asked:
            raise BadInput(f"--results {file} is of {of}, and this is {revision}: evaluate this very checkpoint.")
        return
    result = without_places(result) | {"model": about.repo}
    facts.results.append(result)
    (staged / "eval").mkdir(exist_ok=True)
    copy = staged / "eval" / f"{file.parent.name or 'results'}.json"
    if copy.exists():
        raise BadInput(f"--results {file}: another one's folder is called {copy.stem}, too; rename one of them.")
    write_json(copy, result)
    for entry in entries:
        samples = file.parent / f"samples-{entry['task']}.jsonl"
        if entry.get("categories") and samples.is_file():
            with samples.open(encoding="utf-8") as lines:
                wrong = (sample for sample in map(json.loads, lines) if not sample["metrics"]["right"])
                facts.failures += itertools.islice(wrong, 1)


def _keep_one_of_each_task(results: list[dict[str, Any]]) -> None:
    """Of a task that was run several times, what was asked of most samples; of equal ones the newest."""
    best: dict[str, tuple] = {}
    for number, result in enumerate(results):
        for name, entry in result["tasks"].items():
            best[name] = max(best.get(name, (-1, "", -1)), (entry.get("n", 0), result["date"], number))
    for number, result in enumerate(results):
        result["tasks"] = {name: entry for name, entry in result["tasks"].items() if best[name][2] == number}
    results[:] = [result for result in results if result["tasks"]]


def _opened_bare(staged: Path, exact: bool) -> dict[str, Any]:
    """Where Yxanul cannot be imported, transformers loads the files that leave; what it computes is compared."""
    limits = Limits(1e-4, 1e-4, 1e-5, True, "the same files, in another process")
    if not exact:
        limits = Limits(None, 0.03, 0.01, False, "the same files, computed in 16 bits")
    row = _judged(Source(str(staged), staged), partial(BareTransformers, staged, trust_remote_code=True), limits)
    return {"target": BARE, "rows": [row]}


def _local_base(subject: Subject) -> Path | None:
    """An adapter's, if it lies here and PEFT is installed."""
    base = Path(str(read_object(subject.folder / ADAPTER).get("base_model_name_or_path")))
    return base if (base / CONFIG).is_file() and importlib.util.find_spec("peft") else None


def _opened_in_peft(staged: Path, base: Path) -> dict[str, Any]:
    """The adapter on its base in another process, against both merged in this one."""
    from peft import PeftModel

    merged = Source(str(base), base)
    merged.tokenizer = Source(str(staged), staged).tokenizer
    try:
        merged.model = PeftModel.from_pretrained(merged.model, str(staged)).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise BadInput(f"the adapter does not fit its base {base}, so nothing was sent: {reason}.") from None
    limits = Limits(1e-3, 1e-3, 1e-4, True, "fp32; merged weights are rounded once more")
    client = partial(BareTransformers, base, trust_remote_code=True, adapter=staged)
    return {"target": BARE, "rows": [_judged(merged, client, limits)]}


def _judged(source: Source, opened: Callable[[], Any], limits: Limits) -> dict[str, Any]:
    try:
        with opened() as client:
            row = judge(Reference(source), Artefact(source.folder, "safetensors", (), limits), client)
    except ChildProcessError as error:
        raise BadInput(f"transformers alone cannot load these files, so nothing was sent: {error}.") from None
    if not row.passed:
        raise BadInput(f"transformers alone computes something else, so nothing was sent: {'; '.join(row.failures)}.")
    return vars(row)


def _asked(subject: Subject, more: list[str], revision: str) -> tuple[list[str], list[Path]]:
    """Targets to export, and the files of exports that are there; refused before anything is computed."""
    targets = [each for each in more if each in TARGETS or not Path(each).is_dir()]
    for name in targets:
        if name not in TARGETS:
            raise unknown_name("target of --with", name, TARGETS)
        module = export_command.load_target(name)
        export_command.check_packages(name, module)
        module.check(open_source(str(subject.folder)), module.DEFAULT)
    files = []
    for folder in [Path(each) for each in more if each not in targets]:
        found = sorted(folder.glob(f"*/{JSON}"))
        if not found:
            raise BadInput(f"--with {folder}: no target of `yxanul export` lies there (TARGET/{JSON}).")
        for file in found:
            if read_object(file).get("revision") != revision:
                raise BadInput(f"--with {folder}: {file.parent.name} is of another checkpoint: export this one.")
        files += found
    return targets, files


def _exports(subject: Subject, staged: Path, targets: list[str], files: list[Path]) -> Iterator[dict[str, Any]]:
    """Targets are exported now; what `yxanul export` made is taken as it is."""
    with scratch_folder("yxanul-exporting-") as scratch:
        if targets:
            words = [str(subject.folder), "--to", ",".join(targets), "--out", str(scratch)]
            with contextlib.redirect_stdout(sys.stderr):
                code = export_command.main(words)
            if code:
                raise BadInput("an export failed its check, so nothing was sent: see above, or leave it out.")
        for file in [*files, *sorted(scratch.glob(f"*/{JSON}"))]:
            _copy_export(file.parent, staged)
            names = sorted(each.name for each in file.parent.rglob("*") if each.suffix in (".gguf", ".onnx"))
            yield {"target": file.parent.name, "rows": read_object(file)["rows"], "files": names}


def _copy_export(made: Path, staged: Path) -> None:
    """GGUF files lie beside the model, where their users look; others in a folder of their target's name."""
    for file in sorted(made.rglob("*")):
        if file.is_symlink():
            raise BadInput(f"{file} is a symbolic link, and could be anything.")
        if not file.is_file():
            continue
        if not OF_EXPORTS.fullmatch(file.name):
            say(f"{file} stays here: it is not of `yxanul export`.")
            continue
        parts = file.relative_to(made).parts
        if file.stem == "verification":
            target = staged / "verification" / f"{made.name}{file.suffix}"
        elif made.name == "gguf":
            target = staged / Path(*parts)
        else:
            target = staged / Path(made.name, *(parts[1:] if parts[0] == made.name else parts))  # onnx/onnx/model.onnx
        if target.exists():
            if target.read_bytes() != file.read_bytes():
                say(f"{file.name} of {made.name} stays here: the model has its own.")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".json" and file.name != "tokenizer.json":  # whose pieces may look like places
            write_json(target, without_places(read_object(file)))
        else:
            shutil.copyfile(file, target)


def _copy_recipe(subject: Subject, staged: Path) -> None:
    assert subject.run is not None
    (staged / "training").mkdir()
    for file in (subject.run.config, subject.run.gates):
        if file.is_file():
            text = without_places(file.read_text(encoding="utf-8"))
            (staged / "training" / file.name).write_text(text, encoding="utf-8")


def _licences(names: list[str], api: Any) -> Iterator[tuple[str, str]]:
    """As the data sets' own cards say; asked only when the Hub is."""
    for name in names if api is not None else ():
        try:
            licence = (api.dataset_info(name).card_data or {}).get("license")
        except Exception:  # noqa: S112 - a data set that is gone or private has no licence that we know
            continue
        if licence:
            yield name, ", ".join(licence) if isinstance(licence, list) else str(licence)
