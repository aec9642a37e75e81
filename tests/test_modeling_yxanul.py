"""The contract of the model's forward: what it returns, which loss, which inputs it refuses, and the other heads.

Not here: equality with Llama, packing, generation, graphs, saving and ties (tests/invariants/).
"""

import math

import pytest
import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from yxanul import YxanulForQuestionAnswering, YxanulForSequenceClassification, YxanulForTokenClassification
from yxanul.modeling_yxanul import YxanulRMSNorm

IGNORED = -100


@pytest.fixture
def model(tiny_model, layout):
    return tiny_model(layout, initializer_range=0.2)


@pytest.fixture
def labels(random_ids):
    """Every fifth id or so does not count."""
    ids = random_ids()
    return ids.masked_fill(ids % 5 == 0, IGNORED)


def shifted(labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED)], dim=1)


def plain_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The measure: torch's cross-entropy of each target, 0 where ignored."""
    return torch.nn.functional.cross_entropy(
        logits.transpose(1, 2).double(), shifted(labels), ignore_index=IGNORED, reduction="none"
    )


def assert_near(value: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(value.double(), expected.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_fresh_model_guesses_evenly(tiny_model, random_ids, layout, training):
    """Fresh logits spread by about 0.02 * sqrt(48) = 0.14, so the loss is ln V + 0.14**2 / 2, and sampling."""
    model, ids = tiny_model(layout).train(training), random_ids(rows=8, length=60)
    assert abs(model(ids, labels=ids).loss.item() - math.log(131)) < 0.05


@torch.no_grad()
def test_fresh_tables_spread_alike_in_every_layout(tiny_model, layout):
    """What comes out of the factors has the standard deviation of a plain table; 7680 numbers tell it to about 1%."""
    model = tiny_model(layout, hidden_size=480, vocab_size=1000)
    for table in (model.model._embed(torch.arange(1000), None), model.lm_head.weight):
        assert table.shape == (1000, 480)
        assert table.std().item() == pytest.approx(0.02, rel=0.03)


def test_training_with_labels_returns_no_logits(model, random_ids, labels):
    model.train()
    assert model(random_ids(), labels=labels).logits is None
    assert model(random_ids(), labels=labels, return_logits=True).logits.shape == (2, 12, 131)
    assert model(random_ids()).logits.shape == (2, 12, 131)
    assert model(random_ids()).loss is None


def test_evaluation_with_labels_returns_loss_and_logits(model, random_ids, labels):
    outputs = model(random_ids(), labels=labels)
    assert outputs.logits.shape == (2, 12, 131)
    assert_near(outputs.loss, plain_losses(outputs.logits, labels).sum() / (shifted(labels) != IGNORED).sum())
    assert model(random_ids(), labels=labels, return_logits=False).logits is None


@torch.no_grad()
def test_compiled_token_correct_equals_eager(tiny_model, random_ids):
    """One graph, as for the loss (tests/invariants/test_graphs.py)."""
    model, ids = tiny_model("factorised-tied", initializer_range=0.2, num_hidden_layers=1), random_ids()
    labels = shifted(model(ids).logits.argmax(-1))
    options = {"shift_labels": labels, "return_correct": True, "return_logits": False, "use_cache": False}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(ids, **options).token_correct, model(ids, **options).token_correct)


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.1])
def test_training_step_equals_one_through_logits(tiny_model, random_ids, labels, layout, softcap, z_loss):
    model = tiny_model(layout, initializer_range=0.2, final_logit_softcapping=softcap).train()
    steps = []
    for through_logits in (False, True):
        model.zero_grad()
        loss = model(random_ids(), labels=labels, z_loss=z_loss, return_logits=through_logits).loss
        loss.backward()
        steps.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    (fused_loss, fused), (loss, plain) = steps
    assert_near(fused_loss, loss)
    for name, gradient in plain.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(fused[name], gradient, rtol=0, atol=1e-5 * scale, msg=f"{name} differs")


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
class TestLossOptions:
    """Each against a formula in fp64, for the loss without logits (training) and the one from logits (evaluation)."""

    @pytest.fixture
    def forward(self, model, random_ids, training):
        return lambda **options: model.train(training)(random_ids(), **options)

    @pytest.fixture
    def logits(self, model, random_ids):
        return model.eval()(random_ids()).logits.detach().double()

    def test_token_losses_are_each_targets_cross_entropy(self, forward, logits, labels):
        outputs = forward(labels=labels)
        assert not outputs.token_losses.requires_grad
        assert_near(outputs.token_losses, plain_losses(logits, labels))
        assert_near(outputs.token_losses.sum() / (shifted(labels) != IGNORED).sum(), outputs.loss)

    def test_shift_labels_are_labels_already_shifted(self, forward, labels):
        wrong = torch.zeros_like(labels)
        one, other = forward(labels=labels), forward(shift_labels=shifted(labels), labels=wrong)
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.token_losses, other.token_losses)

    def test_token_weights_weigh_their_targets(self, forward, logits, labels):
        weights = torch.rand(2, 12, generator=torch.Generator().manual_seed(3))
        of_targets = torch.cat([weights[:, 1:], torch.zeros(2, 1)], dim=1)
        counted = of_targets.double() * (shifted(labels) != IGNORED)
        expected = (plain_losses(logits, labels) * counted).sum() / counted.sum()
        assert_near(forward(labels=labels, token_weights=weights).loss, expected)
        assert_near(forward(shift_labels=shifted(labels), token_weights=of_targets).loss, expected)

    def test_num_items_in_batch_divides_the_sum(self, forward, labels):
        total = forward(labels=labels).token_losses.double().sum()
        assert_near(forward(labels=labels, num_items_in_batch=40).loss, total / 40)
        assert_near(forward(labels=labels, num_items_in_batch=torch.tensor(40)).loss, total / 40)

    def test_z_loss_adds_the_mean_squared_log_normaliser(self, forward, logits, labels):
        counted = shifted(labels) != IGNORED
        expected = 0.1 * logits.logsumexp(-1).square()[counted].mean()
        assert_near(forward(labels=labels, z_loss=0.1).loss - forward(labels=labels).loss, expected)
        assert torch.equal(forward(labels=labels, z_loss=0.1).token_losses, forward(labels=labels).token_losses)

    def test_softcap_bounds_the_logits_of_the_loss(self, model, forward, logits, labels):
        model.config.final_logit_softcapping = 1.5
        capped = 1.5 * torch.tanh(logits / 1.5)
        assert_near(forward(labels=labels, return_logits=True).logits, capped)
        assert_near(forward(labels=labels).token_losses, plain_losses(capped, labels))

    @pytest.mark.parametrize("return_logits", [True, False])
    def test_token_correct_says_whether_a_greedy_guess_hits(self, forward, logits, labels, return_logits):
        labels[:, 1::3] = logits.argmax(-1)[:, :-1:3]
        outputs = forward(labels=labels, return_correct=True, return_logits=return_logits)
        expected = (logits.argmax(-1) == shifted(labels)) & (shifted(labels) != IGNORED)
        assert torch.equal(outputs.token_correct, expected) and 0 < expected.sum() < expected.numel()
        assert forward(labels=labels).token_correct is None and forward(return_correct=True).token_correct is None

    def test_nothing_to_learn_is_a_loss_of_zero(self, forward, labels):
        loss = forward(labels=torch.full_like(labels, IGNORED)).loss
        loss.backward()
        assert loss.item() == 0


