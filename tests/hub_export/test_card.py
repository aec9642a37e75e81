"""The card says what was found, in the form that the Hub reads, and nothing else; one that it would refuse is."""

import json

import pytest
import yaml
from small_runs.published import ROW

from yxanul.bad_input import BadInput
from yxanul.hub_export.card import About, Facts, check_card, eval_results, model_card
from yxanul.hub_export.card_training import _machine
from yxanul.hub_export.facts import _keep_one_of_each_task
from yxanul.run_folder import RunFolder

CONFIG = {
    **{"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "vocab_size": 300, "embedding_rank": 8, "tie_word_embeddings": True},
    **{"hidden_act": "silu", "max_position_embeddings": 128, "model_type": "yxanul"},
}
ABOUT = About("me/talk", "apache-2.0", ("en",))
COMMIT = "0123456789" * 4


def result(task="gsm8k", data=f"openai/gsm8k, test, revision {COMMIT}", n=1319, **entry):
    figures = {"strict_match": {"value": 0.0125, "stderr": 0.003, "higher_is_better": True}}
    made = {"task": task, "version": 3.0, "status": "done", "n": n, "shots": 5, "data": data, "main": [*figures]}
    made |= {"metrics": figures, "date": "2026-11-22"} | entry
    about = {"date": "2026-11-22", "versions": {"torch": "2.13"}, "protocol": "lm-eval 0.4.13"}
    return about | {"command": "yxanul evaluate runs/talk --tasks gsm8k", "tasks": {task: made}}


SUITE = result(
    "facts",
    main=["right"],
    metrics={"right": {"value": 0.1, "stderr": 0.05, "higher_is_better": True}},
    categories={
        "capitals": {"n": 20, "right": 0, "interval": [0.0, 0.16]},
        "colours": {"n": 20, "right": 2, "interval": [0.03, 0.3]},
        "plurals": {"n": 20, "right": 18, "interval": [0.7, 0.97]},
    },
)


def facts(**changes):
    return Facts(**{"config": CONFIG, "parameters": 12345, "dtypes": ("float32",)} | changes)


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def test_what_is_not_known_is_said_to_be_so_or_left_out():
    text = model_card(About("me/talk"), facts())
    check_card(text)
    assert "**12,345** parameters" in text and "factorised, rank 8" in text
    assert not {"license", "datasets", "base_model", "model-index", "language"} & front(text).keys()
    assert "No tool was tested" in section(text, "Use") and "not known here" in section(text, "Training data")
    assert "No benchmark was run" in section(text, "Evaluation")
    assert "not tested by category" in section(text, "Limitations")
    assert "No licence was chosen" in section(text, "Licence")
    assert "## Training\n" not in text and "year" not in section(text, "Citation")


def test_figures_of_the_run_are_those_of_its_files(made_run):
    text = model_card(ABOUT, facts(run=made_run, data_licences={"owner/stories": "cdla-sharing-1.0"}))
    data, training = section(text, "Training data"), section(text, "Training")
    assert "(https://huggingface.co/datasets/owner/stories) | cdla-sharing-1.0" in data
    assert "| builtin:math | generated problems" in data and "| books | not known here |" in data
    assert "/home/me" not in text and front(text)["datasets"] == ["owner/stories"]
    assert "| tokens | 2,000 |" in training and "2 x NVIDIA H200" in training
    assert "0.01 h" in training and "0.00 kWh by the first" in training  # 20 s at 360 W
    assert "| talk | 4.0000 | 2.5000 | 25.0% |" in training and "talk passed" in training
    assert "year = {2023}" in text
    early = section(model_card(ABOUT, facts(run=made_run, step=5)), "Training")
    assert "| tokens | 1,000 |" in early and "Gates" not in early and "2.5000" not in early


def test_a_bin_that_the_recipe_does_not_make_is_named_among_the_data(made_run):
    recipe = yaml.safe_load(made_run.config.read_text())
    recipe["stages"][0]["sources"].append({"bin": "/home/me/bins/poems/train"})
    made_run.config.write_text(yaml.safe_dump(recipe))
    data = section(model_card(ABOUT, facts(run=made_run)), "Training data")
    assert "| bin poems | not known here |" in data and "owner/stories" in data and "/home" not in data


def test_the_energy_is_power_times_time(tmp_path):
    lines = [{"tokens": 3600 * n, "tokens_per_second": 1.0, "power": 1000.0} for n in (1, 2)]
    energy = dict(_machine(RunFolder(tmp_path), lines))["energy"]
    assert energy.startswith("2.00 kWh by the first process's GPU in 2.00 h")
    unmeasured = [{"tokens": 1, "tokens_per_second": 1.0}]
    assert dict(_machine(RunFolder(tmp_path), unmeasured))["energy"] == "not measured"


def test_the_best_evaluation_is_shown_where_the_run_kept_the_best(made_run):
    best = {"keep_best": True, "metric_for_best_model": "bits_per_byte", "greater_is_better": False}
    made_run.config.write_text(yaml.safe_dump(yaml.safe_load(made_run.config.read_text()) | best))
    worse = {"step": 15, "tokens": 3000, "time": 1.7e9, "eval_talk_bits_per_byte": 2.7, "eval_bits_per_byte": 2.7}
    with made_run.metrics.open("a") as file:
        file.write(json.dumps(worse) + "\n")
    training = section(model_card(ABOUT, facts(run=made_run)), "Training")
    assert "after step 10" in training and "| tokens | 2,000 |" in training
    late = section(model_card(ABOUT, facts(run=made_run, step=15)), "Training")
    assert "after step 15" in late and "2.7000" in late, "a checkpoint has its own weights, not the best ones"


def test_results_stand_in_the_table_in_the_index_and_on_the_leaderboard():
    from huggingface_hub import ModelCard, parse_eval_result_entries

    found = facts(results=[result(), SUITE])
    text = model_card(ABOUT, found)
    check_card(text)
    assert "| gsm8k | 3.0 | strict_match | 1.25 ± 0.30 | 1,319 | 5 | - |" in section(text, "Evaluation")
    (entry,) = ModelCard(text).data.eval_results
    assert (entry.dataset_type, entry.dataset_revision, entry.metric_value) == ("openai/gsm8k", COMMIT, 1.25)
    made = eval_results(ABOUT, found)
    (published,) = parse_eval_result_entries(yaml.safe_load(made["gsm8k.yaml"]))
    assert (published.dataset_id, published.task_id, published.value) == ("openai/gsm8k", "gsm8k", 1.25)
    assert "standard error 0.3" in published.notes
    assert not eval_results(ABOUT, facts(results=[result(n=100)])), "a leaderboard compares whole splits"
    not_run = {"task": "humaneval", "version": 1.0, "status": "not run", "reason": "no sandbox"}
    shown = section(model_card(ABOUT, facts(results=[result() | {"tasks": {"humaneval": not_run}}])), "Evaluation")
    assert "| humaneval | 1.0 |  | not run |" in shown


def test_limitations_are_the_suites_failures_and_what_chance_can_do_too():
    chance = result("hellaswag", main=["acc"], chance={"acc": 0.25})
    chance["tasks"]["hellaswag"]["metrics"] = {"acc": {"value": 0.26, "stderr": 0.01, "higher_is_better": True}}
    failure = {"prompt": "What is | 1+1?", "output": "<<1+1=3>>3", "reason": "3, not 2"}
    text = section(model_card(ABOUT, facts(results=[SUITE, chance], failures=[failure])), "Limitations")
    assert "No better than chance at hellaswag (acc" in text
    assert (
        "no answer is right: capitals." in text and "under half of the answers are right: colours (2 of 20)." in text
    )
    assert "plurals" not in text
    assert "| What is \\| 1+1? | &lt;&lt;1+1=3>>3 | 3, not 2 |" in text


def test_only_tools_that_passed_with_this_checkpoint_are_shown():
    gguf = {"artefact": "gguf Q8_0", "client": "llama.cpp (0.3)"}
    broken = ROW | {"artefact": "gguf Q4_0", "passed": False}
    checks = [
        {"target": "transformers", "rows": [ROW]},
        {"target": "gguf", "rows": [ROW | gguf, broken], "files": ["talk-Q8_0.gguf"]},
        {"target": "onnx", "rows": [ROW | {"artefact": "model.onnx", "passed": False}]},
    ]
    text = section(model_card(ABOUT, facts(checks=checks)), "Use")
    assert 'Llama.from_pretrained("me/talk", filename="talk-Q8_0.gguf")' in text
    assert "Q4_0" not in text and "onnx" not in text.lower()
    assert 'from_pretrained("me/talk", trust_remote_code=True)' in text and "apply_chat_template" not in text
    talking = section(model_card(ABOUT, facts(checks=checks, talks=True)), "Use")
    assert "apply_chat_template" in talking


def test_an_own_licence_has_a_name_and_an_address():
    text = model_card(About("me/talk", "ours-1.0=https://example.org/licence"), facts())
    check_card(text)
    assert front(text)["license"] == "other" and front(text)["license_name"] == "ours-1.0"
    assert "[ours-1.0](https://example.org/licence)" in section(text, "Licence")


@pytest.mark.parametrize("front", ["language: en\ndatasets: me/stories", "", "base_model: [me/a, me/b]"])
def test_a_card_of_your_own_may_write_one_where_several_can_stand(front):
    check_card(f"---\n{front}\n---\n")


@pytest.mark.parametrize(
    "text, message",
    [
        ("# No front matter\n", "no front matter"),
        ("---\nlicense: [\n---\n", "not valid"),
        ("---\nlicense: apache2\n---\n", "'apache2' must be an id"),
        ("---\nlicense: other\n---\n", "other needs name and link"),
        ("---\nlanguage: [english]\n---\n", "'english' is no language code"),
        ("---\ndatasets: [a b]\n---\n", "'a b' is no name"),
        ("---\nbase_model: /home/me/x\n---\n", "'/home/me/x' is no name"),
        ("---\n- a\n---\n", "should be a dict"),
        ("---\nlicense: mit\n---\n[More Information Needed]\n", "More Information Needed"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused_here(text, message):
    with pytest.raises(BadInput, match=message.replace("[", r"\[")):
        check_card(text)


def test_of_a_task_that_was_run_twice_the_one_with_more_samples_is_told():
    def result(date, **samples):
        return {"date": date, "tasks": {name: {"n": count} for name, count in samples.items()}}

    results = [result("2026-01-02", gsm8k=3), result("2026-01-01", gsm8k=9, c4=5), result("2026-01-03", c4=5)]
    _keep_one_of_each_task(results)
    assert [(each["date"], list(each["tasks"])) for each in results] == [
        ("2026-01-01", ["gsm8k"]),
        ("2026-01-03", ["c4"]),
    ]
