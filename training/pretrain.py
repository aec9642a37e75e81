"""`yxanul pretrain RECIPE --out RUN [key=value ...]`: a recipe becomes a model.

    yxanul pretrain demo --out runs/demo                       # one process, or one for each GPU of this machine
    yxanul pretrain demo --out runs/demo --dry-run             # what it would do
    yxanul pretrain yxanul-177m-24gb --out runs/toy --scale tiny  # the recipe as a toy, in seconds
    accelerate launch -m yxanul.training.pretrain --config demo --out runs/demo learning_rate=2e-3

Killed or stopped at any moment, the same command goes on. Exit codes: 0 done, 2 bad input, 3 a gate failed, 4 stopped
by a signal, 5 failed with everything saved. Not here: what a recipe may say (config.py), the training (trainer.py).
"""

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import replace

from yxanul.bad_input import BadInput
from yxanul.data import whole_files
from yxanul.data.progress import insist, say
from yxanul.run_folder import DONE, GATE_FAILED, RunFolder
from yxanul.shell import command
from yxanul.training.compilation import keep_compiled, resolve_compile
from yxanul.training.config import SCALE_HELP, RunConfig, read_config, settings_help
from yxanul.training.scale import NOTE as SCALE_NOTE

_EXAMPLES = {"pretrain": "demo", "sft": "sft"}
# Read when torch is imported. Waiting OpenMP threads spin by default: on busy cores a step took five times as long
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}


def main(
    arguments: list[str],
    verb: str = "pretrain",
    about: str = __doc__,
    check: Callable[[RunConfig, bool], None] | None = None,
) -> int:
    """`verb`, `about` and `check`: of sft.py, which is this with conversations."""
    for name, value in PATIENT_THREADS.items():
        os.environ.setdefault(name, value)
    keep_compiled()
    options, config = _parse(arguments, verb, about)
    if check is not None:
        check(config, options.scale == "tiny")
    if config.init_from is not None:
        config.shape()
    from yxanul.training.preparing import checked_entries, prepare_missing, with_room_for_new_tokens

    checked_entries(config.data, config.tokenizer)
    config = with_room_for_new_tokens(config)
    if options.dry_run:
        return _dry_run(config, options)
    from yxanul.training.launch.processes import start

    launched = "WORLD_SIZE" in os.environ or "ACCELERATE_MIXED_PRECISION" in os.environ
    if os.environ.get("ACCELERATE_MIXED_PRECISION") == "fp8":  # the Trainer would ignore it, or convert the head too
        raise BadInput("the launcher set mixed_precision=fp8: leave it out, and set precision=fp8 in the recipe.")
    if launched and options.processes:
        raise BadInput("--processes starts processes, and so does this launcher: leave --processes out.")
    _check_before_preparing(config, options)
    prepare_missing(config.data, config.tokenizer)
    config = with_room_for_new_tokens(config)
    processes = options.processes or (1 if launched else _one_for_each_gpu(config))
    config.accumulation(int(os.environ.get("WORLD_SIZE", processes)))  # refuses rows that do not divide
    if processes > 1:
        return start(f"yxanul.training.{verb}", _without_processes(arguments), processes)
    return _run(config, options)


def _check_before_preparing(config: RunConfig, options: argparse.Namespace) -> None:
    """What can be known before hours of preparing is said before them."""
    from yxanul.training import beginning
    from yxanul.training.optimizers import learning_rates

    run = RunFolder(options.out)
    whole_files.check_folder(run.path, "--out")
    if not options.force:
        beginning.check_folder(config, run, force=False)
    if all("tokens" in source for stage in config.stages for source in stage.get("sources") or []):
        config.accumulation(int(os.environ.get("WORLD_SIZE", options.processes or 1)))
        plan = config.plan()
        learning_rates(config, plan)
        if options.stage is not None:
            beginning.stage_steps(plan, options.stage)
    if config.init_from is not None and not run.config.exists():
        replace(config, model=config.init_from).shape()
    _check_machine(config, int(os.environ.get("WORLD_SIZE", options.processes or 0)))


