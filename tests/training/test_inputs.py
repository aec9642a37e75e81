"""Bins, tokenizer and model that do not agree end before any work: one sentence, exit code 2, no run's folder."""

import json
import shutil
from types import SimpleNamespace

import pytest

from yxanul.__main__ import main
from yxanul.data.tokenizers import load_tokenizer
from yxanul.training.inputs import load_fast_tokenizer, open_held_out, open_stream


@pytest.fixture
def refused(recipe, tmp_path, capsys):
    """`refused(**changes)`: the one sentence with which the command ends."""

    def make(**changes):
        out = tmp_path / "run"
        assert main(["pretrain", str(recipe(**changes)), "--out", str(out)]) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and printed.err.count("\n") == 1 and printed.err.startswith("yxanul: ")
        assert not out.exists()
        return printed.err

    return make


def stage(*folders, **changes):
    sources = [{"bin": str(folder)} | changes for folder in folders]
    return {"name": "one", "sources": sources, "phases": [{"length": 16, "rows": 4, "steps": 8}]}


def of_another_tokenizer(source, folder, **changes):
    shutil.copytree(source, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["tokenizer"] |= {"name": "another", "fingerprint": "1" * 16} | changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_bin_that_is_not_there(refused, tmp_path):
    message = refused(stages=[stage(tmp_path / "bins/no", tokens=1e5)])
    assert f"the bin {tmp_path}/bins/no, a source or validation text of the recipe, is not there" in message


def test_a_held_out_bin_that_is_not_there(refused):
    assert "the bin bins/no, a source or validation text of the recipe, is not there" in refused(
        validation={"language": "bins/no"}
    )


def test_a_bin_that_was_cut_short(refused, bins, tmp_path):
    shutil.copytree(bins / "code/held_out", tmp_path / "cut")
    with (tmp_path / "cut/tokens-00000.bin").open("r+b") as file:
        file.truncate(100)
    assert f"{tmp_path}/cut is damaged: tokens-00000.bin has 100 bytes" in refused(stages=[stage(tmp_path / "cut")])


def test_two_bins_of_different_tokenizers(refused, bins, tmp_path):
    one, other = bins / "language/train", of_another_tokenizer(bins / "code/train", tmp_path / "other")
    message = refused(stages=[stage(one, other)])
    assert f"{one} and {other} were made with different tokenizers (made-up and another): prepare one" in message


def test_a_held_out_bin_of_another_tokenizer(refused, bins, tmp_path):
    other = of_another_tokenizer(bins / "code/held_out", tmp_path / "other")
    assert f"{other} were made with different tokenizers" in refused(validation={"code": str(other)})


def test_bins_of_another_tokenizer_than_the_recipes(refused, tokenizer):
    message = refused(tokenizer=str(tokenizer))
    assert "train was made with another tokenizer (made-up, fingerprint 0000000000000000; wanted is" in message


def test_bins_of_another_tokenizer_than_that_of_the_weights_to_begin_with(refused, tokenizer, small_shape, tmp_path):
    from yxanul.configuration_yxanul import YxanulConfig

    YxanulConfig(**small_shape).save_pretrained(tmp_path / "trained")
    load_fast_tokenizer(SimpleNamespace(tokenizer=str(tokenizer))).save_pretrained(tmp_path / "trained")
    message = refused(model=None, model_config=None, init_from=str(tmp_path / "trained"))
    assert f"made-up, which is not that of init_from={tmp_path}/trained: set tokenizer={tmp_path}/trained" in message


def test_a_vocabulary_above_the_models(refused, small_shape):
    message = refused(model_config=small_shape | {"vocab_size": 60})
    assert "tokenizer of 61 ids, the model has vocab_size=60: set model_config.vocab_size=61" in message


def test_a_length_above_the_models_positions(refused, small_shape):
    message = refused(model_config=small_shape | {"max_position_embeddings": 63})
    assert "stage code: length 64 is above the model's max_position_embeddings=63: shorten the phase" in message


def test_a_packed_bin_has_no_documents_to_evaluate(refused, bins):
    assert "packed is packed, and only a bin that is not" in refused(validation={"language": str(bins / "packed")})


@pytest.fixture
def opened(small_config):
    def make(**changes):
        config = small_config(**changes)
        plan, shape = config.plan(), config.shape().config
        stream = open_stream(config, plan, shape)
        return stream, open_held_out(config, plan, stream, shape, 4)

    return make


def test_what_agrees_is_opened(opened, bins):
    stream, held_out = opened()
    assert set(stream.bins) == {str(bins / "language/train"), str(bins / "code/train")} and stream.seed == 1
    assert set(held_out) == {"language", "code"}


@pytest.mark.parametrize("asked, length", [(None, 64), (32, 32), (1000, 64)])
def test_held_out_rows_are_as_long_as_the_plans_longest_and_fit_the_model(opened, asked, length):
    _, held_out = opened(validation_length=asked)
    assert held_out["code"].batch(0).input_ids.shape == (4, length)


def test_no_more_is_evaluated_than_was_asked_for(opened):
    _, held_out = opened(validation_tokens=500)
    assert all(300 < domain.tokens <= 500 for domain in held_out.values())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A folder with a tokenizer of ours."""
    folder = tmp_path_factory.mktemp("tokenizer") / "it"
    words = ["tokenizer", "train", "--kind", "bpe", "--vocabulary", "300", "--out", str(folder)]
    assert main([*words, "--source", "builtin:language", "--limit-bytes", "100000"]) == 0
    return folder


def test_a_tokenizer_is_saved_beside_the_weights_whatever_way_it_was_named(small_config, tokenizer, tmp_path):
    for number, name in enumerate((tokenizer, tokenizer / "tokenizer.json")):
        load_fast_tokenizer(small_config(tokenizer=str(name))).save_pretrained(tmp_path / str(number))
        assert (tmp_path / str(number) / "tokenizer.json").is_file()


def test_a_tokenizer_of_a_named_class_is_saved_as_it_is(small_config, tokenizer, tmp_path):
    """SmolLM2's says GPT2Tokenizer, which would save another pre-tokenizer: fine-tuning would then refuse its bins."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        content = json.loads((tokenizer / file).read_text())
        if "pre_tokenizer" in content:
            content["pre_tokenizer"] = {"type": "Digits", "individual_digits": True}
        else:
            content["tokenizer_class"] = "GPT2Tokenizer"
        (tmp_path / file).write_text(json.dumps(content))
    load_fast_tokenizer(small_config(tokenizer=str(tmp_path))).save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == load_tokenizer(tmp_path).fingerprint


def test_bins_of_the_recipes_tokenizer_are_opened(opened, tokenizer, bins, tmp_path):
    from yxanul.data.tokenizers import load_tokenizer

    own = {"fingerprint": load_tokenizer(tokenizer).fingerprint}
    folder = of_another_tokenizer(bins / "code/train", tmp_path / "own", **own)
    stream, _ = opened(tokenizer=str(tokenizer), stages=[stage(folder)], validation=None)
    assert set(stream.bins) == {str(folder)}