class TestRefusals:
    """Bad inputs raise a ValueError that names the numbers, rather than broadcast or index in silence."""

    @pytest.mark.parametrize("name", ["labels", "shift_labels"])
    def test_labels_of_another_shape(self, model, random_ids, name):
        with pytest.raises(ValueError, match=rf"^{name} have shape \(2, 11\), the input \(2, 12\)"):
            model(random_ids(), **{name: random_ids(length=11)})

    def test_labels_with_logits_to_keep(self, model, random_ids):
        with pytest.raises(ValueError, match="logits_to_keep and labels exclude each other"):
            model(random_ids(), labels=random_ids(), logits_to_keep=1)

    def test_ids_and_embeddings_at_once(self, model, random_ids):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds; both came"):
            model(random_ids(), inputs_embeds=torch.zeros(2, 12, 48))

    def test_neither_ids_nor_embeddings(self, model):
        with pytest.raises(ValueError, match="either input_ids or inputs_embeds; neither came"):
            model(attention_mask=torch.ones(2, 12))

    def test_embeddings_of_another_width(self, model):
        widths = r"\[16, 48\]" if model.config.embedding_rank is not None else r"\[48\]"
        with pytest.raises(ValueError, match=f"inputs_embeds are 47 wide; this model takes {widths}"):
            model(inputs_embeds=torch.zeros(2, 12, 47))

    def test_positions_past_a_learned_table(self, tiny_model, random_ids):
        model = tiny_model("learned-positions")
        model(random_ids(length=64))
        with pytest.raises(ValueError, match=r"Position 64 is past .* max_position_embeddings=64"):
            model(random_ids(length=65))
        with pytest.raises(ValueError, match="Position 70 is past"):
            model(random_ids(length=2), position_ids=torch.tensor([[0, 70]]))
        cache = model(random_ids(length=64)).past_key_values
        with pytest.raises(ValueError, match="Position 64 is past"):
            model(random_ids(length=1), past_key_values=cache)


