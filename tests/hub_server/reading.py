"""Routes by which clients read: who am I, what is in a repository, its files whole or in ranges.

Large files redirect to another host name (localhost for 127.0.0.1), as on the real Hub: a client would follow a HEAD
on the same host and then miss X-Repo-Commit. It also shows whether a client sends its token where it should not.
"""

import re
from urllib.parse import parse_qs

import yaml
from hub_server.repositories import DATE, HubError
from hub_server.routes import PAGE, REPOSITORY, REVISION, SHA256, route

BAD_TOKEN = "Invalid credentials in Authorization header"  # the clients compare this text


@route("GET", "/api/whoami-v2")
def whoami(request):
    user = request.user()
    if user is None:
        raise HubError(401, BAD_TOKEN)
    token = {"role": "write" if user.may_write else "read", "displayName": "token"}
    request.send(
        {
            "type": "user",
            "name": user.name,
            "orgs": [{"name": name} for name in user.organisations],
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


@route("GET", f"{REPOSITORY}(?:/revision/{REVISION})?")
def info(request, kind, name, revision):
    repository = request.repository(kind, name)
    commit = repository.at(revision)
    card = card_data(commit.files.get("README.md"))
    request.send(
        {
            "_id": "0",
            "id": name,
            "modelId": name,
            "author": name.split("/")[0],
            "sha": commit.oid,
            "lastModified": DATE,
            "createdAt": DATE,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "cardData": card,
            "siblings": [sibling(path, file, "blobs" in request.query) for path, file in sorted(commit.files.items())],
        }
    )


def sibling(path, file, blobs):
    described = entry(path, file)
    extra = {"size": described["size"], "blobId": described["oid"]} | ({"lfs": described["lfs"]} if file.large else {})
    return {"rfilename": path} | (extra if blobs else {})


def card_data(readme):
    """The YAML between the lines of dashes that a README may begin with."""
    header = readme and re.match(r"---\r?\n(.*?)\r?\n---", readme.data.decode(), re.DOTALL)
    return (yaml.safe_load(header[1]) or {}) if header else {}


def entry(path, file):
    described = {"type": "file", "path": path, "size": len(file.data), "oid": file.oid}
    if file.large:
        described["lfs"] = {"oid": file.sha256, "size": len(file.data), "pointerSize": len(file.pointer)}
    return described


@route("GET", f"{REPOSITORY}/tree/{REVISION}(?:/(?P<path>.+))?")
def tree(request, kind, name, revision, path):
    files = request.repository(kind, name).at(revision).files
    prefix = f"{path}/" if path else ""
    recursive = request.query.get("recursive", "").lower() == "true"
    entries, folders = [], set()
    for file_path, file in sorted(files.items()):
        if not file_path.startswith(prefix):
            continue
        parts = file_path.removeprefix(prefix).split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts) if recursive else min(2, len(parts))))
        if recursive or len(parts) == 1:
            entries.append(entry(file_path, file))
    if prefix and not entries and not folders:
        raise HubError(404, f"{path} does not exist", "EntryNotFound")
    entries += [{"type": "directory", "path": prefix + folder, "oid": "0" * 40, "size": 0} for folder in folders]
    request.send(sorted(entries, key=lambda one: one["path"]))


@route("POST", f"{REPOSITORY}/paths-info/{REVISION}")
def paths_info(request, kind, name, revision):
    files = request.repository(kind, name).at(revision).files
    if request.headers["Content-Type"] == "application/json":
        paths = request.json()["paths"]
    else:
        paths = parse_qs(request.body.decode())["paths"]
    request.send([entry(path, files[path]) for path in paths if path in files])


@route("GET", f"{REPOSITORY}/refs")
def refs(request, kind, name):
    repository = request.repository(kind, name)

    def listed(folder, references):
        return [{"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": oid} for ref, oid in references.items()]

    branches, tags = listed("heads", repository.branches), listed("tags", repository.tags)
    request.send({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@route("GET", f"{REPOSITORY}/commits/{REVISION}")
def commits(request, kind, name, revision):
    repository, history = request.repository(kind, name), []
    commit = repository.at(revision)
    while commit:
        history.append({"id": commit.oid, "title": commit.title, "message": "", "date": DATE, "authors": []})
        commit = repository.commits.get(commit.parent)
    request.send(history)


@route("GET HEAD", f"{PAGE}/resolve/{REVISION}/(?P<path>.+)")
def resolve(request, kind, name, revision, path):
    commit = request.repository(kind, name).at(revision)
    file, headers = commit.files.get(path), {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    if file is None:
        error = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        request.send({"error": "Entry not found"}, 404, headers=headers | error)
    elif not file.large:
        request.send_range(file.data, headers | {"ETag": f'"{file.oid}"'})
    else:
        etag, other_host = f'"{file.sha256}"', request.hub.url.replace("127.0.0.1", "localhost")
        headers |= {"ETag": etag, "X-Linked-Etag": etag, "X-Linked-Size": str(len(file.data))}
        request.hub.objects[file.sha256] = file.data
        location = f"{other_host}/files/{file.sha256}?signature={request.hub.sign(file.sha256)}"
        request.send(b"", 302, headers=headers | {"Location": location})


@route("GET HEAD", f"/files/{SHA256}")
def download(request, sha256):
    if request.headers["Authorization"]:
        raise HubError(400, "the token was sent to the file host")
    request.check_signature(sha256)
    request.send_range(request.hub.objects[sha256], {"ETag": f'"{sha256}"'})
