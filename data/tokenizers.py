"""Tokenizers: load one by name, tell it from every other, check it against a model, save it so that others load it.

    tokenizer = load_tokenizer("gpt2")      # a folder, a tokenizer.json, or a name on the Hub
    ids = tokenizer.encode_batch(texts)     # lists of ids, no special ones among them whatever the texts say

Reads tokenizer.json with the `tokenizers` library alone, so that workers need neither torch nor transformers.
Not here: training (`train_tokenizer.py`), slow tokenizers without a tokenizer.json, chat (the saved template is all).
"""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from yxanul.bad_input import BadInput

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
# What does not change the ids of a document: how batches are cut and filled, and what is put around a text.
NOT_IDENTITY = ("version", "truncation", "padding", "post_processor")

_BYTES = {"type": "ByteLevel", "add_prefix_space": False}
_DIGITS_IN_THREES = {"type": "Split", "pattern": {"Regex": r"(?=(\d{3})+(?!\d))"}, "behavior": "Isolated"}
# A GGUF file stores a pre-tokenizer's name, not its rules. These names mean to llama.cpp what the rules mean here; two
# spellings of `superbpe` are in use, the second is that of the paper's own tokenizers.
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
        return fingerprint(self.backend.to_str())

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        return self.backend.decode(ids, skip_special_tokens=False)


def load_tokenizer(name: str | Path, revision: str | None = None) -> Tokenizer:
    """From a folder, from a tokenizer.json, or from the Hub (if gated, with the token huggingface_hub finds)."""
    path = Path(name)
    if path.is_file():
        files = {"tokenizer.json": path} | _beside(path.parent)
    elif path.is_dir():
        files = {"tokenizer.json": path / "tokenizer.json"} | _beside(path)
        if not files["tokenizer.json"].is_file():
            raise BadInput(f"{path} has no tokenizer.json: save it with a fast tokenizer's save_pretrained.")
    else:
        files = _download(str(name), revision)
    try:
        backend = tokenizers.Tokenizer.from_file(str(files["tokenizer.json"]))
    except Exception as error:  # the library raises a bare Exception
        raise BadInput(f"{files['tokenizer.json']} is not a tokenizer that `tokenizers` can read: {error}") from error
    return Tokenizer(str(name), backend, _end_of_text_id(str(name), backend, files))


def batches(texts: Iterable[str], characters: int = 1 << 20) -> Iterator[list[str]]:
    """Encodings take many times the memory of their text, so few should be alive at a time."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def fingerprint(tokenizer_json: str) -> str:
    """sha256 of what turns text into ids and back, the same however the file is formatted or saved again."""
    content = json.loads(tokenizer_json)
    kept = {key: value for key, value in content.items() if key not in NOT_IDENTITY}
    text = json.dumps(_without_defaults(kept), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int) -> None:
    """A model may have more rows than its tokenizer has ids, never fewer."""
    if tokenizer.vocabulary_size > vocab_size:
        raise BadInput(
            f"the tokenizer {tokenizer.name} has ids up to {tokenizer.vocabulary_size - 1}, the model's vocab_size is "
            f"{vocab_size}: give vocab_size={tokenizer.vocabulary_size}, or another tokenizer."
        )


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
        if rules in [_without_defaults(spelling) for spelling in spellings]:
            return name
    kinds = ", ".join(step["type"] for step in steps)
    raise BadInput(
        f"the tokenizer {tokenizer.name} cannot go to GGUF: its pre-tokenizer ({kinds}) is none of "
        f"{', '.join(GGUF_PRE_TOKENIZERS)}, and under another name its tokens would be wrong."
    )


def check_free(folder: Path) -> None:
    """Call it before the work whose result `save_tokenizer` is to put there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists already: give another --out, or remove it.")


def save_tokenizer(backend: tokenizers.Tokenizer, folder: Path) -> None:
    """One of ours as transformers expects it; written beside the folder and renamed, so it is there whole or not."""
    check_free(folder)
    special = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "pad_token": PADDING}
    settings = special | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,  # in this file because transformers.js looks nowhere else
    }
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    backend.save(str(partial / "tokenizer.json"))
    for name, content in {"tokenizer_config.json": settings, "special_tokens_map.json": special}.items():
        (partial / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(folder)


def _beside(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in SETTINGS if (folder / name).is_file()}


def _download(name: str, revision: str | None) -> dict[str, Path]:
    """From the Hub or its cache. The address and the access token are huggingface_hub's affair."""
    from huggingface_hub import errors as hub
    from huggingface_hub import hf_hub_download

    def fetch(file: str) -> Path:
        return Path(hf_hub_download(name, file, revision=revision))

    try:
        files = {"tokenizer.json": fetch("tokenizer.json")}
    except hub.HFValidationError as error:
        raise BadInput(
            f"{name} is neither a folder, nor a tokenizer.json, nor a name on the Hub (owner/name)."
        ) from error
    except hub.GatedRepoError as error:
        raise BadInput(f"{name} is gated: accept its terms on the Hub, then set HF_TOKEN to your token.") from error
    except hub.RevisionNotFoundError as error:
        raise BadInput(f"{name} has no revision {revision!r} on the Hub.") from error
    except hub.RepositoryNotFoundError as error:
        raise BadInput(f"{name} is no folder here, and none on the Hub that you may read (HF_TOKEN?).") from error
    except hub.LocalEntryNotFoundError as error:
        raise BadInput(f"{name} is no folder here, and the Hub cannot be reached (it is not in the cache).") from error
    except hub.EntryNotFoundError as error:
        raise BadInput(f"{name} has no tokenizer.json on the Hub: only fast tokenizers can be used.") from error
    for file in SETTINGS:
        with contextlib.suppress(hub.EntryNotFoundError):  # not every tokenizer has both
            files[file] = fetch(file)
    return files


def _end_of_text_id(name: str, backend: tokenizers.Tokenizer, files: dict[str, Path]) -> int:
    """The eos_token that the files name; where none does (gpt2's do not), <|endoftext|>."""
    token: Any = END_OF_TEXT
    for file in reversed(SETTINGS):
        if file in files:
            token = _read_json(files[file]).get("eos_token") or token
    content = token["content"] if isinstance(token, dict) else token
    index = backend.token_to_id(content)
    if index is None:
        raise BadInput(
            f"the tokenizer {name} has no end-of-text id ({content} is none of its tokens): name one of them as "
            "eos_token in its tokenizer_config.json."
        )
    return index


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{path} is not JSON: {error}") from error


def _without_defaults(value: Any) -> Any:
    """Drops null, false and empty entries, which other versions of the library write or leave out."""
    if isinstance(value, dict):
        pruned = {key: _without_defaults(entry) for key, entry in value.items()}
        return {key: entry for key, entry in pruned.items() if not _is_default(entry)}
    return [_without_defaults(entry) for entry in value] if isinstance(value, list) else value


def _is_default(value: Any) -> bool:
    return value is None or value is False or value in ("", [], {})
