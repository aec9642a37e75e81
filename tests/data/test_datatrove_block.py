"""The prepare step under datatrove's local executor: the bins are those of `data prepare`, to the byte."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import tokenizers

from yxanul.bad_input import BadInput
from yxanul.data.bins import MANIFEST, verify_bin
from yxanul.data.prepare import prepare

pytest.importorskip("datatrove", reason="extra `scale`")
from datatrove.data import Document  # noqa: E402
from datatrove.executor import LocalPipelineExecutor  # noqa: E402
from datatrove.pipeline.readers import ParquetReader  # noqa: E402

from yxanul.data.datatrove_block import TokenBins, TokenParts  # noqa: E402

TEXTS = [f"Story {n}. " + " ".join(f"word{n * k % 97}" for k in range(n % 40 + 1)) for n in range(300)]
TEXTS[150:] = TEXTS[100:150] + TEXTS[150:250]  # fifty of the first file come again in the second


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Every byte is a token, and 256 ends a text."""
    folder = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[])
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(["<|endoftext|>"])
    backend.save(str(folder / "tokenizer.json"))
    return str(folder)


def documents(texts):
    return (Document(text, id=str(n)) for n, text in enumerate(texts))


def contents(out):
    """Every byte of the bins, and what the manifests say but for the source's name."""
    files = {file.relative_to(out): file.read_bytes() for file in out.glob("*/*")}
    for file, content in files.items():
        if file.name == MANIFEST:
            files[file] = json.loads(content)
            for source in files[file]["source"]:
                source.pop("spec")
    return files


@pytest.mark.parametrize("pack", [None, 64])
def test_two_tasks_make_the_bins_of_data_prepare(tmp_path, tokenizer, pack):
    (tmp_path / "stories").mkdir()
    for number in range(2):
        table = pyarrow.table({"text": TEXTS[number * 150 : (number + 1) * 150]})
        pyarrow.parquet.write_table(table, tmp_path / "stories" / f"{number}.parquet")
    prepare([str(tmp_path / "stories")], tokenizer, tmp_path / "plain", held_out=0.1, pack=pack, shard_tokens=5000)

    steps = [ParquetReader(str(tmp_path / "stories")), TokenParts(tmp_path / "block", tokenizer, held_out=0.1)]
    LocalPipelineExecutor(steps, tasks=2, logging_dir=str(tmp_path / "logs" / "parts")).run()
    steps = [TokenBins(tmp_path / "block", pack=pack, shard_tokens=5000)]
    LocalPipelineExecutor(steps, tasks=1, workers=1, logging_dir=str(tmp_path / "logs" / "bins")).run()

    assert contents(tmp_path / "block") == contents(tmp_path / "plain")
    assert verify_bin(tmp_path / "block" / "train") > 5000
    assert not (tmp_path / "block.partial").exists()


def test_a_finished_part_is_kept_and_a_missing_one_is_named(tmp_path, tokenizer):
    parts = TokenParts(tmp_path / "out", tokenizer)
    with pytest.raises(BadInput, match="there are no parts in .*run TokenParts first"):
        TokenBins(tmp_path / "out").run()
    parts.run(documents(TEXTS[:5]), rank=0, world_size=2)
    parts.run(None, rank=0, world_size=2)  # reads nothing the second time
    with pytest.raises(BadInput, match=r"1 of 2 parts are not finished \(000001 first\)"):
        TokenBins(tmp_path / "out").run()
    parts.run(documents(TEXTS[5:9]), rank=1, world_size=2)
    TokenBins(tmp_path / "out").run()
    assert json.loads((tmp_path / "out" / "train" / MANIFEST).read_text())["documents"] == 9
    with pytest.raises(BadInput, match="exists already"):
        TokenParts(tmp_path / "out", tokenizer)
    with pytest.raises(BadInput, match="a share from 0 to below 1"):
        TokenParts(tmp_path / "other", tokenizer, held_out=5)


def test_parts_of_different_settings_do_not_mix(tmp_path, tokenizer):
    TokenParts(tmp_path / "out", tokenizer).run(documents(TEXTS[:5]), rank=0, world_size=2)
    with pytest.raises(BadInput, match="begun with other settings"):
        TokenParts(tmp_path / "out", tokenizer).run(documents(TEXTS[:5]), rank=0, world_size=3)
    TokenParts(tmp_path / "out", tokenizer, min_tokens=7).run(documents(TEXTS[5:9]), rank=1, world_size=2)
    with pytest.raises(BadInput, match="made with different settings"):
        TokenBins(tmp_path / "out").run()
    with pytest.raises(BadInput, match="tasks=1, not 4"):
        TokenBins(tmp_path / "out").run(world_size=4)
