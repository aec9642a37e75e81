"""Makes `pytest` run in a bare checkout, always on this checkout, on one thread and without a network."""

import importlib.util
import os
import pathlib
import sys

os.environ["OMP_NUM_THREADS"] = "1"  # spinning threads can make two cores slower than one; read when torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

root = pathlib.Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("yxanul", root / "__init__.py", submodule_search_locations=[str(root)])
assert spec is not None and spec.loader is not None
sys.modules["yxanul"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["yxanul"])
