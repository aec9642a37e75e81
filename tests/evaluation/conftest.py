"""A few rows of every benchmark in its public columns, written here; tokenizers and models small enough for a test."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
from small_runs.chat import learn_by_heart
from tokenizers.processors import TemplateProcessing

SCENES = [
    (
        "Removing ice from car",
        "A man is [title] standing in the snow.",
        "he",
        ["scrapes the ice off", "sings", "a b", ""],
    ),
    (
        "Baking cookies",
        "A woman [step] opens  the oven.",
        "she then",
        ["puts in a tray.", "[header] runs", "w", "x y z"],
    ),
    ("Élan vital", "Une femme café — ouvre la porte.", "Elle", ["entre", "sort [substeps] vite", "dort là", "danse"]),
    (
        "Long jump",
        "An athlete runs along the track and " * 9 + "jumps.",
        "",
        ["He lands.", "He eats", "It is", "No one"],
    ),
    ("Knitting", "Two needles move.", "the yarn", ["waits for a knot", "waits for the cat", "burns", "is blue"]),
]
QUESTIONS = ["Which river runs through Paris?", "Who wrote Emma", "What is 7 x 8?", "Name a (red) fruit. Which one"]
ANSWERS = [["The Seine", "Seine", "River Seine"], ["Jane Austen"], ["56", "fifty-six"], ["An apple", "apple (fruit)"]]
SUMS = [("Ann has 3 apples and buys 4. How many?", "3+4=<<3+4=7>>7\n#### 7"), ("Cut 1,200 in 2.", "Half.\n#### 600")]
SUMS += [(f"What are {n} and {n + 5} together?", f"{n}+{n + 5} = {2 * n + 5}\n#### {2 * n + 5}") for n in range(9)]
PAGE = ' = Valkyria = \n\n The " game " ( 2011 ) sold 1 @,@ 200 copies , mostly well @-@ known ; it \'s old . \n'
PROGRAM = 'def add(a, b):\n    """Adds.\n    >>> add(1, 2)\n    3\n    """\n'


def rows():
    """By the data set's name and split."""
    scenes = [
        {"ind": n, "activity_label": label, "ctx_a": a, "ctx_b": b, "endings": ends, "label": str(n % 4), "ctx": ""}
        for n, (label, a, b, ends) in enumerate(SCENES)
    ]
    scenes[0]["endings"][3] = "stops. [title] He goes"
    trivia = [
        {"question": question, "answer": {"value": names[0], "aliases": names, "normalized_aliases": names}}
        for question, names in zip(QUESTIONS, ANSWERS, strict=True)
    ]
    sums = [{"question": question, "answer": answer} for question, answer in SUMS]
    programs = [
        {
            "task_id": f"Made/{n}",
            "prompt": PROGRAM.replace("add", name),
            "canonical_solution": "    return a + b\n",
            "test": "def check(candidate):\n    assert candidate(1, 2) == 3\n",
            "entry_point": name,
        }
        for n, name in enumerate(("add", "plus"))
    ]
    pages = [{"page": PAGE}, {"page": PAGE * 9 + " '  a '  [ b ] °  = = = x N . "}]
    return {
        "Rowan/hellaswag": {"validation": scenes, "train": scenes},
        "mandarjoshi/trivia_qa": {"validation": trivia, "train": trivia},
        "openai/gsm8k": {"test": sums[:4], "train": sums[4:]},
        "openai/openai_humaneval": {"test": programs},
        "EleutherAI/wikitext_document_level": {"test": pages, "validation": pages, "train": pages},
        "allenai/c4": {"validation": [{"text": page["page"]} for page in pages], "train": [{"text": PAGE}]},
    }


@pytest.fixture
def said_by_two_ranks(tmp_path):
    """`said_by_two_ranks(script, *words)`; the script is given its rank, a file to meet at, and the words."""

    def said(script, *words):
        given = [str(tmp_path / "store"), *map(str, words)]
        commands = [[sys.executable, "-c", script, str(rank), *given] for rank in range(2)]
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
        try:
            one, other = (process.communicate(timeout=120)[0] for process in started)
        finally:
            for process in started:
                process.kill()
        assert one == other
        return one

    return said


