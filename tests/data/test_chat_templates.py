"""Templates mark exactly the answers and their end tokens, here and in bare transformers; bad ones are refused."""

import json

import pytest
from small_runs.chat import trained
from tokenizers import trainers

from yxanul.bad_input import BadInput
from yxanul.data.chat_templates import TEMPLATES, load_chat_tokenizer, make_chat_tokenizer
from yxanul.data.tokenizers import load_tokenizer, save_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+3?"},
    {"role": "assistant", "content": "<<2+3=5>>5"},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "Nothing more."},
]
templates = pytest.mark.parametrize("template", TEMPLATES)


def learnt_text(tokenizer, messages):
    ids, learnt = tokenizer.encode_conversation(messages)
    runs, before = [], False
    for index, now in zip(ids, learnt, strict=True):
        if now and not before:
            runs.append([])
        if now:
            runs[-1].append(index)
        before = now
    return [tokenizer.decode(run) for run in runs], ids


@templates
def test_the_mask_is_the_answers_and_their_end_tokens(made, template):
    tokenizer = load_chat_tokenizer(made(template))
    end = "<|im_end|>" if template == "chatml" else "<|endoftext|>"
    runs, ids = learnt_text(tokenizer, TALK)
    assert runs == [f"<<2+3=5>>5{end}", f"Nothing more.{end}"]
    assert tokenizer.decode(ids) == tokenizer.render(TALK)[0]


@templates
def test_bare_transformers_gives_the_same_ids_mask_and_prompt(made, template):
    from transformers import AutoTokenizer

    folder = made(template)
    ours, theirs = load_chat_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    found = theirs.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    ids, learnt = ours.encode_conversation(TALK)
    assert found["input_ids"] == ids and found["assistant_masks"] == [int(each) for each in learnt]
    prompt = theirs.apply_chat_template(TALK[:4], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert ids[: len(prompt)] == prompt and learnt[len(prompt)] and not learnt[len(prompt) - 1]
    assert theirs.eos_token == ("<|im_end|>" if template == "chatml" else "<|endoftext|>")


@templates
def test_tokens_are_added_behind_the_old_ones_and_change_the_fingerprint(base, made, template):
    old, new = load_tokenizer(base), load_tokenizer(made(template))
    added = {"user-assistant": 0, "chatml": 2, "roles": 3}[template]
    assert new.vocabulary_size == old.vocabulary_size + added
    assert (new.fingerprint == old.fingerprint) == (added == 0)
    assert new.extends(old) and old.extends(new) == (added == 0)


def test_a_tokenizer_of_a_named_class_keeps_its_own_pre_tokenizer(base, made):
    """As SmolLM2's, whose class would split before digits no more."""
    from transformers import AutoTokenizer

    content = json.loads((base / "tokenizer.json").read_text())
    digits = {"type": "Digits", "individual_digits": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, content["pre_tokenizer"]]}
    (base / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "GPT2Tokenizer"}))
    folder = made("user-assistant")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder.with_name("saved"))
    assert load_tokenizer(folder.with_name("saved")).fingerprint == load_tokenizer(base).fingerprint


def test_a_tokenizer_of_other_merges_extends_nothing(base, tmp_path):
    other = trained(["<|endoftext|>", "<|pad|>"])
    other.train_from_iterator(["zebra zebras"], trainers.BpeTrainer(vocab_size=290, show_progress=False))
    save_tokenizer(other, tmp_path / "other")
    assert not load_tokenizer(tmp_path / "other").extends(load_tokenizer(base))


def test_a_file_or_the_tokenizers_own_template_can_be_taken(base, made, tmp_path):
    (tmp_path / "mine.jinja").write_text(TEMPLATES["user-assistant"][0].replace("User: ", "Q: "))
    folder = made(str(tmp_path / "mine.jinja"))
    assert load_chat_tokenizer(folder).render(TALK)[0].count("Q: ") == 2
    make_chat_tokenizer(str(folder), "own", tmp_path / "again")
    assert load_chat_tokenizer(tmp_path / "again").template == load_chat_tokenizer(folder).template


@pytest.mark.parametrize(
    "template, message",
    [
        ("{% for message in messages %}{{ message['content'] }}{% endfor %}", "has no {% generation %} marks"),
        (
            "{% for message in messages %}{% generation %}{{ message['content'] }}{% endgeneration %}{% endfor %}",
            "belong around answers and their end tokens",
        ),
        (
            "{% for message in messages %}{% if message.role == 'user' %}{{ message['content'] }}{% else %}"
            "{% generation %}{{ message['content'] }}{% endgeneration %}{% endif %}{% endfor %}",
            "belong around answers and their end tokens",
        ),
        ("{{ nothing.at.all }}", "fails on a question and its answer"),
    ],
)
def test_a_template_that_cannot_be_learnt_from_is_refused(made, tmp_path, template, message):
    (tmp_path / "mine.jinja").write_text(template)
    with pytest.raises(BadInput, match=message):
        made(str(tmp_path / "mine.jinja"))
    assert not (tmp_path / "chat").exists()


def test_a_tokenizer_without_template_or_without_its_tokens_is_refused(base):
    with pytest.raises(BadInput, match=r"needs the special token <\|system\|>, which the tokenizer lacks"):
        load_chat_tokenizer(base)
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("chat_template")
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(BadInput, match="has no chat template: make one that has"):
        load_chat_tokenizer(base)


def test_an_unknown_template_names_the_nearest(made):
    with pytest.raises(BadInput, match="did you mean chatml"):
        made("chat-ml")
