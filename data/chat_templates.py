"""Chat templates: how a conversation becomes text, which of its tokens are an answer's, and tokenizers that know it.

    make_chat_tokenizer("gpt2", "user-assistant", Path("bins/chat/tokenizer"))   # a folder for transformers as it is
    tokenizer = load_chat_tokenizer("bins/chat/tokenizer")
    ids, learnt = tokenizer.encode_conversation([{"role": "user", "content": "Hi"}, ...])

`{% generation %}` marks an answer with its end token. What stands between marks is encoded apart, so that an answer
begins with a token of its own whatever the tokenizer joins. Needs jinja2.
Not here: reading conversations (conversations.py), room for new tokens in a model (training/model.py).
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import tokenizers

from yxanul.bad_input import BadInput, unknown_name
from yxanul.data.tokenizers import (
    CHAT_TEMPLATE,
    SETTINGS,
    Tokenizer,
    check_free,
    end_of_text_token,
    load_tokenizer,
    read_json,
    tokenizer_files,
)
from yxanul.data.whole_files import whole_folder

Messages = list[dict[str, str]]
TEMPLATE_FILE = "chat_template.jinja"
OWN, DEFAULT = "own", "user-assistant"
_OTHERS = "{% else %}{{ raise_exception('unknown role ' + message['role']) }}{% endif %}{% endfor %}"
# No token is new, so any tokenizer can take it; the answer's first token does not depend on what a tokenizer joins
# with a space.
USER_ASSISTANT = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] | trim + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] | trim + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant:\n' }}"
    "{% generation %}{{ message['content'] | trim + eos_token }}{% endgeneration %}{{ '\n' }}"
    + _OTHERS
    + "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)
CHATML_END = "<|im_end|>"
CHATML = (
    "{% for message in messages %}"
    "{% if message['role'] in ('system', 'user') %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ message['content'] | trim + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    + _OTHERS
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The template, the special tokens that it needs, and which of them ends an answer (None: what ended a text before)
TEMPLATES: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "user-assistant": (USER_ASSISTANT, (), None),
    "chatml": (CHATML, ("<|im_start|>", CHATML_END), CHATML_END),
    "roles": (CHAT_TEMPLATE, ("<|system|>", "<|user|>", "<|assistant|>"), None),
}
_TOKEN = re.compile(r"<\|\w+\|>")
EXAMPLE = [{"role": role, "content": text} for role, text in (("user", "What is 2+3?"), ("assistant", "It is 5."))]


class ChatTokenizer(Tokenizer):
    """`special` are the names and texts of its special tokens, which a template may use."""

    def __init__(
        self, name: str, backend: tokenizers.Tokenizer, end_of_text_id: int, template: str, special: dict[str, str]
    ):
        super().__init__(name, backend, end_of_text_id)
        backend.encode_special_tokens = False  # the template's are meant; those in a message are refused
        self.template, self.special = template, special
        self.reserved = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]

    def __reduce__(self):
        return ChatTokenizer, (self.name, self.backend, self.end_of_text_id, self.template, self.special)

    @property
    def template_digest(self) -> str:
        return hashlib.sha256(self.template.encode()).hexdigest()

    def render(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """The text, and where answers with their end tokens lie in it."""
        from transformers.utils import chat_template_utils

        library: Any = chat_template_utils  # its types know no variables of a template
        (text,), (spans,) = library.render_jinja_template(
            [messages],
            chat_template=self.template,
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **self.special,
        )
        return text, spans

    def encode_conversation(self, messages: Messages) -> tuple[list[int], list[bool]]:
        text, spans = self.render(messages)
        edges = [0, *(edge for span in spans for edge in span), len(text)]
        pieces = [text[start:stop] for start, stop in zip(edges, edges[1:], strict=False)]  # every second is an answer
        ids: list[int] = []
        learnt: list[bool] = []
        for number, own in enumerate(self.encode_batch(pieces)):
            ids += own
            learnt += [number % 2 == 1] * len(own)
        return ids, learnt


def load_chat_tokenizer(name: str | Path) -> ChatTokenizer:
    plain, files = load_tokenizer(name), tokenizer_files(name)
    settings: dict[str, Any] = {}
    for file in reversed(SETTINGS):
        settings |= read_json(files[file]) if file in files else {}
    template = files[TEMPLATE_FILE].read_text("utf-8") if TEMPLATE_FILE in files else settings.get("chat_template")
    if not isinstance(template, str):
        raise BadInput(
            f"the tokenizer {name} has no chat template: make one that has, with `tokenizer: {{from: {name}, "
            "template: user-assistant}` under `data`."
        )
    special = {"eos_token": end_of_text_token(files)}
    for key in ("bos_token", "eos_token", "pad_token"):
        if value := settings.get(key):
            special[key] = value["content"] if isinstance(value, dict) else value
    tokenizer = ChatTokenizer(str(name), plain.backend, plain.end_of_text_id, template, special)
    _check(tokenizer)
    return tokenizer


def _check(tokenizer: ChatTokenizer) -> None:
    """All special tokens are there; on an example, answers are marked and end, and pieces make up the whole."""
    lacking = [token for token in _TOKEN.findall(tokenizer.template) if token not in tokenizer.reserved]
    if lacking:
        raise BadInput(
            f"the chat template of {tokenizer.name} needs the special token {lacking[0]}, which the tokenizer lacks: "
            f"make one that has it, with `template: {'chatml' if 'im_' in lacking[0] else 'roles'}` under `data`."
        )
    try:
        text, spans = tokenizer.render(EXAMPLE)
    except Exception as error:  # a template is a program
        raise BadInput(f"the chat template of {tokenizer.name} fails on a question and its answer: {error}") from None
    if not spans:
        raise BadInput(
            f"the chat template of {tokenizer.name} has no {{% generation %}} marks, so nobody knows what is to be "
            f"learnt: put them around answers, or take one of ours ({', '.join(TEMPLATES)})."
        )
    marked = [text[slice(*span)] for span in spans]
    if len(marked) > 1 or not marked[0].partition(EXAMPLE[1]["content"])[2].strip():
        raise BadInput(
            f"the chat template of {tokenizer.name} marks {marked} of {text!r}: the "
            "{% generation %} marks belong around answers and their end tokens, else the model never learns to stop."
        )
    ids, _ = tokenizer.encode_conversation(EXAMPLE)
    if tokenizer.decode(ids) != text:
        raise BadInput(
            f"the tokenizer {tokenizer.name} makes {tokenizer.decode(ids)!r} of {text!r}: it lacks characters, or "
            "puts something in front of a text; take a byte-level one, such as ours."
        )


def template_text(template: str, base: str | Path) -> str:
    """Of one of TEMPLATES, of `base`'s own, or of a jinja file."""
    if template in TEMPLATES:
        return TEMPLATES[template][0]
    if template == OWN:
        return load_chat_tokenizer(base).template
    if not Path(template).is_file():
        raise unknown_name("chat template or file", template, (*TEMPLATES, OWN))
    return Path(template).read_text(encoding="utf-8")


