"""Every form of the same documents yields them once, in order, however it is cut; what is wrong is one sentence."""

import csv
import gzip
import json
import pickle
import string
from collections import Counter

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from yxanul.bad_input import BadInput
from yxanul.data import files
from yxanul.data.documents import Document, is_held_out
from yxanul.data.sources import open_source

TEXTS = [
    "Plain words.",
    'Quotes "and", commas',
    "Gr\u00fc\u00dfe \u4f60\u597d \U0001f642",
    "Two\nlines",
    "x" * 300,
    "\u2028 odd \x85 ends",
    "last",
]
PINNED = ["e", "p", "u", "y"]  # letters that are held out at 0.1
LINES = [text for text in TEXTS if "\n" not in text]


def jsonl(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def write_csv(path, records):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, records[0].keys())
        writer.writeheader()
        writer.writerows(records)


def write_parquet(path, records, **options):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), path, **options)


def texts_of(spec, **options):
    return [document.text for part in open_source(str(spec), **options).parts() for document in part.documents()]


def counts_of(spec):
    counts = Counter()
    kept = sum(1 for part in open_source(str(spec)).parts() for _ in part.documents(counts))
    return kept, dict(counts)


def refused(spec, strict=False):
    with pytest.raises(BadInput) as error:
        for part in open_source(str(spec), strict).parts():
            list(part.documents())
    message = str(error.value)
    assert "\n" not in message and message.endswith((".", "?"))
    return message


@pytest.fixture
def forms(tmp_path):
    """The same documents in every form, each as a source."""
    records = [{"id": number, "text": text, "tags": ["a"]} for number, text in enumerate(TEXTS)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    write_csv(tmp_path / "a.csv", records)
    write_parquet(tmp_path / "a.parquet", records, row_group_size=2)
    for form in ("jsonl", "json", "csv"):
        content = (tmp_path / f"a.{form}").read_bytes()
        (tmp_path / f"a.{form}.gz").write_bytes(gzip.compress(content[:50]) + gzip.compress(content[50:]))
        (tmp_path / f"a.{form}.zst").write_bytes(pyarrow.compress(content, codec="zstd", asbytes=True))
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / ("b" if number > 3 else "") / f"{number}.md").write_text(text, encoding="utf-8", newline="")
    (folder / ".hidden" / "0.txt").write_text("not this")
    (folder / "picture.png").write_text("nor this")
    separate = tmp_path / "separate.txt"
    separate.write_text("\n\n".join(TEXTS) + "\n", encoding="utf-8", newline="")
    return [*tmp_path.glob("a.*"), folder, f"{folder}/**/*.md", f"{separate},split=blank-lines"]


def test_every_form_yields_the_same_documents(forms):
    assert len(forms) == 13
    for form in forms:
        assert sorted(texts_of(form)) == sorted(TEXTS) if "**" in str(form) else texts_of(form) == TEXTS, form


@pytest.mark.parametrize("part_bytes", [1, 7, 64, 200, 1000])
def test_parts_cover_every_document_once_wherever_they_are_cut(forms, part_bytes, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", part_bytes)
    for form in forms:
        source = open_source(str(form))
        parts = pickle.loads(pickle.dumps(source.parts()))
        alone = [[document.text for document in part.documents()] for part in reversed(parts)]
        together = [text for texts in reversed(alone) for text in texts]
        assert sorted(together) == sorted(TEXTS) if "**" in str(form) else together == TEXTS, form


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last_end", [True, False])
def test_lines_are_found_from_every_border(tmp_path, monkeypatch, end, last_end):
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in LINES]
    lines[2:2] = ["", "  ", ""]
    content = end.join(lines) + (end if last_end else "")
    (tmp_path / "a.jsonl").write_text(content, encoding="utf-8", newline="")
    plain = end.join([*LINES[:2], "", "", *LINES[2:]]) + (end if last_end else "")
    (tmp_path / "lines.txt").write_text(plain, encoding="utf-8", newline="")
    paragraphs = [end, end.join(["a", "b"]) + end, end, " " + end, "\u00e9" * 5 + end, end, "c" + end + "d"]
    (tmp_path / "paragraphs.txt").write_text("".join(paragraphs) + (end if last_end else ""), "utf-8", newline="")
    for part_bytes in range(1, 60):
        monkeypatch.setattr(files, "PART_BYTES", part_bytes)
        assert texts_of(tmp_path / "a.jsonl") == LINES
        assert texts_of(f"{tmp_path}/lines.txt,split=lines") == LINES
        expected = [f"a{end}b", "\u00e9" * 5, f"c{end}d"]
        assert texts_of(f"{tmp_path}/paragraphs.txt,split=blank-lines") == expected