@pytest.fixture(scope="session")
def public_rows():
    return rows()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """`files[(data set, split)]`: the rows as jsonl."""
    folder = tmp_path_factory.mktemp("data")
    written = {}
    for name, splits in rows().items():
        for split, documents in splits.items():
            path = folder / f"{name.replace('/', '-')}-{split}.jsonl"
            path.write_text("".join(json.dumps(document) + "\n" for document in documents))
            written[name, split] = str(path)
    return written


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory):
    """A BPE and a SuperBPE of ours, trained on the rows and a little English; and the BPE with a token in front."""
    from transformers import AutoTokenizer

    from yxanul.data.tokenizers import save_tokenizer
    from yxanul.data.train_tokenizer import train_bpe, train_superbpe

    texts = [json.dumps(rows(), ensure_ascii=False).replace("\\n", "\n").replace('\\"', '"')]
    texts += ["the man is standing in the snow and waits for the cat\n" * 20, "Question: how many\nAnswer: 7\n" * 20]
    folders = {}
    for kind, backend in (
        ("bpe", train_bpe(texts, 420, digits="single")),
        ("superbpe", train_superbpe(texts, 460, 360, digits="groups")),
    ):
        folders[kind] = tmp_path_factory.mktemp("tokenizers") / kind
        save_tokenizer(backend, folders[kind])
    folders["bos"] = folders["bpe"].with_name("bos")
    begins_texts(AutoTokenizer.from_pretrained(folders["bpe"])).save_pretrained(folders["bos"])
    return folders


def begins_texts(tokenizer):
    """It adds a token to the beginning of every text, as Llama's do."""
    tokenizer.add_special_tokens({"bos_token": "<|begin|>"})
    begin = ("<|begin|>", tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<|begin|> $A", special_tokens=[begin])
    return tokenizer


def learn_answers(model, tokenizer):
    from yxanul.evaluation.task import find_tasks

    known = rows()
    texts = []
    for task in find_tasks(["triviaqa", "gsm8k", "hellaswag"]):
        documents = known[task.source.name][task.source.split]
        texts += [task.example(document) + tokenizer.eos_token for document in documents]
    learn_by_heart(model, tokenizer, texts, steps=120)


@pytest.fixture
def sandbox(monkeypatch):
    """Stands for the real one, and runs nothing: what `passes` likes has passed."""
    from yxanul.evaluation.sandbox import Verdict

    found = SimpleNamespace(programs=[], containers=[], passes=lambda program: True)

    def run_program(program, container):
        found.programs.append(program)
        found.containers.append(container)
        return Verdict(found.passes(program), "a test")

    monkeypatch.setattr("yxanul.evaluation.sandbox.level", lambda container: "a test's")
    monkeypatch.setattr("yxanul.evaluation.sandbox.run_program", run_program)
    return found


@pytest.fixture(scope="session")
def checkpoint(tokenizer_folders, tmp_path_factory):
    """`checkpoint(kind="yxanul", tokenizer="bpe", positions=96)`: a folder with a model of random weights.

    The kind "learnt" is ours too, and knows the answers that the rows ask for.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from yxanul import YxanulConfig, YxanulForCausalLM

    made = {}

    def make(kind="yxanul", tokenizer="bpe", positions=96):
        if (kind, tokenizer, positions) not in made:
            loaded = AutoTokenizer.from_pretrained(tokenizer_folders[tokenizer])
            shape = {
                "vocab_size": len(loaded),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": positions,
                "initializer_range": 0.3,  # so that texts and choices differ
                "bos_token_id": loaded.bos_token_id,
                "eos_token_id": loaded.eos_token_id,
                "pad_token_id": loaded.pad_token_id,
            }
            torch.manual_seed(3)
            if kind != "llama":
                model = YxanulForCausalLM(YxanulConfig(**shape))
            else:
                model = LlamaForCausalLM(LlamaConfig(**shape))
            if kind == "learnt":
                learn_answers(model, loaded)
            folder = tmp_path_factory.mktemp("models") / f"{kind}-{tokenizer}-{positions}"
            model.save_pretrained(folder)
            loaded.save_pretrained(folder)
            made[kind, tokenizer, positions] = folder
        return made[kind, tokenizer, positions]

    return make
