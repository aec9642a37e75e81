"""A checkpoint is whole or not there; what is saved is what is loaded; rotation keeps what was promised."""

import errno

import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.run_folder import COMPLETE, RunFolder
from yxanul.training import checkpoints
from yxanul.training.optimizers import build_optimizer
from yxanul.training.ranks import Ranks, WriteFailed


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def trained(tiny_model, random_ids, small_config):
    """`trained(layout, steps)`: a model and its AdamW after so many steps."""

    def make(layout="plain-tied", steps=1, **changes):
        model = tiny_model(layout, **changes).train()
        optimizer = build_optimizer(model, small_config())
        for number in range(steps):
            learn(model, optimizer, random_ids(seed=number))
        return model, optimizer

    return make


def learn(model, optimizer, ids):
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def write_state(folder):
    (folder / checkpoints.TRAINER_STATE).write_text("{}")


def save(folder, model, optimizer, step=1, write_more=write_state):
    rank_state = {"cpu": torch.random.get_rng_state(), "losses": torch.tensor([1.5, 2.0])}
    marker = {"step": step, "tokens": 256 * step, "ranks": 1}
    checkpoints.save(folder, model, checkpoints.parts_in(optimizer), Ranks(1.0), rank_state, marker, write_more)


@pytest.fixture
def checkpoint(run):
    """`checkpoint(step)`: as light as a checkpoint can be: its marker, and one file."""

    def make(step):
        folder = run.checkpoint(step)
        folder.mkdir(parents=True)
        (folder / checkpoints.WEIGHTS).write_bytes(b"weights")
        checkpoints.write_json(
            folder / COMPLETE, {"step": step, "tokens": 0, "files": {checkpoints.WEIGHTS: 7}, "ranks": 1}
        )
        return folder

    return make


def names(run):
    return sorted(folder.name for folder in run.checkpoints.iterdir())


def test_what_is_loaded_goes_on_as_what_was_saved(run, trained, random_ids, layout):
    model, optimizer = trained(layout, steps=2)
    save(run.checkpoint(2), model, optimizer)
    other, fresh = trained(layout, steps=0)
    checkpoints.check_fits(run.checkpoint(2), other)
    checkpoints.load_weights(run.checkpoint(2), other)
    checkpoints.load_optimizer(run.checkpoint(2), other, fresh)
    for one in ((model, optimizer), (other, fresh)):
        learn(*one, random_ids(seed=7))
    for parameter, twin in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, twin)
        assert optimizer.state[parameter].keys() == fresh.state[twin].keys() >= {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(value, fresh.state[twin][key]) for key, value in optimizer.state[parameter].items())


def test_a_saved_checkpoint_has_no_flaw_and_knows_step_tokens_and_each_ranks_state(run, trained):
    save(run.checkpoint(3), *trained(), step=3)
    folder = run.checkpoint(3)
    assert checkpoints.flaw(folder) is None
    assert checkpoints.read_marker(folder).items() >= {"step": 3, "tokens": 768, "ranks": 1}.items()
    (state,) = checkpoints.rank_states(folder)
    assert state["losses"].tolist() == [1.5, 2.0] and torch.equal(state["cpu"], torch.random.get_rng_state())


def test_from_pretrained_loads_a_checkpoint(run, trained, random_ids):
    from yxanul import YxanulForCausalLM

    model, optimizer = trained("factorised-tied")
    save(run.checkpoint(1), model, optimizer)
    loaded, report = YxanulForCausalLM.from_pretrained(run.checkpoint(1), output_loading_info=True)
    assert not any(report.values())
    assert torch.equal(loaded.eval()(random_ids()).logits, model.eval()(random_ids()).logits)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / COMPLETE).unlink(), "it has no COMPLETE, so its save was cut off"),
        (lambda folder: (folder / COMPLETE).write_text('{"step": 5'), "its COMPLETE cannot be read"),
        (lambda folder: (folder / checkpoints.WEIGHTS).unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / checkpoints.WEIGHTS).write_bytes(b"weig"), "model.safetensors has 4 bytes, not 7"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over_and_refused_by_name(run, checkpoint, damage, message):
    checkpoint(5)
    damage(checkpoint(10))
    assert message in checkpoints.flaw(run.checkpoint(10))
    assert checkpoints.find(run, None) == run.checkpoint(5)
    with pytest.raises(BadInput, match=f"checkpoint-10 is no complete checkpoint: {message}.*leave --resume out"):
        checkpoints.find(run, "10")


