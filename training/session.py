"""One start of a run, from the built model to the exit code: trains or evaluates, and leaves in good order.

Not here: what is checked before (inputs.py, beginning.py).
"""

import json
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

from accelerate.utils import DynamoBackend
from rich.markup import escape
from rich.table import Table
from transformers import PrinterCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

from yxanul.bad_input import BadInput
from yxanul.data.locks import only_process
from yxanul.data.plan import Plan
from yxanul.data.progress import answer_table, insist, say
from yxanul.data.stream import Stream
from yxanul.evaluation.bits_per_byte import HeldOut
from yxanul.evaluation.zero_shot import find_task
from yxanul.run_folder import DONE, FAILED, GATE_FAILED, STOPPED, RunFolder
from yxanul.training import checkpoints, model
from yxanul.training.attention import resolve_attention
from yxanul.training.beginning import Beginning, is_stale, write_beginning
from yxanul.training.callbacks import CurriculumCallback, Record, StopSignals, cut_lines
from yxanul.training.compilation import resolve_compile
from yxanul.training.config import RunConfig
from yxanul.training.console import Console
from yxanul.training.distillation import Distillation
from yxanul.training.gates import Gates
from yxanul.training.inputs import load_fast_tokenizer
from yxanul.training.loader import MicroBatches
from yxanul.training.lora import frozen_bytes
from yxanul.training.precision import te_layers
from yxanul.training.precision.native_fp8 import enable_fp8
from yxanul.training.precision.policy import check_te_batches, formats_of_run
from yxanul.training.precision.transformer_engine import TransformerEngine
from yxanul.training.ranks import Ranks
from yxanul.training.samples import Samples
from yxanul.training.summary import print_summary
from yxanul.training.teacher import load_teacher
from yxanul.training.trackers import Trackers
from yxanul.training.trainer import YxanulTrainer
from yxanul.training.training_arguments import is_on_gpu, resolved_precision


