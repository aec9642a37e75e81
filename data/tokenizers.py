"""Tokenizers: load one by name, tell it from every other, save it so that others load it.

    tokenizer = load_tokenizer("gpt2")      # a folder, a tokenizer.json, or a name on the Hub
    ids = tokenizer.encode_batch(texts)     # lists of ids, no special ones among them whatever the texts say

Reads tokenizer.json with the `tokenizers` library alone, so that workers need neither torch nor transformers.
Not here: training (`train_tokenizer.py`), slow tokenizers without a tokenizer.json, chat (the saved template is all).
"""

import contextlib
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from yxanul.bad_input import BadInput
from yxanul.data.hub_reach import offline_where_no_hub_is
from yxanul.data.whole_files import whole_folder

END_OF_TEXT, PADDING = "<|endoftext|>", "<|pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, PADDING, "<|system|>", "<|user|>", "<|assistant|>")  # ids 0 to 4 of what we train
# A turn is its role's token, a newline, the text, end of text, a newline: generation ends at eos, without stop words.
# llama.cpp knows this form (it calls it zephyr); `generation` marks what is learnt, for trl and transformers.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '<|endoftext|>\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '<|endoftext|>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>\n' }}"
    "{% generation %}{{ message['content'] + '<|endoftext|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")  # the first that names a token is right
BESIDE = (*SETTINGS, "chat_template.jinja")
# What does not change the ids of a document: how batches are cut and filled, and what is put around a text.
NOT_IDENTITY = ("version", "truncation", "padding", "post_processor")

_BYTES = {"type": "ByteLevel"}
_DIGITS_IN_THREES = {"type": "Split", "pattern": {"Regex": r"(?=(\d{3})+(?!\d))"}, "behavior": "Isolated"}
# A GGUF file stores a pre-tokenizer's name, not its rules. These names mean to llama.cpp what the rules mean here;
# what is false is left out. Two spellings of `superbpe` are in use, the second is that of the paper's own tokenizers.
GGUF_PRE_TOKENIZERS: dict[str, list[list[dict]]] = {
    "gpt-2": [[_BYTES | {"use_regex": True}]],
    "smollm": [[{"type": "Digits", "individual_digits": True}, _BYTES | {"use_regex": True}]],
    "superbpe": [
        [{"type": "Split", "pattern": {"Regex": r"\p{N}+"}, "behavior": "Isolated"}, _DIGITS_IN_THREES, _BYTES],
        [{"type": "Digits"}, _DIGITS_IN_THREES, _BYTES],
    ],
}


class Tokenizer:
    """The library's tokenizer (`backend`), set up for documents, with what a token bin records about it."""

    def __init__(self, name: str, backend: tokenizers.Tokenizer, end_of_text_id: int):
        self.name, self.backend, self.end_of_text_id = name, backend, end_of_text_id
        backend.encode_special_tokens = True  # "<|endoftext|>" in a document is text and must not end it
        backend.no_truncation()
        backend.no_padding()

    def __reduce__(self):  # the library forgets `encode_special_tokens` when it is pickled
        return Tokenizer, (self.name, self.backend, self.end_of_text_id)

    @cached_property
    def vocabulary_size(self) -> int:
        """Rows that a model needs: the highest id and one. As many as there are tokens, unless ids were left out."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of what turns text into ids and back, the same however the file is formatted or saved again."""
        text = json.dumps(self._identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def extends(self, other: "Tokenizer") -> bool:
        """It is the other one, or that one with tokens added: the other's ids mean the same."""
        ours, theirs = self._identity(), other._identity()
        added = [token for content in (ours, theirs) for token in [content.pop("added_tokens", [])]]
        return ours == theirs and all(token in added[0] for token in added[1])

    def difference(self, other: "Tokenizer") -> str:
        """The first thing in which they differ, for a message; empty if ids mean the same in both."""
        ours, theirs = ({index: token for token, index in each.backend.get_vocab().items()} for each in (self, other))
        for index in range(max(*ours, *theirs) + 1):
            one, two = (repr(tokens[index]) if index in tokens else "missing" for tokens in (ours, theirs))
            if one != two:
                return f"id {index:,} is {one} in {self.name} and {two} in {other.name}"
        one, two = (identity | identity.pop("model") for identity in (self._identity(), other._identity()))
        return next((f"their {key} differ" for key in sorted(one | two) if one.get(key) != two.get(key)), "")

    def _identity(self) -> dict[str, Any]:
        content = json.loads(self.backend.to_str())
        return _without_defaults({key: value for key, value in content.items() if key not in NOT_IDENTITY})

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)