def test_the_last_checkpoint_is_damaged_the_run_says_so_and_does_not_begin_anew(run, checkpoint, capsys):
    (checkpoint(10) / checkpoints.WEIGHTS).write_bytes(b"weig")
    with pytest.raises(
        BadInput, match="checkpoint-10 is damaged .*not 7.* no other checkpoint: restore it, or delete"
    ):
        checkpoints.tell_of_damaged(run)
    checkpoint(5)
    checkpoints.tell_of_damaged(run)
    assert "checkpoint-10 is damaged" in capsys.readouterr().err


def test_the_newest_is_that_of_the_highest_step_not_of_the_last_name(run, checkpoint):
    for step in (100, 9, 20):
        checkpoint(step)
    assert checkpoints.find(run, None) == run.checkpoint(100)
    assert [folder.name for folder in checkpoints.in_order(run.checkpoints)] == [
        "checkpoint-9",
        "checkpoint-20",
        "checkpoint-100",
    ]


def test_without_a_checkpoint_there_is_none_to_find(run):
    assert checkpoints.find(run, None) is None


def test_a_checkpoint_is_found_by_number_by_name_by_path_and_a_stages_end_by_its_own(run, checkpoint):
    checkpoint(20)
    checkpoints.keep(checkpoint(5), run.stage(0, "language"))
    for name in ("5", "checkpoint-5", str(run.checkpoint(5))):
        assert checkpoints.find(run, name) == run.checkpoint(5)
    assert checkpoints.find(run, "1-language") == run.stage(0, "language")


def test_an_unknown_checkpoint_is_refused_with_those_that_are_there(run, checkpoint):
    checkpoint(5), checkpoint(10)
    with pytest.raises(BadInput, match="--resume 7: there is no such .*: checkpoint-5, checkpoint-10.$"):
        checkpoints.find(run, "7")


def test_rotation_keeps_the_newest_and_the_best(run, checkpoint):
    for step in (5, 9, 10, 15, 100):
        checkpoint(step)
    checkpoints.prune(run, 2, best_step=9)
    assert names(run) == ["checkpoint-100", "checkpoint-15", "checkpoint-9"]


def test_rotation_sweeps_up_what_a_kill_left_and_does_not_count_it(run, checkpoint):
    for step in (5, 10):
        checkpoint(step)
    (checkpoint(15) / COMPLETE).unlink()
    (run.checkpoints / "checkpoint-20.partial").mkdir()
    checkpoints.prune(run, 2, None)
    assert names(run) == ["checkpoint-10", "checkpoint-5"]


@pytest.mark.parametrize("links", [True, False])
def test_a_stages_end_survives_rotation(run, checkpoint, links, monkeypatch):
    if not links:
        monkeypatch.setattr(checkpoints.os, "link", refuse)
    checkpoints.keep(checkpoint(5), run.stage(0, "language"))
    checkpoint(10)
    checkpoints.prune(run, 1, None)
    assert names(run) == ["checkpoint-10"]
    assert checkpoints.flaw(run.stage(0, "language")) is None


def refuse(*arguments):
    raise OSError(errno.EPERM, "no links here")


def test_a_stages_end_that_comes_by_again_replaces_the_earlier_one(run, checkpoint):
    for step in (5, 10):
        checkpoints.keep(checkpoint(step), run.stage(0, "language"))
    assert checkpoints.read_marker(run.stage(0, "language"))["step"] == 10


def test_going_back_sets_later_checkpoints_aside(run, checkpoint):
    for step in (5, 10, 15):
        checkpoint(step)
    aside = checkpoints.set_aside_later(run, 5)
    assert names(run) == ["checkpoint-5"] and checkpoints.find(run, None) == run.checkpoint(5)
    assert [checkpoints.flaw(folder) for folder in sorted(aside.iterdir())] == [None, None]


