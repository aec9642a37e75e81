"""Clients in a fresh process where Yxanul cannot be imported: transformers alone, or llama.cpp.

    with BareTransformers(folder) as client:                    # or a .gguf file
        client.logits([1, 2, 3])                               # (3, V), numpy
    with LlamaCpp(file, context=512) as client: ...

A client's crash then does not end the export. This file is what runs there, as a script, and then imports nothing of
ours.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HIDDEN = "yxanul"
F32 = 0  # of ggml's types


class SecondProcess:
    SCRIPT = __file__

    def __init__(self, name: str, opened: str, path: Path, excuses: dict[str, str] | None, **options: Any) -> None:
        self.name, self.excuses, self.cpu_seconds = name, excuses or {}, 0.0
        self._scratch = tempfile.TemporaryDirectory()
        self._said = Path(self._scratch.name, "stderr")
        words = [sys.executable, "-P", self.SCRIPT, opened, str(path.absolute()), json.dumps(options)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        environment["HF_MODULES_CACHE"] = self._scratch.name  # an artefact's code is its own, not an older one's
        with self._said.open("wb") as stderr:
            self._process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )

    def __enter__(self) -> "SecondProcess":
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # a question that an ended process did not read
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._scratch.cleanup()

    def _ask(self, call: str, *given: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps([call, *given]) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, as the empty line tells
        line = self._process.stdout.readline()
        if not line:
            said = self._said.read_text(errors="replace").strip().splitlines()[-1:]
            raise ChildProcessError(f"{self.name} ended with {self._process.wait()}: {' '.join(said)[:300]}")
        answer, self.cpu_seconds = json.loads(line)
        return answer

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        file = str(Path(self._scratch.name, "logits.npy"))
        self._ask("logits", ids, file)
        return np.load(file)

    def greedy(self, ids: list[int], count: int) -> list[int]:
        return self._ask("greedy", ids, count)

    def tokenize(self, text: str) -> list[int]:
        return self._ask("tokenize", text)

    def chat(self, messages: list[dict[str, str]]) -> str:
        return self._ask("chat", messages)


class BareTransformers(SecondProcess):
    """`adapter`: a folder of PEFT's, put on the model in `path`."""

    def __init__(
        self,
        path: Path,
        *,
        trust_remote_code: bool = False,
        excuses: dict[str, str] | None = None,
        adapter: Path | None = None,
    ) -> None:
        from importlib.metadata import version

        name = f"transformers {version('transformers')}" + (", gguf_file" if path.is_file() else "")
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if adapter:
            name, options["adapter"] = f"peft {version('peft')}, {name}", str(adapter.absolute())
        super().__init__(name, "transformers", path, excuses, **options)


class LlamaCpp(SecondProcess):
    def __init__(self, file: Path, context: int) -> None:
        from importlib.metadata import version

        super().__init__(f"llama.cpp ({version('llama-cpp-python')})", "llama.cpp", file, None, context=context)


class Transformers:
    def __init__(self, path: str, trust_remote_code: bool, adapter: str | None = None) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_grad_enabled(False)
        options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
        if os.path.isfile(path):  # away from the tokenizer that may lie beside it
            folder = os.environ["HF_MODULES_CACHE"]
            os.symlink(path, os.path.join(folder, "model.gguf"))
            path, options["gguf_file"] = folder, "model.gguf"
        self.model = AutoModelForCausalLM.from_pretrained(path, dtype="auto", **options).eval()
        if adapter:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(adapter or path, **options)

    def logits(self, ids: list[int]) -> Any:
        import torch

        return self.model(input_ids=torch.tensor([ids])).logits[0].float().numpy()

    def greedy(self, ids: list[int], count: int) -> list[int]:
        import torch

        made, cache, step = [], None, torch.tensor([ids])
        for _ in range(count):  # on past an end-of-text token, as the reference
            outputs = self.model(input_ids=step, past_key_values=cache, use_cache=True)
            cache, step = outputs.past_key_values, outputs.logits[:, -1:].argmax(-1)
            made.append(int(step))
        return made

    def tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text).input_ids

    def chat(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


class _LlamaCpp:
    def __init__(self, path: str, context: int) -> None:
        import ctypes

        import llama_cpp

        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)  # hundreds of lines
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        defaults = llama_cpp.llama_model_default_params

        def as_stored() -> Any:
            """Weights are not packed again for AMX, which some virtual machines announce and do not have."""
            parameters = defaults()
            parameters.use_extra_bufts = False
            return parameters

        llama_cpp.llama_cpp.llama_model_default_params = as_stored
        threads = int(os.environ.get("OMP_NUM_THREADS", "0")) or None
        self.llama = llama_cpp.Llama(
            path,
            n_ctx=context,
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=F32,  # its own default is f16; what is measured here is the file
            type_v=F32,
            verbose=False,
        )

    def logits(self, ids: list[int]) -> Any:
        self.llama.reset()
        self.llama.eval(ids)
        return self.llama.scores[: len(ids)]

    def greedy(self, ids: list[int], count: int) -> list[int]:
        self.llama.reset()
        made: list[int] = []
        while len(made) < count:
            self.llama.eval(made[-1:] or ids)
            made.append(int(self.llama.scores[self.llama.n_tokens - 1].argmax()))
        return made

    def tokenize(self, text: str) -> list[int]:
        return self.llama.tokenize(text.encode(), add_bos=True, special=True)  # bos only where the file asks for it

    def chat(self, messages: list[dict[str, str]]) -> str:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        def text_of(index: int) -> str:
            return "" if index < 0 else self.llama._model.token_get_text(index)

        ends = {"eos_token": text_of(self.llama.token_eos()), "bos_token": text_of(self.llama.token_bos())}
        made: Any = Jinja2ChatFormatter
        return str(made(self.llama.metadata["tokenizer.chat_template"], **ends)(messages=messages).prompt)


def serve(kinds: dict[str, Any], opened: str, path: str, options: str) -> None:
    """Questions on standard input, answers on what was standard output."""
    sys.modules[HIDDEN] = None  # type: ignore[assignment]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    import time

    import numpy as np

    client = kinds[opened](path, **json.loads(options))
    for line in sys.stdin:
        call, *given = json.loads(line)
        began = time.process_time()
        if call == "logits":
            np.save(given[1], client.logits(given[0]))
            answer = None
        else:
            answer = getattr(client, call)(*given)
        answers.write(json.dumps([answer, time.process_time() - began]) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve({"transformers": Transformers, "llama.cpp": _LlamaCpp}, *sys.argv[1:4])
