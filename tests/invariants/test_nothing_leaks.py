"""No token knows its target: what cannot be predicted is not learnt, and the future changes no past loss."""

import math

import numpy as np
import pytest
import torch
from small_runs.fixture import TOKENIZER, VOCABULARY, write_recipe
from transformers import PrinterCallback, TrainerCallback

from yxanul.data.bin_writer import BinWriter
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import Stream
from yxanul.run_folder import RunFolder
from yxanul.training import model
from yxanul.training.config import read_config
from yxanul.training.inputs import open_stream
from yxanul.training.loader import MicroBatches
from yxanul.training.ranks import Ranks
from yxanul.training.trainer import YxanulTrainer
from yxanul.training.training_arguments import training_arguments

UNPREDICTABLE = math.log(VOCABULARY - 1)
STEPS = 80


@pytest.fixture(scope="module")
def random_bin(tmp_path_factory):
    """As many uniformly random tokens as the run eats, so that none comes twice; 0 is the end of text alone."""
    folder = tmp_path_factory.mktemp("random") / "bin"
    writer = BinWriter(folder, np.dtype("<u2"), 1 << 20)
    tokens = STEPS * 1024 + 1
    writer.add_tokens(np.random.default_rng(0).integers(1, VOCABULARY, tokens).astype("<u2"))
    writer.add_documents(np.array([tokens]), np.array([tokens * 3]))
    writer.finish(tokenizer=TOKENIZER, source="dice")
    return folder


class LeakingBatches(MicroBatches):
    """A shift forgotten: each token is its own target."""

    def __getitems__(self, number):
        batch = super().__getitems__(number)
        return batch | {"shift_labels": batch["input_ids"].clone()}


@pytest.fixture
def losses(random_bin, bins, tmp_path):
    """`losses(kind of batches)`: of each step of a run of the engine on random tokens."""

    class Keep(TrainerCallback):
        def __init__(self):
            self.losses = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.losses.append(logs["loss"])

    def train(kind):
        phases = [{"length": 32, "rows": 32, "steps": STEPS}]
        stage = {"name": "dice", "sources": [{"bin": str(random_bin)}], "phases": phases}
        changes = {"stages": [stage], "validation": None, "learning_rate": 1e-2, "save_steps": STEPS}
        config = read_config(str(write_recipe(bins, tmp_path / "recipe.yaml", changes)), [])
        run, plan, keep = RunFolder(tmp_path / "run"), config.plan(), Keep()
        args = training_arguments(config, plan, run, 1)
        batches = kind(open_stream(config, plan, config.shape().config), 0, 1, 1, False)
        trainer = YxanulTrainer(model.build(config), args, config, run, Ranks(1.0), batches, {})
        trainer.add_callback(keep)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        assert len(keep.losses) == STEPS
        return keep.losses

    return train


def test_a_fresh_model_knows_nothing_and_random_tokens_teach_it_nothing(losses):
    values = losses(MicroBatches)
    assert values[0] == pytest.approx(math.log(VOCABULARY), rel=0.02)
    assert np.mean(values[-20:]) > UNPREDICTABLE - 0.005


def test_a_target_that_leaks_into_its_input_is_learnt_at_once(losses):
    """Else the test above could not see a leak."""
    assert np.mean(losses(LeakingBatches)[-20:]) < UNPREDICTABLE / 10


@pytest.fixture
def row_losses(tiny_model):
    """`row_losses(token_bin, document_mask)`: (rows, time), of a step as training computes it."""
    trained = tiny_model("factorised-tied", initializer_range=0.3, vocab_size=VOCABULARY).train()

    def compute(token_bin, document_mask):
        stage = Stage("one", (Source("it", len(token_bin.ids)),), (Phase(16, 6, steps=2),))
        stream = Stream(Plan([stage]), {"it": token_bin}, seed=1)
        batch = MicroBatches(stream, 0, 1, 1, document_mask).__getitems__(1)
        targets = batch.pop("targets_in_step")
        return batch, trained(**batch, num_items_in_batch=targets).token_losses

    return compute


@pytest.mark.parametrize("document_mask", [False, True])
@pytest.mark.parametrize("place", [1, 7, 15])
def test_another_token_changes_no_loss_before_its_own(row_losses, counting_bin, document_mask, place):
    token_bin = counting_bin(193)
    token_bin.end_of_text_id = 0
    token_bin.ids = np.random.default_rng(0).integers(0, VOCABULARY, 193)
    batch, before = row_losses(token_bin, document_mask)
    row, changed = 3, token_bin.ids.copy()
    start = next(at for at in range(177) if np.array_equal(changed[at : at + 16], batch["input_ids"][row]))
    changed[start + place] = (changed[start + place] + 30) % VOCABULARY
    token_bin.ids = changed
    other, after = row_losses(token_bin, document_mask)
    assert (other["input_ids"] != batch["input_ids"]).nonzero().tolist() == [[row, place]]
    assert torch.equal(after[row, : place - 1], before[row, : place - 1])
    assert not torch.isclose(after[row, place - 1 : place + 1], before[row, place - 1 : place + 1]).any()
    rest = [number for number in range(6) if number != row]
    assert torch.equal(after[rest], before[rest])
