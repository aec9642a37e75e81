"""The loopback Hub against the real `huggingface_hub`: what is read, by whom, what survives a fault, what is pushed.

One client process for all checks, because HF_ENDPOINT is read when the package is imported.
"""

import subprocess
import sys

from hub_server.fixture import OWNER, READER, STRANGER
from hub_server.server import client_environment

WEIGHTS = bytes(range(256)) * 1000
CLIENT = """
import sys, pathlib
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

OWNER, READER, STRANGER = sys.argv[1:]
api = HfApi()

def raised(kind, status, action, *arguments, **options):
    try:
        action(*arguments, **options)
    except kind as error:
        return error.response.status_code == status
    return False

# public: listed, described, downloaded, although the connection is lost in the middle of the large file
assert sorted(api.list_repo_files("owner/tiny")) == ["README.md", "config.json", "onnx/model.onnx"]
assert api.model_info("owner/tiny").card_data.license == "mit"
folder = pathlib.Path(snapshot_download("owner/tiny"))
assert (folder / "onnx/model.onnx").read_bytes() == bytes(range(256)) * 1000
assert [one.path for one in api.list_repo_tree("owner/tiny")] == ["README.md", "config.json", "onnx"]
assert api.get_paths_info("owner/tiny", ["config.json", "no"])[0].size == 2
first = api.list_repo_refs("owner/tiny").branches[0].target_commit
assert hf_hub_download("owner/tiny", "config.json", revision=first[:8])
assert raised(EntryNotFoundError, 404, hf_hub_download, "owner/tiny", "no.json")
assert raised(RevisionNotFoundError, 404, hf_hub_download, "owner/tiny", "config.json", revision="no")
assert raised(RepositoryNotFoundError, 401, api.model_info, "owner/none")

# private: for its owner alone
assert api.dataset_info("owner/secret", token=OWNER).private
assert raised(RepositoryNotFoundError, 401, api.dataset_info, "owner/secret")
assert raised(RepositoryNotFoundError, 404, api.dataset_info, "owner/secret", token=STRANGER)
assert raised(HfHubHTTPError, 401, api.dataset_info, "owner/secret", token="hf_wrong")
assert api.whoami(token=OWNER)["name"] == "owner"

# pushed: one commit, nothing twice, not by everybody, not on top of what has moved on
api = HfApi(token=OWNER)
api.create_repo("team/new", private=True)
assert raised(HfHubHTTPError, 409, api.create_repo, "team/new")
again = pathlib.Path(folder)
commit = api.upload_folder(repo_id="team/new", folder_path=again, commit_message="all")
assert api.upload_folder(repo_id="team/new", folder_path=again).oid == commit.oid
copy = pathlib.Path(snapshot_download("team/new", token=OWNER))
assert (copy / "onnx/model.onnx").read_bytes() == (folder / "onnx/model.onnx").read_bytes()
api.delete_file("config.json", "team/new")
assert not api.file_exists("team/new", "config.json")
new = dict(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="team/new")
assert raised(HfHubHTTPError, 412, api.upload_file, **new, parent_commit=commit.oid)
assert raised(HfHubHTTPError, 403, api.upload_file, **(new | {"repo_id": "owner/tiny"}), token=READER)
"""


def test_the_real_client_reads_and_pushes(loopback_hub, tmp_path):
    readme = b"---\nlicense: mit\n---\n# Tiny\n"
    loopback_hub.add("models", "owner/tiny", {"README.md": readme, "config.json": b"{}", "onnx/model.onnx": WEIGHTS})
    loopback_hub.add("datasets", "owner/secret", {"train.jsonl": b"{}\n"}, private=True)
    loopback_hub.fail("GET", "^/files/", drop_after=1000)
    result = subprocess.run(
        [sys.executable, "-c", CLIENT, OWNER, READER, STRANGER],
        env=client_environment(loopback_hub.url, tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answers = [answer for method, path, answer in loopback_hub.log if method == "GET" and path.startswith("/files/")]
    assert answers[:3] == [200, "dropped", 200]
