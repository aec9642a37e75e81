"""llama.cpp's own quantiser, where llama-cpp-python is installed: K-quants. The client is in bare.py."""

import ctypes
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any


def is_installed() -> bool:
    return importlib.util.find_spec("llama_cpp") is not None


def quantize(source: Path, target: Path, kind: str) -> None:
    """By llama.cpp's rules of which tensor gets which type."""
    import llama_cpp

    llama_cpp.llama_log_set(_silence(), ctypes.c_void_p(0))
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    parameters.nthread = int(os.environ.get("OMP_NUM_THREADS", "0")) or 1
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if code:
        raise RuntimeError(f"llama.cpp could not write {kind} (code {code})")


@functools.cache  # llama.cpp holds a bare pointer to it
def _silence() -> Any:
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda level, text, data: None)
