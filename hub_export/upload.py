"""A staged folder on the Hub: who may write there, one commit, a tag; a new repository is private until all is in it.

    api, token = account(options, "model")               # --repo, --public, --tag, --revision of `yxanul push`
    send(api, package, options)

Not here: what leaves (staging.py), the command line (push.py).
"""

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yxanul.bad_input import BadInput
from yxanul.hub_export import staging

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


@contextmanager
def hub_errors(repo: str, token: str | None) -> Iterator[None]:
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


def account(options: argparse.Namespace, kind: str) -> tuple[Any, str]:
    """The client, and the token that must appear nowhere. Refuses before any work what would be refused after it."""
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if token is None:
        raise BadInput("no token: set HF_TOKEN, or run `hf auth login`; --dry-run works without one.")
    api = HfApi()
    with hub_errors(options.repo, token):
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
