"""A run small enough for a test: bins of made-up tokens, a recipe of two stages, and the command in processes."""

import hashlib
import json
import pathlib

import numpy as np
import pytest
import small_runs.processes
import yaml

TIMES = ("time", "tokens_per_second", "mfu", "memory", "power")  # or what comes before a "/"
VOCABULARY = 61
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
TOKENIZER = {"name": "made-up", "fingerprint": "0" * 16, "vocabulary_size": VOCABULARY, "end_of_text_id": 0}


def make_bin(folder, documents, seed, longest=120, row_length=None):
    """Text of a simple language: a token is mostly the one before it plus a step that the document has."""
    from yxanul.data.bin_writer import BinWriter, PackedBinWriter

    random = np.random.default_rng(seed)
    kind = np.dtype("<u2")
    folder.parent.mkdir(parents=True, exist_ok=True)
    writer = PackedBinWriter(folder, kind, 1 << 20, row_length, 0) if row_length else BinWriter(folder, kind, 1 << 20)
    for _ in range(documents):
        length = int(random.integers(3, longest))
        steps = np.where(random.random(length) < 0.9, random.integers(1, 4), random.integers(1, VOCABULARY))
        ids = (np.cumsum(steps) % (VOCABULARY - 1) + 1).astype(kind)
        ids[-1] = 0
        writer.add_tokens(ids)
        writer.add_documents(np.array([length]), np.array([length * 3]))
    writer.finish(tokenizer=TOKENIZER, source="made-up")
    return folder


@pytest.fixture(scope="session")
def bins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bins")
    for seed, name in enumerate(("language", "code")):
        make_bin(folder / name / "train", 400, seed)
        make_bin(folder / name / "held_out", 40, seed + 10)
    make_bin(folder / "packed", 300, 5, longest=30, row_length=32)
    return folder


@pytest.fixture
def small_shape():
    return SHAPE


def write_recipe(bins, path, changes):
    """A change of None takes a key away."""
    content = {
        "model": "tiny",
        "model_config": SHAPE,
        "stages": [
            {
                "name": "language",
                "sources": [{"bin": str(bins / "language/train")}],
                "phases": [{"length": 16, "rows": 16, "steps": 6}, {"length": 32, "rows": 8, "steps": 6}],
            },
            {
                "name": "code",
                "sources": [
                    {"bin": str(bins / "code/train"), "weight": 3},
                    {"bin": str(bins / "language/train"), "weight": 1},
                ],
                "phases": [{"length": 64, "rows": 4, "steps": 8}],
            },
        ],
        "validation": {name: str(bins / name / "held_out") for name in ("language", "code")},
        "learning_rate": 2.0e-3,
        "warmup_steps": 3,
        "logging_steps": 1,
        "save_steps": 5,
        "per_device_eval_batch_size": 4,
        "use_cpu": True,
    }
    content = {key: value for key, value in (content | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


class Run:
    """A run of the small recipe, each start of it in processes of its own."""

    def __init__(self, recipe, folder):
        self.recipe, self.folder, self.output = str(recipe), pathlib.Path(folder), folder.with_suffix(".out")

    def start(self, *words, processes=1, **trouble):
        words = ["--config", self.recipe, "--out", str(self.folder), *map(str, words)]
        self.output.unlink(missing_ok=True)
        return small_runs.processes.start(words, processes, json.dumps(trouble), self.output)

    def __call__(self, *words, processes=1, seconds=120, **trouble):
        """Its exit code; of several processes the one that all have, or all of them."""
        codes = small_runs.processes.wait(self.start(*words, processes=processes, **trouble), seconds)
        return codes[0] if len(set(codes)) == 1 else codes

    def said(self):
        return self.output.read_text()

    def lines(self, key="loss"):
        """Of metrics.jsonl, without what time alone decides."""
        lines = [json.loads(line) for line in (self.folder / "metrics.jsonl").open()]
        return [
            {name: line[name] for name in line if name.partition("/")[0] not in TIMES} for line in lines if key in line
        ]

    def losses(self):
        return [line["loss"] for line in self.lines()]

    def steps(self):
        """Of the complete checkpoints."""
        markers = self.folder.glob("checkpoints/checkpoint-*/COMPLETE")
        return sorted(json.loads(marker.read_text())["step"] for marker in markers)

    def files(self):
        """Every file; of weights and moments also names, shapes and dtypes."""
        from safetensors.torch import load_file

        found = {}
        for file in self.folder.rglob("*"):
            if file.is_file():
                tensors = load_file(file) if file.suffix == ".safetensors" else {}
                shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
                found[str(file.relative_to(self.folder))] = shapes
        return found

    def digests(self, step):
        """Of the weights, the moments and each rank's state."""
        folder = self.folder / f"checkpoints/checkpoint-{step}"
        return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.glob("*.safetensors")}


@pytest.fixture(scope="session")
def run(bins, tmp_path_factory):
    """`run(**changes)`: a run of the small recipe, in a folder of its own."""

    def make(**changes):
        folder = tmp_path_factory.mktemp("run")
        return Run(write_recipe(bins, folder / "recipe.yaml", changes), folder / "run")

    return make


@pytest.fixture(scope="session")
def undisturbed(run):
    """`undisturbed(processes)`: the small recipe's run, finished once for all tests that compare with it."""
    runs = {}

    def get(processes):
        if processes not in runs:
            runs[processes] = run()
            assert runs[processes](processes=processes) == 0, runs[processes].said()
        return runs[processes]

    return get
