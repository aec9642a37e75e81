"""Where a run begins, whose folder it may use, and what it notes there."""

import json
import sys

import pytest

from yxanul.bad_input import BadInput
from yxanul.data.locks import only_process
from yxanul.data.whole_files import write_json
from yxanul.run_folder import COMPLETE, RunFolder
from yxanul.training.beginning import Beginning, beginning, check_folder, write_beginning
from yxanul.training.config import read_config


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def checkpoint(run):
    def make(step):
        run.checkpoint(step).mkdir(parents=True)
        write_json(run.checkpoint(step) / COMPLETE, {"step": step, "files": {}})
        return run.checkpoint(step)

    return make


@pytest.fixture
def begin(run, small_config):
    """`begin(stage=..., resume=..., **changes of the recipe)`; the stages are steps 0..12 and 12..20."""

    def make(stage=None, resume=None, **changes):
        config = small_config(**changes)
        return beginning(config, config.plan(), run, resume, stage)

    return make


def test_an_empty_folder_begins_at_the_first_step(begin):
    assert begin() == Beginning(None, 0, 20)


def test_the_newest_complete_checkpoint_is_gone_on_from(begin, checkpoint):
    _, newest = checkpoint(5), checkpoint(10)
    (checkpoint(15) / COMPLETE).unlink()
    assert begin() == Beginning(newest, 10, 20)


def test_a_named_checkpoint_is_gone_on_from_though_there_is_a_newer_one(begin, checkpoint):
    older, _ = checkpoint(5), checkpoint(10)
    assert begin(resume="5") == Beginning(older, 5, 20)


def test_a_run_at_its_last_step_is_done(begin, checkpoint):
    checkpoint(19)
    assert not begin().is_done
    checkpoint(20)
    assert begin().is_done


def test_a_stage_ends_where_the_next_begins(begin, checkpoint):
    assert begin(stage="language") == Beginning(None, 0, 12)
    newest = checkpoint(12)
    assert begin(stage="language").is_done
    assert begin(stage="code") == Beginning(newest, 12, 20)


@pytest.mark.parametrize("step", [0, 5])
def test_a_stage_without_the_one_before_it_is_refused(begin, checkpoint, step):
    if step:
        checkpoint(step)
    with pytest.raises(BadInput, match=f"stage code begins at step 12, but the run is at {step}: .* --init-from"):
        begin(stage="code")


def test_a_stage_with_weights_to_begin_with_begins_inside_of_the_plan(begin):
    assert begin(stage="code", init_from="somewhere") == Beginning(None, 12, 20)


def test_given_weights_do_not_leap_over_the_rest_of_a_stage(begin, checkpoint):
    checkpoint(5)
    with pytest.raises(BadInput, match="stage code begins at step 12, but the run is at 5"):
        begin(stage="code", init_from="somewhere")


def test_an_unknown_stage_is_refused_with_the_nearest_name(begin):
    with pytest.raises(BadInput, match="unknown stage 'langage': did you mean language?"):
        begin(stage="langage")


def test_a_checkpoint_behind_the_plans_end_is_refused(begin, checkpoint):
    checkpoint(21)
    with pytest.raises(BadInput, match="checkpoint-21 is at step 21, the plan has 20: give --resume an earlier one"):
        begin()


@pytest.fixture
def begun(run, small_config):
    """A folder in which the small recipe's run has begun."""
    run.path.mkdir()
    write_beginning(small_config(), run, 1, "cpu")
    return run


def test_a_folder_that_is_new_or_empty_is_taken(run, small_config):
    check_folder(small_config(), run, force=False)
    run.path.mkdir()
    check_folder(small_config(), run, force=False)


def test_a_folder_with_other_files_is_refused_even_by_force(run, small_config):
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("")
    for force in (False, True):
        with pytest.raises(BadInput, match="holds other files and no config.yaml: give a new folder"):
            check_folder(small_config(), run, force)


def test_a_start_that_was_killed_before_it_wrote_its_config_starts_again(run, small_config):
    with only_process(run.lock, "there"):
        (run.path / "config.yaml.partial").write_text("model: ti")
    check_folder(small_config(), run, force=False)


def test_another_recipes_folder_is_refused_with_all_that_differs(begun, small_config):
    config = small_config(seed=2, document_mask=True)
    with pytest.raises(BadInput, match="document_mask was False, is now True; seed was 1, is now 2.*--force"):
        check_folder(config, begun, force=False)


def test_with_force_it_goes_on_and_says_what_differs(begun, small_config, capsys):
    check_folder(small_config(learning_rate=1e-4), begun, force=True)
    assert "--force: learning_rate was 0.002, is now 0.0001." in capsys.readouterr().err


def test_what_changes_no_weight_may_change(begun, small_config, capsys):
    check_folder(small_config(save_steps=7, logging_steps=7, max_bad_steps=3, validation=None), begun, force=False)
    assert capsys.readouterr().err == ""


def test_the_config_in_the_folder_is_the_recipe(begun, small_config):
    again = read_config(str(begun.config), [])
    assert again.resolved() == small_config().resolved() and again.plan().steps == 20


def test_every_start_adds_an_entry_with_versions_and_command(begun, small_config, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["yxanul", "pretrain", "again"])
    write_beginning(small_config(), begun, 2, "cuda:0")
    first, second = json.loads(begun.environment.read_text())
    assert first["processes"] == 1 and first["packages"]["torch"]
    assert second["processes"] == 2 and second["command"] == ["pretrain", "again"] and second["device"] == "cuda:0"
