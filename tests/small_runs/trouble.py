"""The pretraining command, with the trouble that a test asks for in the environment variable TROUBLE (JSON).

kill: {"step", "rank"?}       SIGKILL at the end of that step, before anything of it is logged or saved
kill_in_save: {"step", "files"}   SIGKILL when that many files of the checkpoint are written
signal: {"step", "rank", "name"}  this process gets the signal at the end of that step
nan: {"steps", "rank"}        the loss of that rank is not a number in these steps
spike: {"steps", "rank"}      it is a million times too large, in a run that judges norms after two steps
fail_write: {"step"}          the disk is full while that checkpoint is written
bf16: true                    autocast as on a GPU, on the CPU, where it is refused for being slow; also beside fp8
fsdp2: true                   FSDP2 on the CPU, which accelerate refuses unless it takes it for a GPU
places: true                  says in how many pieces of memory the gradients lie at the end, and their bytes
graphs: true                  how many compiled graphs the cache had, and how many it had not
eager_kernels: true           compiles as a run does, but computes with eager kernels
quiz: {"errors"}              a zero-shot task `quiz` of 400 questions, the share of errors each time it is asked
te: true                      Transformer Engine's stand-in, on the CPU
zero: true                    DeepSpeed on the CPU over gloo; stage 3 splits small parameters too
"""

import errno
import gc
import json
import os
import pathlib
import signal
import sys

import numpy as np
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch._dynamo.utils import counters
from transformers import TrainerCallback

from yxanul.data.progress import say
from yxanul.training import checkpoints, compilation, guard, inputs, pretrain, session, trainer
from yxanul.training.launch import parallel
from yxanul.training.precision import te_layers
from yxanul.training.trainer import YxanulTrainer


def make_trouble(wanted, rank):
    def mine(name):
        return name in wanted and wanted[name].get("rank", rank) == rank

    def give(number):
        os.kill(os.getpid(), number)

    class Trouble(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if mine("kill") and state.global_step == wanted["kill"]["step"]:
                give(signal.SIGKILL)
            if mine("signal") and state.global_step == wanted["signal"]["step"]:
                give(getattr(signal, wanted["signal"]["name"]))

    class TroubledTrainer(YxanulTrainer):
        def __init__(self, *arguments, **options):
            if wanted.get("fsdp2"):
                PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
            super().__init__(*arguments, **options)

        def _prepare_for_training(self, *arguments):
            prepared = super()._prepare_for_training(*arguments)
            if wanted.get("zero"):
                state, stage = self._inner_optimizer.state, self.deepspeed.zero_optimization_stage()
                held = sum(flat.numel() for flat in state) / self.parameters_in_all
                say(f"zero{stage} holds {held:.0%} of the moments")
            return prepared

        def train(self, **options):
            self.parameters_in_all = self.model.num_parameters()
            self.add_callback(Trouble())
            trained = super().train(**options)
            if wanted.get("places"):
                held = {parameter.grad.untyped_storage() for parameter in self.model.parameters()}
                pieces = {piece.data_ptr(): piece.nbytes() for piece in held}
                say(f"gradients: {len(pieces)} pieces, {sum(pieces.values())} bytes")
            if wanted.get("graphs"):
                counted = counters["aot_autograd"]
                found, made = (counted[f"autograd_cache_{what}"] for what in ("hit", "miss"))
                say(f"{found} found in the cache, {made} made")
            return trained

        def compute_loss(self, *arguments, **options):
            assert self.model.training
            loss = super().compute_loss(*arguments, **options)
            for name, factor in (("nan", float("nan")), ("spike", 1e6)):
                if mine(name) and self.state.global_step + 1 in wanted[name]["steps"]:
                    loss = loss * factor
            return loss

        def _write_checkpoint(self):
            written = []
            for name in ("kill_in_save", "fail_write"):
                if mine(name) and self.state.global_step == wanted[name]["step"]:
                    checkpoints.save_file = lambda tensors, file, name=name: self.write(written, name, tensors, file)
            super()._write_checkpoint()

        def write(self, written, name, tensors, file):
            if name == "fail_write":
                raise OSError(errno.ENOSPC, "No space left on device", str(file))
            save_file(tensors, file)
            written.append(file)
            if len(written) == wanted[name]["files"]:
                give(signal.SIGKILL)

    if "spike" in wanted:
        guard.KNOWN_AFTER = 2
    if wanted.get("zero"):
        os.environ |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # read when deepspeed is imported
        del os.environ["ACCELERATE_USE_CPU"]  # accelerate would leave DeepSpeed out
        PartialState._prepare_backend = lambda self, *arguments, **options: ("gloo", DistributedType.MULTI_CPU)
        zero = parallel._zero

        def splitting_all(stage, precision):
            fields = zero(stage, precision)
            fields["deepspeed"]["zero_optimization"]["stage3_param_persistence_threshold"] = 0
            return fields

        parallel._zero = splitting_all
    if wanted.get("fsdp2") or wanted.get("zero"):
        parallel.check_parallel = lambda parallel, processes: None
    if "quiz" in wanted:
        shares = iter(wanted["quiz"]["errors"])
        find_task = session.find_task

        def quiz(model, tokenizer, **place):
            return (np.arange(400) < 400 * next(shares)).astype(float)

        session.find_task = inputs.find_task = lambda name: quiz if name == "quiz" else find_task(name)
    if wanted.get("te"):
        sys.path.append(str(pathlib.Path(__file__).parent.parent / "training/precision"))
        import te_stand_in

        te_layers.load = lambda on_gpu: te_layers.Library(*te_stand_in.LIBRARY)
    if wanted.get("bf16"):
        trainer.uses_bf16 = lambda config: True
    if wanted.get("eager_kernels"):
        compilation.BACKEND = "aot_eager"
    save_file = checkpoints.save_file
    session.YxanulTrainer = TroubledTrainer


def main(arguments):
    make_trouble(json.loads(os.environ["TROUBLE"]), int(os.environ.get("RANK", "0")))
    code = pretrain.main(arguments)
    if "te_stand_in" in sys.modules:
        say(f"of Transformer Engine: {dict(sys.modules['te_stand_in'].LOG)}")
    return code


# Each run ends in collections of garbage, which took half of its time: they need not look at what was imported here
gc.collect()
gc.freeze()