def test_small_files_share_a_part_and_large_ones_are_cut(tmp_path):
    for number in range(50):
        (tmp_path / f"{number:02d}.txt").write_text("some text")
    assert len(open_source(str(tmp_path)).parts()) == 1
    line = json.dumps({"text": "word " * 20_000}) + "\n"
    (tmp_path / "large.jsonl").write_text(line * 1500)  # 150 MB
    assert len(open_source(str(tmp_path / "large.jsonl")).parts()) == 3


def test_a_byte_order_mark_is_no_text(tmp_path):
    for name, content in {"a.txt": "hello", "a.csv": "text\nhello\n", "a.jsonl": '{"text": "hello"}'}.items():
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content.encode())
        assert texts_of(tmp_path / name) == ["hello"]


def test_columns_templates_and_messages(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    records = [{"question": f"Q{i}?", "answer": f"A{i}", "n": i, "talk": talk} for i in range(3)]
    (tmp_path / "a.jsonl").write_bytes(jsonl(records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    write_parquet(tmp_path / "a.parquet", records)
    for path in tmp_path.iterdir():
        assert texts_of(f"{path},column=answer") == ["A0", "A1", "A2"]
        assert texts_of(f'{path},template="{{question}}\\n{{answer}}, {{{{{{n}}}}}}"')[1] == "Q1?\nA1, {1}"
        assert texts_of(f"{path},messages=talk")[0] == "User: Hi\n\nAssistant: Hello.\n\n"


def test_the_only_string_column_is_the_default(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"id": 1, "content": "this"}]))
    assert texts_of(tmp_path / "a.jsonl") == ["this"]


def test_a_missing_column_names_those_there_are(tmp_path):
    records = [{"title": "a", "body": "b", "n": 1}]
    (tmp_path / "a.jsonl").write_bytes(jsonl(records))
    write_parquet(tmp_path / "a.parquet", records)
    for path in (tmp_path / "a.jsonl", tmp_path / "a.parquet"):
        for spec in (path, f"{path},column=boddy", f"{path},template={{boddy}}", f"{path},messages=m"):
            assert "'title', 'body', 'n'" in refused(spec) and str(path) in refused(spec)
        assert "not text" in refused(f"{path},column=n")
        assert "not list" in refused(f"{path},messages=title")
    (tmp_path / "b.jsonl").write_bytes(jsonl([{"body": "only here"}]))
    assert "b.jsonl has no column 'title'" in refused(f"{tmp_path}/*.jsonl,column=title")


def test_filters_count_what_they_drop(tmp_path):
    records = [
        {"text": "kept", "score": 4},
        {"text": "kept too", "score": 3.5},
        {"text": "low", "score": 3.4},
        {"text": "none", "score": None},
        {"text": "no"},
        {"text": "not a number", "score": "?"},
        {"text": " ", "score": 5},
        {"text": None, "score": 5},
        {"text": 7, "score": 5},
        {"text": "x", "score": 5},
        {"text": "x" * 20, "score": 5},
    ]
    (tmp_path / "a.jsonl").write_bytes(jsonl(records) + b'{"text": \n[1]\n')
    spec = f"{tmp_path}/a.jsonl,score_column=score,min_score=3.5,min_characters=2,max_characters=10"
    expected = {"score too low": 1, "no score": 3, "empty": 2, "not text": 1, "too short": 1, "too long": 1}
    assert counts_of(spec) == (2, {**expected, "not a JSON record": 2})
    assert texts_of(f"{spec},limit=1") == ["kept"]


