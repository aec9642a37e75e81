"""Every recipe: plans to what its source states, dry-runs with no data there, and runs as a toy of the same structure.

Figures are those of the sources, written down here and not read from the recipes. No network: toys use built-in text.
"""

import json
import pathlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from yxanul.__main__ import main
from yxanul.bad_input import BadInput
from yxanul.data import hub_datasets
from yxanul.data.sources import open_source
from yxanul.data.tokenizers import load_tokenizer
from yxanul.strict_yaml import read_yaml
from yxanul.training.config import SETTINGS, read_config
from yxanul.training.plan_command import describe
from yxanul.training.preparing import checked_entry

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMES = sorted(file.stem for file in (ROOT / "recipes").glob("*.yaml"))
SYSTEMS = [name for name in NAMES if name != "demo"]
GOES_ON = [name for name in NAMES if "init_from" in read_yaml(ROOT / f"recipes/{name}.yaml")]


def phases(name, *assignments):
    return describe(read_config(name, list(assignments)))["phases"]


# --- what the sources state ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yxanul-177m-24gb", "yxanul-177m-8gpu"])
def test_system_1_eats_its_four_stages_tokens_times_epochs(name):
    facts = describe(read_config(name, []))
    stages = {}
    for phase in facts["phases"]:
        stages[phase["stage"]] = stages.get(phase["stage"], 0) + phase["tokens"]
    billions = {"language": 0.96 * 15, "reasoning": 1.5 * 20, "math": 0.1 * 100, "code": 0.15 * 20}
    assert {stage: tokens / 1e9 for stage, tokens in stages.items()} == pytest.approx(billions, rel=1e-4)
    assert facts["tokens"] == pytest.approx(57.4e9, rel=1e-4)


def test_system_1_changes_its_length_every_5000_steps_on_24_gb():
    found = phases("yxanul-177m-24gb")
    assert [(phase["length"], phase["rows"]) for phase in found[:4]] == [
        (512, 8 * 8),
        (1024, 6 * 8),
        (1536, 4 * 8),
        (2048, 4 * 8),
    ]
    assert [phase["first_step"] for phase in found[:4]] == pytest.approx([0, 5000, 10_000, 15_000], abs=3)
    assert read_config("yxanul-177m-24gb", []).accumulation(processes=1) == 8


def test_system_1_on_8_gpus_changes_its_length_at_the_same_tokens():
    tokens = [[phase["tokens"] for phase in phases(f"yxanul-177m-{name}")] for name in ("24gb", "8gpu")]
    assert tokens[0] == pytest.approx(tokens[1], rel=1e-3)
    assert read_config("yxanul-177m-8gpu", []).accumulation(processes=8) == 1


def test_system_2_has_ten_lengths_with_the_first_and_the_last_three_given():
    found = [(phase["length"], phase["rows"]) for phase in phases("yxanul-197m")]
    assert len(found) == 10 and found == sorted(found)
    assert found[0] == (8, 8192) and found[-3:] == [(768, 256), (1536, 128), (2048, 64)]
    facts = describe(read_config("yxanul-197m", []))
    assert facts["block"] == 6144
    assert facts["tokens"] == pytest.approx(4.1e9 * 4.49 / 7.18, rel=2e-3), "one pass, in tokens of 7.18 characters"


def test_system_2_has_six_lengths_for_32_gb():
    found = phases("yxanul-270m")
    assert [phase["first_step"] for phase in found] == pytest.approx([0, 3000, 6000, 10_000, 15_000, 25_000], abs=6)
    assert [phase["length"] for phase in found] == [128, 256, 512, 768, 1024, 2048]
    assert [phase["rows"] / 32 for phase in found] == [8, 4, 2, 2, 1, 1]
    assert read_config("yxanul-270m", []).accumulation(processes=1) == 32


