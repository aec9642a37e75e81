"""A kill right behind a save loses neither a stage's end nor the finished model. Whole sessions: test_pretrain.py."""

import pytest

from yxanul.data.whole_files import write_json
from yxanul.run_folder import COMPLETE, RunFolder
from yxanul.training.beginning import Beginning
from yxanul.training.session import finish_what_was_cut_off


@pytest.fixture
def finish(small_config, tmp_path):
    """`finish(step)`: a start at that step of the small recipe, whose stages end at 12 and 20; what is there then."""

    def make(step):
        config, run = small_config(), RunFolder(tmp_path / "run")
        plan = config.plan()
        folder = run.checkpoint(step)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        write_json(folder / COMPLETE, {"step": step, "files": {"model.safetensors": 7}})
        finish_what_was_cut_off(config, run, plan, Beginning(folder, step, plan.steps))
        files = (file.relative_to(run.path) for file in run.path.rglob("*.safetensors"))
        return {str(file.parent) for file in files} - {f"checkpoints/checkpoint-{step}"}

    return make


@pytest.mark.parametrize(
    "step, kept", [(12, {"stages/1-language"}), (20, {"stages/2-code", "final"}), (11, set()), (13, set())]
)
def test_a_stages_end_and_the_runs_are_put_in_their_places(finish, step, kept):
    assert finish(step) == kept


@pytest.mark.parametrize("place", ["stages/2-code", "final"])
def test_what_is_there_is_left_alone(finish, tmp_path, place):
    folder = tmp_path / "run" / place
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"edited")
    write_json(folder / COMPLETE, {"step": 20, "files": {}})
    finish(20)
    assert (folder / "model.safetensors").read_bytes() == b"edited"


def test_a_run_that_begins_has_nothing_to_finish(small_config, tmp_path):
    config, run = small_config(), RunFolder(tmp_path / "run")
    finish_what_was_cut_off(config, run, config.plan(), Beginning(None, 12, 20))
    assert not run.path.exists()
