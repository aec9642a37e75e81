"""A bin at a URL is the same bin: copied whole or not at all, checked, and once."""

import fsspec
import numpy as np
import pytest

from yxanul.bad_input import BadInput
from yxanul.data.bin_writer import BinWriter
from yxanul.data.bins import MANIFEST, open_bin, verify_bin
from yxanul.data.remote import fetch, publish


@pytest.fixture
def folder(tmp_path):
    writer = BinWriter(tmp_path / "bin", np.dtype("<u2"), 1000)
    writer.add_tokens(np.arange(2500, dtype=np.uint16))
    writer.add_documents(np.array([1500, 1000]), np.array([7, 8]))
    writer.finish(tokenizer={"name": "t", "fingerprint": "f", "vocabulary_size": 2500, "end_of_text_id": 0})
    return tmp_path / "bin"


@pytest.fixture(params=["memory", "file"])
def url(request, tmp_path):
    yield "memory://bins/books" if request.param == "memory" else f"file://{tmp_path}/published/books"
    fsspec.filesystem("memory").store.clear()


def test_a_published_bin_is_read_through_a_local_copy(folder, url, tmp_path):
    publish(folder, url)
    local = fetch(url, tmp_path / "cache")
    assert verify_bin(local) == verify_bin(folder)
    assert np.array_equal(open_bin(local).read(900, 2100), np.arange(900, 2100))


def test_what_is_there_is_not_copied_again(folder, url, tmp_path):
    publish(folder, url)
    local = fetch(url, tmp_path / "cache")
    (local / MANIFEST).unlink()  # as if the first call had been killed before its end
    fsspec.filesystem(url.split(":")[0]).rm_file(f"{url}/tokens-00000.bin")
    assert fetch(url, tmp_path / "cache") == local
    assert open_bin(local).tokens == 2500


def test_a_damaged_or_missing_bin_is_refused_and_leaves_no_bin(folder, url, tmp_path):
    with pytest.raises(BadInput, match="is no token bin: it has no manifest.json"):
        fetch(url, tmp_path / "cache")
    publish(folder, url)
    with fsspec.open(f"{url}/tokens-00001.bin", "wb") as file:
        file.write(bytes(2000))
    with pytest.raises(BadInput, match=r"tokens-00001\.bin has not the sha256 of its manifest\.json"):
        fetch(url, tmp_path / "cache")
    fsspec.filesystem(url.split(":")[0]).rm_file(f"{url}/tokens-00001.bin")
    with pytest.raises(BadInput, match=r"tokens-00001\.bin is missing"):
        fetch(url, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob(MANIFEST))
    publish(folder, url)  # mended
    assert verify_bin(fetch(url, tmp_path / "cache"))


@pytest.mark.parametrize("manifest", ["{", "[]", '{"files": {"../evil": {"bytes": 1, "sha256": "0"}}}'])
def test_a_manifest_cannot_name_files_elsewhere(url, tmp_path, manifest):
    with fsspec.open(f"{url}/{MANIFEST}", "w", auto_mkdir=True) as file:
        file.write(manifest)
    with pytest.raises(BadInput, match=r"is damaged: its manifest\.json is not that of a token bin"):
        fetch(url, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_an_unknown_protocol_is_refused(folder):
    with pytest.raises(BadInput, match="nowhere://bin cannot be opened: Protocol not known: nowhere"):
        publish(folder, "nowhere://bin")
