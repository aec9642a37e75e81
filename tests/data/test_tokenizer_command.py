"""`yxanul tokenizer` from files to folders and figures, and what it refuses before any work."""

import json
import pathlib
import textwrap

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.documents import is_held_out
from yxanul.data.tokenizer_command import main, read_texts
from yxanul.data.tokenizers import load_tokenizer

PARAGRAPHS = pathlib.Path(textwrap.__file__).read_text().split("\n\n")


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "paragraphs.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in PARAGRAPHS + PARAGRAPHS[:9]))
    return str(file)


@pytest.mark.parametrize("kind", ["bpe", "superbpe"])
def test_train_and_compare_from_a_text_file(kind, source, tmp_path, capsys):
    out = tmp_path / "out" / kind
    assert main(["train", "--kind", kind, "--vocabulary", "600", "--source", source, "--out", str(out)]) == 0
    spoken = "".join(capsys.readouterr())
    assert f"{kind} of 600 tokens on {len(set(PARAGRAPHS)):,} different documents" in spoken
    tokenizer = load_tokenizer(out)
    assert tokenizer.vocabulary_size == 600 and tokenizer.fingerprint[:12] in spoken

    assert main(["compare", str(out), str(out / "tokenizer.json"), "--source", source, "--json"]) == 0
    (facts,) = json.loads(capsys.readouterr().out)
    texts = PARAGRAPHS + PARAGRAPHS[:9]
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    for row in facts["tokenizers"]:
        assert row["tokens"] == tokens and row["changed_documents"] == 0 and row["cpu_seconds"] > 0
        assert row["bytes_per_token"] == sum(len(text.encode()) for text in texts) / tokens
        assert row["characters_per_token"] == sum(map(len, texts)) / tokens and 0.5 < row["used_share"] < 1

    assert main(["compare", str(out), "--source", source]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head == f"{source}: {len(texts):,} documents, {facts['bytes']:,} bytes"
    assert f"{facts['bytes'] / tokens:.3f} bytes and" in line and "of 600 used" in line
    assert not list(tmp_path.rglob("*.partial"))


def test_training_leaves_out_what_comparing_measures(source, tmp_path, capsys):
    held_out = [text for text in PARAGRAPHS if is_held_out(text, 0.2)]
    assert 0 < len(held_out) < len(PARAGRAPHS) / 2
    assert set(read_texts([source], held_out=0.2)) == set(PARAGRAPHS) - set(held_out)
    arguments = ["--source", source, "--held-out", "0.2"]
    main(["train", "--kind", "bpe", "--vocabulary", "400", "--out", str(tmp_path / "out"), *arguments])
    capsys.readouterr()
    main(["compare", str(tmp_path / "out"), "--json", *arguments])
    (facts,) = json.loads(capsys.readouterr().out)
    assert facts["bytes"] == sum(len(text.encode()) for text in PARAGRAPHS + PARAGRAPHS[:9] if is_held_out(text, 0.2))


def test_limited_bytes_are_shared_by_the_sources_and_cut_no_character(source, tmp_path):
    (tmp_path / "long.txt").write_text("ä" * 1000)
    texts = read_texts([source, str(tmp_path / "long.txt")], limit_bytes=1002)
    assert texts[-1] == "ä" * 250 and sum(len(text.encode()) for text in texts[:-1]) == 501


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "bpe", "--vocabulary", "200"], "--vocabulary 200 must be at least 261"),
        (["--kind", "bpe", "--vocabulary", "999", "--transition", "400"], "--transition belongs to --kind superbpe"),
        (["--kind", "superbpe", "--vocabulary", "999", "--transition", "1999"], "--transition 1,999 must be"),
        (["--kind", "bpe", "--vocabulary", "999", "--limit-bytes", "0"], "--limit-bytes 0 must be at least 1"),
        (["--kind", "bpe", "--vocabulary", "999", "--held-out", "5"], "--held-out 5 must be a share"),
        (["--kind", "bpe", "--vocabulary", "9999"], r"gives only [\d,]+ tokens that are words, not 9,999"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(arguments, message, source, tmp_path):
    with pytest.raises(BadInput, match=message):
        main(["train", "--source", source, "--out", str(tmp_path / "out"), *arguments])
    assert not list(tmp_path.glob("out*"))


def test_a_source_without_text_is_refused(source, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "ids.bin").write_bytes(bytes(100))
    options = ["train", "--kind", "bpe", "--vocabulary", "999", "--out", str(tmp_path / "out")]
    with pytest.raises(BadInput, match=r"empty.txt"):
        main([*options, "--source", str(tmp_path / "empty.txt")])
    with pytest.raises(BadInput, match="holds token ids: a tokenizer needs text"):
        main([*options, "--source", f"raw:{tmp_path / 'ids.bin'},dtype=uint16"])
    with pytest.raises(BadInput, match="has no tokenizer.json"):
        main(["compare", str(tmp_path), "--source", source])
    with pytest.raises(BadInput, match="exists already"):
        main([*options[:-1], str(tmp_path), "--source", source])


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--kind", "bpe", "--voc", "999", "--source", "builtin:math", "--out", "nowhere"],
        ["compare"],
        ["merge"],
        [],
    ],
)
def test_the_command_line_abbreviates_nothing(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith("yxanul tokenizer")
