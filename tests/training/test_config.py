"""What a run is: defaults, recipe and command line in their order, checked and cast; what is refused, and why."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from yxanul.bad_input import BadInput
from yxanul.strict_yaml import read_yaml
from yxanul.training.config import FREE, SETTINGS, differences, read_config, write_config
from yxanul.training.training_arguments_fields import ACCEPTED, REFUSED, field_types

RECIPE = """
model: tiny
stages:
  - name: language
    sources: [{bin: bins/language, tokens: 1e6}]
    tokens: 64e3
    phases: [{length: 32, rows: 32, steps: 10}, {length: 64, rows: 16}]
  - name: math
    sources: [{bin: bins/math, tokens: 200_000, weight: 1/3}, {bin: bins/language, tokens: 1e6, weight: 1}]
    steps: 40
    phases: [{length: 64, rows: 16}]
    learning_rate: 5e-4
"""
OLDER = "gradient_checkpointing"
CHECKPOINTING = {OLDER, f"{OLDER}_kwargs", "activation_checkpointing", "activation_checkpointing_kwargs"}


@pytest.fixture
def read(tmp_path):
    """`read(lines, *assignments)`: the recipe above with other lines added, then a command line."""

    def make(lines="", *assignments, recipe=RECIPE):
        file = tmp_path / "run.yaml"
        file.write_text(recipe + lines)
        return read_config(str(file), list(assignments))

    return make


def test_a_recipe_wins_over_defaults_and_the_command_line_over_both(read):
    config = read("seed: 2\nsave_steps: 20", "seed=3")
    assert (config.seed, config.save_steps, config.logging_steps) == (3, 20, 10)


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("learning_rate", "1e-3", 1e-3),
        ("learning_rate", "1", 1.0),
        ("warmup_tokens", "2e9", 2_000_000_000),
        ("warmup_tokens", "null", None),
        ("save_steps", "1_000", 1000),
        ("document_mask", "true", True),
        ("report_to", "wandb", ["wandb"]),
        ("report_to", "[wandb, trackio]", ["wandb", "trackio"]),
        ("report_to", "none", []),
        ("skip_above", "0", 0.0),
    ],
)
def test_values_become_what_their_field_is_from_a_file_and_from_the_command_line(name, text, value, read):
    for config in (read(f"{name}: {text}"), read("", f"{name}={text}")):
        assert getattr(config, name) == value and type(getattr(config, name)) is type(value)


def test_dots_reach_into_mappings_and_lists(read):
    config = read(
        "validation: {math: bins/a}",
        "model_config.vocab_size=4096",
        "validation.language=bins/b",
        "stages.language.tokens=1e5",
        "stages.math.learning_rate=1e-4",
        "stages.language.phases.0.rows=16",
        "stages.math.sources.1.weight=2",
    )
    assert config.model_config == {"vocab_size": 4096} and config.shape().config.vocab_size == 4096
    assert config.validation == {"math": "bins/a", "language": "bins/b"}
    plan = config.plan()
    assert plan.stages[0].tokens == 100_000 and plan.stages[0].phases[0].rows == 16
    assert config.stages[1]["learning_rate"] == 1e-4 and plan.stages[1].sources[1].weight == 2


def test_a_stage_takes_another_kind_of_budget_from_the_command_line(read):
    assert read("", "stages.language.tokens=null", "stages.language.steps=30").plan().stage_steps[0] == range(30)


@pytest.mark.parametrize(
    "lines, message",
    [
        ("learning_rat: 1", "unknown setting 'learning_rat': did you mean learning_rate?"),
        ("ddp_timeou: 9", "unknown setting 'ddp_timeou': did you mean ddp_timeout?"),
        ("zzzz: 1", "unknown setting 'zzzz': known are adam_beta1, "),
        ("7: 1", "unknown setting '7'"),
        ("training_arguments: {}", "unknown setting 'training_arguments'"),
        ("save_steps:", "save_steps is empty: delete the line to keep the default."),
        ("full_determinism:", "full_determinism is empty: delete the line"),
        ("learning_rate: fast", "learning_rate='fast' must be a number."),
        ("learning_rate: .nan", "learning_rate=nan must be a number."),
        ("learning_rate: 0", "learning_rate=0.0 must be above 0."),
        ("seed: 1.5", "seed=1.5 must be a whole number."),
        ("seed: true", "seed=True must be a whole number."),
        ("seed: -1", "seed=-1 must be at least 0."),
        ("tokenizer: 7", "tokenizer=7 must be text"),
        ("document_mask: 1", "document_mask=1 must be true or false."),
        ("model_config: 1", "model_config=1 must be 'key: value' lines."),
        ("validation: {math: 1}", "validation, math must be text"),
        ("validation: {math: a}\nmetric_for_best_model: mth_loss", "did you mean math_loss?"),
        ("validation: {math: a}\nmetric_for_best_model: math_accuracy", "greater_is_better=true: write that."),
        ("greater_is_better: true", "the best bits_per_byte is found with greater_is_better=false"),
        ("lr_decay: 1.1", "lr_decay=1.1 must be at most 1."),
        ("adam_beta2: 1", "adam_beta2=1.0 must be below 1."),
        ("lr_scheduler_type: wsd", "unknown lr_scheduler_type 'wsd': known are constant, cosine, linear, warmup_"),
        ("lr_scheduler_type: cosine\nlr_decay: 0.5", "lr_decay is of lr_scheduler_type warmup_stable_decay alone"),
        ("lr_scheduler_type: constant\nlr_end: 0.1", "lr_end has no effect with lr_scheduler_type constant"),
        ("warmup_steps: 0.05", "warmup_steps=0.05 is a share: give whole steps, or warmup_tokens."),
        ("warmup_steps: 5\nwarmup_tokens: 5", "warmup_steps and warmup_tokens are both given: leave one out."),
        ("report_to: mlflow", "unknown report_to 'mlflow': known are tensorboard, trackio, wandb."),
        ("report_to: [1]", "report_to, 1 must be text"),
        ("precision_policy: {dwon: bf16}", "precision_policy: unknown key 'dwon': did you mean down?"),
        ("precision: fp8\nparallel: zero3", "precision=fp8 is not tested under zero3: take fsdp2, or precision=bf16."),
        (
            "precision: te\ndocument_mask: true",
            "precision=te has no document_mask: leave it out, or take precision=bf16.",
        ),
        ("precision: fp16", "unknown precision 'fp16': did you mean bf16?"),
        ("compile: true", "unknown compile 'true': known are auto, layers, model, none."),
        ("parallel: zero4", "unknown parallel 'zero4': did you mean zero"),
        ("save_steps: 25", "save_steps=25 must be a multiple of logging_steps=10: 20 or 30 would be."),
        ("save_steps: 5", "save_steps=5 must be a multiple of logging_steps=10: 10 would be."),
        ("logging_steps: 0", "logging_steps=0 must be at least 1."),
        ("save_total_limit: 1", "save_total_limit=1 leaves a moment without a complete checkpoint: give at least 2."),
        (
            "gradient_accumulation_steps: 2\nmax_micro_batch_tokens: 8",
            "gradient_accumulation_steps and max_micro_batch_tokens are both given",
        ),
        ("auto_find_batch_size: true", "auto_find_batch_size is refused: a phase's rows are the recipe's"),
        (
            "eval_strategy: steps",
            "eval_strategy is refused: every stage's end is evaluated; give eval_steps for more.",
        ),
        ("bf16: true", "bf16 is refused: give precision."),
        ("warmup_ratio: 0.1", "unknown setting 'warmup_ratio': did you mean warmup_tokens?"),
        ("dataloader_num_workers: -1", "dataloader_num_workers=-1 must be at least 0."),
        ("full_determinism: 3", "full_determinism=3 must be true or false."),
        ("torch_compile: true", "torch_compile is refused: give compile."),
        ("attention: flash", "unknown attention 'flash': known are auto, flash_attention_2, "),
        (f"{OLDER}: true\nactivation_checkpointing: true", "is given under its older and its newer name"),
    ],
)
def test_bad_settings_name_the_file_the_field_and_the_mend(lines, message, read, tmp_path):
    with pytest.raises(BadInput) as error:
        read(lines)
    assert message in str(error.value) and str(error.value).startswith(f"{tmp_path}/run.yaml: "), error.value


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("learning_rate=fast", "command line: learning_rate='fast' must be a number."),
        ("learning_rat=1", "command line: unknown setting 'learning_rat': did you mean learning_rate?"),
        (
            "skip_above=",
            "command line: skip_above= is empty: leave it out to keep the default, or write skip_above=nu",
        ),
        ("stages.langauge.tokens=1", "command line: unknown entry of stages 'langauge': did you mean language?"),
        ("stages.math.phases.1.rows=1", "command line: unknown entry of stages.math.phases '1': known are 0."),
        ("seed.x=1", "command line: seed is 3; there is no 'x' inside."),
        ("stages.math.learning_rate=fast", "command line: stage math: learning_rate='fast' must be a number."),
        ("stages.math.lr_decay=2", "command line: stage math: lr_decay=2.0 must be at most 1."),
        ("stages.math.gate=1", "stage math, gate must hold 'key: value' lines; it holds 1."),
        ("stages.math=1", "command line: stage 2 must hold 'key: value' lines; it holds 1."),
        ("stages=1", "command line: stages=1 must be a list."),
        ("use_cpu=maybe", "command line: use_cpu='maybe' must be true or false."),
    ],
)
def test_a_bad_command_line_is_named_as_such(assignment, message, read):
    with pytest.raises(BadInput) as error:
        read("seed: 3", assignment)
    assert message in str(error.value), error.value


@pytest.mark.parametrize(
    "assignments, message",
    [
        (["stages.math.lr_scheduler_type=linear", "stages.math.lr_decay=0.1"], "run.yaml: stage math: lr_decay is of"),
        (["stages.math.warmup_steps=3", "stages.math.warmup_tokens=3"], "run.yaml: stage math: warmup_steps and warm"),
        (["lr_scheduler_type=linear", "stages.math.lr_scheduler_type=constant", "stages.math.lr_end=1"], "lr_end has"),
    ],
)
def test_no_learning_rate_of_a_stage_goes_without_effect(assignments, message, read):
    with pytest.raises(BadInput, match=message):
        read("", *assignments)


def test_a_share_that_decays_is_kept_for_the_one_stage_that_uses_it(read):
    read("lr_scheduler_type: cosine\nlr_decay: 0.5", "stages.math.lr_scheduler_type=warmup_stable_decay")


def test_what_is_missing_is_said_and_weights_bring_their_shape(read, tmp_path):
    with pytest.raises(BadInput, match="model is missing: a preset's name or a checkpoint's folder"):
        read(recipe="stages: []")
    with pytest.raises(BadInput, match="stages is missing: the plan"):
        read(recipe="model: tiny")
    with pytest.raises(BadInput, match="unknown recipe or file 'dmo.yaml'"):
        read_config("dmo.yaml", [])
    assert read(recipe=RECIPE.replace("model:", "init_from:")).model == "tiny"


@pytest.mark.parametrize(
    "assignment, method, message",
    [
        ("stages.math.token=1", "plan", "run.yaml: stage math: unknown key 'token': did you mean tokens?"),
        ("stages.math.steps=null", "plan", "run.yaml: stage math has no budget"),
        ("model=tny", "shape", "run.yaml: model tny: unknown preset or folder 'tny': did you mean tiny?"),
        ("model_config.vocab_sze=1", "shape", "run.yaml: model_config: unknown field 'vocab_sze': did you mean vocab"),
        ("model_config.num_key_value_heads=3", "shape", "run.yaml: model tiny: .*must divide num_attention_heads=4"),
    ],
)
def test_mistakes_in_plan_and_shape_name_the_recipe(assignment, method, message, read):
    config = read("", assignment)
    with pytest.raises(BadInput, match=message):
        getattr(config, method)()


def test_a_hub_model_that_cannot_be_reached_is_one_sentence(read):
    config = read("init_from: nobody/nothing\nmodel: nobody/nothing", recipe=RECIPE.replace("model: tiny", ""))
    with pytest.raises(BadInput, match="model nobody/nothing: it is no folder here, and no model on the Hub that can"):
        config.shape()


@pytest.mark.parametrize(
    "lines, processes, parts",
    [("", 2, 1), ("gradient_accumulation_steps: 4", 2, 4), ("max_micro_batch_tokens: 300", 1, 4)]
    + [("max_micro_batch_tokens: 300", 2, 2), ("max_micro_batch_tokens: 1e9", 2, 1)]
    + [("max_micro_batch_tokens: 64", 1, 16)],
)
def test_accumulation_is_the_smallest_that_fits_every_phase(lines, processes, parts, read):
    """Rows 32 x 32 and 16 x 64: 1,024 tokens in each."""
    assert read(lines).accumulation(processes) == parts


@pytest.mark.parametrize(
    "lines, processes, message",
    [
        ("", 3, "run.yaml: stage language, length 32: rows=32 does not divide by 3 processes x 1 accumulation; 30 or"),
        ("gradient_accumulation_steps: 5", 2, "by 2 processes x 5 accumulation; 30 or 40 would"),
        ("max_micro_batch_tokens: 63", 2, "divide by 2 processes x 8 accumulation at most, which leaves 64 tokens"),
    ],
)
def test_rows_that_do_not_divide_are_refused_with_what_would(lines, processes, message, read):
    with pytest.raises(BadInput, match=message):
        read(lines).accumulation(processes)


def test_a_written_config_reads_as_the_same_run(read, tmp_path):
    config = read(
        f"{OLDER}: true\nddp_timeout: 60\nmodel_config: {{embedding_rank: 16}}\nvalidation: {{math: bins/v}}"
    )
    again = read_back(config, tmp_path / "config.yaml")
    assert again.resolved() == config.resolved() and not list(tmp_path.glob("*.partial"))
    assert again.shape().config.to_dict() == config.shape().config.to_dict()
    assert again.plan().stages == config.plan().stages and again.accumulation(2) == config.accumulation(2)
    written = list(read_yaml(tmp_path / "config.yaml"))
    assert written[: len(SETTINGS)] == list(SETTINGS), "every setting, in the order of the class"
    assert json.loads(json.dumps(config.resolved())) == config.resolved(), "plain values"


def test_a_run_from_a_checkpoint_reads_as_the_same_run(read, tmp_path, tiny_config):
    tiny_config("factorised-tied").save_pretrained(tmp_path / "checkpoint")
    config = read(f"init_from: {tmp_path}/checkpoint", recipe=RECIPE.replace("model: tiny", ""))
    assert config.model == config.init_from and config.shape().config.embedding_rank == 16
    again = read_back(config, tmp_path / "config.yaml")
    assert again.resolved() == config.resolved() and again.resolved()["model_config"]["embedding_rank"] == 16


def test_weights_named_on_the_command_line_bring_their_shape(read, tmp_path, tiny_config):
    tiny_config("factorised-tied").save_pretrained(tmp_path / "checkpoint")
    begin = f"init_from={tmp_path}/checkpoint"
    assert read("", begin).shape().config.embedding_rank == 16
    assert read("", begin, "model=tiny").shape().config.embedding_rank is None


@pytest.mark.parametrize(
    "assignments, budget",
    [
        (
            ["stages.math.steps=null", "stages.math.tokens=1_000"],
            "stage math: its budget of 1,000 tokens is less than one step of 16 x 64",
        ),
        (
            ["stages.math.steps=null", "stages.math.epochs=1/1000", "stages.math.sources.0.weight=null"]
            + ["stages.math.sources.1.weight=null", "stages.math.phases.0.rows=32"],
            "stage math: its budget of 1,200 tokens is less than one step of 32 x 64 = 2,048: raise it, or take fewer",
        ),
    ],
)
def test_a_budget_below_one_step_is_refused(assignments, budget, read):
    with pytest.raises(BadInput) as error:
        read("", *assignments).plan()
    assert budget in str(error.value), error.value


def read_back(config, file):
    write_config(config, file)
    return read_config(str(file), [])


def test_a_write_that_fails_leaves_the_earlier_file(read, tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    write_config(read(), file)
    earlier = file.read_text()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError):
        write_config(read("seed: 5"), file)
    assert file.read_text() == earlier


def test_differences_are_those_of_data_and_mathematics(read):
    before = read().resolved()
    free = ["logging_steps=5", "save_total_limit=9", "precision=fp32", "parallel=fsdp2", "full_determinism=true"]
    free += [
        "attention=sdpa",
        "compile=layers",
        "max_micro_batch_tokens=64",
        "validation.math=b",
        "report_to=wandb",
        "stages.language.tokens=64_000",
    ]
    assert differences(before, read("", *free).resolved()) == []
    changed = ["stages.language.tokens=1e5", "stages.math.phases.0.rows=8", "seed=2", "model_config.hidden_act=gelu"]
    assert differences(before, read("", *changed).resolved()) == [
        "seed was 1, is now 2",
        "model_config.hidden_act was silu, is now gelu",
        "stages.language.tokens was 64e3, is now 1e5",
        "stages.math.phases.0.rows was 16, is now 8",
    ]


def test_stages_are_compared_with_their_namesakes_and_in_their_order(read):
    before = read().resolved()
    turned = {**before, "stages": before["stages"][::-1]}
    assert differences(before, turned) == ["stages was language, math, is now math, language"]
    longer = {**before, "stages": [*before["stages"], {"name": "more", "steps": 3}]}
    assert differences(before, longer)[1:] == [
        "stages.more.name was None, is now more",
        "stages.more.steps was None, is now 3",
    ]
    assert set(FREE.split()) <= set(SETTINGS)


def test_every_field_of_training_arguments_is_in_one_group():
    groups = [set(SETTINGS), set(ACCEPTED), set(REFUSED)]
    assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    installed, decided = set(field_types()), groups[0] | groups[1] | groups[2]
    assert installed <= decided
    assert groups[1] | groups[2] <= installed | CHECKPOINTING, "a name that no supported version has"


def test_accepted_fields_are_cast_and_take_the_installed_name(read):
    newest = "activation_checkpointing" if "activation_checkpointing" in field_types() else OLDER
    for name in (OLDER, "activation_checkpointing"):
        config = read("", f"{name}=true", f"{name}_kwargs.every_n_layers=2", "ddp_timeout=1e3", "eval_strategy=no")
        assert config.training_arguments == {
            newest: True,
            f"{newest}_kwargs": {"every_n_layers": 2},
            "ddp_timeout": 1000,
        }


def test_the_names_read_from_source_are_those_of_the_class():
    from dataclasses import fields

    from transformers import TrainingArguments

    assert set(field_types()) == {field.name for field in fields(TrainingArguments)}


def test_yaml_with_an_anchor_is_written_out(read, tmp_path):
    recipe = yaml.safe_load(RECIPE)
    recipe["stages"][1]["phases"] = recipe["stages"][0]["phases"][1:]
    write_config(read(recipe=yaml.dump(recipe)), tmp_path / "config.yaml")
    assert "&id" not in (tmp_path / "config.yaml").read_text()


def test_reading_a_recipe_loads_neither_torch_nor_transformers(read, tmp_path):
    read()
    code = (
        "import sys; from yxanul.training.config import read_config;"
        f"read_config({str(tmp_path / 'run.yaml')!r}, ['compile=layers']).plan();"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
