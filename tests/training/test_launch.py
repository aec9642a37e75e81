"""Two processes start as two under every launcher; exit codes and signals pass between them and who started them."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch

from yxanul.bad_input import BadInput
from yxanul.run_folder import BAD_INPUT, DONE, FAILED, GATE_FAILED, STOPPED
from yxanul.training.launch.parallel import check_parallel, trainer_fields
from yxanul.training.launch.processes import common_exit_code, start

STAND_IN = '''
"""Stands for a run: `stand_in FOLDER sum`, `stand_in FOLDER end CODES`, `stand_in FOLDER save SECONDS`."""
import json, os, pathlib, signal, sys, time
from yxanul.training.launch.processes import leave

folder, mode, *values = sys.argv[1:]
rank, received = int(os.environ["RANK"]), []

def note(name, **facts):
    path = pathlib.Path(folder, f"{name}-{rank}.json")
    path.with_suffix(".partial").write_text(json.dumps(facts | {"pid": os.getpid()}))
    path.with_suffix(".partial").rename(path)

if mode == "sum":
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator()
    total = accelerator.reduce(torch.ones(1)).item()
    note("ran", world=accelerator.num_processes, total=total, precision=accelerator.mixed_precision)
    accelerator.end_training()
elif mode == "end":
    code = json.loads(values[0])[rank]
    note("ran")
    if rank == 0:
        time.sleep(0.5)  # longer than the others
    if code < 0:
        os.kill(os.getpid(), -code)
    if rank == 0 and code:
        print("yxanul: the sentence.", file=sys.stderr, flush=True)
    sys.exit(leave(code))
else:
    if mode == "save":
        signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    note("ran")
    while not received:
        time.sleep(0.02)
    time.sleep(float(values[0]))
    note("saved")
    sys.exit(leave(4))
'''
START = "import sys; from yxanul.training.launch.processes import start; sys.exit(start('stand_in', sys.argv[1:], 2))"
PORT = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0")
LAUNCHERS = {
    "start": ("-c", START),
    "accelerate launch": ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", *PORT)
    + ("-m", "stand_in"),
    "torchrun": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "stand_in"),
}


@pytest.fixture
def launch(tmp_path):
    """`launch("end", "[3, 3]")`: the stand-in in two processes; none of them outlives the test."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    parents = []

    def go(*words, launcher="start", **variables):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), **variables}
        command = [sys.executable, *LAUNCHERS[launcher], str(tmp_path), *words]
        pipe = subprocess.PIPE
        parents.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=subprocess.STDOUT, text=True))
        return parents[-1]

    yield go
    ranks = [json.loads(file.read_text())["pid"] for file in tmp_path.glob("ran-*.json")]
    alive = [pid for pid in ranks if psutil.pid_exists(pid)]
    for pid in [*alive, *(parent.pid for parent in parents if parent.poll() is None)]:
        os.kill(pid, signal.SIGKILL)
    assert not alive


def notes(folder, name):
    return [json.loads(file.read_text()) for file in sorted(folder.glob(f"{name}-*.json"))]


def wait_until_running(folder):
    until = time.monotonic() + 60
    while len(notes(folder, "ran")) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_find_each_other(launch, tmp_path, launcher):
    said, _ = launch("sum", launcher=launcher, ACCELERATE_USE_CPU="true").communicate(timeout=120)
    assert [(ran["world"], ran["total"]) for ran in notes(tmp_path, "ran")] == [(2, 2.0), (2, 2.0)], said


