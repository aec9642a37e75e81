"""What the Trainer is told: the plan's steps, the machine's precision, and the recipe's own fields last."""

import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.run_folder import RunFolder
from yxanul.training.training_arguments import resolved_precision, training_arguments, uses_bf16


@pytest.fixture
def arguments(small_config, tmp_path):
    def make(processes=1, **changes):
        config = small_config(**changes)
        return training_arguments(config, config.plan(), RunFolder(tmp_path / "run"), processes)

    return make


def test_auto_is_fp32_on_a_cpu(small_config):
    assert resolved_precision(small_config()) == "fp32"


def test_bf16_on_a_cpu_is_refused(small_config):
    with pytest.raises(BadInput, match="precision=bf16 is for GPUs.*: take precision=fp32, or auto."):
        resolved_precision(small_config(precision="bf16"))


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as torch tells of it, with bf16 or without."""

    def pretend(has_bf16):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an old one")
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bf16)

    return pretend


@pytest.mark.parametrize("capability, has_it", [((8, 0), False), ((8, 9), True), ((9, 0), True), ((12, 0), True)])
def test_fp8_needs_a_gpu_that_has_it_and_computes_the_rest_in_bf16(small_config, gpu, monkeypatch, capability, has_it):
    gpu(has_bf16=True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    config = small_config(precision="fp8", use_cpu=False)
    if has_it:
        assert resolved_precision(config) == "fp8" and uses_bf16(config)
    else:
        with pytest.raises(BadInput, match="capability 8.9 or newer, and an old one has 8.0: take precision=bf16."):
            resolved_precision(config)
        with pytest.raises(BadInput, match="precision=te needs a GPU of compute capability 8.9 or newer"):
            resolved_precision(small_config(precision="te", use_cpu=False))
    assert not uses_bf16(small_config(precision="fp8", use_cpu=True))


@pytest.mark.parametrize(
    "precision, has_bf16, use_cpu, found",
    [
        ("auto", True, False, "bf16"),
        ("auto", False, False, "fp32"),
        ("auto", True, True, "fp32"),
        ("bf16", True, False, "bf16"),
        ("fp32", True, False, "fp32"),
    ],
)
def test_auto_is_bf16_on_a_gpu_that_has_it_and_is_used(small_config, gpu, precision, has_bf16, use_cpu, found):
    gpu(has_bf16)
    assert resolved_precision(small_config(precision=precision, use_cpu=use_cpu)) == found


def test_bf16_on_a_gpu_without_it_is_refused_by_its_name(small_config, gpu):
    gpu(has_bf16=False)
    with pytest.raises(BadInput, match="precision=bf16: an old one has no bf16"):
        resolved_precision(small_config(precision="bf16", use_cpu=False))


def test_one_train_spans_the_whole_plan_and_nothing_of_the_libraries_own_interferes(arguments):
    args = arguments()
    assert args.max_steps == 20 and args.eval_strategy == "no" and args.report_to == []
    assert not args.remove_unused_columns and not args.logging_nan_inf_filter


def test_a_recipe_sets_what_it_names(arguments):
    args = arguments(dataloader_num_workers=2, max_grad_norm=0.5, save_steps=10, adam_beta2=0.9)
    assert (args.dataloader_num_workers, args.max_grad_norm, args.save_steps, args.adam_beta2) == (2, 0.5, 10, 0.9)


def test_accumulation_is_what_the_memory_limit_asks_of_so_many_processes(arguments):
    assert arguments(max_micro_batch_tokens=64).gradient_accumulation_steps == 4
    assert arguments(processes=2, max_micro_batch_tokens=64).gradient_accumulation_steps == 2


def test_settings_that_the_library_refuses_are_bad_input(arguments):
    with pytest.raises(BadInput, match="recipe.yaml: transformers refuses these settings: .*tf32"):
        arguments(tf32=True)
