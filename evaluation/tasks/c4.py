"""English C4: perplexities and bits per byte of the first validation file. lm-eval's c4, version 0."""

from yxanul.evaluation.task import Source
from yxanul.evaluation.tasks.wikitext import task_of_texts

FILES = {"validation": "en/c4-validation.00000-of-00008.json.gz"}
TASKS = (task_of_texts("c4", 0.0, "text", Source("allenai/c4", "en", "validation", data_files=FILES)),)
