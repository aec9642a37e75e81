"""A client in a fresh process where Yxanul cannot be imported: transformers alone, and what it loads an artefact with.

    with BareTransformers(folder) as client:                              # or gguf_file="x.gguf"
        client.logits([1, 2, 3])                                         # (3, V), numpy

This file is also what runs there, as a script: then it imports nothing of ours.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HIDDEN = "yxanul"


class BareTransformers:
    def __init__(self, folder: Path, *, gguf_file: str = "", name: str = "") -> None:
        import transformers

        self.name = name or f"transformers {transformers.__version__}" + (", gguf_file" if gguf_file else "")
        self._scratch = tempfile.TemporaryDirectory()
        self._said = Path(self._scratch.name, "stderr")
        words = [sys.executable, "-I", __file__, str(folder), gguf_file]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        with self._said.open("wb") as stderr:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )
        self.cpu_seconds = 0.0

    def __enter__(self) -> "BareTransformers":
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._scratch.cleanup()

    def _ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self._process.stdout.readline()
        if not line:
            last = self._said.read_text(errors="replace").strip().splitlines()[-1:] or ["no word"]
            raise ChildProcessError(f"{self.name} ended with: {last[0]}")
        answer = json.loads(line)
        self.cpu_seconds = answer["cpu_seconds"]
        return answer["answer"]

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        file = str(Path(self._scratch.name, "logits.npy"))
        self._ask(call="logits", ids=ids, file=file)
        return np.load(file)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        return self._ask(call="greedy", ids=ids, count=count)

    def tokenize(self, text: str) -> list[int]:
        return self._ask(call="tokenize", text=text)

    def chat(self, messages: list[dict[str, str]]) -> str:
        return self._ask(call="chat", messages=messages)


def _serve(folder: str, gguf_file: str) -> None:
    """Questions on standard input, answers on what was standard output."""
    sys.modules[HIDDEN] = None  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import time

    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    options = {"gguf_file": gguf_file} if gguf_file else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", **options).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)

    def answer(call: str, **given: Any) -> Any:
        if call == "tokenize":
            return tokenizer(given["text"]).input_ids
        if call == "chat":
            return tokenizer.apply_chat_template(given["messages"], tokenize=False, add_generation_prompt=True)
        ids = torch.tensor([given["ids"]])
        if call == "logits":
            np.save(given["file"], model(input_ids=ids).logits[0].float().numpy())
            return None
        made, cache = [], None
        for _ in range(given["count"]):  # on past an end-of-text token, as the reference
            outputs = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache, ids = outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)
            made.append(int(ids))
        return made

    with torch.no_grad():
        for line in sys.stdin:
            began = time.process_time()
            found = answer(**json.loads(line))
            answers.write(json.dumps({"answer": found, "cpu_seconds": time.process_time() - began}) + "\n")
            answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
