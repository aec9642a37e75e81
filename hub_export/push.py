"""`yxanul push RUN_OR_FOLDER --repo USER/NAME`: a model or data on the Hub: checked, one commit, private.

    yxanul push runs/demo --repo me/demo --dry-run                # what would leave, and how big; no network
    yxanul push runs/demo --repo me/demo --license apache-2.0     # private, with a card and a tag
    yxanul push runs/demo --repo me/demo --public --with gguf
    yxanul push runs/demo --repo me/demo --checkpoint all         # each on a branch step-N
    yxanul push bins/demo/language --repo me/demo-bins            # a data set; records need --dataset

The token is huggingface_hub's affair: HF_TOKEN, or `hf auth login`. The same command goes on after a failure, and does
nothing where nothing changed. Exit codes: 0 done, 2 bad input or no rights, 5 failed with nothing changed there.
"""

import argparse
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer, answer_json, insist
from yxanul.data.tokenizers import check_free
from yxanul.data.whole_files import check_folder, scratch_folder
from yxanul.hub_export import staging
from yxanul.hub_export.card import About, check_card, check_language, eval_results, licence_fields, model_card
from yxanul.hub_export.data_card import data_card
from yxanul.hub_export.subject import base_of, complete_steps, find_subject
from yxanul.hub_export.upload import MAIN, Package, PushFailed, account, hub_errors, send
from yxanul.run_folder import DONE, FAILED, RunFolder
from yxanul.shell import command


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    about = _about(options)
    place = Path(options.place)
    is_data = options.dataset or staging.is_data(place)
    if is_data and (options.checkpoint or options.more or options.results or options.base):
        raise BadInput("--checkpoint, --with, --results and --base are of models: a data set has none.")
    try:
        api, token = (None, None) if options.dry_run else account(options, "dataset" if is_data else "model")
        done = []
        for step in [None] if is_data else _steps(options):
            with scratch_folder("yxanul-pushing-") as staged:
                package = _data(options, about, staged) if is_data else _model(options, about, step, staged, api)
                staging.check_no_secrets(staged, token)
                if not options.json:
                    _show(package, options)
                done.append(_described(package, options))
                if api is not None:
                    with hub_errors(options.repo, token):
                        done[-1] |= send(api, package, options)
                    if not options.json:
                        _tell(done[-1])
    except PushFailed as error:
        insist(f"yxanul: {error} What is on the Hub is as it was, or whole. Later, the same command goes on:")
        insist(f"  yxanul push {shlex.join(arguments)}")
        return FAILED
    if options.json:
        answer_json(done if options.checkpoint == "all" else done[0])
    return DONE


def _described(package: Package, options: argparse.Namespace) -> dict[str, Any]:
    files = [{"path": path, "bytes": size} for path, size in package.files]
    return {
        "repo": options.repo,
        "type": package.kind,
        "revision": package.revision,
        "public": options.public,
        "files": files,
        "stays": package.stays,
    }


def _tell(done: dict[str, Any]) -> None:
    tagged = f", tag {done['tag']}" if done["tag"] else ""
    commit = f"commit {done['commit'][:12]}" if done["changed"] else "nothing had changed"
    if done["removed"]:
        answer(f"removed there, as it was of an earlier push: {', '.join(done['removed'])}")
    answer(f"{done['url']}, branch {done['revision']}: {commit}{tagged}.")


def parser() -> argparse.ArgumentParser:
    parser = command("push", __doc__)
    argument = parser.add_argument
    argument("place", metavar="RUN_OR_FOLDER", help="a run, a model's or adapter's folder, a bin, or records")
    argument("--repo", required=True, metavar="USER/NAME", help="on the Hub; made if it is not there")
    argument("--public", action="store_true", help="everybody may see it (default: private)")
    argument("--license", metavar="ID", help="of the weights or data, as the Hub calls it; or NAME=https://ITS-TEXT")
    argument("--language", default="", metavar="A,B", help="codes, such as en,de")
    argument("--base", metavar="USER/NAME", help="on the Hub: what an adapter belongs to, or a model began with")
    argument("--checkpoint", metavar="N", help="of the run, on a branch step-N; all: every complete one")
    argument("--revision", metavar="BRANCH", help="the branch (default: main, or step-N)")
    argument("--tag", metavar="NAME", help="of the commit on main (default: v1, v2, ...)")
    argument("--with", dest="more", default="", metavar="A,B", help="targets of `yxanul export`, or a folder of its")
    argument("--results", action="append", metavar="DIR", help="of `evaluate` or `suite` (default: those in results/)")
    argument("--card", type=Path, metavar="FILE", help="a README.md of your own in place of ours")
    argument("--keep", type=Path, metavar="FOLDER", help="a new folder for a copy of what leaves, to look at")
    argument("--dataset", action="store_true", help="records (jsonl, parquet) as a data set")
    argument("--dry-run", action="store_true", help="check everything, list the files, send nothing")
    argument("--json", action="store_true", help="print JSON")
    return parser


