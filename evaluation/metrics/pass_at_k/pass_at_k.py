"""The chance that one of k programs passes its tests, estimated without bias from n >= k programs of each problem.

    metric = evaluate.load("evaluation/metrics/pass_at_k")            # or PassAtK()
    metric.compute(predictions=[[True, False], [False, False]], references=["add", "sort"], k=[1, 2])

Takes verdicts and runs nothing: programs run in a sandbox, or nowhere. References are the problems' names.
"""

import math

import datasets
import evaluate
import numpy as np

DESCRIPTION = "Unbiased pass@k (Chen et al. 2021, arXiv 2107.03374) of programs that were run already."
INPUTS = """
predictions: for each problem whether each of its programs passed
references: the problems' names
k: the ks, by default [1]
per_sample: also return every problem's scores
"""


def estimate(n, passed, k):
    """1 - the chance that k of n programs, drawn without putting back, all fail."""
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


class PassAtK(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("bool")),
            "references": datasets.Value("string"),
        }
        return evaluate.MetricInfo(
            description=DESCRIPTION, citation="", inputs_description=INPUTS, features=datasets.Features(features)
        )

    def _compute(self, predictions, references, k=(1,), per_sample=False):
        if not predictions or any(len(passed) < max(k) for passed in predictions):
            raise ValueError(f"pass@{max(k)} needs problems with {max(k)} programs each at least")
        result, scores = {"n": len(predictions)}, {}
        for size in k:
            values = [estimate(len(passed), sum(passed), size) for passed in predictions]
            scores[f"pass@{size}"] = values
            result[f"pass@{size}"] = float(np.mean(values))
            error = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
            result[f"pass@{size}_stderr"] = error
        return result | ({"per_sample": scores} if per_sample else {})
