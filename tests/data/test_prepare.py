"""`data prepare`: the same files however it is run and whatever happens to it, and every document where it belongs."""

import errno
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from yxanul.bad_input import BadInput
from yxanul.data import bin_writer, files, part_files
from yxanul.data.bins import open_bin, verify_bin
from yxanul.data.documents import is_held_out
from yxanul.data.prepare import prepare
from yxanul.data.sources import open_source
from yxanul.data.tokenizers import load_tokenizer, save_tokenizer
from yxanul.data.train_tokenizer import train_bpe

PART_BYTES = 30_000  # so that a small corpus has several parts
COMMAND = (
    "import sys; from yxanul.data import files; from yxanul.data.data_command import main;"
    f"files.PART_BYTES = {PART_BYTES}; sys.exit(main(sys.argv[1:]))"
)


def sentences(seed, count):
    draws = random.Random(seed)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("", "n", "st", " 17", "\n\n", ", 2.5 ")]
    return [" ".join(draws.choices(words, k=draws.randint(1, 160))) for _ in range(count)]


FIRST, SECOND = sentences(1, 300), sentences(2, 200)
SECOND[20:40] = FIRST[100:120]  # these come again in the second source
FIRST[250:260] = FIRST[0:10]  # and these in the first


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    save_tokenizer(train_bpe(FIRST, 500), folder)
    return str(folder)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", PART_BYTES)


@pytest.fixture
def sources(tmp_path):
    return [write_records(tmp_path / "first.jsonl", FIRST), write_records(tmp_path / "second.jsonl", SECOND)]


