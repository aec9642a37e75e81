"""The small recipe as a `RunConfig`, for tests of the functions that a run is made of."""

import pytest


@pytest.fixture
def recipe(bins, tmp_path):
    """`recipe(**changes)`: the small recipe's file; a change of None takes a key away."""
    from small_runs.fixture import write_recipe

    return lambda **changes: write_recipe(bins, tmp_path / "recipe.yaml", changes)


@pytest.fixture
def small_config(recipe):
    """`small_config(**changes)`: what that file holds. Two stages of 12 and 8 steps, each of 256 tokens."""
    from yxanul.training.config import read_config

    return lambda **changes: read_config(str(recipe(**changes)), [])


@pytest.fixture
def compiler(monkeypatch):
    """The graphs that a run compiles, as they come; they are run as they are. dynamo is afterwards what it was."""
    import torch

    from yxanul.training import compilation

    graphs = []

    def counting(graph, inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compilation, "BACKEND", counting)
    torch._dynamo.reset()
    names = "recompile_limit accumulated_recompile_limit fail_on_recompile_limit_hit optimize_ddp"
    names += " skip_fwd_side_effects_in_bwd_under_checkpoint"
    with torch._dynamo.config.patch({name: getattr(torch._dynamo.config, name) for name in names.split()}):
        yield graphs
    torch._dynamo.reset()


@pytest.fixture
def llama(small_shape, tmp_path):
    """`llama(**changes)`: a Llama of the small recipe's shape, and the folder in which it is saved."""

    def make(**changes):
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(7)
        model = LlamaForCausalLM(LlamaConfig(**small_shape | {"tie_word_embeddings": True} | changes))
        model.save_pretrained(tmp_path / "llama")
        return model.eval(), str(tmp_path / "llama")

    return make
