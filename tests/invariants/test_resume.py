"""A run that was stopped, killed or moved is the run that was left alone: weights, moments, losses, to the bit."""

import random

import pytest

STEPS = 20  # of the small recipe; its stages end at 12 and 20, its phases at 6 and 12, it saves every 5 steps


def assert_same(one, other):
    assert one.lines("step") == other.lines("step")
    assert one.digests(STEPS) == other.digests(STEPS)
    assert len(one.digests(STEPS)) >= 3


both = pytest.mark.parametrize("processes", [1, 2])


@pytest.mark.parametrize("step, processes", [*((step, 1) for step in (1, 5, 7, 12, 13, 19)), (7, 2), (12, 2)])
def test_killed_after_a_step_and_started_again(run, undisturbed, step, processes):
    killed = run()
    assert killed(processes=processes, kill={"step": step}) == -9
    assert killed(processes=processes) == 0, killed.said()
    assert_same(killed, undisturbed(processes))


@both
@pytest.mark.parametrize("files", [1, 2])
def test_killed_in_the_middle_of_a_save(run, undisturbed, files, processes):
    killed = run()
    codes = killed(processes=processes, kill_in_save={"step": 10, "files": files, "rank": 0})
    assert codes in (-9, [-9, 5]), killed.said()
    assert killed.steps() == [5]
    assert killed(processes=processes) == 0, killed.said()
    assert_same(killed, undisturbed(processes))
    assert not list(killed.folder.glob("checkpoints/*.partial"))


@both
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_to_one_rank_saves_and_stops_all(run, undisturbed, name, processes):
    stopped = run()
    code = stopped(processes=processes, signal={"step": 8, "rank": processes - 1, "name": name})
    assert code == 4, stopped.said()
    assert stopped.steps()[-1] == 8 + processes and "goes on" in stopped.said()  # two ranks agree a step later
    assert stopped(processes=processes) == 0, stopped.said()
    assert_same(stopped, undisturbed(processes))


@both
def test_a_log_that_spans_the_stop_is_the_same_log(run, processes):
    """Losses since the last log travel in the checkpoint, each rank's own."""
    whole, stopped = run(logging_steps=5), run(logging_steps=5)
    assert whole(processes=processes) == 0, whole.said()
    assert stopped(processes=processes, signal={"step": 8, "name": "SIGTERM"}) == 4, stopped.said()
    assert stopped(processes=processes) == 0, stopped.said()
    assert_same(stopped, whole)


@pytest.mark.parametrize("step", [9, 10, 11])
def test_an_epoch_that_ends_inside_of_a_stage(run, bins, step):
    """The held-out bin is so small that the stage of 3,072 tokens passes over it more than once."""
    from yxanul.data.bins import open_bin

    assert open_bin(bins / "language/held_out").tokens < 3072
    phases = [{"length": 16, "rows": 16, "steps": 6}, {"length": 32, "rows": 8, "steps": STEPS - 6}]
    stage = {"name": "again", "sources": [{"bin": str(bins / "language/held_out")}], "phases": phases}
    whole, killed = run(stages=[stage]), run(stages=[stage])
    assert whole() == 0, whole.said()
    assert killed(kill={"step": step}) == -9 and killed() == 0
    assert_same(killed, whole)


@pytest.mark.parametrize("changes", [{"model_config": {"attention_dropout": 0.1}}, {"dataloader_num_workers": 1}])
def test_dropout_and_a_worker_change_nothing(run, small_shape, changes):
    if "model_config" in changes:
        changes = {"model_config": small_shape | changes["model_config"]}
    whole, killed = run(**changes), run(**changes)
    assert whole() == 0, whole.said()
    assert killed(kill={"step": 7}) == -9 and killed() == 0
    assert_same(killed, whole)


def test_stage_by_stage_is_the_whole_run(run, undisturbed):
    staged = run()
    assert staged("--stage", "language") == 0 and staged.steps()[-1] == 12
    assert not (staged.folder / "final").exists()
    assert staged("--stage", "code") == 0
    assert_same(staged, undisturbed(1))


def test_back_to_a_named_checkpoint(run, undisturbed):
    again = run()
    assert again() == 0
    assert again("--resume", again.folder / "stages/1-language") == 0
    assert_same(again, undisturbed(1))


def test_killed_after_going_back_and_before_the_first_save(run, undisturbed):
    again = run()
    assert again() == 0
    assert again("--resume", "1-language", kill={"step": 14}) == -9
    assert again.steps() == [12] and not (again.folder / "final").exists()
    assert again() == 0
    assert_same(again, undisturbed(1))


@pytest.mark.slow
@both
def test_killed_at_twenty_random_moments(run, undisturbed, processes):
    """Moments in time, saves included; each start but the last is killed before it could end."""
    import time

    import small_runs.processes

    whole = undisturbed(processes)
    rng = random.Random(processes)
    moments = []
    while len(moments) < 20:
        killed = run(save_steps=1)  # so that most of its time goes into saves
        started = killed.start(processes=processes)
        time.sleep(rng.uniform(1.0, 4.0) * (1 + processes) / 2)
        for process in started:
            process.kill()
        codes = small_runs.processes.wait(started, 30)
        if 0 in codes:
            continue  # it had ended
        moments.append(killed.steps()[-1:] + [len(list(killed.folder.glob("checkpoints/*.partial")))])
        assert killed(processes=processes) == 0, killed.said()
        assert killed.lines() == whole.lines()
        assert killed.digests(STEPS) == whole.digests(STEPS)
    print(f"\n{processes} processes, (last complete step, torn saves) when killed: {moments}")  # noqa: T201