def write_records(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def digests(folder):
    """sha256 of every file, by its name."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


def texts_of(folder, tokenizer):
    token_bin, loaded = open_bin(folder), load_tokenizer(tokenizer)
    ids = token_bin.read(0, token_bin.tokens)
    documents = np.split(ids, token_bin.document_ends.astype(int))[:-1]
    assert all(document[-1] == token_bin.end_of_text_id for document in documents)
    return [loaded.decode(document[:-1].tolist()) for document in documents]


@pytest.mark.parametrize("pack", [None, 64])
def test_the_files_are_the_same_for_any_number_of_workers(tmp_path, tokenizer, sources, pack):
    found = []
    for workers in (1, 2, 3):
        out = tmp_path / f"out{workers}"
        prepare(sources, tokenizer, out, held_out=0.1, pack=pack, workers=workers, shard_tokens=5000)
        found.append(digests(out))
    assert found[0] == found[1] == found[2]
    assert len(list((tmp_path / "out1" / "train").glob("tokens-*"))) > 2
    assert not list(tmp_path.glob("*.partial"))


def test_documents_are_there_once_in_order_and_the_first_one_stays(tmp_path, tokenizer, sources):
    manifests = prepare(sources, tokenizer, tmp_path / "out", held_out=0.1)
    expected = list(dict.fromkeys(FIRST + SECOND))
    train = [text for text in expected if not is_held_out(text, 0.1)]
    held_out = [text for text in expected if is_held_out(text, 0.1)]
    assert texts_of(tmp_path / "out" / "train", tokenizer) == train
    assert texts_of(tmp_path / "out" / "held_out", tokenizer) == held_out and held_out
    assert manifests["train"]["dropped"] == {"duplicate": len(FIRST + SECOND) - len(expected)}
    assert [source["spec"] for source in manifests["train"]["source"]] == sources
    for name, texts in (("train", train), ("held_out", held_out)):
        token_bin = open_bin(tmp_path / "out" / name)
        assert token_bin.document_bytes.tolist() == [len(text.encode()) for text in texts]
        for field in ("documents", "tokens", "bytes"):
            assert manifests[name][field] == sum(source[field] for source in manifests[name]["source"])
        verify_bin(tmp_path / "out" / name)


def test_a_document_stays_held_out_when_the_corpus_changes(tmp_path, tokenizer, sources):
    prepare(sources[:1], tokenizer, tmp_path / "small", held_out=0.1)
    prepare(sources[::-1], tokenizer, tmp_path / "large", held_out=0.2)
    training = set(texts_of(tmp_path / "large" / "train", tokenizer))
    assert not training & set(texts_of(tmp_path / "small" / "held_out", tokenizer))


def test_ids_are_those_of_the_tokenizer(tmp_path, tokenizer, sources):
    prepare(sources, tokenizer, tmp_path / "out")
    loaded = load_tokenizer(tokenizer)
    expected = [[*ids, loaded.end_of_text_id] for ids in loaded.encode_batch(list(dict.fromkeys(FIRST + SECOND)))]
    token_bin = open_bin(tmp_path / "out" / "train")
    assert token_bin.read(0, token_bin.tokens).tolist() == sum(expected, [])
    assert not (tmp_path / "out" / "held_out").exists()


def test_long_documents_give_the_same_bin_slice_by_slice(tmp_path, tokenizer, sources, monkeypatch):
    prepare(sources, tokenizer, tmp_path / "whole")
    monkeypatch.setattr(part_files, "LONG", 300)
    monkeypatch.setattr(part_files, "BATCH_CHARACTERS", 300)
    monkeypatch.setattr(part_files, "cut", lambda text, tokenizer: real_cut(text, tokenizer, 200))
    prepare(sources, tokenizer, tmp_path / "sliced")
    assert digests(tmp_path / "whole") == digests(tmp_path / "sliced")


real_cut = part_files.cut


def test_packed_documents_are_those_of_the_stream_and_the_held_out_ones_stay_apart(tmp_path, tokenizer, sources):
    prepare(sources, tokenizer, tmp_path / "stream", held_out=0.1)
    prepare(sources, tokenizer, tmp_path / "packed", held_out=0.1, pack=512)
    stream, packed = open_bin(tmp_path / "stream" / "train"), open_bin(tmp_path / "packed" / "train")
    rows = packed.read(0, packed.tokens).reshape(-1, 513)
    found = [row[1 : 1 + size] for row, size in zip(rows, packed.row_lengths, strict=True)]
    pieces = sorted(document.tobytes() for row in found for document in np.split(row, np.flatnonzero(row == 0) + 1))
    ids = stream.read(0, stream.tokens)
    whole = sorted(document.tobytes() for document in np.split(ids, stream.document_ends.astype(int)))
    assert [piece for piece in pieces if piece] == [document for document in whole if document]
    assert digests(tmp_path / "stream" / "held_out") == digests(tmp_path / "packed" / "held_out")


def test_dropped_documents_are_counted_by_reason(tmp_path, tokenizer):
    texts = [*FIRST[:50], "two words", "", "zulu " * 12 + FIRST[60]]
    spec = write_records(tmp_path / "a.jsonl", texts)
    with open(spec, "ab") as file:
        file.write(b'{"text": "not \xff UTF-8"}\n')
    met = write_records(tmp_path / "evaluation.jsonl", [FIRST[60] + " and more words than thirteen of them in a row"])
    manifests = prepare([spec], tokenizer, tmp_path / "out", min_tokens=20, decontaminate=[met])
    short = sum(len(ids) < 20 for ids in load_tokenizer(tokenizer).encode_batch([*FIRST[:50], "two words"]))
    assert manifests["train"]["dropped"] == {"contaminated": 1, "empty": 1, "not UTF-8": 1, "too few tokens": short}
    assert manifests["train"]["documents"] == len(texts) - 2 - short
    with pytest.raises(BadInput, match=r"a\.jsonl.*not UTF-8"):
        prepare([spec], tokenizer, tmp_path / "strict", strict=True)
    assert not list(tmp_path.glob("strict*")), "no part was finished, so nothing stays"


def test_token_files_are_copied_and_cut_at_the_end_of_text(tmp_path, tokenizer, sources, monkeypatch):
    prepare(sources, tokenizer, tmp_path / "text", held_out=0.1)
    ids = np.fromfile(tmp_path / "text" / "train" / "tokens-00000.bin", "<u2")
    for name, shape in {"behind": ids, "before": np.append(ids[-1:], ids[:-1]), "wide": ids.astype("<u4")}.items():
        raw = tmp_path / f"{name}.bin"
        shape.tofile(raw)
        for size in (9000, 1 << 20):  # how the file is divided among tasks changes nothing
            monkeypatch.setattr(part_files, "RAW_TOKENS", size)
            out = tmp_path / f"{name}{size}"
            prepare([f"raw:{raw},dtype={'uint32' if name == 'wide' else 'uint16'}"], tokenizer, out)
            for file in ("tokens-00000.bin", "documents.idx", "bytes.idx"):
                assert (out / "train" / file).read_bytes() == (tmp_path / "text" / "train" / file).read_bytes()


def test_an_id_above_the_vocabulary_is_refused(tmp_path, tokenizer):
    np.array([1, 2, 0, 700, 0], "<u2").tofile(tmp_path / "raw.bin")
    with pytest.raises(BadInput, match="id 700 at place 3 is not in the vocabulary"):
        prepare([f"raw:{tmp_path}/raw.bin"], tokenizer, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_vocabulary_above_the_type_of_a_token_file_is_refused(tmp_path, tokenizer, monkeypatch):
    np.array([1, 0], "<u2").tofile(tmp_path / "raw.bin")
    monkeypatch.setattr("yxanul.data.tokenizers.Tokenizer.vocabulary_size", 70_000)
    with pytest.raises(BadInput, match="uint16 cannot hold the 70,000 ids of .*: give dtype=uint32"):
        prepare([f"raw:{tmp_path}/raw.bin"], tokenizer, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"pack": 1}, "--pack 1 must be at least 2"),
        ({"held_out": 1.0}, "--held-out 1 must be a share"),
        ({"workers": 0}, "--workers 0 must be at least 1"),
        ({"min_tokens": -1}, "--min-tokens -1 must be at least 0"),
        ({"decontaminate": ["nowhere.txt"]}, r"nowhere\.txt does not exist"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(tmp_path, tokenizer, sources, settings, message):
    with pytest.raises(BadInput, match=message):
        prepare(sources, tokenizer, tmp_path / "out", **settings)
    assert not list(tmp_path.glob("out*"))


def test_a_folder_that_exists_and_a_tokenizer_without_end_of_text_are_refused(tmp_path, tokenizer, sources):
    (tmp_path / "out").mkdir()
    with pytest.raises(BadInput, match="out exists already: give another --out, or remove it"):
        prepare(sources, tokenizer, tmp_path / "out")
    content = json.loads(Path(tokenizer, "tokenizer.json").read_text())
    content["added_tokens"] = []
    del content["model"]["vocab"]["<|endoftext|>"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(BadInput, match="has no end-of-text"):
        prepare(sources, str(tmp_path / "tokenizer.json"), tmp_path / "new")
    assert not list(tmp_path.glob("new*"))


def test_nothing_left_to_train_on_is_said(tmp_path, tokenizer, sources):
    with pytest.raises(BadInput, match=r"no training document is left \(dropped: 500 too few tokens\)"):
        prepare(sources, tokenizer, tmp_path / "out", min_tokens=10**6)
    assert not (tmp_path / "out").exists()


def test_after_nothing_was_left_other_settings_may_follow(tmp_path, tokenizer, sources):
    with pytest.raises(BadInput, match="no training document is left"):
        prepare(sources, tokenizer, tmp_path / "out", min_tokens=100_000)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("out", ["corpus/bins", "corpus"])
def test_a_place_inside_of_a_source_is_refused(tmp_path, tokenizer, out):
    (tmp_path / "corpus").mkdir()
    write_records(tmp_path / "corpus" / "a.jsonl", FIRST)
    with pytest.raises(BadInput, match="lies inside of the source"):
        prepare([str(tmp_path / "corpus")], tokenizer, tmp_path / out)


def test_a_url_is_no_place_to_prepare_in(tokenizer, sources):
    with pytest.raises(BadInput, match="must be a local folder: prepare there, then `yxanul data publish` it"):
        prepare(sources, tokenizer, "s3://bucket/bins")


def test_ids_of_twice_the_width_are_recognised(tmp_path, tokenizer):
    np.arange(1, 400, dtype=np.uint32).tofile(tmp_path / "ids.bin")
    with pytest.raises(BadInput, match="looks like uint32, for every second id is 0: give dtype=uint32"):
        prepare([f"raw:{tmp_path / 'ids.bin'}"], tokenizer, tmp_path / "out")


def break_down(monkeypatch, at, error):
    """The `at`-th write of a bin fails, when everything before it has been written."""
    writes, real_write = [0], bin_writer._HashedFile.write

    def write(self, values):
        writes[0] += 1
        if writes[0] == at:
            raise error
        real_write(self, values)

    monkeypatch.setattr(bin_writer._HashedFile, "write", write)


def test_a_full_disk_is_said_and_finished_parts_are_kept(tmp_path, tokenizer, sources, monkeypatch):
    prepare(sources, tokenizer, tmp_path / "undisturbed")
    with monkeypatch.context() as broken:
        break_down(broken, 4, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(BadInput, match=r"no room is left on the disk for .*out\.partial: finished parts are kept"):
            prepare(sources, tokenizer, tmp_path / "out")
    monkeypatch.setattr(part_files.Preparer, "write", None)  # no part needs to be made again
    prepare(sources, tokenizer, tmp_path / "out")
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")


def test_other_settings_in_unfinished_work_are_refused_and_named(tmp_path, tokenizer, sources, monkeypatch):
    with monkeypatch.context() as broken:
        break_down(broken, 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            prepare(sources, tokenizer, tmp_path / "out", held_out=0.1)
    before = digests(tmp_path / "out.partial")
    with pytest.raises(
        BadInput, match=r"other settings \(held_out was 0\.1, is now 0\.2; strict was false, is now true"
    ):
        prepare(sources, tokenizer, tmp_path / "out", held_out=0.2, strict=True)
    with open(sources[0], "a") as file:
        file.write('{"text": "one more"}\n')
    with pytest.raises(BadInput, match="other settings .sources was"):
        prepare(sources, tokenizer, tmp_path / "out", held_out=0.1)
    assert digests(tmp_path / "out.partial") == before


def test_two_processes_do_not_work_in_one_folder(tmp_path, tokenizer, sources, monkeypatch):
    def second(*_):
        with pytest.raises(BadInput, match="another process is at work"):
            prepare(sources, tokenizer, tmp_path / "out")
        raise KeyboardInterrupt

    monkeypatch.setattr("yxanul.data.prepare.do_tasks", second)
    with pytest.raises(KeyboardInterrupt):
        prepare(sources, tokenizer, tmp_path / "out")


@pytest.mark.parametrize("pack", [None, 64])
def test_interrupted_at_every_step_to_the_disk_it_ends_the_same(tmp_path, tokenizer, sources, monkeypatch, pack):
    """Each attempt survives one fsync or rename more than the last; nothing is visible before the end."""
    prepare(sources, tokenizer, tmp_path / "undisturbed", held_out=0.1, pack=pack, shard_tokens=9000)
    expected, attempts = digests(tmp_path / "undisturbed"), 0
    while not (tmp_path / "out").exists():
        attempts += 1
        steps = [3 * attempts]
        with monkeypatch.context() as broken:
            for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink")):
                broken.setattr(owner, name, counting_down(getattr(owner, name), steps))
            try:
                prepare(sources, tokenizer, tmp_path / "out", held_out=0.1, pack=pack, shard_tokens=9000)
            except KeyboardInterrupt:
                assert not (tmp_path / "out").exists() or digests(tmp_path / "out") == expected
    assert attempts > 5
    assert digests(tmp_path / "out") == expected and not (tmp_path / "out.partial").exists()


def counting_down(function, steps):
    def counted(*arguments, **keywords):
        steps[0] -= 1
        if steps[0] < 0:
            raise KeyboardInterrupt
        return function(*arguments, **keywords)

    return counted


def start(sources, tokenizer, out, workers):
    arguments = [
        "prepare",
        "--tokenizer",
        tokenizer,
        "--out",
        str(out),
        "--held-out",
        "0.1",
        "--workers",
        str(workers),
    ]
    for source in sources:
        arguments += ["--source", source]
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    output, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    return output


def check_kills(tmp_path, tokenizer, sources, kills, workers):
    """Kills -9 the command at random moments between its first finished part and its end, then lets it finish."""
    finish(start(sources, tokenizer, tmp_path / "undisturbed", workers))
    partial, draws = tmp_path / "out.partial", random.Random(0)
    parts = sum(len(open_source(source).parts()) for source in sources)
    for kill in range(kills):
        process = start(sources, tokenizer, tmp_path / "out", 1 + (workers + kill) % 3)
        wanted = (kill + 1) * parts // (kills + 2)
        while process.poll() is None and finished_parts(partial) < wanted:
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)  # its workers notice, or are still at it when the next one begins
        process.communicate()
        assert process.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    assert "documents" in finish(start(sources, tokenizer, tmp_path / "out", workers))
    assert digests(tmp_path / "out") == digests(tmp_path / "undisturbed")
    assert not partial.exists()


def finished_parts(partial):
    return sum(not part.suffix for part in (partial / "parts").glob("*"))


def test_killed_and_started_again_it_ends_the_same(tmp_path, tokenizer):
    source = write_records(tmp_path / "a.jsonl", sentences(3, 1500))
    check_kills(tmp_path, tokenizer, [source], kills=2, workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_killed_many_times_it_ends_the_same(tmp_path, tokenizer, workers):
    sources = [write_records(tmp_path / f"{n}.jsonl", sentences(n, 6000)) for n in range(3)]
    check_kills(tmp_path, tokenizer, sources, kills=8, workers=workers)


def test_a_worker_that_is_killed_is_named_and_costs_no_finished_part(tmp_path, tokenizer):
    source = write_records(tmp_path / "a.jsonl", sentences(4, 6000))
    process = start([source], tokenizer, tmp_path / "out", 2)
    parts = tmp_path / "out.partial" / "parts"
    while process.poll() is None and not (parts.exists() and any(not p.suffix for p in parts.iterdir())):
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(workers[-1], signal.SIGKILL)
    _, messages = process.communicate(timeout=60)
    assert (
        process.returncode and "a worker ended with exit code -9" in messages and "finished parts are kept" in messages
    )
    assert any(not part.suffix for part in parts.iterdir())
