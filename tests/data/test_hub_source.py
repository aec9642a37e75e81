"""`hf:owner/name`: the real `datasets` streams from the loopback Hub, in a process of its own.

One client process serves all tests: a JSON line (spec, token) in, a JSON line out (documents, counts, or the refusal).
Whatever it wrote is searched for tokens at the end.
"""

import io
import json
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest
from hub_server.fixture import OWNER, STRANGER
from hub_server.repositories import File, User
from hub_server.server import client_environment, serve

WRONG = "hf_loopbackWrong"
CLIENT = """
import collections, json, os, sys
import datasets
from yxanul.bad_input import BadInput
from yxanul.data.sources import open_source

datasets.config.STREAMING_READ_RETRY_INTERVAL = 0
for line in sys.stdin:
    spec, token = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    counts = collections.Counter()
    try:
        source = open_source(spec)
        parts = source.parts()
        answer = {"documents": [document.text for part in parts for document in part.documents(counts)]}
        answer |= {"parts": len(parts), "counts": counts, "identity": source.identity}
    except BadInput as error:
        answer = {"refusal": str(error)}
    print(json.dumps(answer), flush=True)
"""


def text(number):
    return f"document {number}: " + " ".join(str(number * k) for k in range(60))


def json_lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(rows, row_group_size=100):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer, row_group_size=row_group_size)
    return buffer.getvalue()


STORIES = [{"text": text(n), "title": f"title {n}", "score": n % 5} for n in range(400)]
PAIRS = [{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(300)]
CARD = b"""---
configs:
- config_name: plain
  data_files: [{split: train, path: plain/train.jsonl}, {split: test, path: plain/test.jsonl}]
- config_name: other
  data_files: [{split: train, path: other.jsonl}]
---
"""


@pytest.fixture(scope="module")
def hub():
    hub, stop = serve({OWNER: User("owner"), STRANGER: User("stranger")})
    hub.add("datasets", "owner/stories", {"train.jsonl": json_lines(STORIES)})
    hub.add("datasets", "owner/shards", {f"data/train-{n}.parquet": parquet(PAIRS[n::3]) for n in range(3)})
    hub.add("datasets", "owner/secret", {"train.jsonl": json_lines(STORIES[:3])}, private=True)
    files = {"plain/train.jsonl": STORIES[:5], "plain/test.jsonl": STORIES[5:7], "other.jsonl": STORIES[7:9]}
    hub.add(
        "datasets", "owner/configs", {"README.md": CARD} | {path: json_lines(rows) for path, rows in files.items()}
    )
    versions = hub.add("datasets", "owner/versions", {"train.jsonl": json_lines(STORIES[:1])})
    versions.tags["v1"] = versions.at("main").oid
    versions.commit("two", {"train.jsonl": File(json_lines(STORIES[:2]))})
    yield hub
    stop()


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    output = []
    with (folder / "stderr").open("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=client_environment(hub.url, folder / "home"),
            text=True,
            cwd=folder,
        )

        def ask(spec, token=None):
            process.stdin.write(json.dumps([spec, token]) + "\n")
            process.stdin.flush()
            output.append(process.stdout.readline())
            assert output[-1], (folder / "stderr").read_text()
            return json.loads(output[-1])

        ask.said = lambda: "".join(output) + (folder / "stderr").read_text()
        yield ask
        process.stdin.close()
        process.wait()
        process.stdout.close()


def one_sentence(refusal):
    return "\n" not in refusal and refusal.endswith(".") and "Traceback" not in refusal


def test_json_lines_and_parquet_come_in_their_order(client):
    assert client("hf:owner/stories")["documents"] == [row["text"] for row in STORIES]
    answer = client("hf:owner/shards,template={question}\\n{answer}")
    assert answer["documents"] == [f"{row['question']}\n{row['answer']}" for n in range(3) for row in PAIRS[n::3]]
    assert answer["parts"] == 3


def test_config_split_and_column_choose(client):
    assert client("hf:owner/configs,config=plain,split=test")["documents"] == [row["text"] for row in STORIES[5:7]]
    answer = client("hf:owner/configs,config=other,column=title")
    assert answer["documents"] == ["title 7", "title 8"]
    for spec, names in {
        "hf:owner/configs": ["plain", "other"],
        "hf:owner/configs,config=no": ["plain", "other"],
        "hf:owner/configs,config=plain,split=no": ["train", "test"],
        "hf:owner/stories,column=body": ["text", "title"],
        "hf:owner/shards": ["question", "answer"],
    }.items():
        refusal = client(spec)["refusal"]
        assert one_sentence(refusal) and all(name in refusal for name in names), refusal


def test_a_revision_is_pinned_to_its_commit(client, hub):
    versions = hub.repositories["datasets", "owner/versions"]
    first, latest = client("hf:owner/versions,revision=v1"), client("hf:owner/versions")
    assert (len(first["documents"]), len(latest["documents"])) == (1, 2)
    assert versions.tags["v1"] in json.dumps(first["identity"])
    assert versions.branches["main"] in json.dumps(latest["identity"])
    refusal = client("hf:owner/versions,revision=v9")["refusal"]
    assert one_sentence(refusal) and "v9" in refusal, refusal


def test_limit_and_score_drop_documents(client):
    answer = client("hf:owner/stories,limit=7,score_column=score,min_score=3")
    assert answer["documents"] == [row["text"] for row in STORIES if row["score"] >= 3][:7]
    assert sum(answer["counts"].values()) == len([row for row in STORIES[:18] if row["score"] < 3])


def test_a_private_data_set_needs_its_owners_token(client):
    assert client("hf:owner/secret", OWNER)["documents"] == [row["text"] for row in STORIES[:3]]
    for token in (None, STRANGER, WRONG):
        refusal = client("hf:owner/secret", token)["refusal"]
        assert one_sentence(refusal) and "owner/secret" in refusal, refusal
    assert "HF_TOKEN" in client("hf:owner/secret")["refusal"]


def test_a_repository_that_is_not_there_is_refused(client):
    refusal = client("hf:owner/none")["refusal"]
    assert one_sentence(refusal) and "owner/none" in refusal, refusal


DROPPED = {"hf:owner/stories": "train.jsonl", "hf:owner/shards,column=answer": "^/files/"}


@pytest.mark.parametrize("spec, pattern", DROPPED.items())
def test_dropped_connections_in_the_middle_of_a_file_are_survived(client, hub, spec, pattern):
    undisturbed = client(spec)["documents"]
    hub.log.clear()
    hub.fail("GET", pattern, drop_after=700)
    hub.fail("GET", pattern, status=503)
    assert client(spec)["documents"] == undisturbed
    met = [answer for _, _, answer in hub.log]
    assert met.count("dropped") == met.count(503) == 1


def test_no_output_holds_a_token(client):
    """The last of this file: it looks at everything that the client has said."""
    client("hf:owner/secret", OWNER)
    client("hf:owner/secret", WRONG)
    assert all(token not in client.said() for token in (OWNER, STRANGER, WRONG))