@pytest.mark.parametrize(
    ("head", "targets"),
    [
        (YxanulForSequenceClassification, {"labels": torch.tensor([0, 2])}),
        (YxanulForTokenClassification, {"labels": torch.arange(24).remainder(3).view(2, 12)}),
        (YxanulForQuestionAnswering, {"start_positions": torch.tensor([1, 4]), "end_positions": torch.tensor([3, 9])}),
    ],
    ids=["sequence-classification", "token-classification", "question-answering"],
)
def test_other_heads_learn(tiny_config, random_ids, layout, head, targets):
    torch.manual_seed(0)
    model = head(tiny_config(layout, num_labels=3, pad_token_id=0)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = model(random_ids(), **targets).loss
        losses.append(loss.item())
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.8 * losses[0]


def test_token_weights_of_another_shape_are_refused(tiny_model, random_ids):
    ids = random_ids()
    with pytest.raises(ValueError, match=r"token_weights have shape \(12, 2\), the labels \(2, 12\)"):
        tiny_model()(ids, labels=ids, token_weights=torch.ones(12, 2))


def test_under_autocast_attention_gets_all_three_in_its_dtype(model, random_ids, monkeypatch):
    """Angles may be fp32; a kernel out of autocast's reach would refuse, and flash attention break a graph."""
    kinds = []

    def spy(module, query, key, value, *arguments, **options):
        kinds.append({query.dtype, key.dtype, value.dtype})
        return sdpa_attention_forward(module, query, key, value, *arguments, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", spy)
    with torch.autocast("cpu", torch.bfloat16):
        model(random_ids())
    assert kinds == [{torch.bfloat16}] * model.config.num_hidden_layers


def test_one_cast_in_the_norm_is_what_every_matrix_would_cast(model, random_ids, labels, monkeypatch):
    """The loss to the bit, gradients but for their sum in bf16; and as one graph, which leaves autocast there."""

    def step(forward):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = forward(random_ids(), labels=labels).loss
        loss.backward()
        return [loss.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    model.train()
    found = step(model)
    compiled = step(torch.compile(model, backend="aot_eager", fullgraph=True))
    with torch.autocast("cpu", torch.bfloat16):
        assert model.model.norm(torch.zeros(1, model.config.hidden_size)).dtype == torch.bfloat16
    monkeypatch.setattr(YxanulRMSNorm, "forward", YxanulRMSNorm._normed)
    for ours, graph, plain in zip(found, compiled, step(model), strict=True):
        for near in (ours, graph):
            torch.testing.assert_close(near, plain, rtol=0, atol=0.02 * plain.abs().max().item())
    assert torch.equal(found[0], step(model)[0])


@pytest.mark.parametrize("every", [0, 4, "2"])
def test_checkpointing_of_layers_that_are_not_there_is_refused(tiny_model, every):
    with pytest.raises(ValueError, match="every_n_layers=.* must be a whole number from 1 to the model's 3 layers"):
        tiny_model().gradient_checkpointing_enable(gradient_checkpointing_kwargs={"every_n_layers": every})
