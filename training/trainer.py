"""`YxanulTrainer`: what the stock Trainer gets wrong or slow for a curriculum, and nothing else.

One `train()` over a whole plan. Micro-batches come from the plan (loader.py), losses are divided by the step's real
targets without asking the other ranks, a bad step is skipped on the device (guard.py), evaluation is exact on any
number of processes (evaluation/bits_per_byte.py), checkpoints are complete or not there (checkpoints.py). A step that
does not log never waits for the device.
Not here: what happens at which step (callbacks.py), how processes are started (launch/).
"""

import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.utils.output_capturing import maybe_install_capturing_hooks

from yxanul.data.progress import insist, say
from yxanul.evaluation.bits_per_byte import DomainScore, HeldOut, evaluate
from yxanul.run_folder import DONE, FAILED, RunFolder
from yxanul.training import checkpoints
from yxanul.training.beginning import is_stale
from yxanul.training.compilation import Compilation
from yxanul.training.config import RunConfig
from yxanul.training.distillation import Distillation
from yxanul.training.gates import Evidence
from yxanul.training.guard import StepGuard
from yxanul.training.health import REQUESTS, Health
from yxanul.training.launch import zero
from yxanul.training.launch.fsdp2 import group_tied_factors, split_again
from yxanul.training.loader import MicroBatches, loader
from yxanul.training.optimizers import build_optimizer, learning_rates
from yxanul.training.precision.transformer_engine import TransformerEngine
from yxanul.training.ranks import Ranks
from yxanul.training.training_arguments import uses_bf16


