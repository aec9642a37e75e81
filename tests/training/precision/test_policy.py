"""Which layers run in FP8, what share of a preset's FLOPs that is, and what a run says of it before it starts."""

import pytest

from yxanul.bad_input import BadInput
from yxanul.catalog import load_shape, training_flops_per_token
from yxanul.training.precision.policy import LINEARS, formats_of_run, fp8_share, in_fp8, place, read_policy

# at 2,048 tokens on a GPU; the 270 M's head of 200,005 x 640 takes 45 % of its FLOPs and stays in bf16
SHARES = {
    "elite-112m": 0.568,
    "yxanul-177m": 0.771,
    "yxanul-197m": 0.710,
    "yxanul-270m": 0.420,
    "yxanul-317m": 0.741,
    "yxanul-0.6b": 0.762,
}


def shape(name, **changes):
    return load_shape(name, changes).config


@pytest.mark.parametrize("name", SHARES)
def test_all_linear_layers_of_a_preset_run_in_fp8_and_so_much_of_its_flops(name):
    config = shape(name)
    placed = place(read_policy({}, ""), config, on_gpu=True)
    assert in_fp8(placed) == list(LINEARS) and (placed["gradients"], placed["weight_gradient"]) == ("e5m2", "fp8")
    assert fp8_share(placed, config, {2048: 1}) == pytest.approx(SHARES[name], abs=5e-4)


def test_the_share_is_that_of_the_layers_of_a_built_model(tiny_model, tiny_config):
    config = tiny_config("factorised-tied")
    layers = tiny_model("factorised-tied").model.layers
    weights = sum(parameter.numel() for parameter in layers.parameters() if parameter.ndim == 2)
    share = fp8_share(read_policy({}, ""), config, {32: 3, 64: 1})
    flops = [sum(training_flops_per_token(config, length).values()) for length in (32, 64)]
    assert share == pytest.approx(6 * weights * 4 / (3 * flops[0] + flops[1]))


def test_a_weight_gradient_in_bf16_takes_a_third_and_a_layer_in_bf16_its_part():
    config = shape("yxanul-177m")
    whole = fp8_share(read_policy({}, ""), config, {2048: 1})
    assert fp8_share(read_policy({"weight_gradient": "bf16"}, ""), config, {2048: 1}) == pytest.approx(whole * 2 / 3)
    changes = {"gate": "bf16", "up": "bf16", "down": "bf16"}
    assert fp8_share(read_policy(changes, ""), config, {2048: 1}) < whole / 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dwon": "bf16"}, "run.yaml: precision_policy: unknown key 'dwon': did you mean down?"),
        ({"head": "fp8"}, "unknown key 'head'"),
        ({"down": "fp16"}, "precision_policy: unknown down 'fp16': did you mean bf16?"),
        ({"gradients": "e5m3"}, "unknown gradients 'e5m3': did you mean e5m2?"),
    ],
)
def test_unknown_keys_and_formats_are_refused(changes, message):
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        read_policy(changes, "run.yaml")


def test_sizes_that_a_gpu_refuses_are_refused_on_a_cpu_too_by_the_layers_name():
    config = shape("tiny", intermediate_size=344)
    with pytest.raises(BadInput, match="gate_proj is 128 x 344, and FP8 needs multiples of 16: take precision_policy"):
        place(read_policy({}, ""), config, on_gpu=False)
    place(read_policy({"gate": "bf16", "up": "bf16", "down": "bf16"}, ""), config, on_gpu=False)


def test_on_a_gpu_small_layers_stay_in_bf16_and_the_run_says_so(small_config):
    config = small_config(model_config=None)
    placed, said = formats_of_run(config, on_gpu=True)
    assert in_fp8(placed) == ["q", "o", "gate", "up", "down"]
    assert said[1] == "k_proj (64), v_proj (64) stay in bf16: FP8 gains nothing with a side below 128."
    assert len(said) == 2 and "head in bf16" in said[0]
    placed, said = formats_of_run(config, on_gpu=False)
    assert in_fp8(placed) == list(LINEARS)
    assert len(said) == 2 and "head in fp32" in said[0] and "FP8 ON A CPU IS FOR TESTS" in said[1]


def test_a_model_without_a_layer_for_fp8_is_refused(small_config):
    with pytest.raises(BadInput, match="no layer of this model would run in it: take precision=bf16"):
        formats_of_run(small_config(), on_gpu=True)


def test_what_a_run_says_names_every_part(small_config):
    changes = {"down": "bf16", "gradients": "e4m3", "weight_gradient": "bf16"}
    config = small_config(model="yxanul-177m", model_config=None, precision_policy=changes)
    (said,) = formats_of_run(config, on_gpu=True)[1]
    assert said.startswith(
        "q, k, v, o, gate, up in FP8: E4M3 forward, E4M3 gradients, weight gradients in bf16, each tensor scaled by "
        "its largest entry. down, embeddings, factor, norms, attention, head in bf16; master weights, moments, loss "
        "and accumulation in fp32. "
    )
    # lengths 16, 32 and 64 of 12 x 256 + 8 x 256 tokens
    share = fp8_share(read_policy(changes, ""), config.shape().config, {16: 1536, 32: 1536, 64: 2048})
    assert said.endswith(f" {share:.1%} of the training FLOPs run in FP8, {1 - share:.1%} in bf16.")
