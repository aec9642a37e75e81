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
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.data.progress import answer, insist
from yxanul.data.tokenizers import check_free
from yxanul.data.whole_files import check_folder, scratch_folder
from yxanul.hub_export import staging
from yxanul.hub_export.card import About, check_card, check_language, eval_results, licence_fields, model_card
from yxanul.hub_export.data_card import data_card
from yxanul.run_folder import DONE, FAILED
from yxanul.shell import command

OTHER = {"model": "dataset", "dataset": "model"}
MAIN = "main"


@dataclass
class Package:
    """A staged folder, and where it goes."""

    folder: Path
    kind: str  # model or dataset
    revision: str
    message: str
    stays: list[str]

    @property
    def files(self) -> list[tuple[str, int]]:
        return list(staging.files_of(self.folder))


class PushFailed(Exception):
    """The Hub did not do it, and may later."""


def main(arguments: list[str]) -> int:
    options = _parsed(arguments)
    about = _about(options)
    place = Path(options.place)
    is_data = options.dataset or staging.is_data(place)
    if is_data and (options.checkpoint or options.more or options.results or options.base):
        raise BadInput("--checkpoint, --with, --results and --base are of models: a data set has none.")
    try:
        api, token = (None, None) if options.dry_run else _account(options, "dataset" if is_data else "model")
        done = []
        for step in [None] if is_data else _steps(options):
            with scratch_folder("yxanul-pushing-") as staged:
                package = _data(options, about, staged) if is_data else _model(options, about, step, staged, api)
                staging.check_no_secrets(staged, token)
                if not options.json:
                    _show(package, options)
                done.append(_described(package, options))
                if api is not None:
                    with _hub(options.repo, token):
                        done[-1] |= send(api, package, options)
                    if not options.json:
                        _tell(done[-1])
    except PushFailed as error:
        insist(f"yxanul: {error} What is on the Hub is as it was, or whole. Later, the same command goes on:")
        insist(f"  yxanul push {shlex.join(arguments)}")
        return FAILED
    if options.json:
        answer(json.dumps(done if options.checkpoint == "all" else done[0], indent=2))
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
    found = staging.complete_steps(staging.RunFolder(options.place))
    if not found:
        raise BadInput(f"{options.place} has no complete checkpoint.")
    return list(found)


# -- what leaves


def _model(options: argparse.Namespace, about: About, step: int | None, staged: Path, api: Any) -> Package:
    from yxanul.hub_export.facts import collect

    subject = staging.find_subject(options.place, step)
    if subject.is_adapter:
        about = replace(about, base=about.base or staging.base_of(subject))
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


# -- the Hub


@contextmanager
def _hub(repo: str, token: str | None) -> Iterator[None]:
    """What the client raises, as one sentence without the token. No rights, or a name that is taken: bad input."""
    from huggingface_hub import errors

    def said(error: BaseException) -> str:
        text = " ".join(str(getattr(error, "server_message", None) or error).split()).rstrip(".")[:300]
        return text.replace(token, "<TOKEN>") if token else text

    try:
        yield
    except BadInput:
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise BadInput(f"the Hub does not take the token ({said(error)}): run `hf auth login`.") from None
        if status in (403, 404):
            raise BadInput(f"this token may not write to {repo} ({said(error)}).") from None
        if status == 409:
            raise BadInput(f"{repo} is taken ({said(error)}): give another --repo.") from None
        if status == 412:
            raise PushFailed("somebody else pushed at the same time.") from None
        raise PushFailed(f"the Hub answered {status} ({said(error)}).") from None
    except errors.OfflineModeIsEnabled:
        raise PushFailed("HF_HUB_OFFLINE is set, so nothing can be sent: unset it.") from None
    except Exception as error:  # lost connections have another class in each client below huggingface_hub
        raise PushFailed(f"the Hub cannot be reached, or was lost ({type(error).__name__}: {said(error)}).") from None


