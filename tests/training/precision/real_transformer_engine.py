"""Holds what we ask of Transformer Engine, and our stand-in for it, against the real one, without a GPU.

    python real_transformer_engine.py         # where it can be imported; exits 0 if all of it is as we think

torch is told that there is a GPU, and tensors of scales are made on the CPU; modules are built, and nothing computes.
"""

import inspect
import os
import pathlib
import sys
import tempfile

import torch

os.environ["NVTE_TORCH_COMPILE"] = "0"  # read on import; compiling would ask for a GPU's random state
torch.cuda.is_available = lambda: True

import transformer_engine.pytorch as te  # noqa: E402
from transformer_engine.common import recipe as recipes  # noqa: E402
from transformer_engine.pytorch import quantization  # noqa: E402
from transformer_engine.pytorch.attention import rope  # noqa: E402

sys.path.append(str(pathlib.Path(__file__).parent))
import te_stand_in  # noqa: E402

from yxanul import YxanulConfig, YxanulForCausalLM  # noqa: E402
from yxanul.training import checkpoints  # noqa: E402
from yxanul.training.precision.policy import read_policy  # noqa: E402
from yxanul.training.precision.te_layers import Library  # noqa: E402
from yxanul.training.precision.transformer_engine import SCALES, TransformerEngine, recipe_of  # noqa: E402

LIBRARY = Library(te, recipes, rope)


def without_a_device():
    quantization._FP8_SUPPORT = quantization._FP8_BLOCK_SCALING_SUPPORT = (True, "")
    state = quantization.DelayedScalingRecipeState
    make = state.__init__
    state.__init__ = lambda self, *values, **options: make(self, *values, **options | {"device": "cpu"})


def build():
    shape = dict(hidden_size=256, intermediate_size=512, num_attention_heads=4, num_key_value_heads=2, vocab_size=64)
    return YxanulForCausalLM(YxanulConfig(**shape, num_hidden_layers=2))


def check_names_and_shapes():
    plain = {name: tuple(parameter.shape) for name, parameter in build().named_parameters()}
    model = build()
    weights = dict(build().named_parameters())
    engine = TransformerEngine(model, read_policy({"fuse_accumulation": True}, "", "te"), LIBRARY, processes=1)
    found = {}
    for names, parameter in checkpoints.named_parameters(model):
        assert parameter.device.type == "cpu" and parameter.dtype == torch.float32, names
        for name, part in zip(names, parameter.chunk(len(names)), strict=True):
            found[name] = tuple(part.shape)
    assert found == plain and weights.keys() == plain.keys(), found.keys() ^ plain.keys()
    state = {name: value for name, value in model.model.layers[0].state_dict().items() if "_extra_state" not in name}
    assert {name: tuple(value.shape) for name, value in state.items()} == {
        "input_layernorm.layer_norm_weight": (256,),
        "input_layernorm.q_weight": (256, 256),
        "input_layernorm.k_weight": (128, 256),
        "input_layernorm.v_weight": (128, 256),
        "self_attn.o_proj.weight": (256, 256),
        "mlp.layer_norm_weight": (256,),
        "mlp.fc1_weight": (1024, 256),
        "mlp.fc2_weight": (256, 512),
    }, state.keys()
    assert len(engine._fused) == 3 * 2  # o, gate over up, down
    engine.begin_step()
    assert all(parameter.main_grad is parameter.grad for parameter in engine._fused)


def check_signatures():
    """Our stand-in takes nothing that the real one does not take, with other defaults or in another place."""
    pairs = [(getattr(te_stand_in, name), getattr(te, name)) for name in vars(te_stand_in.MODULES)]
    pairs += [(te_stand_in.apply_rotary_pos_emb, rope.apply_rotary_pos_emb)]
    modules = ("Linear", "LayerNormLinear", "LayerNormMLP", "DotProductAttention")
    pairs += [(getattr(te_stand_in, name).forward, getattr(te, name).forward) for name in modules]
    for ours, theirs in pairs:
        real = inspect.signature(theirs).parameters
        for place, (name, parameter) in enumerate(inspect.signature(ours).parameters.items()):
            assert name in real, (theirs, name)
            positional = parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            assert not positional or list(real)[place] == name, (theirs, name, place)
            if ours.__name__ != "forward":
                assert real[name].default == parameter.default, (theirs, name)
    for name in ("DelayedScaling", "Float8CurrentScaling", "Float8BlockScaling"):
        ours, theirs = getattr(te_stand_in, name)(), getattr(recipes, name)()
        for field, value in vars(ours).items():
            real = getattr(theirs, field)
            assert getattr(real, "name", real) == getattr(value, "name", value), (name, field)


def check_recipes():
    delayed = recipe_of(read_policy({}, "", "te"), LIBRARY)
    assert (delayed.amax_history_len, delayed.amax_compute_algo) == (16, "max")
    assert delayed.fp8_format is recipes.Format.HYBRID and delayed.reduce_amax and not delayed.fp8_dpa
    for scaling in ("current", "block"):
        assert not recipe_of(read_policy({"scaling": scaling}, "", "te"), LIBRARY).delayed()


def check_scales():
    """The stand-in renews them as Transformer Engine's own function in plain torch does."""
    for direction, largest in (("scaling_fwd", 448.0), ("scaling_bwd", 57344.0)):
        state = te_stand_in.State(direction, te_stand_in.DelayedScaling(amax_history_len=4), 3)
        history, scale = state.amax_history.clone(), state.scale.clone()
        te_stand_in.REGISTERED[direction] = [state]
        for number in range(6):
            amax = torch.rand(3, generator=torch.Generator().manual_seed(number)) * 10 ** (number - 3)
            amax[2] = [0.0, 1.0, torch.inf, 2.0, 0.0, 0.0][number]
            state.amax_history[0] = history[0] = amax
            te_stand_in.renew(direction, None)
            quantization._amax_and_scale_update(history, scale, largest, recipes.DelayedScaling(amax_history_len=4))
            assert torch.equal(state.amax_history, history) and torch.allclose(state.scale, scale), (
                scale,
                state.scale,
            )


def check_state():
    """Made before the first forward, saved, restored into the very tensors that the modules' quantisers hold."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        place = pathlib.Path(folder)
        first = TransformerEngine(build(), read_policy({}, "", "te"), LIBRARY, processes=1)
        with first.region():
            for module in first._modules.values():
                module.init_fp8_metadata(num_gemms=2 if hasattr(module, "fc1_weight") else 1)
        for number, tensor in enumerate(first._state().values()):
            tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(number)))
        first.is_warm = True
        first.save(place)
        assert (place / SCALES).exists()
        second = TransformerEngine(build(), read_policy({}, "", "te"), LIBRARY, processes=1)
        assert not second.is_warm
        second.load(place)
        assert second.is_warm
        expected, found = first._state(), second._state()
        assert len(found) == 2 * 3 * 2 * 2 and found.keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
        with second.region():  # as the first forward does
            for module in second._modules.values():
                module.init_fp8_metadata(num_gemms=2 if hasattr(module, "fc1_weight") else 1)
                for direction in ("scaling_fwd", "scaling_bwd"):
                    state = module.fp8_meta[direction]
                    for slot, quantizer in enumerate(module.quantizers[direction]):
                        assert quantizer.scale.data_ptr() == state.scale[slot].data_ptr()
                        assert quantizer.amax.data_ptr() == state.amax_history[0, slot].data_ptr()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in second._state().items())


if __name__ == "__main__":
    without_a_device()
    check_signatures()
    check_recipes()
    check_names_and_shapes()
    check_scales()
    check_state()
