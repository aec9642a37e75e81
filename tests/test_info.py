"""`yxanul info` shows exact counts, and the same to programs."""

import json

from yxanul.info import main


def test_one_preset_shows_its_exact_count_and_the_difference_to_its_source(capsys):
    assert main(["yxanul-0.6b"]) == 0
    out = capsys.readouterr().out
    assert "341,479,680" in out and "its source claims 497,000,000: difference -155,520,320" in out


def test_all_presets_stand_in_one_table_with_the_other_tying(capsys):
    assert main(["--all"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "317,100,288" in lines["yxanul-317m"] and "278,502,912 tied" in lines["yxanul-317m"]


def test_json_holds_the_same_and_follows_changes(capsys):
    assert main(["tiny", "tie_word_embeddings=false", "--length", "64", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["parameters"] == sum(facts["components"].values()) == 1_262_720
    assert facts["parameters_with_other_tying"] == 1_000_576 and facts["length"] == 64
    assert abs(sum(facts["flops_share"].values()) - 1) < 1e-12
    assert facts["bytes"] == {"fp32": 4 * 1_262_720, "bf16": 2 * 1_262_720, "int8": 1_262_720}