def test_limit_holds_over_all_files(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_BYTES", 1)
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(str(number))
    assert texts_of(f"{tmp_path},limit=3") == ["0", "1", "2"]


BROKEN = {
    "a.txt": b"good",
    "b.txt": b"bad \xff",
    "c.txt": b"good",
}


def test_what_is_not_utf8_is_counted_and_skipped_and_strict_stops_at_it(tmp_path):
    for name, content in BROKEN.items():
        (tmp_path / name).write_bytes(content)
    assert counts_of(tmp_path) == (2, {"not UTF-8": 1})
    assert "b.txt, byte 4: not UTF-8" in refused(tmp_path, strict=True)

    (tmp_path / "a.jsonl").write_bytes(b'{"text": "ok"}\n{"text": "\xe9"}\n{"text": "\\ud800"}\n{"text": "ok"}\n')
    assert counts_of(tmp_path / "a.jsonl") == (2, {"not UTF-8": 2})
    assert "a.jsonl, byte 25: not UTF-8" in refused(tmp_path / "a.jsonl", strict=True)

    (tmp_path / "a.json").write_bytes(b'[{"text": "ok"}, {"text": "\xe9"}]')
    assert counts_of(tmp_path / "a.json") == (1, {"not UTF-8": 1})
    assert "a.json, record 2: not UTF-8" in refused(tmp_path / "a.json", strict=True)

    (tmp_path / "a.csv").write_bytes(b"text,n\nok,1\n\xe9,2\n")
    assert counts_of(tmp_path / "a.csv") == (1, {"not UTF-8": 1})
    assert "a.csv, line 3: not UTF-8" in refused(tmp_path / "a.csv", strict=True)

    (tmp_path / "lines.txt").write_bytes("gr\u00fcn\n".encode() + b"\xff\nok\n")
    assert counts_of(f"{tmp_path}/lines.txt,split=lines") == (2, {"not UTF-8": 1})


def test_strings_of_parquet_that_are_not_utf8_are_counted(tmp_path):
    wrong = pyarrow.Array.from_buffers(pyarrow.string(), 2, pyarrow.array([b"ok", b"\xff\xfe"]).buffers())
    pyarrow.parquet.write_table(pyarrow.table({"text": wrong}), tmp_path / "a.parquet")
    assert counts_of(tmp_path / "a.parquet") == (1, {"not UTF-8": 1})
    assert "a.parquet, row 2: not UTF-8" in refused(tmp_path / "a.parquet", strict=True)


def test_empty_sources_say_what_there_was(tmp_path):
    assert "no files at all" in refused(tmp_path)
    (tmp_path / "a.weights").write_bytes(b"1")
    assert ".weights" in refused(tmp_path)
    assert "does not exist" in refused(tmp_path / "nothing.txt")
    (tmp_path / "a.jsonl").write_bytes(b"\n\n")
    assert "holds no documents." in refused(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_bytes(b" \n")
    assert "1 empty" in refused(tmp_path / "b.txt")
    write_parquet(tmp_path / "a.parquet", [{"text": "short"}])
    assert "1 too short" in refused(f"{tmp_path}/a.parquet,min_characters=9")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a.jsonl,colum=text", "did you mean column?"),
        ("builtin:math,sead=3", "did you mean seed?"),
        ("builtin:reasoning,level=easy", "unknown key 'level'"),
        ("builtin:language,count=3", "unknown key 'count'"),
        ("builtin:maths", "did you mean math?"),
        ("builtn:math", "did you mean builtin?"),
        ("raw:a.bin,limit=3", "unknown key 'limit'"),
        ("raw:a.bin,dtype=int8", "dtype must be uint16 or uint32; it is 'int8'"),
        ("a.jsonl,limit=0", "limit must be a whole number of at least 1; it is '0'"),
        ("a.jsonl,min_score=high,score_column=s", "min_score must be a number"),
        ("a.jsonl,min_score=1", "give both"),
        ("a.jsonl,column=a,template={a}", "exclude each other"),
        ("a.jsonl,template=no", "names no column"),
        ("a.jsonl,template={a", "is no template"),
        ("a.jsonl,template={a!r}", "plain {name}"),
        ("a.jsonl,min_characters=9,max_characters=8", "above max_characters=8"),
        ("a.jsonl,column", "is no key=value"),
        ("a.jsonl,limit=1,limit=2", "limit= is given twice"),
        ('a.jsonl,column="a', "not closed"),
        ("a.jsonl,split=lines", "split= cuts text files"),
        ("a.txt,column=text", "here are text files alone"),
        ("", "names no source"),
        ("a.parquet.gz", "unpack the file first"),
        ("broken.jsonl.gz", "cannot be read"),
        ("broken.jsonl.zst", "cannot be read"),
        ("broken.parquet", "cannot be read"),
        ("broken.json", "is no JSON"),
        ("record.json", "must hold a list of records"),
        ("raw:odd.bin", "odd.bin holds 3 bytes"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a"}]))
    for name in ("a.txt", "a.parquet.gz", "broken.parquet", "broken.json"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(jsonl([{"text": "a" * 99}]))[:-9])
    (tmp_path / "broken.jsonl.zst").write_bytes(pyarrow.compress(bytes(99), codec="zstd", asbytes=True)[:-5])
    (tmp_path / "record.json").write_text("{}")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "a.bin").write_bytes(b"abcd")
    assert message in refused(spec)


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_raw_files_yield_token_ids(tmp_path, dtype):
    ids = np.arange(1000, dtype=dtype)
    ids.tofile(tmp_path / "train.bin")
    source = open_source(f"raw:{tmp_path}/train.bin,dtype={dtype}")
    assert source.is_tokens
    (part,) = pickle.loads(pickle.dumps(source.parts()))
    np.testing.assert_array_equal(part.tokens(), ids)


def test_identity_is_json_and_changes_with_the_files(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    before = open_source(str(tmp_path)).identity
    assert json.loads(json.dumps(before)) == open_source(str(tmp_path)).identity
    (tmp_path / "a.txt").write_text("another")
    assert open_source(str(tmp_path)).identity != before
    math = [open_source(f"builtin:math,count=2{more}").identity for more in ("", ",seed=8", ",level=easy")]
    assert math[0] != math[1] != math[2] != math[0]


def test_held_out_is_stable_and_about_the_share():
    texts = [f"document {number}" for number in range(20_000)]
    held_out = {share: {text for text in texts if is_held_out(text, share)} for share in (0, 0.01, 0.1, 1)}
    assert not held_out[0] and held_out[1] == set(texts)
    assert held_out[0.01] < held_out[0.1]
    for share in (0.01, 0.1):
        spread = (20_000 * share * (1 - share)) ** 0.5
        assert abs(len(held_out[share]) - 20_000 * share) < 4 * spread
    # for ever: these are pinned
    assert [letter for letter in string.ascii_lowercase if is_held_out(letter, 0.1)] == PINNED


def test_documents_are_their_own_group(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (part,) = open_source(str(tmp_path)).parts()
    assert list(part.documents()) == [Document("text", "text")]


def texts_from(spec):
    counts = Counter()
    return [document.text for part in open_source(spec).parts() for document in part.documents(counts)], counts


def test_an_open_quote_of_a_csv_file_swallows_nothing_in_silence(tmp_path):
    (tmp_path / "a.csv").write_text('text\none\n"two\nthree\n')
    with pytest.raises(BadInput, match="a.csv"):
        texts_from(str(tmp_path / "a.csv"))


def test_linked_folders_are_read_and_circles_end(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "b.txt").write_text("b")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.txt").write_text("a")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    assert sorted(texts_from(str(tmp_path / "here"))[0]) == ["a", "b"]


def test_a_column_that_only_later_records_have_is_known(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n{"text": "x", "id": 2}\n')
    texts, counts = texts_from(str(tmp_path / "a.jsonl"))
    assert texts == ["x"] and sum(counts.values()) == 1


def test_a_number_of_too_many_digits_is_no_record(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": ' + "1" * 5000 + "}\n")
    texts, counts = texts_from(str(tmp_path / "a.jsonl"))
    assert texts == ["x"] and counts["not a JSON record"] == 1