class Session:
    def __init__(
        self,
        config: RunConfig,
        run: RunFolder,
        args: TrainingArguments,
        ranks: Ranks,
        stream: Stream,
        held_out: dict[str, HeldOut],
        begin: Beginning,
        gates: Gates | None = None,
    ) -> None:
        disable_progress_bar()
        self.config, self.run, self.ranks, self.begin, self.gates = config, run, ranks, begin, gates or Gates(run)
        self.plan = stream.plan
        built = model.build(config, with_weights=begin.checkpoint is None)
        if begin.checkpoint:
            checkpoints.check_fits(begin.checkpoint, built)
        self.precision, self.formats = resolved_precision(config), list[str]()
        accumulation, on_gpu, te = args.gradient_accumulation_steps, is_on_gpu(config), None
        if self.precision in ("fp8", "te"):
            policy, self.formats = formats_of_run(config, on_gpu)
        if self.precision == "fp8":
            enable_fp8(built, policy)
        if self.precision == "te":
            check_te_batches(policy, self.plan, ranks.count * accumulation)
            te = TransformerEngine(built, policy, te_layers.load(on_gpu), ranks.count)
        attention = resolve_attention(config)
        compilation = resolve_compile(config, attention.name)
        attention.install(built)
        self.kernels = [*attention.sentences(), compilation.sentence()]
        batches = MicroBatches(stream, ranks.rank, ranks.count, accumulation, config.document_mask)
        tokenizer = load_fast_tokenizer(config)
        self.trainer = YxanulTrainer(built, args, config, run, ranks, batches, held_out, tokenizer)
        self.trainer.te, self.trainer.compilation = te, compilation
        self.trainer.tasks = {name: find_task(name) for gate in self.gates.gates.values() for name, _ in gate.holds}
        self.trainer.remove_callback(PrinterCallback)
        splits = self.trainer.is_deepspeed_enabled or self.trainer.is_fsdp_enabled
        if config.parallel not in ("auto", "ddp") and not splits:
            raise BadInput(f"parallel={config.parallel} is for GPUs: take use_cpu or ACCELERATE_USE_CPU out.")
        launchers = self.trainer.accelerator.mixed_precision
        if launchers != "no":
            raise BadInput(f"the launcher set mixed_precision={launchers}: leave it out; the run's precision says it.")
        if self.trainer.accelerator.state.dynamo_plugin.backend != DynamoBackend.NO:
            raise BadInput("the launcher set dynamo_backend: leave it out; the run's compile says it.")

    def train(self) -> int:
        if self.config.distill_teacher is not None:
            self._bring_teacher()
        with ExitStack() as stack:
            mine = only_process(self.run.lock, f"training in {self.run.path}")  # two would mix their checkpoints
            self.ranks.first_writes(lambda: stack.enter_context(mine))
            exit_code = self._train(stack)
        if self.ranks.is_first:  # below the panel, which stays where it was
            self._say_goodbye()
        self._leave()
        return exit_code

    def _train(self, stack: ExitStack) -> int:
        trainer, begin = self.trainer, self.begin
        trainer.add_callback(CurriculumCallback(trainer, begin.stop_step, self.gates))
        trainer.add_callback(StopSignals(trainer))
        self.ranks.first_writes(self._begin_folder)
        console = None
        if self.ranks.is_first:
            self._say_hello()
            console = self._record(stack)
        trainer.add_callback(Samples(trainer, partial(self._keep_sample, console) if console else None))
        checkpoint = begin.checkpoint
        if checkpoint is None and begin.step > 0:
            checkpoint = trainer.begin_at(begin.step)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        step, best = trainer.state.global_step, trainer.state.best_global_step
        is_early = is_stale(self.config, self.plan, step, best)
        if (step == self.plan.steps or is_early) and trainer.exit_code not in (FAILED, GATE_FAILED):
            self.ranks.first_writes(lambda: write_final(self.config, self.run, step))
            trainer.exit_code = DONE
        return trainer.exit_code

    def _bring_teacher(self) -> None:
        config, trainer = self.config, self.trainer
        teacher = load_teacher(config, trainer.args.device, trainer.model.config.vocab_size)
        trainer.distillation = Distillation(teacher, config.distill_weight, config.distill_temperature)
        trainer.distillation.install(trainer.model)
        self.kernels.append(
            f"teacher: {teacher.description}; {config.distill_weight:.0%} of the loss is its own, at temperature "
            f"{config.distill_temperature:g}."
        )

    def _say_hello(self) -> None:
        """The first figures may take a while."""
        trainer, tokens = self.trainer, sum(held_out.tokens for held_out in self.trainer.held_out.values())
        say(
            f"{self.config.model}, {trainer.model.num_parameters():,} parameters, {self.ranks.count} x "
            f"{trainer.args.device.type} in {self.precision}; from step {self.begin.step:,} of {self.plan.steps:,}"
            + (f", evaluated on {tokens:,} held-out tokens." if tokens else ".")
        )
        if self.config.lora:
            held = f"{frozen_bytes(trainer.model) / 1e6:,.1f} MB ({self.config.lora.get('base', 'full')})"
            learnt = trainer.model.num_parameters(only_trainable=True)
            say(f"lora: {learnt:,} of them learn; the others take {held}.")
        for sentence in [*self.formats, *self.kernels]:
            say(sentence)

    def _begin_folder(self) -> None:
        """What this start finds there, and leaves behind, before its first step."""
        begin = self.begin
        write_beginning(self.config, self.run, self.ranks.count, str(self.trainer.args.device))
        for lines in (self.run.metrics, self.run.samples):
            cut_lines(lines, begin.step if begin.checkpoint else -1)
        self.gates.go_back_to(begin.step)
        aside = checkpoints.set_aside_later(self.run, begin.step)
        if aside:
            say(f"going back to step {begin.step:,}: what came later is in {aside} now.")
        if begin.checkpoint and not self.run.checkpoint(begin.step).exists():
            checkpoints.keep(begin.checkpoint, self.run.checkpoint(begin.step))  # of a stage's end, or another run
        finish_what_was_cut_off(self.config, self.run, self.plan, begin)

    def _record(self, stack: ExitStack) -> Console:
        stages = [stage.name for stage in self.plan.stages]
        title = f"{self.config.model} on {self.ranks.count} x {self.trainer.args.device.type}"
        tokens = self.trainer.batches.stream.expected_targets()
        console = stack.enter_context(Console(self.plan.steps, tokens, stages, title))
        run_name = self.config.training_arguments.get("run_name")
        trackers = Trackers(self.run, self.config.report_to, run_name)
        trackers.start()
        stack.callback(trackers.finish)
        self.trainer.add_callback(Record(self.trainer, console, trackers))
        return console

    def _keep_sample(self, console: Console, sample: dict[str, Any]) -> None:
        with self.run.samples.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample, ensure_ascii=False) + "\n")
        console.say(f"sample of {sample['domain']}: {sample['prompt']!r} -> {sample['continuation']!r}")

    def _say_goodbye(self) -> None:
        step, code = self.trainer.state.global_step, self.trainer.exit_code
        if code in (DONE, GATE_FAILED):
            print_summary(self.run, self.plan, self.trainer.held_out, self.trainer.processing_class)
        if code == STOPPED:
            insist(f"stopped at step {step:,} of {self.plan.steps:,}, saved; the same command goes on.")
        elif code == FAILED:
            insist(f"failed at step {step:,}; {self.run.checkpoint(step)} holds the last good weights.")
        elif code == GATE_FAILED:
            insist(f"a gate is shut at step {step:,}: saved, nothing more is learnt; {self.run.gates} says why.")
        elif self.run.final.exists():
            final, best = self.run.final, self.trainer.state.best_global_step
            if step < self.plan.steps:
                say(f"nothing got better since step {best:,}: stopped early, at step {step:,} of {self.plan.steps:,}.")
            if self.config.keep_best:
                say(f"the best by {self.config.metric_for_best_model} is that of step {best:,}.")
            say(f"done: {final} loads with from_pretrained.")
            if self.trainer.processing_class is not None:
                begin = f"yxanul pretrain continue --init-from {final} tokenizer={final} --out RUN"
                onward = f"on text of yours: {begin}  (docs/continued-pretraining.md)"
                talks = any(each.is_conversations for each in self.trainer.batches.stream.bins.values())
                say(f"next, {f'talk to it: yxanul chat {final}' if talks else onward}")
        else:
            say(f"this stage is done at step {step:,} of {self.plan.steps:,}; without --stage the run goes on.")

    def evaluate(self) -> int:
        """Of the checkpoint, or of the weights that the run would begin with."""
        if self.begin.checkpoint:
            checkpoints.load_weights(self.begin.checkpoint, self.trainer.model)
        self.trainer.model.to(self.trainer.args.device)  # ZeRO and FSDP2 would have placed it when they split it
        self.trainer.evaluate()
        if self.ranks.is_first:
            table = Table(box=None)
            for heading in ("domain", "bits/byte", "loss", "perplexity", "accuracy", "tokens", "bytes"):
                table.add_column(heading, justify="left" if heading == "domain" else "right")
            for domain, score in self.trainer.scores.items():
                figures = f"{score.bits_per_byte:.4f}", f"{score.loss:.4f}", f"{score.perplexity:.2f}"
                table.add_row(
                    escape(domain), *figures, f"{score.accuracy:.2%}", f"{score.tokens:,}", f"{score.bytes:,}"
                )
            answer_table(table)
            with suppress(OSError):
                self.run.path.rmdir()  # the Trainer makes it; what is in use is not empty
        self._leave()
        return DONE

    def _leave(self) -> None:
        """DDP's wrapper goes first: freed after its gloo group, it can wait for a thread that waits for the GIL."""
        self.ranks.close()
        self.trainer.model_wrapped = self.trainer.model
        self.trainer.accelerator.free_memory()
        self.trainer.accelerator.end_training()


def finish_what_was_cut_off(config: RunConfig, run: RunFolder, plan: Plan, begin: Beginning) -> None:
    """A kill right after a save left the end of a stage, or final/, to be put in its place."""
    if begin.checkpoint is None:
        return
    for index, stage in enumerate(plan.stages):
        kept = run.stage(index, stage.name)
        if begin.step == plan.stage_steps[index].stop and checkpoints.flaw(kept):
            checkpoints.keep(begin.checkpoint, kept)
    if (begin.step == plan.steps or begin.is_early) and not run.final.exists():
        write_final(config, run, begin.step)


def write_final(config: RunConfig, run: RunFolder, step: int) -> None:
    best = checkpoints.best_step(run.checkpoint(step)) if config.keep_best else None
    checkpoints.write_final(run.checkpoint(step if best is None else best), run.final)