def test_system_3_spends_6_5_4_and_3_hours_at_the_speed_it_claims_and_decays_to_zero():
    config = read_config("yxanul-0.6b", [])
    hours = dict.fromkeys(("language", "reasoning", "math", "code"), 0.0)
    for phase in describe(config)["phases"]:
        hours[phase["stage"]] += phase["tokens"] / 42.5e3 / 3600
    assert hours == pytest.approx({"language": 6, "reasoning": 5, "math": 4, "code": 3}, rel=1e-3)
    assert (config.lr_scheduler_type, config.lr_end, config.parallel) == ("linear", 0, "zero1")
    gates = config.gates()
    assert list(gates) == list(hours) and all(gate.limit == 0 for gate in gates.values())
    assert config.compile == "model"


def test_system_4_grows_its_rows_and_checkpoints_every_fourth_layer():
    config = read_config("yxanul-317m", [])
    assert [phase["length"] for phase in phases("yxanul-317m")][:4] == [256, 512, 1024, 2048]
    (kwargs,) = (value for key, value in config.training_arguments.items() if key.endswith("checkpointing_kwargs"))
    assert kwargs == {"every_n_layers": 4}
    assert all("epochs" in stage for stage in config.stages), "steps follow from the data"


def test_system_5_takes_2000_steps_of_128_rows():
    config = read_config("elite-112m", [])
    facts = describe(config)
    assert (facts["steps"], facts["tokens"]) == (2000, 2000 * 128 * 2048)
    assert (config.learning_rate, config.lr_scheduler_type, config.warmup_steps) == (8e-4, "cosine", 5)
    assert config.eval_steps == 100 and config.accumulation(processes=1) == 128 / 8
    assert describe(read_config("elite-112m-best", []))["tokens"] == facts["tokens"]


def test_system_5_fine_tunes_in_50_steps_on_alpaca_and_gsm8k():
    config = read_config("elite-112m-sft", [])
    assert (describe(config)["steps"], config.learning_rate) == (50, 3e-4)
    sources = [spec for entry in config.data.values() for spec in entry.get("sources", [])]
    assert [spec.partition(",")[0] for spec in sources] == ["hf:tatsu-lab/alpaca", "hf:openai/gsm8k"]
    assert config.data["tokenizer"]["template"] == "user-assistant"


# --- with no data there ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_plans_and_dry_runs_with_no_data_there(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", name]) == 0 and main(["pretrain", name, "--dry-run"]) == 0
    out = capsys.readouterr()
    assert "together: " in out.out and "nothing was trained" in out.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SYSTEMS)
def test_hub_sources_are_written_as_the_data_room_reads_them(name, monkeypatch):
    """Of a Hub on which every data set is empty: which columns and configurations there are is not looked at."""
    monkeypatch.setattr(hub_datasets, "open_split", lambda *words: SimpleNamespace(commit="0"))
    monkeypatch.setattr(hub_datasets, "readers_of", lambda origin, columns: [])
    for folder, entry in read_yaml(ROOT / f"recipes/{name}.yaml")["data"].items():
        entry = checked_entry(folder, entry)
        for spec in entry.get("sources", []) + entry.get("decontaminate", []):
            if spec.startswith("hf:"):
                with pytest.raises(BadInput, match="holds no documents"):
                    open_source(spec, conversations="conversations" in entry)