def test_going_on_from_the_newest_sets_nothing_aside(run, checkpoint):
    checkpoint(5)
    assert checkpoints.set_aside_later(run, 5) is None
    assert [file.name for file in run.path.iterdir()] == ["checkpoints"]


def test_removing_that_is_interrupted_leaves_nothing_that_looks_whole(run, checkpoint, monkeypatch):
    checkpoint(5), checkpoint(10)
    monkeypatch.setattr(checkpoints.shutil, "rmtree", refuse)
    with pytest.raises(OSError):
        checkpoints.remove(run.checkpoint(10))
    assert (run.checkpoint(10) / checkpoints.WEIGHTS).exists()
    assert checkpoints.find(run, None) == run.checkpoint(5)


def test_a_save_that_fails_leaves_what_was_there_and_no_half(run, trained):
    model, optimizer = trained()
    save(run.checkpoint(1), model, optimizer)
    before = {file.name: file.read_bytes() for file in run.checkpoint(1).iterdir()}
    learn(model, optimizer, torch.arange(12)[None])
    with pytest.raises(WriteFailed, match="no links here"):
        save(run.checkpoint(1), model, optimizer, write_more=refuse)
    assert names(run) == ["checkpoint-1"]
    assert before == {file.name: file.read_bytes() for file in run.checkpoint(1).iterdir()}


def test_a_step_that_comes_by_again_is_saved_again(run, trained, random_ids):
    model, optimizer = trained()
    save(run.checkpoint(1), model, optimizer)
    (run.checkpoint(1) / "of the first time").write_text("")
    learn(model, optimizer, random_ids(seed=3))
    save(run.checkpoint(1), model, optimizer)
    other, _ = trained(steps=0)
    checkpoints.load_weights(run.checkpoint(1), other)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))
    assert names(run) == ["checkpoint-1"] and not (run.checkpoint(1) / "of the first time").exists()


@pytest.mark.parametrize(
    "layout, changes, message",
    [
        ("plain-tied", {"hidden_size": 24}, r"model.embed_tokens.weight is \(131, 48\), this model's is \(131, 24\)"),
        ("plain-untied", {}, "lacks lm_head.weight: it is a checkpoint of another model"),
        ("plain-tied", {"num_hidden_layers": 4}, "lacks model.layers.3."),
        ("plain-tied", {"num_hidden_layers": 2}, "has model.layers.2.*: it is a checkpoint of another model"),
    ],
    ids=["width", "head", "more layers", "fewer layers"],
)
def test_a_checkpoint_of_another_model_is_refused(run, trained, layout, changes, message):
    save(run.checkpoint(1), *trained())
    other, _ = trained(layout, steps=0, **changes)
    with pytest.raises(BadInput, match=message):
        checkpoints.check_fits(run.checkpoint(1), other)


def test_final_holds_a_model_and_nothing_of_its_training(run, trained):
    save(run.checkpoint(1), *trained())
    checkpoints.write_final(run.checkpoint(1), run.final)
    kept = {file.name for file in run.final.iterdir()}
    assert kept >= {"model.safetensors", "config.json", "modeling_yxanul.py"}
    left_out = {file.name for file in run.checkpoint(1).iterdir()} - kept
    assert left_out == {"optimizer.safetensors", "trainer_state.json", "rank-00000.safetensors", "COMPLETE"}


def test_editing_final_leaves_the_checkpoint_as_it_is(run, checkpoint):
    checkpoints.write_final(checkpoint(5), run.final)
    with (run.final / checkpoints.WEIGHTS).open("ab") as file:
        file.write(b" of somebody")
    assert checkpoints.flaw(run.checkpoint(5)) is None


def test_final_that_is_there_is_replaced(run, checkpoint):
    for step in (5, 10):
        folder = checkpoint(step)
        (folder / f"of-{step}").write_text("")
        checkpoints.write_final(folder, run.final)
    assert sorted(file.name for file in run.final.iterdir()) == ["model.safetensors", "of-10"]
    assert sorted(file.name for file in run.path.iterdir()) == ["checkpoints", "final"]
