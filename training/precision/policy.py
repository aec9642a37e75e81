"""Which part of a model computes in which format when a run has precision=fp8 or te, and how many FLOPs that is.

    policy = read_policy({"down": "bf16", "gradients": "e4m3"}, "run.yaml")     # a recipe's precision_policy
    place(policy, shape.config, on_gpu=True)                                    # what a model's sizes leave of it

Transformer Engine (te) takes whole modules, so there all seven layers run in FP8 or the run is refused.
Arithmetic on shapes: no torch. Not here: the layers themselves (native_fp8.py, te_layers.py), whether a GPU can do it
(training_arguments.py).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yxanul.bad_input import BadInput, unknown_name
from yxanul.catalog import training_flops_per_token
from yxanul.data.plan import Plan

if TYPE_CHECKING:
    from yxanul.training.config import RunConfig

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")
CHOICES = {name: ("fp8", "bf16") for name in LINEARS}
CHOICES |= {"gradients": ("e5m2", "e4m3"), "weight_gradient": ("fp8", "bf16")}  # the first of each is the default
ALIGNMENT = 16  # cuBLAS refuses other sizes
SMALLEST_SIDE = 128  # below it the casts cost more than the product gains; a CPU, which runs it for tests, goes lower

TE_CHOICES: dict[str, tuple] = {
    "scaling": ("delayed", "current", "block"),
    "gradients": CHOICES["gradients"],
    "history": (16, 1, 2, 4, 8, 32, 64, 128, 256, 512, 1024),  # uses that delayed scaling looks back on
    "weight_cache": (False, True),  # weights are cast once in a step, not in each micro-batch
    "fuse_accumulation": (False, True),  # weights' gradients are added up by the product itself
}
TE_ACTIVATIONS = {"silu": "swiglu", "gelu_pytorch_tanh": "geglu"}  # its GELU is the one with tanh
TE_ROPE = ("default", "linear", "llama3")  # its kernel takes angles alone: no factor, no table that follows the length
TE_BLOCK = 128  # of block scaling
TE_SCALES = {
    "delayed": "each tensor scaled by its largest entry in the last {history} uses",
    "current": "each tensor scaled by its largest entry",
    "block": "each block of 128 numbers scaled by its largest entry",
}

Policy = dict[str, Any]  # a value for every key of CHOICES; of te's also those of TE_CHOICES


def read_policy(changes: Mapping[str, Any], where: str, precision: str = "fp8") -> Policy:
    """Of fp8 or te; any other precision uses none of it, and takes what either has."""
    choices: dict[str, tuple] = {"fp8": CHOICES, "te": TE_CHOICES}.get(precision, CHOICES | TE_CHOICES)
    for key, value in changes.items():
        if key not in choices and key in CHOICES | TE_CHOICES:
            raise BadInput(
                f"{where}: precision_policy.{key} is not for precision={precision}, whose keys are "
                f"{', '.join(choices)}: leave it out, or take precision={'fp8' if precision == 'te' else 'te'}."
            )
        if key not in choices:
            raise BadInput(f"{where}: precision_policy: {unknown_name('key', key, choices)}")
        if value not in choices[key] or type(value) is not type(choices[key][0]):
            known = [str(choice).lower() for choice in choices[key]]
            raise BadInput(f"{where}: precision_policy: {unknown_name(key, str(value).lower(), known)}")
    policy = {key: changes.get(key, values[0]) for key, values in choices.items()}
    if precision == "te":
        policy = {key: values[0] for key, values in CHOICES.items()} | policy
        if policy["scaling"] == "block":
            policy["gradients"] = "e4m3"
        if "history" in changes and policy["scaling"] != "delayed":
            raise BadInput(f"{where}: precision_policy.history is of delayed scaling: leave it out.")
        if policy["gradients"] != changes.get("gradients", policy["gradients"]):
            raise BadInput(f"{where}: precision_policy: block scaling has gradients in e4m3: leave gradients out.")
    return policy


def sizes(config: Any) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each kind of linear layer."""
    hidden, feed_forward = config.hidden_size, config.intermediate_size
    ends = {"q": config.query_width, "k": config.key_width, "v": config.key_width}
    ends |= {"gate": feed_forward, "up": feed_forward}
    starts = {"o": config.query_width, "down": feed_forward}
    return {name: (starts.get(name, hidden), ends.get(name, hidden)) for name in LINEARS}


