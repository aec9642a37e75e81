"""Transformer Engine's modules in our model: the same function, the same names in every file, scales that are warm.

A stand-in computes (te_stand_in.py); the last tests hold it, and what we ask of the real modules, against Transformer
Engine itself where that can be imported, without a GPU. Whole runs: test_te_runs.py.
"""

import copy
import inspect
import pathlib
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file

from yxanul.bad_input import BadInput
from yxanul.training import checkpoints
from yxanul.training.optimizers import build_optimizer
from yxanul.training.precision import te_layers
from yxanul.training.precision.policy import check_te_batches, place, read_policy
from yxanul.training.precision.transformer_engine import RECIPES, SCALES, TransformerEngine, recipe_of
from yxanul.training.ranks import Ranks

sys.path.append(str(pathlib.Path(__file__).parent))
import te_stand_in  # noqa: E402

LIBRARY = te_layers.Library(*te_stand_in.LIBRARY)


@pytest.fixture(autouse=True)
def a_new_process():
    te_stand_in.forget()


def forward(model, ids):
    return model(ids, labels=ids, use_cache=False).loss


def engine(model, **policy):
    return TransformerEngine(model, read_policy(policy, "", "te"), LIBRARY, processes=1)


@pytest.fixture
def both(tiny_model):
    """`both(layout)`: a model, and a copy of it with its layers swapped."""

    def make(layout="plain-tied", **changes):
        plain = tiny_model(layout, **changes).train()
        swapped = copy.deepcopy(plain)
        return plain, swapped, engine(swapped)

    return make


def plain_tensors(model, of=lambda parameter: parameter):
    """By the plain model's names."""
    found = {}
    for names, parameter in checkpoints.named_parameters(model):
        found |= dict(zip(names, of(parameter).detach().chunk(len(names)), strict=True))
    return found


def gradients(model):
    return plain_tensors(model, lambda parameter: parameter.grad)


def near(found, expected, most=1e-5):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor - expected[name]).norm() <= most * expected[name].norm(), name


@pytest.mark.parametrize(
    "layout", ["plain-tied", "plain-untied", "factorised-tied", "geglu", "one-key-per-query-head", "wide-heads"]
)
def test_the_swapped_model_computes_what_the_plain_one_does(both, random_ids, layout):
    plain, swapped, _ = both(layout)
    ids = random_ids(2, 24)
    losses = [forward(model, ids) for model in (plain, swapped)]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=1e-5)
    near(gradients(swapped), gradients(plain))
    used = te_stand_in.LOG
    assert used["DotProductAttention"] == used["LayerNormMLP"] == used["LayerNormLinear"] == used["Linear"] == 3
    assert used["fused RoPE"] == 6 and not used["regions"]


def test_evaluation_and_generation_know_masks_and_caches(both, random_ids):
    plain, swapped, _ = both()
    ids, mask = random_ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    ids[0, :5], mask[0, :5] = 0, 0
    plain.eval(), swapped.eval()
    with torch.no_grad():
        logits = [model(ids, attention_mask=mask).logits[mask.bool()] for model in (plain, swapped)]
        made = [
            model.generate(ids, attention_mask=mask, max_new_tokens=8, pad_token_id=0) for model in (plain, swapped)
        ]
    assert torch.allclose(*logits, atol=1e-5) and torch.equal(*made)
    assert not te_stand_in.LOG["DotProductAttention"] and te_stand_in.LOG["LayerNormMLP"]


