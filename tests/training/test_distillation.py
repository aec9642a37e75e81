"""A teacher's loss: chunk by chunk what it is on all logits, in real runs of both kinds, and exact after a kill."""

import json
import math

import pytest
import torch
from small_runs.chat import LENGTH, recipe, trained
from small_runs.fixture import SHAPE, Run
from torch.nn import functional

from yxanul import YxanulConfig, YxanulForCausalLM
from yxanul.__main__ import main
from yxanul.data.bins import open_bin
from yxanul.data.plan import Phase, Plan, Source, Stage
from yxanul.data.stream import IGNORED, Stream
from yxanul.data.tokenizers import save_tokenizer
from yxanul.loss_yxanul import apply_softcap, linear_cross_entropy
from yxanul.training.config import differences, read_config
from yxanul.training.distillation import Distillation, fewer_rows
from yxanul.training.loader import MicroBatches
from yxanul.training.teacher import Int8Linear, Teacher, costs, load_teacher

CPU = torch.device("cpu")
LARGER = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
HARD_AND_SOFT = [(0.5, 1.0), (0.9, 3.0), (1.0, 0.7)]


def naive(logits, theirs, targets, share, temperature, z_loss=0.0):
    """On all logits, with torch's own functions alone."""
    counted = targets != IGNORED
    logits, theirs = logits[counted], theirs[counted]
    hard = functional.cross_entropy(logits, targets[counted]) + z_loss * logits.logsumexp(-1).square().mean()
    p, q = ((each / temperature).log_softmax(-1) for each in (theirs, logits))
    divergence = (p.exp() * (p - q[:, : p.shape[1]])).sum(-1).mean()
    return (1 - share) * hard + share * temperature**2 * divergence


def inputs(rows=37, dtype=torch.float64, vocabulary=53, known=53):
    torch.manual_seed(0)
    shapes = (rows, 6), (vocabulary, 6), (rows, 9), (known, 9)
    latent, weight, theirs, table = (torch.randn(shape, dtype=torch.float64).to(dtype) for shape in shapes)
    targets = torch.randint(0, vocabulary, (rows,))
    targets[3] = targets[rows - 2] = IGNORED
    return latent.requires_grad_(), weight.requires_grad_(), targets, theirs, table


def taught(theirs, table, share, temperature, softcap=None):
    distillation = Distillation(Teacher(None, table, len(table), None, softcap, ""), share, temperature)
    distillation._latent = theirs
    return distillation