def place(policy: Policy, config: Any, on_gpu: bool) -> Policy:
    """The policy with layers that are too small for FP8 in bf16; refused where a layer cannot run as asked."""
    if "scaling" in policy:
        _check_te(policy, config, on_gpu)
        return policy
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


def _check_te(policy: Policy, config: Any, on_gpu: bool) -> None:
    if config.hidden_act not in TE_ACTIVATIONS:
        raise BadInput(
            f"precision=te: Transformer Engine has no hidden_act={config.hidden_act}: "
            f"take one of {', '.join(TE_ACTIVATIONS)}, or precision=bf16."
        )
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope not in TE_ROPE:
        raise BadInput(
            f"precision=te: Transformer Engine's RoPE has no rope_type={rope}: "
            f"take one of {', '.join(TE_ROPE)}, or precision=bf16."
        )
    of = sizes(config)
    fused = {"q, k and v": (config.hidden_size, sum(of[name][1] for name in "qkv")), "o": of["o"]}
    fused |= {"gate and up": (config.hidden_size, 2 * of["up"][1]), "down": of["down"]}
    step = TE_BLOCK if policy["scaling"] == "block" else ALIGNMENT
    for name, (inputs, outputs) in fused.items():
        if inputs % step or outputs % step or on_gpu and min(inputs, outputs) < SMALLEST_SIDE:
            raise BadInput(
                f"precision=te: {name} make a matrix of {inputs:,} x {outputs:,}; {policy['scaling']} scaling needs "
                f"multiples of {step}, from {SMALLEST_SIDE} on: take another shape, or precision=bf16."
            )


def check_te_batches(policy: Policy, plan: Plan, parts: int) -> None:
    """`parts`: micro-batches of all processes in a step."""
    step = TE_BLOCK if policy["scaling"] == "block" else ALIGNMENT
    for stage in plan.stages:
        for phase in stage.phases:
            tokens = phase.step_tokens // parts
            if tokens % step:
                raise BadInput(
                    f"precision=te: stage {stage.name} has micro-batches of {tokens:,} tokens; {policy['scaling']} "
                    f"scaling needs multiples of {step}: take other rows, or precision=bf16."
                )


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
    asked = read_policy(config.precision_policy, config.recipe, "te" if config.precision == "te" else "fp8")
    shape = config.shape().config
    placed, rest = place(asked, shape, on_gpu), "bf16" if on_gpu else "fp32"
    share = fp8_share(placed, shape, config.plan().tokens_of_length())
    others = [name for name in LINEARS if placed[name] != "fp8"]
    small = [f"{name}_proj ({min(sizes(shape)[name])})" for name in others if asked[name] == "fp8"]
    weight_gradient = f", weight gradients in {rest}" if placed["weight_gradient"] == "bf16" else ""
    scales = TE_SCALES[placed.get("scaling", "current")].format_map(placed)
    said = [
        f"{', '.join(in_fp8(placed))} in FP8: E4M3 forward, {placed['gradients'].upper()} gradients{weight_gradient}, "
        f"{scales}. {', '.join([*others, 'embeddings'])}, factor, norms, attention, "
        f"head in {rest}; master weights, moments, loss and accumulation in fp32. {share:.1%} of the training FLOPs "
        f"run in FP8, {1 - share:.1%} in {rest}."
    ]
    if small:
        said.append(f"{', '.join(small)} stay in bf16: FP8 gains nothing with a side below {SMALLEST_SIDE}.")
    if not on_gpu:
        said.append("FP8 ON A CPU IS FOR TESTS: its rounding without its speed; what is not in FP8 is in fp32.")
    return placed, said