def test_masks_and_documents_in_training_take_our_own_attention(both, random_ids):
    plain, swapped, _ = both()
    ids, positions = random_ids(1, 12), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    losses = [model(ids, position_ids=positions, labels=ids).loss.item() for model in (plain, swapped)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and not te_stand_in.LOG["DotProductAttention"]


def test_the_swap_draws_no_random_number_and_shares_the_weights(tiny_model):
    model = tiny_model().train()
    o_proj, state = model.model.layers[0].self_attn.o_proj.weight, torch.random.get_rng_state()
    engine(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.model.layers[0].self_attn.o_proj.weight is o_proj
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())


def learn(model, optimizer, ids):
    forward(model, ids).backward()
    optimizer.step()
    optimizer.zero_grad()


def save(folder, model, optimizer):
    marker = {"step": 1, "tokens": 256, "ranks": 1}
    parts = checkpoints.parts_in(optimizer)
    checkpoints.save(folder, model, parts, Ranks(1.0), {"cpu": torch.zeros(1)}, marker, lambda folder: None)
    return {name: load_file(folder / name) for name in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER)}


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("layout", ["factorised-tied", "plain-untied"])
def test_weights_and_moments_go_there_and_back_bit_for_bit(
    both, random_ids, small_config, tmp_path, layout, optimizer
):
    config = small_config(optimizer=optimizer)
    plain, swapped, _ = both(layout)
    of_plain, of_swapped = (build_optimizer(model, config) for model in (plain, swapped))
    learn(plain, of_plain, random_ids())
    before = save(tmp_path / "plain", plain, of_plain)
    checkpoints.load_weights(tmp_path / "plain", swapped)
    checkpoints.load_optimizer(tmp_path / "plain", swapped, of_swapped)
    for file, tensors in save(tmp_path / "swapped", swapped, of_swapped).items():
        same(tensors, before[file])
    learn(swapped, of_swapped, random_ids(seed=1))  # the run goes on behind the save
    after = save(tmp_path / "later", swapped, of_swapped)
    for each in (checkpoints.WEIGHTS, checkpoints.OPTIMIZER):
        assert {name: tensor.shape for name, tensor in after[each].items()} == {
            name: tensor.shape for name, tensor in before[each].items()
        }
    checkpoints.load_weights(tmp_path / "later", plain)
    same(plain_tensors(plain), plain_tensors(swapped))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_of_the_optimizer_is_that_of_the_plain_model(both, small_config, optimizer):
    """Muon takes gate and up apart, which one matrix hold; norms do not decay."""
    plain, swapped, _ = both()
    config = small_config(optimizer=optimizer, weight_decay=0.5)
    optimizers = [build_optimizer(model, config) for model in (plain, swapped)]
    for seed in range(2):
        torch.manual_seed(seed)
        given = {name: torch.randn_like(parameter) for name, parameter in plain.named_parameters()}
        for model, each in zip((plain, swapped), optimizers, strict=True):
            for names, parameter in checkpoints.named_parameters(model):
                parameter.grad = torch.cat([given[name] for name in names])
            each.step()
    near(plain_tensors(swapped), plain_tensors(plain), most=1e-6)
    decays = [sum(map(torch.numel, group["params"])) for each in optimizers for group in each.param_groups]
    assert sum(decays[: len(decays) // 2]) == sum(parameter.numel() for parameter in plain.parameters())


def test_nothing_of_its_own_reaches_a_file(both, tmp_path, small_config):
    plain, swapped, _ = both()
    assert any(name.endswith("_extra_state") for name in swapped.state_dict())
    learn(swapped, optimizer := build_optimizer(swapped, small_config()), torch.arange(24)[None])
    names = save(tmp_path / "swapped", swapped, optimizer)[checkpoints.WEIGHTS].keys()
    assert names == {name for name, _ in plain.named_parameters()}


# The scales


def passes(model, te, ids, count=1):
    """Forward in FP8, backward outside of it; the gradients of the last."""
    for _ in range(count):
        model.zero_grad()
        te.begin_step()
        with te.region():
            loss = forward(model, ids)
        assert not te_stand_in.ACTIVE
        loss.backward()
    return gradients(model)


def error(found, expected):
    linears = [name for name in expected if "proj" in name and "layers" in name]
    return sum((found[name] - expected[name]).norm() / expected[name].norm() for name in linears) / len(linears)


def warm_up(model, te, ids):
    def loss():
        with te.region():
            return forward(model, ids) / 1000  # as one of many micro-batches

    te.warm_up(loss, torch.Tensor.backward, model.zero_grad)


def test_warm_scales_give_gradients_that_cold_ones_lose_and_leave_nothing_else(both, random_ids):
    plain, swapped, te = both()
    ids, weights = random_ids(4, 32), plain_tensors(swapped, lambda parameter: parameter.clone())
    (forward(plain, ids) / 1000).backward()

    def gradients_in_fp8():
        swapped.zero_grad()
        with te.region():
            loss = forward(swapped, ids) / 1000
        loss.backward()
        return error(gradients(swapped), gradients(plain))

    cold = gradients_in_fp8()
    te_stand_in.forget()
    swapped = copy.deepcopy(plain)
    te = engine(swapped)
    assert not te.is_warm
    state = torch.random.get_rng_state()
    warm_up(swapped, te, ids)
    assert te.is_warm and torch.equal(state, torch.random.get_rng_state())
    assert all(parameter.grad is None for parameter in swapped.parameters())
    same(plain_tensors(swapped), weights)
    warm = gradients_in_fp8()
    assert warm < 0.12 < 0.3 < cold


def test_the_state_comes_back_exactly_and_the_next_gradients_with_it(both, random_ids, tmp_path):
    plain, swapped, te = both()
    te.save(tmp_path)
    assert not (tmp_path / SCALES).exists()  # nothing is known yet
    warm_up(swapped, te, random_ids(4, 32))
    te.save(tmp_path)
    saved, expected = load_file(tmp_path / SCALES), passes(swapped, te, random_ids(4, 32, seed=1))
    te_stand_in.forget()
    again = copy.deepcopy(plain)
    te = engine(again)
    te.load(tmp_path)
    assert te.is_warm
    same(te._state(), saved)
    same(passes(again, te, random_ids(4, 32, seed=1)), expected)
    assert saved["model.layers.0.mlp.scaling_fwd.scale"].ne(1)[:2].all()


def test_another_history_is_warmed_up_anew_and_current_scaling_has_no_state(both, tiny_model, random_ids, tmp_path):
    _, swapped, te = both()
    warm_up(swapped, te, random_ids(4, 32))
    te.save(tmp_path)
    other = engine(tiny_model().train(), history=32)
    other.load(tmp_path)
    assert not other.is_warm
    for scaling in ("current", "block"):
        other = engine(tiny_model().train(), scaling=scaling)
        assert other.is_warm
        other.save(tmp_path / "nowhere")


def test_a_region_lies_around_each_micro_batch_and_tells_the_first_where_weights_are_cached(tiny_model, random_ids):
    model = tiny_model().train()
    te, ids = engine(model, scaling="current", weight_cache=True), random_ids(2, 16)
    for _ in range(2):
        te.begin_step()
        for _ in range(3):
            with te.region():
                forward(model, ids)
    model.eval()(ids)
    assert te_stand_in.LOG["regions"] == 6
    told = {name: count for name, count in te_stand_in.LOG.items() if name.startswith("first")}
    assert told == {"first: True": 2 * 9, "first: False": 4 * 9, "first: None": 9}


def test_fused_accumulation_ends_in_the_optimizers_gradients(both, random_ids):
    plain, swapped, _ = both()
    te_stand_in.forget()
    swapped = copy.deepcopy(plain)
    te = engine(swapped, scaling="current", fuse_accumulation=True)
    for _ in range(2):  # steps; what the first left is not in the second
        plain.zero_grad(), swapped.zero_grad()
        te.begin_step()
        for seed in range(2):
            for model in (plain, swapped):
                forward(model, random_ids(seed=seed)).backward()
    near(gradients(swapped), gradients(plain))
    assert swapped.model.layers[0].mlp.fc1_weight.main_grad is swapped.model.layers[0].mlp.fc1_weight.grad


def test_recipes_are_those_that_were_asked_for_and_an_option_that_would_be_ignored_is_refused():
    delayed = recipe_of(read_policy({"gradients": "e4m3", "history": 64}, "", "te"), LIBRARY)
    assert (delayed.fp8_format, delayed.amax_history_len) == (te_stand_in.Format.E4M3, 64)
    assert recipe_of(read_policy({}, "", "te"), LIBRARY) == te_stand_in.DelayedScaling(amax_history_len=16)
    current = recipe_of(read_policy({"scaling": "current"}, "", "te"), LIBRARY)
    assert current == te_stand_in.Float8CurrentScaling()
    older = LIBRARY._replace(recipes=type("older", (), {**vars(LIBRARY.recipes)}))
    older.recipes.DelayedScaling = older.recipes.Float8CurrentScaling
    with pytest.raises(BadInput, match="has no amax_compute_algo: install another version"):
        recipe_of(read_policy({}, "", "te"), older)


# Refusals


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"down": "bf16"},
            "precision_policy.down is not for precision=te, whose keys are scaling, gradients, history",
        ),
        ({"scaling": "delay"}, "unknown scaling 'delay': did you mean delayed?"),
        ({"history": 17}, "unknown history '17': did you mean 1?"),
        ({"history": True}, "unknown history 'true'"),
        ({"weight_cache": "yes"}, "unknown weight_cache 'yes': known are false, true."),
        ({"scaling": "current", "history": 16}, "precision_policy.history is of delayed scaling"),
        ({"scaling": "block", "gradients": "e5m2"}, "block scaling has gradients in e4m3"),
        ({"cuda_graphs": True}, "unknown key 'cuda_graphs'"),
    ],
)
def test_policies_that_it_cannot_honour_are_refused_by_name(changes, message):
    with pytest.raises(BadInput) as refusal:
        read_policy(changes, "run.yaml", "te")
    assert message in str(refusal.value) and str(refusal.value).startswith("run.yaml: precision_policy")