def add_tokens_of(template: str, tokenizer: Tokenizer) -> None:
    """The special tokens that the template needs and the tokenizer lacks; none of one that is not ours."""
    _, tokens, _ = TEMPLATES.get(template, ("", (), None))
    tokenizer.backend.add_special_tokens([token for token in tokens if tokenizer.backend.token_to_id(token) is None])


def make_chat_tokenizer(base: str, template: str, folder: Path) -> None:
    """The tokenizer `base` with one of TEMPLATES (or its own, or a jinja file) and the special tokens of it."""
    check_free(folder)
    plain, files = load_tokenizer(base), tokenizer_files(base)
    settings: dict[str, Any] = {"eos_token": end_of_text_token(files)}
    settings |= read_json(files[SETTINGS[0]]) if SETTINGS[0] in files else {}
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # others put a pre-tokenizer of theirs before the merges
    settings["chat_template"] = template_text(template, base)
    add_tokens_of(template, plain)
    if (end := TEMPLATES.get(template, ("", (), None))[2]) is not None:
        settings["eos_token"] = end  # generation stops at it everywhere
    with whole_folder(folder) as partial:
        content = json.loads(plain.backend.to_str())
        (partial / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        (partial / SETTINGS[0]).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        load_chat_tokenizer(partial)  # refuses what cannot be used
