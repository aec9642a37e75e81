"""Bins: reading across files equals reading one, and whatever is not the bin that was written is refused."""

import json
import pickle
import shutil

import numpy as np
import pytest

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter, PackedBinWriter
from yxanul.data.bins import DOCUMENTS, MANIFEST, dtype_for, open_bin, token_file, verify_bin

MAKER = {"name": "t", "fingerprint": "abc", "vocabulary_size": 5000, "end_of_text_id": 0}
LENGTHS = np.array([1, 700, 299, 1, 64, 935])
IDS = np.random.default_rng(0).integers(1, 5000, LENGTHS.sum()).astype(np.uint16)
IDS[np.cumsum(LENGTHS) - 1] = MAKER["end_of_text_id"]


def write(folder, shard_tokens=600, dtype="<u2", writer=BinWriter, **more):
    made = writer(folder, np.dtype(dtype), shard_tokens, **more)
    for piece in np.array_split(IDS, 7):
        made.add_tokens(piece)
    made.add_documents(LENGTHS[:2], LENGTHS[:2] * 4)
    made.add_documents(LENGTHS[2:], LENGTHS[2:] * 4)
    made.finish(tokenizer=MAKER, source=[], dropped={})
    return folder


def edit_manifest(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize("shard_tokens", [37, 500, 600, 2000, 2001])
def test_reading_across_files_equals_the_ids_that_were_written(tmp_path, shard_tokens):
    token_bin = open_bin(write(tmp_path / "bin", shard_tokens))
    assert token_bin.tokens == len(IDS) and token_bin.documents == len(LENGTHS)
    draws = np.random.default_rng(1)
    for _ in range(200):
        start, stop = np.sort(draws.integers(0, len(IDS) + 1, 2)).tolist()
        assert np.array_equal(token_bin.read(start, stop), IDS[start:stop])
    assert np.array_equal(token_bin.read(0, len(IDS)), IDS)
    starts = draws.integers(0, len(IDS) - 90, 100)
    assert np.array_equal(token_bin.gather(starts, 90), IDS[starts[:, None] + np.arange(90)])


def test_indexes_say_where_documents_end_and_how_long_their_text_is(tmp_path):
    token_bin = open_bin(write(tmp_path / "bin"))
    assert np.array_equal(token_bin.document_ends, np.cumsum(LENGTHS))
    assert np.array_equal(token_bin.document_bytes, LENGTHS * 4)
    assert (IDS[token_bin.document_ends.astype(int) - 1] == token_bin.end_of_text_id).all()


def test_every_file_but_the_last_is_full(tmp_path):
    folder = write(tmp_path / "bin", 600)
    sizes = [file.stat().st_size // 2 for file in sorted(folder.glob("tokens-*"))]
    assert sizes == [600, 600, 600, 200]
    assert len(list(write(tmp_path / "exact", 500).glob("tokens-*"))) == 4, "no empty file at the end"


def test_an_open_bin_travels_to_another_process_without_its_maps(tmp_path):
    token_bin = open_bin(write(tmp_path / "bin"))
    assert not token_bin._maps, "nothing is mapped before it is read"
    token_bin.read(0, 2000)
    travelled = pickle.dumps(token_bin)
    assert len(travelled) < 5000
    assert np.array_equal(pickle.loads(travelled).read(550, 1300), IDS[550:1300])


def test_reading_outside_is_an_error(tmp_path):
    token_bin = open_bin(write(tmp_path / "bin"))
    for start, stop in [(-1, 5), (0, len(IDS) + 1), (9, 8)]:
        with pytest.raises(IndexError):
            token_bin.read(start, stop)


def test_an_empty_bin_can_be_read(tmp_path):
    BinWriter(tmp_path / "bin", np.dtype("<u2"), 600).finish(tokenizer=MAKER)
    token_bin = open_bin(tmp_path / "bin")
    assert token_bin.tokens == len(token_bin.document_ends) == len(token_bin.read(0, 0)) == 0
    assert verify_bin(tmp_path / "bin") == 0


@pytest.mark.parametrize("row_length", [50, 2000])
def test_packed_documents_are_all_there(tmp_path, row_length):
    folder = write(tmp_path / "bin", writer=PackedBinWriter, row_length=row_length, end_of_text_id=0)
    token_bin = open_bin(folder)
    rows = token_bin.read(0, token_bin.tokens).reshape(token_bin.rows, row_length + 1)
    real = np.concatenate([row[1 : 1 + size] for row, size in zip(rows, token_bin.row_lengths, strict=True)])
    assert sorted(real) == sorted(IDS)
    assert token_bin.manifest["tokens"] == len(IDS) == token_bin.row_lengths.sum()
    assert (token_bin.read(0, token_bin.tokens)[token_bin.document_ends.astype(int) - 1] == 0).all()
    assert sorted(token_bin.document_bytes) == sorted(LENGTHS * 4)
    assert (np.diff(token_bin.document_ends.astype(int)) > 0).all()


def test_ids_take_the_smallest_type_that_holds_the_vocabulary():
    assert dtype_for(65_536) == np.dtype("<u2") and dtype_for(65_537) == np.dtype("<u4")
    with pytest.raises(BadInput, match="a vocabulary of 4,294,967,297 ids is above"):
        dtype_for(2**32 + 1)


def test_a_bin_of_another_tokenizer_is_refused_with_both_fingerprints(tmp_path):
    write(tmp_path / "bin")
    open_bin(tmp_path / "bin", "abc")
    with pytest.raises(BadInput, match=r"bin was made with another tokenizer \(t, fingerprint abc; wanted is def\)"):
        open_bin(tmp_path / "bin", "def")


@pytest.mark.parametrize("name", [token_file(0), token_file(3), DOCUMENTS])
def test_a_truncated_or_missing_file_is_refused_when_the_bin_is_opened(tmp_path, name):
    folder = write(tmp_path / "bin")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1])
    with pytest.raises(BadInput, match=f"{name} has {len(content) - 1:,} bytes, its manifest says {len(content):,}"):
        open_bin(folder)
    (folder / name).unlink()
    with pytest.raises(BadInput, match=f"damaged: {name} is missing"):
        open_bin(folder)