def test_the_way_back_needs_no_change_of_the_policy():
    read_policy({"scaling": "current", "weight_cache": True}, "", "bf16")
    with pytest.raises(BadInput, match="precision_policy.scaling is not for precision=fp8"):
        read_policy({"scaling": "current"}, "", "fp8")


@pytest.mark.parametrize(
    "changes, policy, message",
    [
        ({"hidden_act": "gelu"}, {}, "has no hidden_act=gelu: take one of silu, gelu_pytorch_tanh, or precision=bf16"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, {}, "no rope_type=dynamic"),
        ({"intermediate_size": 2044}, {}, "gate and up make a matrix of 768 x 4,088; delayed scaling needs multiples"),
        ({"head_dim": 8}, {}, "o make a matrix of 96 x 768; delayed scaling needs multiples of 16, from 128 on"),
        ({"intermediate_size": 2000}, {"scaling": "block"}, "gate and up make a matrix of 768 x 4,000; block scaling"),
    ],
)
def test_shapes_that_it_cannot_compute_are_refused(changes, policy, message):
    from yxanul.catalog import load_shape

    config = load_shape("elite-112m", changes).config
    with pytest.raises(BadInput, match=message):
        place(read_policy(policy, "", "te"), config, on_gpu=True)


def test_the_presets_are_taken_but_for_the_one_with_exact_gelu():
    from yxanul.catalog import load_shape

    for name in ("elite-112m", "yxanul-177m", "yxanul-197m", "yxanul-270m", "yxanul-317m"):
        place(read_policy({}, "", "te"), load_shape(name, {}).config, on_gpu=True)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"document_mask": True}, "precision=te has no document_mask: leave it out, or take precision=bf16."),
        ({"gradient_checkpointing": True}, "precision=te has no (gradient|activation)_checkpointing"),
        ({"parallel": "zero1"}, "precision=te is not tested under zero1: take fsdp2, or precision=bf16."),
        ({"parallel": "fsdp2", "precision_policy": {"weight_cache": True}}, "weight_cache has no effect under fsdp2"),
    ],
)
def test_settings_that_exclude_it_are_refused(small_config, changes, message):
    with pytest.raises(BadInput, match=message):
        small_config(precision="te", **changes)