def _account(options: argparse.Namespace, kind: str) -> tuple[Any, str]:
    """The client, and the token that must appear nowhere. Refuses before any work what would be refused after it."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise BadInput("no token: set HF_TOKEN, or run `hf auth login`; --dry-run works without one.")
    api = HfApi()
    with _hub(options.repo, token):
        user = api.whoami()
        names = [user["name"], *(each["name"] for each in user.get("orgs", []))]
        if options.repo.split("/")[0] not in names:
            raise BadInput(f"this token is of {user['name']}, who may write to {', '.join(names)}: change --repo.")
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise BadInput("the token may only read: make one that may write, in the settings of your account.")
        found = _repository(api, options.repo, kind)
        if found is None and _repository(api, options.repo, OTHER[kind]) is not None:
            raise BadInput(f"{options.repo} is the name of a {OTHER[kind]} already: give another --repo.")
        if found is not None and not found.private and not options.public:
            raise BadInput(f"{options.repo} is public already: add --public, or give another --repo.")
        if found is not None and (options.tag or options.revision):
            tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(options.repo, repo_type=kind).tags}
            if options.revision in tags:
                raise BadInput(f"--revision {options.revision} is a tag of {options.repo}: a branch is needed.")
            if tags.get(options.tag, found.sha) != found.sha:
                raise BadInput(f"--tag {options.tag} is there already, on an earlier commit: give another.")
    return api, token


def _repository(api: Any, repo: str, kind: str) -> Any:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return api.repo_info(repo, repo_type=kind)
    except RepositoryNotFoundError:
        return None


def send(api: Any, package: Package, options: argparse.Namespace) -> dict[str, Any]:
    """One commit on top of what was seen, then a tag; a new repository is opened to the public last."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    where = {"repo_id": options.repo, "repo_type": package.kind}
    if (found := _repository(api, options.repo, package.kind)) is None:
        api.create_repo(**where, private=True)
    refs = api.list_repo_refs(**where)
    if package.revision not in {branch.name for branch in refs.branches}:  # from the beginning: it holds no model
        first = api.list_repo_commits(**where)[-1].commit_id
        api.create_branch(**where, branch=package.revision, revision=first)
    head = api.repo_info(**where, revision=package.revision)
    files = dict(package.files)
    there = [file.rfilename for file in head.siblings]
    gone = [path for path in there if staging.OURS.fullmatch(path) and path not in files]
    operations: list[Any] = [CommitOperationAdd(path, str(package.folder / path)) for path in files]
    operations += [CommitOperationDelete(path, is_folder=False) for path in gone]
    commit = api.create_commit(
        **where,
        operations=operations,
        commit_message=package.message,
        revision=package.revision,
        parent_commit=head.sha,
    )
    tag = None
    if package.revision == MAIN:
        tag = options.tag or _next_tag(refs.tags, commit.oid)
        if tag in {each.name for each in refs.tags if each.target_commit != commit.oid}:
            raise BadInput(
                f"commit {commit.oid[:12]} is there, and --tag {tag} stands on the one before: give another."
            )
        if tag not in {each.name for each in refs.tags}:
            api.create_tag(**where, tag=tag, revision=commit.oid)
    if options.public and (found is None or found.private):
        api.update_repo_settings(**where, private=False)
    kind = "" if package.kind == "model" else f"{package.kind}s/"
    said = {"url": f"{api.endpoint}/{kind}{options.repo}", "commit": commit.oid, "tag": tag, "removed": gone}
    return said | {"changed": commit.oid != head.sha}


def _next_tag(tags: list[Any], commit: str) -> str:
    """The one that the commit has, or the next number."""
    mine = [tag.name for tag in tags if tag.target_commit == commit]
    numbers = [int(tag.name[1:]) for tag in tags if re.fullmatch(r"v\d+", tag.name)]
    return mine[0] if mine else f"v{max(numbers, default=0) + 1}"