@pytest.mark.parametrize("share, temperature", HARD_AND_SOFT)
@pytest.mark.parametrize("options", [{}, {"z_loss": 1e-2}, {"softcap": 3.0}])
@pytest.mark.parametrize("chunk_rows, multiple, known", [(8, 1, 53), (5, 128, 53), (64, 128, 40), (1, 1, 40)])
def test_chunk_by_chunk_it_is_the_loss_on_all_logits(share, temperature, options, chunk_rows, multiple, known):
    """Targets that do not count, ids that the teacher has not, a vocabulary that nothing divides."""
    latent, weight, targets, theirs, table = inputs(known=known)
    distillation = taught(theirs, table, share, temperature, options.get("softcap"))
    sizes = {"chunk_rows": chunk_rows, "vocabulary_multiple": multiple}
    found = linear_cross_entropy(latent, weight, targets, operator=distillation._loss, **sizes, **options)
    capped = [apply_softcap(logits, options.get("softcap")) for logits in (latent @ weight.T, theirs @ table.T)]
    expected = naive(*capped, targets, share, temperature, options.get("z_loss", 0.0))
    torch.testing.assert_close(found.loss, expected, rtol=1e-12, atol=0)
    hard = functional.cross_entropy(capped[0], targets, reduction="none", ignore_index=IGNORED)
    torch.testing.assert_close(found.token_losses, hard.detach())
    pairs = [torch.autograd.grad(loss, (latent, weight)) for loss in (found.loss, expected)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_no_worse_than_the_naive_loss(dtype):
    latent, weight, targets, theirs, table = inputs(64, dtype, vocabulary=1001, known=1001)
    loss = linear_cross_entropy(latent, weight, targets, operator=taught(theirs, table, 0.5, 2.0)._loss).loss
    plain = naive((latent @ weight.T).float(), (theirs @ table.T).float(), targets, 0.5, 2.0)
    doubles = [each.detach().double().requires_grad_() for each in (latent, weight)]
    exact = naive(doubles[0] @ doubles[1].T, theirs.double() @ table.double().T, targets, 0.5, 2.0)
    gradients = [torch.autograd.grad(each, (latent, weight)) for each in (loss, plain)]
    for one, other, true in zip(*gradients, torch.autograd.grad(exact, doubles), strict=True):
        assert (one.double() - true).norm() <= 1.1 * (other.double() - true).norm() + 1e-6 * true.norm()


def test_logits_of_all_rows_never_exist():
    latent, weight, targets, theirs, table = inputs(512, torch.float32, vocabulary=1000, known=1000)
    operator = taught(theirs, table, 0.5, 2.0)._loss
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profiler:
        options = {"return_correct": True, "entropy_every": 4, "chunk_rows": 16}
        linear_cross_entropy(latent, weight, targets, operator=operator, **options).loss.backward()
    assert max(event.self_cpu_memory_usage for event in profiler.events()) == 16 * 1000 * 4
    assert fewer_rows(16) == 16 and fewer_rows(128) == 64 and fewer_rows(10_000) == 2000


@pytest.mark.slow
def test_compiled_it_is_the_same_and_figures_come_along():
    latent, weight, targets, theirs, table = inputs(90, torch.float32)
    options = {"return_correct": True, "entropy_every": 4, "z_loss": 1e-2, "chunk_rows": 32}
    plain = linear_cross_entropy(latent, weight, targets, **options)
    results = []
    for compiled in (False, True):
        distillation = taught(theirs, table, 0.5, 2.0)
        found = linear_cross_entropy(
            latent, weight, targets, operator=distillation._loss, compiled=compiled, **options
        )
        gradients = torch.autograd.grad(found.loss, (latent, weight))
        results.append((found.loss, distillation.divergences, *gradients))
        for one, other in zip(found[1:], plain[1:], strict=True):
            torch.testing.assert_close(one, other)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


@pytest.fixture
def folder_of(tmp_path):
    """`folder_of(model)`: where it is saved."""

    def save(model):
        model.save_pretrained(tmp_path / "another")
        return str(tmp_path / "another")

    return save


@pytest.mark.parametrize("theirs", ["plain-untied", "factorised-tied"])
def test_a_model_learns_the_loss_of_both_models_logits_and_evaluates_without_it(
    layout, theirs, tiny_model, folder_of, random_ids, run
):
    student, teacher = tiny_model(layout).train(), tiny_model(theirs, hidden_size=72, vocab_size=140)
    config = read_config(run(distill_teacher=folder_of(teacher)).recipe, [])
    distillation = Distillation(load_teacher(config, CPU, 131), 0.5, 2.0)
    distillation.install(student)
    ids, targets = random_ids(3, 12), random_ids(3, 12, seed=1)
    targets[0, :5] = IGNORED
    batch = {"input_ids": ids, "shift_labels": targets}
    distillation.read(batch)
    found = student(**batch, num_items_in_batch=31).loss
    with torch.no_grad():
        of_teacher = teacher(ids).logits[..., :131].flatten(0, 1)
    expected = naive(student(ids).logits.flatten(0, 1), of_teacher, targets.flatten(), 0.5, 2.0)
    torch.testing.assert_close(found, expected)
    parameters = list(student.parameters())
    pairs = [torch.autograd.grad(loss, parameters) for loss in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    student.eval()
    hard = functional.cross_entropy(student(ids).logits.flatten(0, 1), targets.flatten())
    for more in ({}, {"return_logits": False}):
        torch.testing.assert_close(student(**batch, **more).loss, hard)


def foreign(kind, **changes):
    import transformers

    torch.manual_seed(1)
    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 64}
    if kind == "GPT2":
        sizes = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        sizes |= {"bos_token_id": 0, "eos_token_id": 0}
    config = getattr(transformers, f"{kind}Config")(**sizes, initializer_range=0.5, **changes)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_any_causal_model_teaches_and_documents_in_a_row_do_not_see_each_other(kind, folder_of, run):
    model = foreign(kind)
    config = read_config(run(distill_teacher=folder_of(model), document_mask=True).recipe, [])
    teacher, ids = load_teacher(config, CPU, 61), torch.arange(20)[None]
    bounds = torch.tensor([0, 7, 8, 20])
    found = teacher.logits(teacher.read({"input_ids": ids, "cu_seq_lens_q": bounds}))
    with torch.no_grad():
        apart = [model(ids[:, a:b]).logits[0] for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    torch.testing.assert_close(found, torch.cat(apart), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, model(ids).logits[0], atol=0.1), "the mask matters here"


def test_int8_is_near_and_bf16_is_bf16(folder_of, tiny_model, run, random_ids):
    folder, batch = folder_of(tiny_model(initializer_range=0.2)), {"input_ids": random_ids()}
    recipes = {dtype: run(distill_teacher=folder, distill_dtype=dtype).recipe for dtype in ("fp32", "bf16", "int8")}
    teachers = {dtype: load_teacher(read_config(file, []), CPU, 131) for dtype, file in recipes.items()}
    logits = {dtype: teacher.logits(teacher.read(batch)).float() for dtype, teacher in teachers.items()}
    for dtype in ("bf16", "int8"):
        error = ((logits[dtype] - logits["fp32"]).norm() / logits["fp32"].norm()).item()
        assert 1e-4 < error < 0.05, dtype
    assert teachers["bf16"].table.dtype == torch.bfloat16 and teachers["int8"].table.dtype == torch.float32
    assert sum(isinstance(part, Int8Linear) for part in teachers["int8"].model.modules()) == 3 * 7


# Whole runs


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("teacher")
    YxanulForCausalLM(YxanulConfig(**SHAPE | LARGER, initializer_range=0.1)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def whole(run, teacher):
    finished = run(distill_teacher=teacher, distill_temperature=2.0)
    assert finished() == 0, finished.said()
    return finished


def test_a_run_logs_both_parts_and_evaluates_the_text_alone(whole, run):
    alone = run()
    assert alone() == 0, alone.said()
    assert "parameters in fp32; 50% of the loss is its own, at temperature 2." in whole.said()
    assert alone.lines("eval_bits_per_byte")[0] == whole.lines("eval_bits_per_byte")[0], "before the first step"
    for line in whole.lines():
        mixed = 0.5 * line["distill/cross_entropy"] + 0.5 * 4 * line["distill/divergence"]
        assert line["loss"] == pytest.approx(mixed, rel=1e-4)
    assert whole.lines()[0]["distill/cross_entropy"] == pytest.approx(alone.losses()[0], rel=1e-5)
    line, held_out = whole.lines("gap/language")[-1], whole.lines("eval_language_loss")
    newest = [each["eval_language_loss"] for each in held_out if each["step"] < line["step"]][-1]
    assert line["gap/language"] == pytest.approx(line["distill/cross_entropy"] - newest, abs=1e-4)
    assert alone.losses()[-1] != whole.lines()[-1]["distill/cross_entropy"] and not alone.lines("distill/divergence")


def test_a_run_that_was_killed_is_the_run_that_was_left_alone(whole, run, teacher):
    killed = run(distill_teacher=teacher, distill_temperature=2.0)
    assert killed(kill={"step": 8}) == -9
    assert killed() == 0, killed.said()
    assert whole.lines("step") == killed.lines("step") and whole.digests(20) == killed.digests(20)
    assert killed("distill_weight=0.6") == 2 and "distill_weight was 0.5, is now 0.6" in killed.said()


def test_two_processes_with_accumulation_and_checkpointing_are_one(whole, run, teacher):
    changes = {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}
    two = run(distill_teacher=teacher, distill_temperature=2.0, **changes)
    assert two(processes=2) == 0, two.said()
    assert two.losses()[:12] == pytest.approx(whole.losses()[:12], abs=1e-5)
    parts = [[line["distill/divergence"] for line in each.lines()[:12]] for each in (two, whole)]
    assert parts[0] == pytest.approx(parts[1], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["layers", "model"])
def test_compiled_it_is_the_same_run(whole, run, teacher, how):
    compiled = run(distill_teacher=teacher, distill_temperature=2.0, compile=how, gradient_checkpointing=True)
    assert compiled(eager_kernels=True, seconds=600) == 0, compiled.said()
    assert compiled.losses()[:12] == pytest.approx(whole.losses()[:12], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{}, {"embedding_rank": 16}], ids=["plain", "factorised"])
def test_fsdp2_is_ddp(run, teacher, layout):
    ddp, fsdp = (run(distill_teacher=teacher, model_config=SHAPE | layout) for _ in range(2))
    assert ddp(processes=2) == 0, ddp.said()
    assert fsdp("parallel=fsdp2", processes=2, fsdp2=True) == 0, fsdp.said()
    assert fsdp.losses()[:12] == pytest.approx(ddp.losses()[:12], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["bf16", "fp8", "te"])
def test_other_precisions_learn_from_the_same_teacher(whole, run, teacher, how):
    """The teacher's own precision is `distill_dtype`'s: no autocast and no FP8 reaches it."""
    other = run(distill_teacher=teacher, distill_temperature=2.0, **({} if how == "bf16" else {"precision": how}))
    assert other(bf16=how == "bf16", te=how == "te") == 0, other.said()
    for line, expected in zip(other.lines()[:3], whole.lines()[:3], strict=True):
        assert line["distill/divergence"] == pytest.approx(expected["distill/divergence"], rel=0.05)


# Fine-tuning


@pytest.fixture
def chat_teacher(chat):
    """A model in the base tokenizer's ids."""
    torch.manual_seed(5)
    vocabulary = YxanulForCausalLM.from_pretrained(chat / "model").config.vocab_size
    model = YxanulForCausalLM(YxanulConfig(**SHAPE | LARGER | {"vocab_size": vocabulary}, initializer_range=0.2))
    model.save_pretrained(chat / "teacher")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (chat / "teacher" / name).write_text((chat / "base" / name).read_text())
    return chat / "teacher"


def test_a_packed_step_teaches_the_answers_of_its_conversations_as_if_apart(chat, chat_teacher):
    config = read_config(str(recipe(chat, distill_teacher=str(chat_teacher))), [])
    student = YxanulForCausalLM.from_pretrained(chat / "model").train()
    theirs = YxanulForCausalLM.from_pretrained(chat_teacher).eval()
    token_bin, name = open_bin(chat / "bins/train"), str(chat / "bins/train")
    stage = Stage("chat", (Source(name, 8 * LENGTH, None, LENGTH),), (Phase(LENGTH, 8, steps=1),))
    batch = MicroBatches(Stream(Plan([stage]), {name: token_bin}, seed=1), 0, 1, 1, True).__getitems__(0)
    targets, bounds, ids = batch["shift_labels"].flatten(), batch["cu_seq_lens_q"], batch["input_ids"].flatten()
    count = batch.pop("targets_in_step")
    distillation = Distillation(load_teacher(config, CPU, student.config.vocab_size), 0.7, 2.0)
    distillation.install(student)
    distillation.read(batch)
    found, apart = student(**batch, num_items_in_batch=count).loss, 0.0
    assert 0 < count == (targets != IGNORED).sum() < 0.8 * targets.numel()
    for begin, end in zip(bounds[:-1], bounds[1:], strict=True):
        own = targets[begin:end]
        if (own != IGNORED).any():
            logits = [model(ids[None, begin:end]).logits[0] for model in (student, theirs)]
            apart = apart + naive(*logits, own, 0.7, 2.0) * (own != IGNORED).sum() / count
    torch.testing.assert_close(found, apart, rtol=1e-4, atol=0)


def test_fine_tuning_with_a_teacher_is_exact_after_a_kill(chat, chat_teacher, tmp_path):
    file = recipe(chat, distill_teacher=str(chat_teacher), distill_weight=0.9, keep_best=True)
    finished, killed = (Run(file, tmp_path / name) for name in ("whole", "killed"))
    assert finished() == 0, finished.said()
    assert killed(kill={"step": 7}) == -9
    assert killed() == 0, killed.said()
    assert finished.lines("step") == killed.lines("step") and finished.digests(20) == killed.digests(20)
    divergences = [line["distill/divergence"] for line in finished.lines()]
    assert divergences[-1] < 0.7 * divergences[0]
    assert "distill_teacher" not in (tmp_path / "whole/final/config.json").read_text()


@pytest.mark.slow
def test_an_adapter_learns_from_a_teacher(chat, chat_teacher, tmp_path):
    pytest.importorskip("peft")
    taught = Run(recipe(chat, distill_teacher=str(chat_teacher), distill_weight=0.9, lora={"r": 4}), tmp_path / "run")
    assert taught() == 0, taught.said()
    divergences = [line["distill/divergence"] for line in taught.lines()]
    assert divergences[-1] < 0.9 * divergences[0]


# Plans and bad input


def test_a_plan_counts_the_teacher(capsys, folder_of, run):
    file = run(distill_teacher=folder_of(foreign("Llama", tie_word_embeddings=True))).recipe
    alone, facts = (json.loads(_said(capsys, "plan", each, "--json")) for each in (run().recipe, file))
    counted = costs(read_config(file, []), on_gpu=False)
    matrices = 61 * 32 + 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    assert counted.flops(16) == 2 * matrices + 2 * 2 * 32 * 16 and counted.weights == 4 * counted.parameters
    assert facts["training_flops"] == alone["training_flops"] and alone["teacher_flops"] == 0
    assert facts["teacher_flops"] == sum(phase["tokens"] * counted.flops(phase["length"]) for phase in facts["phases"])
    out = _said(capsys, "plan", file, "--gpu", "h200")
    assert f"{counted.parameters:,} parameters; its forward passes are" in out and " teacher " in out


def _said(capsys, *words):
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_a_run_from_before_there_were_teachers_goes_on(run, teacher):
    now = read_config(run().recipe, []).resolved()
    earlier = {name: value for name, value in now.items() if not name.startswith("distill")}
    assert differences(earlier, now) == []
    taught = read_config(run(distill_teacher=teacher).recipe, []).resolved()
    assert differences(earlier, taught) == [f"distill_teacher was None, is now {teacher}"]


def other_tokenizer(folder, special):
    backend = trained(special)
    save_tokenizer(backend, folder / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / "teacher" / name).write_text((folder / "other" / name).read_text())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"distill_weight": 0.7}, "distill_weight is about a teacher: set distill_teacher, or leave it out"),
        ({"distill_teacher": "T", "distill_weight": 1.5}, "distill_weight=1.5 must be at most 1"),
        ({"distill_teacher": "T", "distill_weight": 0}, "distill_weight=0.0 must be above 0"),
        ({"distill_teacher": "T", "distill_temperature": 0}, "distill_temperature=0.0 must be above 0"),
        ({"distill_teacher": "T", "distill_dtype": "int4"}, "unknown distill_dtype 'int4': did you mean int8?"),
        (
            {"distill_teacher": "T", "parallel": "zero1"},
            "distill_teacher is not tested under zero1: take ddp or fsdp2",
        ),
        ({"distill_teacher": "no/such"}, "no folder here, and no model on the Hub that can be reached and read"),
        ({"distill_teacher": "bins"}, "it is a folder without a config.json that transformers knows"),
    ],
)
def test_a_wrong_setting_is_one_sentence_before_any_work(chat, chat_teacher, tmp_path, capsys, changes, message):
    named = {"T": str(chat_teacher), "bins": str(chat / "bins")}
    if "distill_teacher" in changes:
        changes = changes | {"distill_teacher": named.get(changes["distill_teacher"], changes["distill_teacher"])}
    assert main(["sft", str(recipe(chat, **changes)), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not (tmp_path / "run").exists(), said


def test_a_teacher_that_does_not_fit_is_refused_by_name(chat, chat_teacher, tmp_path, capsys, run, folder_of):
    def refused(file):
        assert main(["pretrain", str(file), "--out", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert said.count("yxanul: ") == 1 and not list(tmp_path.glob("run/*")), said
        return said

    file = recipe(chat, distill_teacher=str(chat_teacher))
    other_tokenizer(chat, ["<|endoftext|>", "<|other|>"])
    assert "id 1 is '<|pad|>' in " in refused(file)
    chat_tokenizer = {"tokenizer": {"from": str(chat / "base"), "template": "chatml"}}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (chat_teacher / name).write_text((chat / "base" / name).read_text())
    late = recipe(chat, distill_teacher=str(chat_teacher), tokenizer=str(chat / "ml/tokenizer"), data=chat_tokenizer)
    assert "is '<|im_start|>' in " in refused(late) and not (chat / "ml").exists(), "before it is made"
    short = foreign("Llama")
    short.config.max_position_embeddings = 63
    message = "it takes 63 tokens, and the plan's longest rows have 64: shorten them"
    assert message in refused(run(distill_teacher=folder_of(short)).recipe)
    message = "it has no tokenizer, and its vocabulary of 61 ids is not the model's 70"
    more = run(distill_teacher=folder_of(foreign("Llama")), model_config=SHAPE | {"vocab_size": 70})
    assert message in refused(more.recipe)
    message = "it has no layers of nn.Linear: take distill_dtype=bf16 or fp32"
    assert message in refused(run(distill_teacher=folder_of(foreign("GPT2")), distill_dtype="int8").recipe)


def test_a_teacher_whose_head_does_more_than_multiply_is_refused(folder_of, run, tmp_path, capsys):
    from transformers import GraniteConfig, GraniteForCausalLM

    sizes = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = GraniteForCausalLM(GraniteConfig(**sizes, intermediate_size=48, logits_scaling=8.0))
    file = run(distill_teacher=folder_of(model)).recipe
    assert main(["pretrain", file, "--out", str(tmp_path / "run")]) == 2
    assert "its logits are not its last hidden state times its head's table" in capsys.readouterr().err


def test_perplexity_is_of_the_loss_that_is_logged(whole):
    line = whole.lines()[0]
    assert line["perplexity"] == pytest.approx(math.exp(line["loss"]))
