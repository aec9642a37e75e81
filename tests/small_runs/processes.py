"""Runs a command in processes that have imported everything already: a second each, where a fresh one takes six.

They are forked from a server process of multiprocessing; ranks find each other as torchrun would have them do it.
"""

import multiprocessing
import os
import pathlib
import socket
import sys

SEARCHED = os.pathsep.join(filter(None, [str(pathlib.Path(__file__).parent.parent), os.environ.get("PYTHONPATH")]))
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["small_runs.trouble"])


def start(words, processes, trouble, output):
    """A list of started processes, one for each rank; all of them write to the file `output`."""
    os.environ["PYTHONPATH"] = SEARCHED  # read when the server starts
    variables = {"TROUBLE": trouble}
    if processes > 1:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
        variables |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    started = []
    for rank in range(processes):
        own = variables | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {})
        process = SERVER.Process(target=_child, args=(words, own, str(output)))
        process.start()
        started.append(process)
    return started


def _child(words, variables, output):
    os.environ.update(variables)
    multiprocessing.set_start_method("fork", force=True)  # else a data worker starts a server of its own
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from small_runs import trouble

    from yxanul.shell import exit_code

    sys.exit(exit_code("pretrain", trouble.main, words))


def wait(processes, seconds):
    """Their exit codes; whoever is not done in time is ended, and None."""
    codes = []
    for process in processes:
        process.join(seconds)
        codes.append(process.exitcode)
        process.kill()
        process.join()
    return codes