def load_tokenizer(name: str | Path) -> Tokenizer:
    """From a folder, from a tokenizer.json, or from the Hub (if gated, with the token huggingface_hub finds)."""
    files = tokenizer_files(name)
    try:
        backend = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
    except Exception as error:  # the library raises a bare Exception
        raise BadInput(f"{files['tokenizer.json']} is not a tokenizer that `tokenizers` can read: {error}") from error
    return Tokenizer(str(name), backend, _end_of_text_id(str(name), backend, files))


def tokenizer_files(name: str | Path) -> dict[str, Path]:
    """tokenizer.json, and of the files beside it those that are there."""
    path = Path(name)
    if not path.exists():
        return _download(str(name))
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"{path} has no tokenizer.json: save it with a fast tokenizer's save_pretrained.")
    return {"tokenizer.json": file} | {
        other: file.parent / other for other in BESIDE if (file.parent / other).is_file()
    }


def gguf_pre_tokenizer(tokenizer: Tokenizer) -> str:
    """The name under which llama.cpp cuts text exactly as this tokenizer does; refuses one that has no such name."""
    content = json.loads(tokenizer.backend.to_str())
    model = _without_defaults(content["model"])
    if model["type"] != "BPE" or content["normalizer"] or set(model) - {"type", "vocab", "merges", "unk_token"}:
        raise BadInput(f"the tokenizer {tokenizer.name} cannot go to GGUF: only plain byte-level BPE can.")
    outer = content["pre_tokenizer"] or {"type": "none"}
    steps = outer["pretokenizers"] if outer["type"] == "Sequence" else [outer]
    rules = [{key: value for key, value in _without_defaults(step).items() if key != "trim_offsets"} for step in steps]
    for name, spellings in GGUF_PRE_TOKENIZERS.items():
        if rules in spellings:
            return name
    kinds = ", ".join(step["type"] for step in steps)
    raise BadInput(
        f"the tokenizer {tokenizer.name} cannot go to GGUF: its pre-tokenizer ({kinds}) is none of "
        f"{', '.join(GGUF_PRE_TOKENIZERS)}, and under another name its tokens would be wrong."
    )


def check_free(folder: Path, flag: str = "--out") -> None:
    """Call it before the work whose result `save_tokenizer` is to put there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists already: give another {flag}, or remove it.")


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """One of ours as transformers expects it."""
    check_free(folder)
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PADDING}
    settings = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,  # in this file because transformers.js looks nowhere else
    }
    with whole_folder(folder) as partial:
        backend.save(str(partial / "tokenizer.json"))
        for name, content in zip(SETTINGS, (settings, special), strict=True):
            (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _download(name: str) -> dict[str, Path]:
    """From the Hub or its cache. The address and the access token are huggingface_hub's affair."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    offline_where_no_hub_is()

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file))

    try:
        files = {"tokenizer.json": fetch("tokenizer.json")}
    except hub.HFValidationError as error:
        raise BadInput(
            f"{name} is neither a folder, nor a tokenizer.json, nor a name on the Hub (owner/name)."
        ) from error
    except hub.GatedRepoError as error:
        raise BadInput(f"{name} is gated: accept its terms on the Hub, then set HF_TOKEN to your token.") from error
    except hub.RepositoryNotFoundError as error:
        raise BadInput(f"{name} is no folder here, and none on the Hub that you may read (HF_TOKEN?).") from error
    except hub.LocalEntryNotFoundError as error:
        raise BadInput(f"{name} is no folder here, and the Hub cannot be reached (it is not in the cache).") from error
    except hub.EntryNotFoundError as error:
        raise BadInput(f"{name} has no tokenizer.json on the Hub: only fast tokenizers can be used.") from error
    for file in BESIDE:
        with contextlib.suppress(hub.EntryNotFoundError):  # not every tokenizer has all
            files[file] = fetch(file)
    return files


def _end_of_text_id(name: str, backend: tokenizers.Tokenizer, files: dict[str, Path]) -> int:
    content = end_of_text_token(files)
    index = backend.token_to_id(content)
    if index is None:
        raise BadInput(
            f"the tokenizer {name} has no end-of-text id ({content} is none of its tokens): name one of them as "
            "eos_token in its tokenizer_config.json."
        )
    return index


def end_of_text_token(files: dict[str, Path]) -> str:
    """The eos_token that the files name; where none does (gpt2's do not), <|endoftext|>."""
    token: Any = END_OF_TEXT
    for file in reversed(SETTINGS):
        if file in files:
            token = read_json(files[file]).get("eos_token") or token
    return token["content"] if isinstance(token, dict) else token


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error


def _without_defaults(value: Any) -> Any:
    """Drops null, false and empty entries, which other versions of the library write or leave out."""
    if isinstance(value, dict):
        pruned = {key: _without_defaults(entry) for key, entry in value.items()}
        return {key: entry for key, entry in pruned.items() if entry is not False and entry not in (None, "", [], {})}
    return [_without_defaults(entry) for entry in value] if isinstance(value, list) else value