def _parsed(arguments: list[str]) -> argparse.Namespace:
    if any(re.match(r"(--(hf-)?token\b|hf_\w{20,})", word) for word in arguments):
        raise BadInput("a token does not belong on a command line: set HF_TOKEN, or run `hf auth login`.")
    return parser().parse_args(arguments)


def _about(options: argparse.Namespace) -> About:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for flag in ("repo", "base"):
        name = getattr(options, flag)
        try:
            validate_repo_id(name or "a/b")
        except HFValidationError as error:
            raise BadInput(f"--{flag} {name} is no name on the Hub: {str(error).partition(':')[0]}.") from None
        if name and "/" not in name:
            raise BadInput(f"--{flag} {name}: say whose it is, such as USER/{name}.")
    for flag, name in (("revision", options.revision), ("tag", options.tag)):
        if name and not re.fullmatch(r"[\w.-]+", name):
            raise BadInput(f"--{flag} {name} is no name for it: letters, digits, '.', '-' and '_' are.")
    if options.tag and (options.checkpoint or options.revision not in (None, MAIN)):
        raise BadInput("--tag is of a commit on main: a branch has its own name, so leave one of them out.")
    if options.checkpoint == "all" and options.revision:
        raise BadInput("--checkpoint all puts each on its own branch: leave --revision out.")
    licence_fields(options.license)
    if options.keep:
        check_folder(options.keep, "--keep")
        check_free(options.keep, "--keep")
    if options.card:
        check_card(_read_card(options.card))
    languages = tuple(filter(None, options.language.split(",")))
    for code in languages:
        check_language(code, "--language")
    return About(options.repo, options.license, languages, options.base)


def _read_card(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise BadInput(f"--card {file} cannot be read: {why}.") from None


def _steps(options: argparse.Namespace) -> list[int | None]:
    if options.checkpoint is None:
        return [None]
    if options.checkpoint.isdecimal():
        return [int(options.checkpoint)]
    if options.checkpoint != "all":
        raise BadInput(f"--checkpoint {options.checkpoint} must be a step's number, or all.")
    found = complete_steps(RunFolder(options.place))
    if not found:
        raise BadInput(f"{options.place} has no complete checkpoint.")
    return list(found)


def _model(options: argparse.Namespace, about: About, step: int | None, staged: Path, api: Any) -> Package:
    from yxanul.hub_export.facts import collect

    subject = find_subject(options.place, step)
    if subject.is_adapter:
        about = replace(about, base=about.base or base_of(subject))
    stays = staging.stage_model(subject, staged, about.base)
    facts = collect(subject, staged, about, options.results, [*filter(None, options.more.split(","))], api)
    _write_card(options, staged, model_card(about, facts))
    for name, text in eval_results(about, facts).items():
        (staged / ".eval_results").mkdir(exist_ok=True)
        (staged / ".eval_results" / name).write_text(text, encoding="utf-8")
    revision = options.revision or (MAIN if step is None else f"step-{step}")
    message = "The model and its card" if step is None else f"The checkpoint of step {step}"
    return _kept(options, Package(staged, "model", revision, message, stays))


def _data(options: argparse.Namespace, about: About, staged: Path) -> Package:
    stays = staging.stage_data(Path(options.place), staged)
    _write_card(options, staged, data_card(about, staged))
    return _kept(options, Package(staged, "dataset", options.revision or MAIN, "The data and its card", stays))


def _write_card(options: argparse.Namespace, staged: Path, text: str) -> None:
    if options.card:
        text = _read_card(options.card)
    check_card(text)
    (staged / staging.CARD).write_text(text, encoding="utf-8")


def _kept(options: argparse.Namespace, package: Package) -> Package:
    if options.keep:
        target = options.keep / package.revision if options.checkpoint == "all" else options.keep
        shutil.copytree(package.folder, target, dirs_exist_ok=True)
    return package


def _show(package: Package, options: argparse.Namespace) -> None:
    for path, size in package.files:
        answer(f"{size:>15,}  {path}")
    total = sum(size for _, size in package.files)
    who = "public" if options.public else "private"
    verb = "would go" if options.dry_run else "go"
    answer(
        f"{total:>15,}  bytes in {len(package.files)} files {verb} to {package.kind} {options.repo} "
        f"({who}), branch {package.revision}"
    )
    if package.stays:
        answer(f"what stays here: {', '.join(package.stays)}")