@pytest.mark.parametrize(
    "words, message",
    [
        (["elite-112m"], "data: bins/smollm2/fineweb-edu: hf:HuggingFaceFW/fineweb-edu cannot be opened: "),
        (
            ["elite-112m"],
            "`yxanul data prepare --tokenizer HuggingFaceTB/SmolLM2-135M --out bins/smollm2/fineweb-edu --held-out ",
        ),
        (["elite-112m"], "or run with --scale tiny."),
        (
            ["continue"],
            "model runs/177m-best/final: it is no folder here, and no model on the Hub that can be reached",
        ),
        (["elite-112m", "--processes", "3"], "rows=128 does not divide by 3 processes x 16 accumulation"),
        (["yxanul-0.6b", "stages.math.tokens=6e4"], "stage math: its budget of 60,000 tokens is less than one step"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_any_work(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["pretrain", *words, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- as a toy --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """`toys(name)`: the folder of that recipe's toy run; all share one bins/tiny."""
    here = tmp_path_factory.mktemp("toys")

    def run(name):
        folder = here / name
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(here)
                assert main(words(name, here)) == 0
        return folder

    def words(name, here):
        begin = ["--init-from", str(run("elite-112m") / "final")] if name in GOES_ON and name != "sft" else []
        verb = "sft" if "sft" in name else "pretrain"
        return [verb, name, "--scale", "tiny", "--out", str(here / name), "use_cpu=true", *begin]

    run.here, run.words = here, words
    return run


TWIN = "yxanul-177m-8gpu"  # its toy is that of yxanul-177m-24gb with another learning rate


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == TWIN)) for name in NAMES])
def test_a_toy_goes_through_all_stages_and_gates(name, toys):
    run = toys(name)
    config = read_config(name, [])
    assert (run / "final/config.json").exists()
    assert [folder.name for folder in sorted((run / "stages").iterdir())] == [
        f"{number}-{stage['name']}" for number, stage in enumerate(config.stages, 1)
    ]
    verdicts = json.loads((run / "gates.json").read_text()) if config.gates() else {}
    assert list(verdicts) == list(config.gates()) and all(verdict["passed"] for verdict in verdicts.values())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    (first, *_, last) = [line["eval_bits_per_byte"] for line in lines if "eval_bits_per_byte" in line]
    assert last < first, "it has learnt something"


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_toy_has_the_structure_of_its_recipe(name, toys):
    real, toy = read_config(name, []), read_config(name, [], "tiny")
    toys_own = {"model_config", "tokenizer", "stages", "validation", "validation_tokens", "validation_length", "data"}
    toys_own |= {"warmup_steps", "warmup_tokens", "precision", "parallel", "gradient_accumulation_steps", "report_to"}
    toys_own |= {"max_micro_batch_tokens", "logging_steps", "save_steps", "eval_steps", "attention", "compile"}
    toys_own |= {"init_from"} if "template" in real.data.get("tokenizer", {}) else set()
    for key in SETTINGS.keys() - toys_own:
        assert getattr(real, key) == getattr(toy, key), key
    assert toy.training_arguments.keys() == real.training_arguments.keys()
    assert toy.validation.keys() == real.validation.keys()
    assert bool(toy.warmup_steps) == bool(real.warmup_steps) and bool(toy.eval_steps) == bool(real.eval_steps)
    assert (toy.accumulation(1) > 1) == (real.accumulation(1) > 1)
    for stage, small in zip(real.stages, toy.stages, strict=True):
        assert stage["name"] == small["name"] and len(stage["sources"]) == len(small["sources"])
        weights = [source["weight"] for source in small["sources"]]
        assert len(weights) == 1 or weights == [source["weight"] for source in stage["sources"]]
        lengths = [[phase["length"] for phase in entry["phases"]] for entry in (stage, small)]
        assert len(lengths[0]) == len(lengths[1]) and lengths[1] == sorted(lengths[1])
    gates = [{stage: (gate.domain, gate.known) for stage, gate in config.gates().items()} for config in (real, toy)]
    assert gates[0] == gates[1]
    assert not toy.plan().roundings


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in GOES_ON])
def test_a_toys_model_has_the_structure_of_its_preset(name, toys):
    real, toy = (read_config(name, [], scale).shape().config for scale in (None, "tiny"))
    for key in ("tie_word_embeddings", "learned_position_embeddings", "hidden_act", "rms_norm_eps"):
        assert getattr(real, key) == getattr(toy, key), key
    assert (real.embedding_rank is None) == (toy.embedding_rank is None)
    assert real.num_attention_heads / real.num_key_value_heads == toy.num_attention_heads / toy.num_key_value_heads
    assert toy.hidden_size < 100 and toy.num_hidden_layers == 4
    ratio = real.intermediate_size / real.hidden_size
    assert toy.intermediate_size / toy.hidden_size == pytest.approx(ratio, rel=0.15)


def test_a_toy_of_fine_tuning_begins_with_nothing_or_with_what_the_command_line_names(toys):
    alone, named = (
        read_config("sft", [], "tiny"),
        read_config("sft", [f"init_from={toys('elite-112m')}/final"], "tiny"),
    )
    assert alone.init_from is None and not Path(alone.tokenizer).is_relative_to(Path(named.tokenizer).parent)
    assert named.data["tokenizer"]["from"] == named.init_from == named.model
    other = read_config("sft", ["init_from=other", "model=tiny"], "tiny")
    assert other.tokenizer != named.tokenizer, "bins of one model's tokenizer are no other's"
    assert load_tokenizer(toys("sft") / "final").vocabulary_size <= alone.shape().config.vocab_size