def test_ragged_micro_batches_and_fused_accumulation_on_several_processes_are_refused(small_config, tiny_model):
    plan = small_config().plan()
    check_te_batches(read_policy({}, "", "te"), plan, 16)
    with pytest.raises(
        BadInput, match="stage language has micro-batches of 8 tokens; delayed scaling needs multiples"
    ):
        check_te_batches(read_policy({}, "", "te"), plan, 32)
    with pytest.raises(BadInput, match="hides gradients from what sums them over processes, and there are 2"):
        TransformerEngine(tiny_model(), read_policy({"fuse_accumulation": True}, "", "te"), LIBRARY, processes=2)


def test_without_a_gpu_or_without_the_library_it_says_what_to_do(monkeypatch):
    with pytest.raises(BadInput, match="precision=te is for GPUs: take precision=auto here, or precision=bf16"):
        te_layers.load(on_gpu=False)
    monkeypatch.setitem(sys.modules, "transformer_engine", None)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", None)
    with pytest.raises(BadInput, match=r"pip install 'yxanul\[te\]' \(known to load: 2.20.2.*or take precision=bf16"):
        te_layers.load(on_gpu=True)


def test_a_run_says_what_runs_where(small_config):
    from yxanul.training.precision.policy import formats_of_run

    config = small_config(precision="te", model="yxanul-177m", model_config=None)
    (said,) = formats_of_run(config, on_gpu=True)[1]
    assert said.startswith("q, k, v, o, gate, up, down in FP8: E4M3 forward, E5M2 gradients, each tensor scaled by ")
    assert "its largest entry in the last 16 uses. embeddings, factor, norms, attention, head in bf16;" in said


# The real one


needs_the_real_one = pytest.mark.skipif(find_spec("transformer_engine") is None, reason="no Transformer Engine here")


@needs_the_real_one
def test_the_real_modules_take_our_words_and_hold_our_names():
    """In a process of its own, for it loads CUDA's libraries, and torch is told that there is a GPU."""
    program = pathlib.Path(__file__).with_name("real_transformer_engine.py")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_stand_in_knows_every_recipe_and_module_that_we_ask_for():
    for name in (*RECIPES.values(), "Format"):
        assert hasattr(LIBRARY.recipes, name)
    assert set(inspect.signature(LIBRARY.modules.autocast).parameters) >= {"enabled", "recipe", "amax_reduction_group"}
