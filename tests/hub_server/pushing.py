"""Routes by which clients push: create a repository, have its card checked, upload large files (LFS or Xet), commit,
make branches and tags, open a repository to the public.

Not here: deletion of repositories, multipart uploads.
"""

import base64
import hashlib
import json
import time

import yaml
from hub_server import xet
from hub_server.reading import card_data
from hub_server.repositories import File, HubError, is_large
from hub_server.routes import PAGE, REPOSITORY, REVISION, SHA256, route


@route("POST", "/api/repos/create")
def create(request):
    wanted, user = request.json(), request.user()
    if user is None:
        raise HubError(401, "creating a repository needs a token")
    namespace = wanted.get("organization") or user.name
    if not (user.may_write and user.is_member(namespace)):
        raise HubError(403, f"this token may not create repositories under {namespace}")
    kind, name = wanted.get("type", "model") + "s", f"{namespace}/{wanted['name']}"
    url = f"{request.hub.url}/{name}" if kind == "models" else f"{request.hub.url}/{kind}/{name}"
    if (kind, name) in request.hub.repositories:
        message = "this repository exists already"
        raise HubError(409, message, body={"error": message, "url": url})  # the client reads the url
    private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
    request.hub.add(kind, name, {}, private)
    request.send({"url": url, "name": name, "id": "0"})


@route("POST", "/api/validate-yaml")
def validate_yaml(request):
    try:
        card_data(File(request.json()["content"].encode()))
    except yaml.YAMLError as error:
        request.send({"errors": [{"message": f"invalid YAML: {error}"}], "warnings": []}, 400)
    else:
        request.send({"errors": [], "warnings": []})


@route("POST", f"{REPOSITORY}/preupload/{REVISION}")
def preupload(request, kind, name, revision):
    """Says which files go the way of large ones, and what is there already, so that the client leaves it out."""
    present, answers = request.repository(kind, name, write=True).at(revision).files, []
    for wanted in request.json()["files"]:
        path = wanted["path"]
        large = is_large(path, wanted["size"]) or b"\0" in base64.b64decode(wanted.get("sample", ""))
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path in present:
            answer["oid"] = present[path].sha256 if present[path].large else present[path].oid
        answers.append(answer)
    request.send({"files": answers})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/batch")
def batch(request, kind, name):
    request.repository(kind, name, write=True)
    answers = []
    for wanted in request.json()["objects"]:
        sha256 = wanted["oid"]
        answer = {"oid": sha256, "size": wanted["size"]}
        if sha256 not in request.hub.objects:
            address = f"{request.hub.url}/files/{sha256}?signature={request.hub.sign(sha256)}"
            answer["actions"] = {"upload": {"href": address}}
        answers.append(answer)
    request.send({"transfer": "basic", "objects": answers}, content_type="application/vnd.git-lfs+json")


@route("PUT", f"/files/{SHA256}")
def upload(request, sha256):
    request.check_signature(sha256)
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise HubError(400, "this is not what was announced")
    request.hub.objects[sha256] = request.body
    request.send({})


@route("POST", f"{REPOSITORY}/commit/{REVISION}")
def commit(request, kind, name, revision):
    header, *operations = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    repository = request.repository(kind, name, write=True)
    with request.hub.lock:
        if revision not in repository.branches:
            raise HubError(404, f"no such branch: {revision}", "RevisionNotFound")
        head = repository.at(revision)
        if not head.oid.startswith(header["value"].get("parentCommit") or ""):
            raise HubError(412, "the branch has moved on from parentCommit")
        files = dict(head.files)
        for operation in operations:
            apply(request.hub, files, operation["key"], operation["value"])
        oid = repository.commit(header["value"]["summary"], files, revision)
    request.send({"success": True, "commitOid": oid, "commitUrl": f"{request.hub.url}/{name}/commit/{oid}"})


@route("POST", f"{REPOSITORY}/(?P<what>tag|branch)/{REVISION}")
def create_reference(request, kind, name, what, revision):
    repository, wanted = request.repository(kind, name, write=True), request.json()
    references, new = (repository.tags, wanted["tag"]) if what == "tag" else (repository.branches, revision)
    if new in references:
        raise HubError(409, f"the {what} exists already")
    references[new] = repository.at(revision if what == "tag" else wanted.get("startingPoint")).oid
    request.send({})


@route("PUT", f"{REPOSITORY}/settings")
def settings(request, kind, name):
    wanted, repository = request.json(), request.repository(kind, name, write=True)
    repository.private = wanted["visibility"] == "private" if "visibility" in wanted else wanted["private"]
    request.send({"private": repository.private})


@route("GET", f"{REPOSITORY}/xet-(?P<right>read|write)-token/{REVISION}")
def xet_token(request, kind, name, right, revision):
    request.repository(kind, name, write=right == "write")
    values = {"casUrl": f"local://{request.hub.xet_folder}", "accessToken": "xet", "exp": int(time.time()) + 3600}
    names = {"X-Xet-Cas-Url": "casUrl", "X-Xet-Access-Token": "accessToken", "X-Xet-Token-Expiration": "exp"}
    request.send(values, headers={header: str(values[key]) for header, key in names.items()})


def apply(hub, files, key, value):
    path = value["path"]
    if path.startswith("/") or {"..", ".git", ""} & set(path.rstrip("/").split("/")):
        raise HubError(400, f"invalid path {path}")
    if key == "file":
        files[path] = File(base64.b64decode(value["content"]))
    elif key == "lfsFile":
        if value["oid"] not in hub.objects and not xet.fetch(hub, value["oid"]):
            raise HubError(400, f"no such large file was uploaded: {path}")
        files[path] = File(hub.objects[value["oid"]], large=True)
    else:  # deletedFile, deletedFolder
        inside = path.rstrip("/") + "/"
        gone = [one for one in files if one == path or (key == "deletedFolder" and one.startswith(inside))]
        if not gone:
            raise HubError(404, f"no such file: {path}", "EntryNotFound")
        for one in gone:
            del files[one]
