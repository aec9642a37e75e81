"""What YAML lets pass and we do not."""

import pytest

from yxanul.bad_input import BadInput
from yxanul.strict_yaml import parse_assignments, read_yaml


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' is given twice"),
        ("outer:\n  a: 1\n  a: 3\n", "line 3: 'a' is given twice"),
        ("- 1\n- 2\n", "must hold 'key: value' lines; it holds list"),
        ("", "must hold 'key: value' lines; it is empty"),
        ("a: [1, 2\n", "line 2:"),
        ("a: b: c\n", "line 1:"),
        ("[1, 2]: 3\n", "line 1:"),
        ("a: \x07\n", "is no text: character 3 is a control character"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text, message, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        read_yaml(file)
    assert str(file) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(BadInput, match="nowhere.yaml cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")


def test_bytes_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(BadInput, match="a.yaml is not text in UTF-8"):
        read_yaml(tmp_path / "a.yaml")


def test_assignments_are_read_as_yaml():
    assert parse_assignments(["a=1", "b=true", "c=[1, 2]", "d=", "e=x=y"]) == {
        "a": 1,
        "b": True,
        "c": [1, 2],
        "d": None,
        "e": "x=y",
    }
    with pytest.raises(BadInput, match="is no YAML value"):
        parse_assignments(["a=[1"])