class YxanulTrainer(Trainer):
    model: Any

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        config: RunConfig,
        run: RunFolder,
        ranks: Ranks,
        batches: MicroBatches,
        held_out: dict[str, HeldOut],
        tokenizer: Any = None,
    ) -> None:
        self.config, self.run, self.ranks = config, run, ranks
        self.batches, self.held_out = batches, held_out
        self.plan = batches.stream.plan
        self.tokens = 0  # targets that were trained on, padding not counted
        self.exit_code = 0
        self.scores: dict[str, DomainScore] = {}
        self.tasks: dict[str, Callable[..., np.ndarray]] = {}  # zero-shot ones that a gate watches
        self.evidence: dict[str, Evidence] = {}
        self.compilation = Compilation("none", "unless a session says otherwise")
        self._targets_in_step = 0
        self.is_bf16 = uses_bf16(config)
        self.te: TransformerEngine | None = None
        self.distillation: Distillation | None = None
        self._zero: zero.Zero | None = None
        self._parameters: list[nn.Parameter] = []
        super().__init__(model=model, args=args, train_dataset=batches, processing_class=tokenizer)
        self.guard = StepGuard(config.skip_above, self.args.device)
        self.health = Health(self.args.device, ranks, self.plan, model.config, run)
        self.add_callback(self.health)
        if self.accelerator.ddp_handler is not None:
            self.accelerator.ddp_handler.gradient_as_bucket_view = True  # else they exist twice
        self.start_clock()

    def start_clock(self) -> None:
        """Tokens a second are counted from here to the next log."""
        self._logged_at, self._logged_tokens = time.monotonic(), self.tokens

    # Data

    def get_train_dataloader(self) -> DataLoader:
        return loader(self.batches, self.args)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Tensor]:
        """The stock method counts targets on every rank and gathers the counts; the plan knows them."""
        step = self.state.global_step + 1
        is_first_log = step == 1 and self.args.logging_first_step
        self.health.observes = is_first_log or step % self.state.logging_steps == 0 or step in self.plan.stage_ends
        with self.health.timed("data"):
            samples = [next(epoch_iterator) for _ in range(num_batches)]
        self._targets_in_step = [sample.pop("targets_in_step") for sample in samples][0]
        targets = torch.full((), self._targets_in_step, device=device)  # a number would be copied, with a wait
        if self.te:
            self._begin_te_step(self.te, samples[0], targets)
        return samples, targets

    def _begin_te_step(self, te: TransformerEngine, inputs: dict[str, Tensor], targets: Tensor) -> None:
        """Before the first of all, where no checkpoint brought FP8's scales, they are found; nothing is learnt."""
        te.begin_step()
        if te.is_warm:
            return
        model: Any = self.model_wrapped.train()

        def loss() -> Any:
            batch = self._ready(inputs)
            with self._autocast(), te.region():
                return Trainer.compute_loss(self, model, batch, num_items_in_batch=targets)

        te.warm_up(loss, self.accelerator.backward, model.zero_grad)
        if self.ranks.is_first:
            say("FP8's scales were warmed up on the first micro-batch: no checkpoint had them.")

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        device = self.args.device
        return {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }

    def _ready(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, with the loss's options, and read by the teacher, if there is one."""
        batch = self._prepare_inputs(inputs)
        if self.distillation:
            with self.health.timed("teacher"):
                self.distillation.read(batch)
        return batch | {"z_loss": self.config.z_loss, "compiled_loss": self.compilation.loss}

    # A step

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of a micro-batch. The stock one walks the whole module tree each time."""
        if not self.model.training:  # DDP's wrapper says that it trains, whatever is inside
            model.train()
        batch = self._ready(inputs)
        with self._autocast(), self.te.region() if self.te else nullcontext():
            batch |= REQUESTS if self.health.observes else {}
            loss: Any = self.compute_loss(model, batch, num_items_in_batch=num_items_in_batch)
        self.guard.add_loss(loss.detach())
        options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}
        with self.health.timed("backward"):
            self.accelerator.backward(loss, **options)
        return loss.detach()

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        with self.health.timed("forward"):
            found: Any = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.health.see_predictions(found[1], inputs["shift_labels"])
        if self.distillation:
            self.health.see_teacher(found[1], self.distillation.divergences, inputs["shift_labels"])
        return found if return_outputs else found[0]

    def _autocast(self) -> torch.autocast:
        """Ours, not accelerate's, which FSDP2 replaces by weights, sums and losses in bf16; the same in evaluation."""
        return torch.autocast(self.args.device.type, torch.bfloat16, enabled=self.is_bf16)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """The stock method counts all parameters in every micro-batch; catalog.py knows better, when it is asked."""
        return 0

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The stock method looks for the parameters in the whole module tree, in every step."""
        self.health.see_gradients()
        return self.accelerator.clip_grad_norm_(self._parameters, self.args.max_grad_norm)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Tensor:
        """Called between clipping and the optimizer's step, which skips where `found_inf` is 1."""
        norm = torch.as_tensor(super()._get_grad_norm(model, grad_norm), device=self.args.device)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._zero:
            self._zero.after_step(norm.float())
        else:
            self._inner_optimizer.found_inf = self.guard.judge(norm.float())
        self.tokens += self._targets_in_step
        return norm

    @property
    def _inner_optimizer(self) -> Any:
        """Without accelerate's wrapper, and DeepSpeed's."""
        inner: Any = self.optimizer
        while hasattr(inner, "optimizer"):
            inner = inner.optimizer
        return inner

    # Optimizer and learning rate

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model if model is None else model, self.config)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        rate: Callable[[int], float] = learning_rates(self.config, self.plan)
        peak = self.config.learning_rate
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self._inner_optimizer, lambda step: rate(step) / peak)
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: Any) -> Any:
        maybe_install_capturing_hooks(self.model.base_model)  # else, at the first log, what is compiled is made anew
        self.compilation.apply(self.model, self.plan, self.config.document_mask)
        if self.is_fsdp_enabled:
            # of the hidden states that a step which logs puts out, and nobody changes in place
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            group_tied_factors(self.model, self.accelerator)
        if not self.is_deepspeed_enabled:
            model, batches = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
            self._parameters = list(model.parameters())  # in the model's order, by which accelerate knows FSDP2's
            named = checkpoints.named_parameters(model)
            self.health.know_parameters((names[0], parameter) for names, parameter in named)
            # the stock one, too, would walk the whole tree in every step; gradients in DDP's buckets stay there
            set_to_none = not isinstance(model, DistributedDataParallel)
            model.zero_grad = partial(self._inner_optimizer.zero_grad, set_to_none=set_to_none)
            return model, batches
        if resume_from_checkpoint is not None:
            self._load_from_checkpoint(resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        optimizer: Any = self.optimizer
        self._zero = zero.Zero(optimizer.optimizer, self.guard.judge, self.args.device)
        self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    # Checkpoints

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        began = time.monotonic()
        self._write_checkpoint()
        self.ranks.first_writes(self._tidy_up)
        self._logged_at += time.monotonic() - began

    def begin_at(self, step: int) -> Path:
        """A run that begins inside of its plan begins with a checkpoint there, which knows no moments yet."""
        self.state.global_step, self.state.train_batch_size = step, self.args.train_batch_size
        self.create_optimizer()
        self._write_checkpoint()
        self.optimizer = None
        return self.run.checkpoint(step)

    def _write_checkpoint(self) -> None:
        step = self.state.global_step
        rank_state = {"losses": self.guard.values.cpu(), "cpu": torch.random.get_rng_state()}
        if self.args.device.type == "cuda":
            rank_state["cuda"] = torch.cuda.get_rng_state(self.args.device)
        marker = {"step": step, "tokens": self.tokens, "ranks": self.ranks.count}
        unwrapped = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        split_again(unwrapped)
        folder = self.run.checkpoint(step)
        parts = self._zero.parts if self._zero else checkpoints.parts_in(self._inner_optimizer)
        checkpoints.save(folder, unwrapped, parts, self.ranks, rank_state, marker, self._write_beside_weights)

    def _tidy_up(self) -> None:
        step = self.state.global_step
        if step in self.plan.stage_ends:
            stage_index = self.plan.at(step - 1).stage_index
            name = self.plan.stages[stage_index].name
            checkpoints.keep(self.run.checkpoint(step), self.run.stage(stage_index, name))
        checkpoints.prune(self.run, self.config.save_total_limit, self.state.best_global_step)

    def _write_beside_weights(self, folder: Path) -> None:
        self.state.save_to_json(str(folder / checkpoints.TRAINER_STATE))
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if self.te:
            self.te.save(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        checkpoints.load_weights(folder, self.model if model is None else model)
        if self.te:
            self.te.load(folder)
        self.tokens = checkpoints.read_marker(folder)["tokens"]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        if self._zero:
            self._zero.load_optimizer(Path(checkpoint), self.model)
        else:
            checkpoints.load_optimizer(Path(checkpoint), self.model, self._inner_optimizer)
        step, scheduler = self.state.global_step, cast(Any, self.lr_scheduler)
        scheduler.last_epoch, scheduler._step_count = step, step + 1
        rates = [base * rate(step) for base, rate in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)]
        for group, rate in zip(self._inner_optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        scheduler._last_lr = rates

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Also the losses that were not yet logged: the first line after a resume is that of the undisturbed run."""
        if checkpoint is None:
            return
        states = checkpoints.rank_states(Path(checkpoint))
        if len(states) == self.ranks.count:
            own = states[self.ranks.rank]
            torch.random.set_rng_state(own["cpu"])
            if "cuda" in own and self.args.device.type == "cuda":
                torch.cuda.set_rng_state(own["cuda"], self.args.device)
            self.guard.values.copy_(own["losses"])
        elif states:  # the mean over ranks is what is logged; the other figures are the same on all
            self.guard.values.copy_(torch.stack([state["losses"] for state in states]).mean(0))

    # Evaluation and logging

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> dict:
        """Exact per domain, whatever the number of processes; the stock loss depends on it."""
        began = time.monotonic()
        metrics: dict[str, float] = {}
        place: dict[str, Any] = {
            "device": self.args.device,
            "rank": self.ranks.rank,
            "processes": self.ranks.count,
            "reduce": lambda tensor: self.accelerator.reduce(tensor, "sum"),
        }
        for domain, held_out in self.held_out.items():
            with self._autocast():
                score = evaluate(self.model, held_out, **place)
            self.scores[domain] = score
            self.evidence[domain] = Evidence(score.document_bits, score.document_bytes)
            for name in ("bits_per_byte", "loss", "perplexity", "accuracy"):
                metrics[f"{metric_key_prefix}_{domain}_{name}"] = getattr(score, name)
        for task, errors_of in self.tasks.items():
            with self._autocast():
                errors = errors_of(self.model, self.processing_class, **place)
            self.evidence[task] = Evidence(errors, np.ones(len(errors)))
            metrics[f"{metric_key_prefix}_{task}_errors"] = self.evidence[task].figure
        if metrics:
            mean = sum(score.bits_per_byte for score in self.scores.values()) / len(self.scores)
            metrics[f"{metric_key_prefix}_bits_per_byte"] = mean
            self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._logged_at += time.monotonic() - began
        return metrics

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """As the stock one, but a new best is saved at once: what was best is there, not only known."""
        name = f"eval_{self.config.metric_for_best_model.removeprefix('eval_')}"
        value, best = metrics.get(name, math.nan), self.state.best_metric
        better = value > best if best is not None and self.config.greater_is_better else best is None or value < best
        if math.isnan(value) or not better:
            if is_stale(self.config, self.plan, self.state.global_step, self.state.best_global_step):
                self.stop(DONE)
            return False
        self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        self.control.should_save = True
        return True

    def stop(self, exit_code: int) -> None:
        """At the end of this step, which is saved."""
        self.exit_code = exit_code
        self.control.should_save = self.control.should_training_stop = True

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the run knows. The state's history stays empty: metrics.jsonl is the history."""
        if "loss" in logs:
            logs = self._training_figures(logs)
        elif not any(name.startswith("eval_") for name in logs):
            return  # the stock Trainer's last words: samples per second of a batch size that nobody set
        self.health.alerts.remember(logs)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def _training_figures(self, logs: dict[str, float]) -> dict[str, Any]:
        """One exchange and one wait for the device."""
        numbers = self.health.fetch(self.guard.values)
        skipped, in_a_row, loss_sum, loss_steps = (value / self.ranks.count for value in numbers["guard"][2:])
        self.guard.clear_losses()
        if in_a_row >= self.config.max_bad_steps:
            insist(f"{int(in_a_row)} steps in a row had bad gradients and were skipped: the run saves and stops.")
            self.stop(FAILED)
        loss = loss_sum / loss_steps if loss_steps else math.nan
        position = self.plan.at(self.state.global_step - 1)
        rate = (self.tokens - self._logged_tokens) / (time.monotonic() - self._logged_at)
        self.start_clock()
        figures = self.health.figures(numbers, self.state.global_step, loss, rate, self._targets_in_step)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700.0)),
            "grad_norm": logs["grad_norm"],
            "learning_rate": logs["learning_rate"],
            "stage": self.plan.stages[position.stage_index].name,
            "length": position.length,
            "rows": position.rows,
            "tokens_per_second": rate,
            "skipped_steps": int(skipped),
        } | figures
