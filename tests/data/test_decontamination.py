"""What shares 13 words in a row with an evaluation text is found, wherever it stands; twelve words are not."""

import json
from random import Random

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.decontamination import Contaminated

WORDS = [f"word{number}" for number in range(30)]


@pytest.fixture
def contaminated(tmp_path):
    lines = [{"text": " ".join(WORDS)}, {"text": "Too short to be found again."}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return Contaminated([str(tmp_path / "test.jsonl")])


def test_thirteen_words_are_found_at_every_position(contaminated):
    for start in range(len(WORDS) - 12):
        for before in range(30):
            for after in (0, 7):
                text = " ".join(["other"] * before + WORDS[start : start + 13] + ["other"] * after)
                assert contaminated(text)
                assert not contaminated(text.replace(WORDS[start], "other"))  # twelve


def test_it_agrees_with_a_plain_search(contaminated):
    random = Random(0)
    runs = {tuple(WORDS[start : start + 13]) for start in range(len(WORDS) - 12)}
    found = 0
    for _ in range(3000):
        start, length = random.randrange(18), random.randrange(8, 20)
        words = ["other"] * random.randrange(9) + WORDS[start : start + length] + WORDS[: random.randrange(9)]
        expected = any(tuple(words[at : at + 13]) in runs for at in range(len(words)))
        assert contaminated(" ".join(words)) == expected
        found += expected
    assert 500 < found < 2500


def test_case_punctuation_and_spaces_do_not_matter(contaminated):
    assert contaminated(
        "Word3, word4;\n\nWORD5 'word6' (word7) word8 word9 word10 word11 word12 word13 word14 -word15!"
    )


def test_short_texts_are_counted_and_nothing_to_find_is_refused(contaminated, tmp_path):
    assert contaminated.too_short == 1
    assert not contaminated("Too short to be found again.")
    (tmp_path / "short.txt").write_text("nothing but this")
    with pytest.raises(BadInput, match="short.txt: no evaluation text has 13 words"):
        Contaminated([str(tmp_path / "short.txt")])