def test_a_toy_that_goes_on_as_no_toy_says_so_in_a_few_words(toys, monkeypatch, capsys):
    run = toys("elite-112m")
    monkeypatch.chdir(toys.here)
    words = [word for word in toys.words("elite-112m", toys.here) if word not in ("--scale", "tiny")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"{run} was begun with another recipe (it is a toy: --scale tiny goes on): " in said
    assert len(said) < 1000 and re.search("; and [0-9]+ more. Give another --out", said)


def test_the_same_command_goes_on_and_the_resolved_config_too(toys, monkeypatch, capsys):
    run = toys("elite-112m")
    monkeypatch.chdir(toys.here)
    before = (run / "config.yaml").read_text()
    assert main(toys.words("elite-112m", toys.here)) == 0
    assert "is done: step 48 of 48" in capsys.readouterr().err
    assert main(["pretrain", str(run / "config.yaml"), "--out", str(run)]) == 0
    assert (run / "config.yaml").read_text() == before


def test_toys_share_their_data(toys):
    toys("elite-112m"), toys("yxanul-197m")
    made = {folder.name for folder in (toys.here / "bins/tiny").iterdir()}
    pretraining = {name for name in made if not name.startswith("chat-")}  # conversations have another tokenizer
    assert pretraining <= {"tokenizer", "language", "reasoning", "math", "math-level-easy", "code"}
    assert [folder.name for folder in (toys.here / "bins").iterdir()] == ["tiny"]


def test_a_toy_says_that_it_is_one_and_can_be_changed(capsys):
    assert main(["plan", "elite-112m", "--scale", "tiny", "stages.language.steps=12", "--json"]) == 0
    out, said = capsys.readouterr()
    assert json.loads(out)["steps"] == 12
    assert said.startswith("--scale tiny: a toy on built-in text (bins/tiny)") and said.count("\n") == 1


RECIPE = """
model: tiny
data: {{bins/a: {{sources: [notes/]{stand_in}}}}}
stages:
  - {{name: first, sources: [{{bin: {bin}/train, tokens: 1e6}}], tokens: {tokens}, phases: [{{length: 64, rows: 16}}]}}
"""


@pytest.mark.parametrize(
    "changes, message",
    [
        ({}, "run.yaml: data: bins/a has no stand_in for --scale tiny: add `stand_in: builtin:language`."),
        (
            {"stand_in": ", stand_in: builtin:code", "bin": "bins/b"},
            "bins/b/train has no stand-in for --scale tiny: giv",
        ),
        ({"tokens": 1000}, "its budget of 1,000 tokens is less than one step of 16 x 64 = 1,024: raise it, or take f"),
        ({"tokens": "many"}, "run.yaml: stage first, tokens must be a number"),
    ],
)
def test_a_recipe_that_cannot_be_a_toy_says_why(changes, message, tmp_path):
    values = {"stand_in": "", "bin": "bins/a", "tokens": 5000} | changes
    (tmp_path / "run.yaml").write_text(RECIPE.format(**values))
    with pytest.raises(BadInput) as error:
        read_config(str(tmp_path / "run.yaml"), [], "tiny")
    assert message in str(error.value), error.value


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_table_of_the_docs_has_every_recipe_with_its_steps_and_tokens():
    table = (ROOT / "docs/recipes.md").read_text().partition("| recipe |")[2].partition("\n\n")[0]
    rows = dict(re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", table, flags=re.MULTILINE))
    assert set(rows) == set(SYSTEMS)
    for name, row in rows.items():
        model, _, steps, tokens, *_ = (cell.strip() for cell in row.split("|"))
        facts = describe(read_config(name, []))
        assert model.strip("`") == facts["model"]
        assert int(steps.replace(",", "")) == facts["steps"], name
        assert tokens == f"{facts['tokens'] / 1e9:.3g} B", name