@pytest.mark.parametrize("name", [token_file(0), token_file(3), DOCUMENTS])
def test_an_edited_file_is_refused_by_verify(tmp_path, name):
    folder = write(tmp_path / "bin")
    assert verify_bin(folder) == sum(file.stat().st_size for file in folder.iterdir() if file.name != MANIFEST)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    open_bin(folder)
    with pytest.raises(BadInput, match=f"edited or damaged: the sha256 of {name} is [0-9a-f]+, its manifest says"):
        verify_bin(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"version": 2}, "not the manifest of a token bin of version 1"),
        ({"documents": 7}, r"do not fit the sizes of its files \(documents.idx, bytes.idx\)"),
        ({"tokens": 1999}, r"do not fit the sizes of its files \(tokens\)"),
        ({"tokenizer": MAKER | {"vocabulary_size": 65_537}}, "uint16 cannot hold the 65,537 ids"),
    ],
)
def test_an_edited_manifest_is_refused_when_the_bin_is_opened(tmp_path, changes, message):
    folder = write(tmp_path / "bin")
    edit_manifest(folder, **changes)
    with pytest.raises(BadInput, match=message):
        open_bin(folder)


def test_what_is_no_bin_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"is no token bin: it has no manifest\.json; make one with"):
        open_bin(tmp_path)
    write(tmp_path / "train")
    shutil.copytree(tmp_path / "train", tmp_path / "held_out")
    with pytest.raises(BadInput, match=r"holds bins \(held_out, train\), and is none: name one"):
        open_bin(tmp_path)
    (tmp_path / "train" / MANIFEST).write_text("{")
    with pytest.raises(BadInput, match=r"manifest\.json is damaged"):
        open_bin(tmp_path / "train")
    (tmp_path / "train" / MANIFEST).write_text('{"format": "yxanul-tokens", "version": 1}')
    with pytest.raises(BadInput, match=r"manifest\.json is damaged: tokenizer is missing"):
        open_bin(tmp_path / "train")


@pytest.mark.parametrize(
    "changes",
    [{"dtype": "float32"}, {"layout": "rows"}, {"layout": {"packed": 8}}, {"tokenizer": None}, {"files": {"a": "b"}}],
)
def test_a_manifest_that_somebody_edited_is_damaged_and_no_traceback(tmp_path, changes):
    edit_manifest(write(tmp_path / "bin"), **changes)
    with pytest.raises(BadInput, match="damaged"):
        open_bin(tmp_path / "bin")