def test_a_configuration_in_accelerates_cache_is_not_read(launch, tmp_path):
    configuration = tmp_path / "accelerate/default_config.yaml"
    configuration.parent.mkdir()
    configuration.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: bf16\nnum_processes: 1\n"
        "num_machines: 1\nmachine_rank: 0\nuse_cpu: true\n"
    )
    said, _ = launch("sum", HF_HOME=str(tmp_path)).communicate(timeout=120)
    assert [(ran["world"], ran["precision"]) for ran in notes(tmp_path, "ran")] == [(2, "no"), (2, "no")], said
    assert not said


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0, 0], DONE), ([2, 2], BAD_INPUT), ([3, 3], GATE_FAILED), ([5, 5], FAILED), ([5, -9], FAILED)],
    ids=str,
)
def test_the_ranks_exit_code_is_given_back_and_the_first_ones_sentence_is_all_that_is_said(launch, codes, expected):
    parent = launch("end", json.dumps(codes))
    said, _ = parent.communicate(timeout=60)
    lost = -signal.SIGKILL in codes  # the other is ended before it can speak
    assert (parent.returncode, said) == (expected, "" if lost or expected == DONE else "yxanul: the sentence.\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_lets_the_ranks_save(launch, tmp_path, name):
    parent = launch("save", "0.5")
    wait_until_running(tmp_path)
    parent.send_signal(signal.Signals[name])
    parent.send_signal(signal.SIGTERM)  # a scheduler may repeat itself
    said, _ = parent.communicate(timeout=60)
    assert (parent.returncode, said, len(notes(tmp_path, "saved"))) == (STOPPED, "", 2)


@pytest.mark.slow
def test_saving_may_take_longer_than_the_agents_patience(launch, tmp_path):
    parent = launch("save", "40")
    wait_until_running(tmp_path)
    parent.send_signal(signal.SIGTERM)
    said, _ = parent.communicate(timeout=90)
    assert (parent.returncode, said, len(notes(tmp_path, "saved"))) == (STOPPED, "", 2)


def test_a_second_ctrl_c_leaves_at_once(launch, tmp_path):
    parent = launch("save", "60")
    wait_until_running(tmp_path)
    parent.send_signal(signal.SIGINT)
    time.sleep(0.5)
    parent.send_signal(signal.SIGINT)
    said, _ = parent.communicate(timeout=15)
    assert (parent.returncode, said, notes(tmp_path, "saved")) == (STOPPED, "", [])


def test_a_signal_before_the_ranks_listen_stops_them(launch, tmp_path):
    parent = launch("deaf", "0")
    wait_until_running(tmp_path)
    parent.send_signal(signal.SIGINT)
    said, _ = parent.communicate(timeout=15)
    assert (parent.returncode, said) == (STOPPED, "")


def test_a_lost_rank_ends_the_other(launch, tmp_path):
    parent = launch("save", "0")
    wait_until_running(tmp_path)
    os.kill(notes(tmp_path, "ran")[1]["pid"], signal.SIGKILL)
    began = time.monotonic()
    parent.communicate(timeout=60)
    assert time.monotonic() - began < 15 and parent.returncode == FAILED


@pytest.mark.parametrize(
    ("codes", "signalled", "expected"),
    [
        ([4, 4], True, STOPPED),
        ([4, -15], True, STOPPED),
        ([-15, -15], True, STOPPED),
        ([-15, -15], False, FAILED),  # somebody's, for the agent sends it after another has ended
        ([-9, -9], True, STOPPED),  # a second Ctrl-C
        ([-9, 5], False, FAILED),
        ([-15, 3], False, GATE_FAILED),
        ([2, -15], False, BAD_INPUT),
        ([5, 4], True, FAILED),
        ([1, -15], False, 1),  # a traceback
    ],
)
def test_common_exit_code(codes, signalled, expected):
    assert common_exit_code(codes, signalled) == expected


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(BadInput, match="8 processes want 8 GPUs and 4 can be seen"):
        start("stand_in", [], 8)


@pytest.mark.parametrize("parallel", ["auto", "ddp", "fsdp2"])
def test_the_trainers_arguments_take_the_fields(parallel, tmp_path, monkeypatch):
    from transformers import TrainingArguments

    monkeypatch.setattr(os, "environ", dict(os.environ))  # they set variables
    fields = trainer_fields(parallel, "fp32")
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **fields)
    sharded = arguments.fsdp_plugin_args
    assert (sharded and sharded["fsdp_version"]) == (2 if parallel == "fsdp2" else None)
    if sharded:
        assert sharded["transformer_cls_names_to_wrap"] == "YxanulDecoderLayer"
        assert not sharded["cpu_ram_efficient_loading"]
    else:
        assert (arguments.ddp_find_unused_parameters, arguments.ddp_broadcast_buffers) == (False, False)


def test_zero_keeps_weights_in_fp32(monkeypatch):
    monkeypatch.setattr("yxanul.training.launch.parallel.find_spec", lambda name: name)
    for stage in (1, 2, 3):
        fields = trainer_fields(f"zero{stage}", "bf16")
        assert fields["deepspeed"]["zero_optimization"] == {"stage": stage}
        assert fields["deepspeed"]["torch_autocast"]["dtype"] == "bfloat16"
        assert "torch_autocast" not in trainer_fields(f"zero{stage}", "fp32")["deepspeed"]


def test_what_cannot_be_had_is_refused(monkeypatch):
    monkeypatch.setattr("yxanul.training.launch.parallel.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install deepspeed"):
        trainer_fields("zero2", "fp32")
    check_parallel("auto", 1), check_parallel("ddp", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match="parallel=fsdp2 is for GPUs"):
        check_parallel("fsdp2", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadInput, match="parallel=zero1 shards over processes, and there is one"):
        check_parallel("zero1", 1)
    check_parallel("zero1", 2)
    for variable, name in (("FSDP_VERSION", "FSDP"), ("ACCELERATE_CONFIG_DS_FIELDS", "DeepSpeed")):
        monkeypatch.setenv(variable, "2")
        with pytest.raises(BadInput, match=f"accelerate's configuration asks for {name}"):
            trainer_fields("auto", "fp32")
        monkeypatch.delenv(variable)
