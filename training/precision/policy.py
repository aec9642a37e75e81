"""Which part of a model computes in which format when a run has precision=fp8, and how many of its FLOPs that is.

    policy = read_policy({"down": "bf16", "gradients": "e4m3"}, "run.yaml")     # a recipe's precision_policy
    place(policy, shape.config, on_gpu=True)                                    # what a model's sizes leave of it

Arithmetic on shapes: no torch. Not here: the layer itself (native_fp8.py), whether a GPU can do it
(training_arguments.py).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.catalog import training_flops_per_token

if TYPE_CHECKING:
    from yxanul.training.config import RunConfig

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
CHOICES = {name: ("fp8", "bf16") for name in LINEARS}
CHOICES |= {"gradients": ("e5m2", "e4m3"), "weight_gradient": ("fp8", "bf16")}  # the first of each is the default
ALIGNMENT = 16  # cuBLAS refuses other sizes
SMALLEST_SIDE = 128  # below it the casts cost more than the product gains; a CPU, which runs it for tests, goes lower

Policy = dict[str, str]  # a format for every key of CHOICES


def read_policy(changes: Mapping[str, Any], where: str) -> Policy:
    for key, value in changes.items():
        if key not in CHOICES:
            raise BadInput(f"{where}: precision_policy: {unknown_name('key', key, CHOICES)}")
        if value not in CHOICES[key]:
            raise BadInput(f"{where}: precision_policy: {unknown_name(key, value, CHOICES[key])}")
    return {key: changes.get(key, values[0]) for key, values in CHOICES.items()}


def sizes(config: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each kind of linear layer."""
    hidden, feed_forward = config.hidden_size, config.intermediate_size
    ends = {"q": config.query_width, "k": config.key_width, "v": config.key_width}
    ends |= {"gate": feed_forward, "up": feed_forward}
    starts = {"o": config.query_width, "down": feed_forward}
    return {name: (starts.get(name, hidden), ends.get(name, hidden)) for name in LINEARS}


def place(policy: Policy, config: Any, on_gpu: bool) -> Policy:
    """The policy with layers that are too small for FP8 in bf16; refused where a layer cannot run as asked."""
    placed = dict(policy)
    for name, (inputs, outputs) in sizes(config).items():
        if policy[name] == "fp8" and (inputs % ALIGNMENT or outputs % ALIGNMENT):
            raise BadInput(
                f"precision=fp8: {name}_proj is {inputs:,} x {outputs:,}, and FP8 needs multiples of {ALIGNMENT}: "
                f"take precision_policy.{name}=bf16, or another shape."
            )
        if on_gpu and min(inputs, outputs) < SMALLEST_SIDE:
            placed[name] = "bf16"
    if not in_fp8(placed):
        raise BadInput("precision=fp8, but no layer of this model would run in it: take precision=bf16.")
    return placed


def in_fp8(policy: Policy) -> list[str]:
    return [name for name in LINEARS if policy[name] == "fp8"]


def fp8_share(policy: Policy, config: Any, tokens_of_length: Mapping[int, float]) -> float:
    """Of the training FLOPs; a linear layer has three products, the last of them its weights' gradient."""
    products = 3 if policy["weight_gradient"] == "fp8" else 2
    weights = sum(inputs * outputs for name, (inputs, outputs) in sizes(config).items() if policy[name] == "fp8")
    flops = 2 * products * weights * config.num_hidden_layers * sum(tokens_of_length.values())
    everything = sum(
        tokens * sum(training_flops_per_token(config, length).values()) for length, tokens in tokens_of_length.items()
    )
    return flops / everything


def formats_of_run(config: "RunConfig", on_gpu: bool) -> tuple[Policy, list[str]]:
    """The placed policy, and what a run says of it as it starts: the formats of all parts, and what fell back."""
    asked, shape = read_policy(config.precision_policy, config.recipe), config.shape().config
    placed, rest = place(asked, shape, on_gpu), "bf16" if on_gpu else "fp32"
    share = fp8_share(placed, shape, config.plan().tokens_of_length())
    others = [name for name in LINEARS if placed[name] != "fp8"]
    small = [f"{name}_proj ({min(sizes(shape)[name])})" for name in others if asked[name] == "fp8"]
    weight_gradient = f", weight gradients in {rest}" if placed["weight_gradient"] == "bf16" else ""
    said = [
        f"{', '.join(in_fp8(placed))} in FP8: E4M3 forward, {placed['gradients'].upper()} gradients{weight_gradient}, "
        f"each tensor scaled by its largest entry. {', '.join([*others, 'embeddings'])}, factor, norms, attention, "
        f"head in {rest}; master weights, moments, loss and accumulation in fp32. {share:.1%} of the training FLOPs "
        f"run in FP8, {1 - share:.1%} in {rest}."
    ]
    if small:
        said.append(f"{', '.join(small)} stay in bf16: FP8 gains nothing with a side below {SMALLEST_SIDE}.")
    if not on_gpu:
        said.append("FP8 ON A CPU IS FOR TESTS: its rounding without its speed; what is not in FP8 is in fp32.")
    return placed, said