def _check_machine(config: RunConfig, processes: int) -> None:
    """Whether it can do what the recipe asks for by name; what is left to `auto` costs no import of torch."""
    if config.precision != "auto":
        from yxanul.training.precision.policy import place, read_policy
        from yxanul.training.training_arguments import is_on_gpu, resolved_precision

        precision = resolved_precision(config)
        if precision in ("fp8", "te"):
            policy = read_policy(config.precision_policy, config.recipe, precision)
            place(policy, config.shape().config, is_on_gpu(config))
    if config.lora:
        from yxanul.training.model import build_on_meta

        build_on_meta(config)
    if config.distill_teacher is not None:
        from yxanul.training.teacher import check_teacher

        check_teacher(config)
    if config.parallel not in ("auto", "ddp"):
        from yxanul.training.launch.parallel import check_parallel, trainer_fields
        from yxanul.training.launch.processes import visible_gpus

        check_parallel(config.parallel, processes or visible_gpus())
        trainer_fields(config.parallel, "bf16")
    if config.attention not in ("auto", "sdpa"):
        from yxanul.training.attention import resolve_attention

        resolve_attention(config)
    if config.compile not in ("auto", "none"):
        resolve_compile(config, config.attention)


def parser(verb: str = "pretrain", about: str = __doc__) -> argparse.ArgumentParser:
    parser = command(verb, about, settings_help())
    parser.add_argument("words", nargs="*", metavar="RECIPE key=value", help="a recipe's name or file, then settings")
    parser.add_argument("--config", metavar="RECIPE", help="the same as RECIPE, for launchers")
    parser.add_argument("--out", metavar="RUN", help="the run's folder; a run that is there goes on")
    parser.add_argument("--processes", type=_above_0, help="default: one for each GPU, one on a CPU")
    parser.add_argument("--stage", metavar="NAME", help="this stage alone")
    parser.add_argument("--resume", metavar="CHECKPOINT", help="default: the newest complete one")
    parser.add_argument("--init-from", metavar="MODEL", help="begin with these weights; Llama-shaped ones too")
    parser.add_argument("--evaluate-only", action="store_true", help="bits per byte of each domain, no training")
    parser.add_argument("--scale", choices=["tiny"], help=SCALE_HELP)
    parser.add_argument("--dry-run", action="store_true", help="check the recipe, print the plan, stop")
    parser.add_argument("--accept-gate", metavar="STAGE", help="go on although that stage's gate failed, and")
    parser.add_argument("--reason", help="why, for the record")
    parser.add_argument("--force", action="store_true", help="go on in the folder of another recipe's run")
    return parser


def _parse(arguments: list[str], verb: str, about: str) -> tuple[argparse.Namespace, RunConfig]:
    options = parser(verb, about).parse_intermixed_args(arguments)
    words = options.words if options.config is None else [options.config, *options.words]
    if not words or "=" in words[0]:
        raise BadInput(f"a recipe is missing: `yxanul {verb} {_EXAMPLES[verb]} --out runs/{_EXAMPLES[verb]}`.")
    if options.out is None and not options.dry_run:
        raise BadInput("--out is missing: it names the run's folder, such as --out runs/first.")
    if (options.accept_gate is None) != (options.reason is None):
        raise BadInput("--accept-gate and --reason belong together: say which gate, and why it does not count.")
    recipe, *assignments = words
    if options.init_from is not None:
        assignments.append(f"init_from={options.init_from}")
    if options.scale and "WORLD_SIZE" not in os.environ:
        say(SCALE_NOTE)
    return options, read_config(recipe, assignments, options.scale)


