"""The command, by its real words: what it refuses before any work, what it prints, and what it leaves behind."""

import json
import math
import shutil
from importlib.util import find_spec

import pytest
import torch
import yaml

from yxanul.__main__ import main
from yxanul.data.locks import only_process
from yxanul.run_folder import RunFolder
from yxanul.training.launch import processes

STEPS = 20  # of the small recipe; its stages end at 12 and 20


@pytest.fixture
def command(recipe, tmp_path, monkeypatch, capsys):
    """`command(*words, **changes of the recipe)`: exit code, output and errors of the command in this process."""
    monkeypatch.chdir(tmp_path)

    def call(*words, **changes):
        recipe(**changes)
        code = main(["pretrain", *map(str, words)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "a recipe is missing: `yxanul pretrain demo --out runs/demo`."),
        (["seed=2", "--out", "run"], "a recipe is missing"),
        (["recipe.yaml"], "--out is missing: it names the run's folder, such as --out runs/first."),
        (["recipe.yml", "--out", "run"], "unknown recipe or file 'recipe.yml'"),
        (["recipe.yaml", "--out", "run", "model=tny"], "unknown preset or folder 'tny': did you mean tiny?"),
        (["recipe.yaml", "--out", "run", "sed=2"], "unknown setting 'sed': did you mean seed?"),
        (["recipe.yaml", "--out", "run", "precision=bf16"], "precision=bf16 is for GPUs"),
        (["recipe.yaml", "--out", "run", "precision_policy.dwon=bf16"], "unknown key 'dwon': did you mean down?"),
        (["recipe.yaml", "--out", "run", "precision=te"], "precision=te is for GPUs: take precision=auto here"),
        (["recipe.yaml", "--out", "run", "parallel=fsdp2"], "parallel=fsdp2 is for GPUs, and none can be seen"),
        (["recipe.yaml", "--out", "run", "--stage", "cod"], "unknown stage 'cod': did you mean code?"),
        (["recipe.yaml", "--out", "run", "--stage", "code"], "stage code begins at step 12, but the run is at 0"),
        (["recipe.yaml", "--out", "run", "--resume", "5"], "--resume 5: there is no such checkpoint"),
        (["recipe.yaml", "--out", "run", "warmup_steps=20"], "a warm-up of 20 steps leaves nothing of its 20"),
        (["recipe.yaml", "--out", "run", "gradient_accumulation_steps=3"], "does not divide by 1 processes x 3"),
        (["recipe.yaml", "--out", "run", "--evaluate-only", "validation={}"], "has nothing to evaluate on"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU changes what is refused")
def test_bad_input_ends_it_before_any_work(command, words, message, tmp_path):
    code, out, errors = command(*words)
    assert (code, out) == (2, "") and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        (["precision=bf16"], "precision=bf16 is for GPUs"),
        (
            ["precision=fp8", "model_config.intermediate_size=50"],
            "gate_proj is 32 x 50, and FP8 needs multiples of 16",
        ),
        (["parallel=zero2"], "parallel=zero2 is for GPUs, and none can be seen"),
        (
            ["attention=varlen"],
            "attention=varlen is for GPUs, and this run is on a CPU: take attention=sdpa, or auto.",
        ),
    ],
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU changes what is refused")
def test_what_the_machine_cannot_do_is_refused_before_data_is_prepared(command, words, message, monkeypatch):
    monkeypatch.setattr("yxanul.training.preparing.prepare_missing", lambda *data: pytest.fail("it prepares"))
    code, _, errors = command("recipe.yaml", "--out", "run", *words)
    assert code == 2 and message in errors


@pytest.mark.parametrize("flag", ["--proceses=2", "--eval"])
def test_unknown_and_abbreviated_flags_end_it(command, flag):
    with pytest.raises(SystemExit) as stop:
        command("recipe.yaml", "--out", "run", flag)
    assert stop.value.code == 2


def test_a_dry_run_prints_the_plan_and_writes_nothing(command, tmp_path):
    code, out, errors = command("recipe.yaml", "--dry-run", "seed=3")
    assert code == 0
    assert "together: 20 steps, 5,120 tokens" in out and "language" in out and "code" in out
    assert "parameters, fp32; nothing was trained (--dry-run)" in errors
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_dry_run_needs_no_data_that_the_recipe_makes(command):
    stage = {"name": "one", "sources": [{"bin": "bins/no", "tokens": 10_000}], "phases": [{"length": 16, "rows": 8}]}
    changes = {"stages": [stage | {"steps": 4}], "validation": None}
    made = {"tokenizer": "t", "data": {"bins/no": {"sources": ["builtin:math"]}}}
    assert command("recipe.yaml", "--dry-run", **changes, **made)[0] == 0
    code, _, errors = command("recipe.yaml", "--dry-run", **changes)
    assert code == 2 and "the bin bins/no, a source or validation text" in errors


@pytest.mark.parametrize(
    "word, says",
    [
        ("model_config.vocab_size=50", "set model_config.vocab_size=61"),
        ("stages.code.phases.0.length=128", "length 128 is above the model's max_position_embeddings=64"),
        ("gradient_accumulation_steps=3", "does not divide"),
        ("--stage=zz", "unknown stage 'zz'"),
        ("--resume=/nope", "--resume /nope: there is no such checkpoint"),
        ("validation.code=bins/nope", "the bin bins/nope"),
    ],
)
def test_a_dry_run_finds_what_a_run_would_refuse(command, word, says):
    code, _, errors = command("recipe.yaml", "--dry-run", word)
    assert code == 2 and says in errors


@pytest.mark.parametrize("words", [["--processes", "2"], ["--processes=2"]])
@pytest.mark.parametrize("front", [True, False])
def test_several_processes_get_all_words_but_their_number(command, monkeypatch, words, front):
    started = []
    monkeypatch.setattr(processes, "start", lambda *arguments: started.append(arguments) or 7)
    others = ["recipe.yaml", "--out", "run", "--stage", "language", "seed=2"]
    assert command(*([*words, *others] if front else [*others, *words]))[0] == 7
    assert started == [("yxanul.training.pretrain", others, 2)]


def test_processes_are_not_started_twice(command, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, errors = command("recipe.yaml", "--out", "run", "--processes", "2")
    assert code == 2 and "so does this launcher: leave --processes out" in errors


@pytest.fixture(scope="module")
def done(run):
    finished = run()
    assert finished() == 0, finished.said()
    return finished


def files(run):
    """With the time of each one's last change."""
    return {file.relative_to(run.folder): file.stat().st_mtime_ns for file in run.folder.rglob("*")}


def test_a_run_leaves_what_its_folder_promises(done):
    left = {file.name for file in done.folder.iterdir()}
    assert left >= {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "stages", "final"}
    assert {folder.name for folder in (done.folder / "stages").iterdir()} == {"1-language", "2-code"}
    assert done.steps() == [15, 20]
    assert f"done: {done.folder}/final loads with from_pretrained." in done.said()


def test_every_line_of_metrics_is_json_and_says_where_the_run_is(done):
    lines = [json.loads(line, parse_constant=pytest.fail) for line in (done.folder / "metrics.jsonl").open()]
    assert all({"step", "tokens", "time"} <= set(line) for line in lines)
    training = [line for line in lines if "loss" in line]
    assert [line["step"] for line in training] == list(range(1, STEPS + 1))
    assert [line["tokens"] for line in training] == [256 * line["step"] for line in training]
    assert [(line["stage"], line["length"], line["rows"]) for line in training] == (
        [("language", 16, 16)] * 6 + [("language", 32, 8)] * 6 + [("code", 64, 4)] * 8
    )
    for line in training:
        assert line["perplexity"] == pytest.approx(math.exp(line["loss"])) and line["grad_norm"] > 0
        assert line["tokens_per_second"] > 0 and line["learning_rate"] > 0 and line["skipped_steps"] == 0


def test_it_is_evaluated_before_the_first_step_and_at_every_stages_end(done):
    lines = done.lines("eval_bits_per_byte")
    assert [line["step"] for line in lines] == [0, 12, 20]
    for line in lines:
        domains = [line[f"eval_{domain}_bits_per_byte"] for domain in ("language", "code")]
        assert line["eval_bits_per_byte"] == pytest.approx(sum(domains) / 2)


def test_a_finished_run_says_so_and_changes_nothing(done):
    before = files(done)
    assert done() == 0
    assert f"{done.folder} is done: step 20 of 20." in done.said()
    assert files(done) == before


def test_a_finished_run_that_was_killed_before_it_wrote_its_model_writes_it(run, done):
    killed = run()
    shutil.copytree(done.folder, killed.folder)
    shutil.rmtree(killed.folder / "final")
    assert killed() == 0, killed.said()
    assert {file.name for file in (killed.folder / "final").iterdir()} == {
        file.name for file in (done.folder / "final").iterdir()
    }


def test_evaluate_only_prints_a_table_and_writes_nothing(done):
    before = files(done)
    assert done("--evaluate-only", "--resume", "1-language") == 0, done.said()
    line = done.lines("eval_bits_per_byte")[1]
    for domain in ("language", "code"):
        (row,) = (row.split() for row in done.said().splitlines() if row.split()[:1] == [domain])
        figures = [line[f"eval_{domain}_{name}"] for name in ("bits_per_byte", "loss", "perplexity")]
        assert [float(figure) for figure in row[1:4]] == pytest.approx(figures, abs=6e-3)
        assert row[4] == f"{line[f'eval_{domain}_accuracy']:.2%}"
    assert files(done) == before


def test_evaluate_only_of_a_run_that_never_was_writes_nothing(run):
    fresh = run()
    assert fresh("--evaluate-only") == 0, fresh.said()
    assert "bits/byte" in fresh.said()
    assert files(fresh) == {}


def test_the_config_of_a_run_is_a_recipe_for_the_same_run(run, done):
    again = run()
    again.recipe = str(done.folder / "config.yaml")
    assert again() == 0, again.said()
    assert again.lines("step") == done.lines("step") and again.digests(STEPS) == done.digests(STEPS)


def test_a_resume_logs_each_step_once_and_each_start_leaves_an_entry(run):
    killed = run()
    assert killed(kill={"step": 7}) == -9
    assert killed("logging_steps=5") == 0, killed.said()
    assert [line["step"] for line in killed.lines()] == [1, 2, 3, 4, 5, 10, 12, 15, 20]
    starts = json.loads((killed.folder / "environment.json").read_text())
    assert len(starts) == 2 and all(start["processes"] == 1 and start["device"] == "cpu" for start in starts)


def test_a_folder_that_another_process_trains_in_is_refused(run):
    second = run()
    with only_process(RunFolder(second.folder).lock, "there"):
        assert second() == 2
    assert f"another process is training in {second.folder}" in second.said()
    assert [file.name for file in second.folder.iterdir()] == ["lock"]


def test_another_recipe_is_refused_and_with_force_goes_on_from_where_the_first_was(run):
    first = run()
    assert first("--stage", "language") == 0, first.said()
    assert first("learning_rate=1e-3") == 2
    assert "was begun with another recipe: learning_rate was 0.002, is now 0.001" in first.said()
    assert first("learning_rate=1e-3", "--force") == 0, first.said()
    rates = [line["learning_rate"] for line in first.lines()]
    assert len(rates) == STEPS and rates[11] == pytest.approx(2e-3) and rates[12] == pytest.approx(1e-3)


def test_force_does_not_make_another_model_of_a_checkpoint(done):
    before = files(done)
    assert done("--force", "--evaluate-only", "model_config.num_hidden_layers=1") == 2
    assert "has model.layers.1.input_layernorm.weight: it is a checkpoint of another model." in done.said()
    assert done("--force", "--resume", "15", "model_config.hidden_size=24") == 2
    assert "this model's is (" in done.said()
    assert files(done) == before


def test_weights_of_a_llama_begin_with_the_loss_of_that_llama(run, llama, bins):
    from yxanul.data.bins import open_bin
    from yxanul.evaluation.bits_per_byte import HeldOut

    theirs, folder = llama()
    ours = run(model=None, model_config=None)
    assert ours("--init-from", folder, "--stage", "language") == 0, ours.said()
    first = ours.lines("eval_bits_per_byte")[0]
    assert first["step"] == 0
    for domain in ("language", "code"):
        held_out = HeldOut(open_bin(bins / domain / "held_out"), length=64, rows=4, max_tokens=1_000_000)
        expected = llama_loss(theirs, held_out)
        assert first[f"eval_{domain}_loss"] == pytest.approx(expected, abs=1e-5)
        assert abs(expected - math.log(61)) > 1e-3  # else every fresh model would pass


@torch.no_grad()
def llama_loss(model, held_out):
    total = targets = 0
    for number in range(held_out.batches):
        batch = held_out.batch(number)
        logits = model(torch.from_numpy(batch.input_ids)).logits
        wanted = torch.from_numpy(batch.targets)
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="sum").item()
        targets += int((wanted != -100).sum())
    return total / targets


def test_a_later_stage_alone_begins_with_given_weights_inside_of_the_plan(run, llama):
    staged = run(init_from=llama()[1])
    assert staged("--stage", "code") == 0, staged.said()
    lines = staged.lines()
    assert [line["step"] for line in lines] == list(range(13, STEPS + 1))
    assert {line["stage"] for line in lines} == {"code"} and (staged.folder / "final").exists()


def test_weights_of_another_shape_are_refused_and_leave_no_folder(run, llama):
    other = run(init_from=llama(num_hidden_layers=3)[1])
    assert other() == 2
    assert "does not fit the model: model.layers.2.input_layernorm.weight" in other.said()
    assert not other.folder.exists()


@pytest.mark.skipif(find_spec("tensorboard") is not None, reason="it is there")
def test_a_tracker_that_is_missing_stops_nothing(run, done):
    tracked = run(report_to=["tensorboard"])
    assert tracked() == 0
    assert "tensorboard" in tracked.said().lower()
    assert tracked.digests(STEPS) == done.digests(STEPS)


def test_the_best_checkpoint_survives_rotation(run):
    """The second stage's rate spoils what the first has learnt."""
    spoilt = run(eval_steps=4)
    assert spoilt("stages.code.learning_rate=0.5") == 0, spoilt.said()
    scores = {line["step"]: line["eval_bits_per_byte"] for line in spoilt.lines("eval_bits_per_byte")[1:]}
    best = min(scores, key=scores.get)
    assert list(scores) == [4, 8, 12, 16, 20] and best < 15
    assert spoilt.steps() == [best, 15, 20]


def test_the_resolved_config_has_every_default(done):
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["skip_above"] == 100.0 and config["model_config"]["rms_norm_eps"] == 1e-6
    assert config["use_cpu"] is True and config["report_to"] == []


def test_z_loss_adds_the_squared_log_of_the_softmax_sum(run, bins):
    """Of a model that has learnt nothing: all logits are near 0, so the log of the sum is that of the vocabulary."""
    phases = [{"length": 16, "rows": 16, "steps": 4}]
    stage = {"name": "one", "sources": [{"bin": str(bins / "code/train")}], "phases": phases}
    firsts = []
    for weight in (0.0, 0.01):
        started = run(z_loss=weight, validation=None, stages=[stage])
        assert started() == 0
        firsts.append(started.losses()[0])
    assert firsts[1] - firsts[0] == pytest.approx(0.01 * math.log(61) ** 2, rel=0.02)
