"""ONNX Runtime as a client: an artefact's logits in one pass, or through the cache in a padded batch of three.

with OnnxRuntime(path, folder, config=config) as client:        # .onnx or .ort; the tokenizer's files in `folder`
    client.logits([1, 2, 3]); client.greedy([1, 2, 3], 8)
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from yxanul.hub_export.onnx_graph import KEEP


class OnnxRuntime:
    def __init__(self, path: Path, folder: Path, *, batch: int = 1, config: Any) -> None:
        """`batch` 3: the row is computed between two others, padded on the left, in pieces through the cache."""
        import onnxruntime
        from transformers import AutoTokenizer

        self.name = f"onnxruntime {onnxruntime.__version__}" + (f", cache, {batch} rows" if batch > 1 else "")
        self._batch, self._config = batch, config
        how = onnxruntime.SessionOptions()
        how.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS", "0"))
        how.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, how, providers=["CPUExecutionProvider"])
        first = next(each for each in self._session.get_inputs() if each.name.startswith("past_key_values"))
        self._dtype = np.float16 if first.type == "tensor(float16)" else np.float32
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def __enter__(self) -> "OnnxRuntime":
        return self

    def __exit__(self, *error: Any) -> None:
        del self._session

    def _run(self, ids: Any, mask: Any, past: dict[str, Any], keep: int = 0) -> tuple[Any, dict[str, Any]]:
        """`mask` is of all tokens so far."""
        length = ids.shape[1]
        positions = np.maximum(mask.cumsum(1) - 1, 0)[:, -length:]
        if not past:
            shape = (len(ids), self._config.num_key_value_heads, 0, self._config.head_dim)
            names = (each.name for each in self._session.get_inputs() if each.name.startswith("past_key_values"))
            past = {name: np.zeros(shape, self._dtype) for name in names}
        feed = {"input_ids": ids, "attention_mask": mask, "position_ids": positions, KEEP: np.array(keep)}
        logits, *present = self._session.run(None, feed | past)
        return logits.astype(np.float32), dict(zip(past, present, strict=True))

    def logits(self, token_ids: list[int]) -> Any:
        if self._batch == 1:
            return self._run(np.array([token_ids]), np.ones((1, len(token_ids)), np.int64), {})[0][0]
        pads = [(3 * row + 3) % (2 * self._batch) for row in range(self._batch)]  # 3, 0, 3; no row but has neighbours
        length = max(pads) + len(token_ids)
        ids = np.full((self._batch, length), token_ids[0])
        mask = np.zeros((self._batch, length), np.int64)
        for row, pad in enumerate(pads):
            ids[row, pad : pad + len(token_ids)] = token_ids if row == 0 else token_ids[::-1]
            mask[row, pad:] = 1
        ends = sorted({length // 2, *range(length // 2, min(length // 2 + 6, length)), length})
        found, past = [], dict[str, Any]()
        for begin, end in zip([0, *ends], ends, strict=False):
            logits, past = self._run(ids[:, begin:end], mask[:, :end], past)
            found.append(logits[0])
        return np.concatenate(found)[pads[0] :]

    def greedy(self, token_ids: list[int], count: int) -> list[int]:
        made: list[int] = []
        ids, past = np.array([token_ids]), dict[str, Any]()
        for step in range(count):
            mask = np.ones((1, len(token_ids) + step), np.int64)
            logits, past = self._run(ids, mask, past, keep=1)
            made.append(int(logits[0, -1].argmax()))
            ids = np.array([made[-1:]])
        return made

    def tokenize(self, text: str) -> list[int]:
        return self._tokenizer(text).input_ids

    def chat(self, messages: list[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