def _above_0(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number, at least 1")
    return int(text)


def _one_for_each_gpu(config: RunConfig) -> int:
    """As many as the rows of every phase divide by."""
    from yxanul.training.launch.processes import visible_gpus

    gpus = 0 if config.training_arguments.get("use_cpu") else visible_gpus()
    parts = config.gradient_accumulation_steps or 1
    rows = [phase.rows for stage in config.plan().stages for phase in stage.phases]
    fitting = max(
        (count for count in range(1, gpus + 1) if all(row % (count * parts) == 0 for row in rows)), default=1
    )
    if fitting < gpus:
        insist(f"{fitting} of {gpus} GPUs: the rows of the plan's phases do not divide by more processes.")
    return fitting


def _without_processes(arguments: list[str]) -> list[str]:
    words = [word for word in arguments if not word.startswith("--processes=")]
    if "--processes" in words:
        at = words.index("--processes")
        del words[at : at + 2]
    return words


def _dry_run(config: RunConfig, options: argparse.Namespace) -> int:
    from yxanul.training import checkpoints
    from yxanul.training.attention import resolve_attention
    from yxanul.training.beginning import check_folder, stage_steps
    from yxanul.training.inputs import check_inputs
    from yxanul.training.model import build_on_meta
    from yxanul.training.plan_command import print_plan
    from yxanul.training.precision.policy import formats_of_run
    from yxanul.training.training_arguments import is_on_gpu, resolved_precision

    config.accumulation(options.processes or 1)
    check_inputs(config, config.plan(), config.shape().config)
    if options.stage is not None:
        stage_steps(config.plan(), options.stage)
    if options.resume is not None:
        checkpoints.find(RunFolder(options.out or "."), options.resume)
    if options.out is not None:
        check_folder(config, RunFolder(options.out), options.force)
    model, precision = build_on_meta(config), resolved_precision(config)
    formats = formats_of_run(config, is_on_gpu(config))[1] if precision in ("fp8", "te") else []
    attention = resolve_attention(config)
    kernels = [*attention.sentences(), resolve_compile(config, attention.name).sentence()]
    print_plan(config)
    for sentence in [*formats, *kernels]:
        say(sentence)
    say(f"{model.num_parameters():,} parameters, {precision}; nothing was trained (--dry-run).")
    return DONE


def _run(config: RunConfig, options: argparse.Namespace) -> int:
    from yxanul.training import beginning, checkpoints
    from yxanul.training.failures import fail
    from yxanul.training.gates import Gates
    from yxanul.training.inputs import open_held_out, open_stream
    from yxanul.training.launch.parallel import check_parallel
    from yxanul.training.optimizers import learning_rates
    from yxanul.training.ranks import Ranks
    from yxanul.training.session import Session, finish_what_was_cut_off
    from yxanul.training.training_arguments import training_arguments

    plan, shape, run = config.plan(), config.shape().config, RunFolder(options.out)
    learning_rates(config, plan)  # refuses a warm-up that is too long
    stream = open_stream(config, plan, shape)
    beginning.check_folder(config, run, options.force)
    begin = beginning.beginning(config, plan, run, options.resume, options.stage)
    beginning.check_origin(config, run, begin.checkpoint, options.force)
    processes = int(os.environ.get("WORLD_SIZE", 1))
    check_parallel(config.parallel, processes)
    args = training_arguments(config, plan, run, processes)
    if args.world_size != processes:  # asking starts the process group
        raise BadInput(f"{processes} processes were started, {args.world_size} found each other: start them again.")
    held_out = open_held_out(config, plan, stream, shape, args.per_device_eval_batch_size)
    if options.evaluate_only and not held_out:
        raise BadInput("--evaluate-only has nothing to evaluate on: the recipe names no validation bins.")
    ranks = Ranks(args.ddp_timeout)
    begin = ranks.from_first(begin)  # disks that machines share may show the same folder at different times
    if options.resume is None:
        ranks.first_writes(lambda: checkpoints.tell_of_damaged(run))
    stages = [(stage.name, own.start, own.stop) for stage, own in zip(plan.stages, plan.stage_steps, strict=True)]
    origin = RunFolder(begin.checkpoint.parent.parent) if begin.checkpoint else None
    gates = Gates(run, config.gates(), stages, origin)
    gates.check_held_out({domain: text.document_bytes for domain, text in held_out.items()}, begin.step)
    if options.accept_gate:
        gates.accept(options.accept_gate, options.reason)
        if run.config.exists():  # else the folder is made when the run begins
            ranks.first_writes(gates.write)
    failed = gates.failed_at(begin.step)
    if failed and not options.evaluate_only:
        if ranks.is_first:
            insist(f"the gate of {failed} failed; --accept-gate {failed} --reason TEXT goes on all the same.")
        return GATE_FAILED
    if (begin.is_done or begin.is_early) and not options.evaluate_only:
        ranks.first_writes(lambda: finish_what_was_cut_off(config, run, plan, begin))
        if ranks.is_first:
            early = ", where it stopped early" if begin.is_early else ""
            say(f"{run.path} is done: step {begin.step:,} of {begin.stop_step:,}{early}.")
        return DONE
    try:
        session = Session(config, run, args, ranks, stream, held_out, begin, gates)
        return session.evaluate() if options.evaluate_only else session.train()
    except Exception as error:
        return fail(error, ranks)


if __name__ == "__main__":
    from yxanul.shell import exit_code
    from yxanul.training.launch.processes import leave

    sys.exit(leave(exit_code("pretrain", main, sys.argv[1:])))
