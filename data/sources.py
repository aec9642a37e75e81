"""Where documents come from, as one string: `PATH_OR_KIND[,key=value...]`.

    notes/    articles.jsonl.gz,column=content    book.txt,split=blank-lines
    data/*.parquet,score_column=score,min_score=3.5    qa.csv,template="{question}\\n{answer}"
    hf:owner/name,config=en,split=train    raw:train.bin,dtype=uint16    builtin:language    builtin:math,count=20000

Of conversations (conversations.py) a source knows config, split, revision, limit and `bad=skip`.
`open_source(spec).parts()` are pieces that can be read apart, in any process; their number depends on the source
alone. A value with commas stands in double quotes; \\n and \\t in a template are a new line and a tab. `limit=` keeps
a source in one part. Not here: exact duplicates (prepare.py drops them over all sources), tokens of text.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data import builtin, files, hub_datasets, problems
from yxanul.data.columns import Columns
from yxanul.data.conversations import ConversationColumns, ProblemConversations
from yxanul.data.documents import Chain, Part, Rules, TokenFile

Values = dict[str, Any]
PREFIXES = ("hf", "raw", "builtin")


@dataclass(frozen=True)
class Source:
    spec: str
    kind: str  # one of PREFIXES, or "files"
    _parts: tuple[Part, ...]
    identity: Values  # ready for JSON; equal as long as the source yields the same documents

    @property
    def is_tokens(self) -> bool:
        return self.kind == "raw"

    def parts(self) -> list[Part]:
        return list(self._parts)


def open_source(spec: str, strict: bool = False, conversations: bool = False) -> Source:
    """Checks everything that can be wrong with a source before its first document is asked for."""
    location, texts = split_spec(spec)
    kind, name = _kind_and_name(location)
    known = _keys_of(kind, name)
    if conversations:
        if kind == "raw" or name in builtin.LIBRARY:
            raise BadInput(f"{spec} holds no conversations: name files of records, hf:owner/name, or builtin:math.")
        known = {key: convert for key, convert in known.items() if key not in (*COLUMN_KEYS, "split")} | BAD
        known |= {"split": some_text} if kind == "hf" else {}
    values = _converted(spec, texts, known) | ({CONVERSATIONS: True} if conversations else {})
    readers, identity = OPENERS[kind](spec, name, values)
    if "limit" in values:
        readers = [Chain(tuple(readers))]
    least, most = values.get("min_characters", 1), values.get("max_characters")
    if most is not None and least > most:
        raise BadInput(f"{spec}: min_characters={least} is above max_characters={most}.")
    rules = Rules(least, most, values.get("limit"), strict)
    parts = tuple(Part(reader, rules) for reader in readers)
    if kind != "raw":
        _check_not_empty(spec, parts)
    return Source(spec, kind, parts, {"spec": spec, **identity})


def split_spec(spec: str) -> tuple[str, dict[str, str]]:
    """The location, and the keys with their values as they were written."""
    if spec.count('"') % 2:
        raise BadInput(f"{spec}: a double quote is not closed.")
    first, *settings = re.split(r',(?=(?:[^"]*"[^"]*")*[^"]*$)', spec)  # at commas that are not in quotes
    location = _unquoted(first)
    if not location:
        raise BadInput(f"{spec!r} names no source: write a path, hf:owner/name, raw:FILE or builtin:NAME.")
    texts: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise BadInput(f"{spec}: {setting!r} is no key=value; put double quotes around what holds a comma.")
        if key in texts:
            raise BadInput(f"{spec}: {key}= is given twice.")
        texts[key] = _unquoted(text)
    return location, texts


def _kind_and_name(location: str) -> tuple[str, str]:
    kind, colon, name = location.partition(":")
    if colon and kind in PREFIXES:
        return kind, name
    if re.match("[a-z]+:", location) and not os.path.exists(location):
        raise unknown_name("kind of source", kind, PREFIXES)
    return "files", location


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _check_not_empty(spec: str, parts: tuple[Part, ...]) -> None:
    counts: Counter[str] = Counter()
    for part in parts:
        for _ in part.documents(counts):
            return
    dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
    raise BadInput(f"{spec} holds no documents{f' that can be kept: {dropped}' if dropped else ''}.")


# --- keys ------------------------------------------------------------------------------------------------------------


def key(what: str, convert: Callable[[str], Any] = str, pattern: str = ".+") -> Callable[[str], Any]:
    def converted(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if re.fullmatch(pattern, text, re.DOTALL):
                return convert(text)
        raise ValueError(what)

    return converted


def one_of(*words: str) -> Callable[[str], Any]:
    return key(" or ".join(words), pattern="|".join(words))


some_text = key("a name")
template = key("a name", lambda text: text.replace("\\n", "\n").replace("\\t", "\t"))
at_least_1 = key("a whole number of at least 1", int, r"0*[1-9]\d*")
at_least_0 = key("a whole number of at least 0", int, r"\d+")

Keys = dict[str, Callable[[str], Any]]
COMMON: Keys = {"limit": at_least_1, "min_characters": at_least_1, "max_characters": at_least_1}
COLUMN_KEYS: Keys = {
    "column": some_text,
    "template": template,
    "messages": some_text,
    "score_column": some_text,
    "min_score": key("a number", float),
}
KEYS: dict[str, Keys] = {
    "files": {**COMMON, **COLUMN_KEYS, "split": one_of("lines", "blank-lines")},
    "hf": {**COMMON, **COLUMN_KEYS, "config": some_text, "split": some_text, "revision": some_text},
    "raw": {"dtype": one_of("uint16", "uint32")},
}
PROBLEM_KEYS: Keys = {"count": at_least_1, "seed": at_least_0}
CONVERSATIONS = "conversations"
BAD: Keys = {"bad": one_of("stop", "skip")}
LEVEL_KEYS: Keys = {"level": one_of(*problems.LEVELS)}


def _keys_of(kind: str, name: str) -> Keys:
    if kind != "builtin":
        return KEYS[kind]
    if name not in builtin.NAMES:
        raise unknown_name("built-in source", name, builtin.NAMES)
    if name in builtin.LIBRARY:
        return COMMON
    return {**COMMON, **PROBLEM_KEYS, **(LEVEL_KEYS if name in ("math", "instructions") else {})}


def _converted(spec: str, texts: dict[str, str], known: Keys) -> Values:
    values = {}
    for name, text in texts.items():
        if name not in known:
            raise BadInput(f"{spec}: {unknown_name('key', name, known)}")
        try:
            values[name] = known[name](text)
        except ValueError as error:
            raise BadInput(f"{spec}: {name} must be {error}; it is {text!r}.") from None
    return values


# --- kinds -----------------------------------------------------------------------------------------------------------

Opened = tuple[list[Any], Values]


def _columns(spec: str, values: Values) -> Columns:
    if CONVERSATIONS in values:
        return ConversationColumns(skip=values.get("bad") == "skip")
    return Columns(**{key: values[key] for key in COLUMN_KEYS if key in values}).checked(spec)


def _open_files(spec: str, location: str, values: Values) -> Opened:
    paths = files.matching_files(location)
    readers = files.readers_of(spec, paths, _columns(spec, values), values.get("split", ""))
    return readers, files.identity_of(paths)


def _open_hub(spec: str, name: str, values: Values) -> Opened:
    columns = _columns(spec, values)
    origin = hub_datasets.open_split(name, values.get("config"), values.get("split", "train"), values.get("revision"))
    return hub_datasets.readers_of(origin, columns), {"commit": origin.commit}


def _open_raw(spec: str, pattern: str, values: Values) -> Opened:
    dtype = values.get("dtype", "uint16")
    paths = files.matching_files(pattern)
    for path in paths:
        size, width = os.path.getsize(path), int(dtype.removeprefix("uint")) // 8
        if size == 0 or size % width:
            raise BadInput(f"{path} holds {size} bytes, which is no whole number of {dtype} token ids above zero.")
    return [TokenFile(path, dtype) for path in paths], {**files.identity_of(paths), "dtype": dtype}


def _open_builtin(spec: str, name: str, values: Values) -> Opened:
    if name in builtin.LIBRARY:
        return builtin.library_readers(name), builtin.library_identity()
    settings = {key: values[key] for key in values if key in (*PROBLEM_KEYS, *LEVEL_KEYS)}
    reader = (ProblemConversations if CONVERSATIONS in values else builtin.ProblemReader)(name, **settings)
    return [reader], asdict(reader)


OPENERS: dict[str, Callable[[str, str, Values], Opened]] = {
    "files": _open_files,
    "hf": _open_hub,
    "raw": _open_raw,
    "builtin": _open_builtin,
}
