"""Reads a YAML file into a dictionary; refuses what YAML lets pass: a key given twice, a file that is no mapping."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from yxanul.bad_input import BadInput


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.MarkedYAMLError(problem=f"{key!r} is no key", problem_mark=key_node.start_mark)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"{key!r} is given twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text in UTF-8.") from None
    except yaml.reader.ReaderError as error:
        raise BadInput(f"{path} is no text: character {error.position} is a control character.") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise BadInput(f"{path}, line {line}: {error.problem}") from None
    if not isinstance(content, dict):
        found = "is empty" if content is None else f"holds {type(content).__name__}"
        raise BadInput(f"{path} must hold 'key: value' lines; it {found}.")
    return content


def parse_assignments(assignments: list[str]) -> dict[str, Any]:
    """`key=value` words of a command line; values are read as YAML."""
    values = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise BadInput(f"{assignment!r} is no setting: write key=value.")
        if key in values:
            raise BadInput(f"{key!r} is given twice on the command line.")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInput(f"{assignment!r}: {text!r} is no YAML value; quote it.") from None
    return values
