"""The verb `data`: what it prints comes from the bins, and a shown document is the text that went in."""

import io
import json

import pytest

from yxanul.bad_input import BadInput
from yxanul.data import progress as progress_module
from yxanul.data.bins import MANIFEST, open_bin
from yxanul.data.data_command import main
from yxanul.data.progress import Progress
from yxanul.data.tokenizers import save_tokenizer
from yxanul.data.train_tokenizer import train_bpe

TEXTS = [f"Text {n}: " + "\n".join(f"line {n * k}  ends with 🙂" for k in range(n)) + "\r\n\t" for n in range(1, 40)]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a tokenizer, a source, a stream bin and a packed one."""
    folder = tmp_path_factory.mktemp("made")
    save_tokenizer(train_bpe(TEXTS, 280), folder / "tokenizer")
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    for name, more in {"stream": ["--held-out", "0.2"], "packed": ["--pack", "60"]}.items():
        arguments = ["--source", str(folder / "texts.jsonl"), "--tokenizer", str(folder / "tokenizer")]
        assert main(["prepare", *arguments, "--out", str(folder / name), "--workers", "1", *more]) == 0
    return folder


def test_a_shown_document_is_the_text_that_went_in(made, capsys):
    token_bin = open_bin(made / "stream" / "train")
    shown = []
    for number in range(token_bin.documents):
        main(["show", str(made / "stream" / "train"), str(number)])
        heading, _, text = capsys.readouterr().out.partition("\n")
        assert heading.startswith(f"[document {number} of {token_bin.documents}: tokens ")
        assert text.endswith("<|endoftext|>\n")
        shown.append(text.removesuffix("<|endoftext|>\n"))
    assert set(shown) < set(TEXTS) and len(shown) == token_bin.documents


def test_shown_rows_hold_all_of_the_texts_with_their_boundaries(made, capsys):
    token_bin = open_bin(made / "packed" / "train")
    pieces = []
    for number in range(token_bin.rows):
        main(["show", str(made / "packed" / "train"), str(number)])
        shown = capsys.readouterr().out
        assert shown.startswith(
            f"[row {number} of {token_bin.rows}: {token_bin.row_lengths[number]} of 60 places used]"
        )
        assert f"[padding: {60 - token_bin.row_lengths[number]}]\n" in shown
        pieces.append(shown)
    everything = "".join(pieces)
    before = [token_bin.read(number * 61, number * 61 + 1)[0] for number in range(token_bin.rows)]
    assert everything.count("<|endoftext|>") == token_bin.documents + before.count(token_bin.end_of_text_id)
    assert "[continued: places 0 to " in everything and ", goes on in another row]" in everything
    for text in TEXTS[:3]:  # they fit
        assert f"]\n{text}<|endoftext|>\n[" in everything


def test_info_says_what_the_manifests_say(made, capsys):
    main(["info", str(made / "stream")])
    shown = capsys.readouterr().out
    manifest = open_bin(made / "stream" / "train").manifest
    assert f"{made}/stream/train: {manifest['tokens']:,} tokens, {manifest['documents']} documents" in shown
    assert manifest["tokenizer"]["fingerprint"] in shown and "held_out: " in shown
    main(["info", str(made / "packed" / "train"), "--json"])
    assert list(json.loads(capsys.readouterr().out).values()) == [open_bin(made / "packed" / "train").manifest]
    main(["info", str(made / "packed")])
    assert "rows of 60 tokens" in capsys.readouterr().out


def test_verify_reads_every_bin(made, capsys):
    main(["verify", str(made / "stream")])
    assert capsys.readouterr().out.count("every sha256 as its manifest says") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["show", "packed/train", "900"], "rows, numbered from 0: there is no 900"),
        (["show", "stream/train", "900"], "documents, numbered from 0: there is no 900"),
        (["show", "stream", "0"], r"holds bins \(held_out, train\)"),
        (["info", "tokenizer"], "is no token bin"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_sentence(made, arguments, message):
    with pytest.raises(BadInput, match=message):
        main([arguments[0], str(made / arguments[1]), *arguments[2:]])


def test_a_bin_is_not_shown_with_another_tokenizer(made, tmp_path):
    save_tokenizer(train_bpe(TEXTS, 270), tmp_path / "other")
    with pytest.raises(BadInput, match="was made with another tokenizer"):
        main(["show", str(made / "stream" / "train"), "0", "--tokenizer", str(tmp_path / "other")])


def test_an_empty_held_out_bin_is_said(made, tmp_path, capsys):
    arguments = ["--source", str(made / "texts.jsonl"), "--tokenizer", str(made / "tokenizer"), "--workers", "1"]
    main(["prepare", *arguments, "--out", str(tmp_path / "out"), "--held-out", "1e-9"])
    assert "held_out is empty: give more documents, or a larger --held-out" in capsys.readouterr().out
    assert (tmp_path / "out" / "held_out" / MANIFEST).exists()


@pytest.mark.parametrize("flag", ["--worker", "--held", "--sources"])
def test_flags_are_not_abbreviated(made, tmp_path, flag):
    arguments = ["--source", str(made / "texts.jsonl"), "--tokenizer", str(made / "tokenizer")]
    with pytest.raises(SystemExit):
        main(["prepare", *arguments, "--out", str(tmp_path / "out"), flag, "1"])


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_line_a_minute_in_a_log_and_a_bar_on_a_terminal(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    with Progress("tokens", 4, 1, log) as progress:
        for _ in range(150):
            now[0] += 1
            progress.add(2, 1000)
        progress.end_part()
    assert log.getvalue().splitlines() == [
        "tokens: 1 of 4 parts, 120 documents, 60,000 tokens, 1,000 tokens/s, 60 s",
        "tokens: 1 of 4 parts, 240 documents, 120,000 tokens, 1,000 tokens/s, 120 s",
        "tokens: 2 of 4 parts, 300 documents, 150,000 tokens, 1,000 tokens/s, 150 s",
    ]
    terminal = Terminal()
    with Progress("tokens", 4, 1, terminal) as progress:
        progress.add(2, 1000)
    assert "tokens: 1 of 4 parts, 2 documents" in terminal.getvalue()


def test_a_published_bin_is_planned_and_read_where_it_lies(made, tmp_path, capsys, monkeypatch):
    from yxanul.data import remote
    from yxanul.data.stages import read_stages

    monkeypatch.setattr(remote.fetch, "__defaults__", (tmp_path / "cache",))
    url = f"file://{tmp_path}/published"
    main(["publish", str(made / "stream" / "train"), url])
    assert capsys.readouterr().out.startswith(f"{url}: ")
    entry = {"name": "one", "sources": [{"bin": url}], "steps": 1, "phases": [{"length": 8, "rows": 1}]}
    (source,) = read_stages([entry])[0].sources
    assert source.tokens == open_bin(made / "stream" / "train").tokens
    with pytest.raises(BadInput, match="is no token bin|and is none"):
        main(["publish", str(tmp_path / "cache"), url])
