"""The chance that one of k programs passes its tests, estimated without bias from n >= k programs of each problem.

    metric = evaluate.load("evaluation/metrics/pass_at_k")            # or PassAtK()
    metric.compute(predictions=[[True, False], [False, False]], references=["add", "sort"], k=[1, 2])

Takes verdicts and runs nothing: programs run in a sandbox, or nowhere. References are the problems' names.
"""

import math

import datasets
import evaluate
import numpy as np


def estimate(n, passed, k):
    """1 - the chance that k of n programs, drawn without putting back, all fail."""
    return 1.0 - math.comb(n - passed, k) / math.comb(n, k)


class PassAtK(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Sequence(datasets.Value("bool")), "references": datasets.Value("string")}
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, k=(1,), per_sample=False):
        if not predictions or any(len(passed) < max(k) for passed in predictions):
            raise ValueError(f"pass@{max(k)} needs problems with {max(k)} programs each at least")
        scores = {f"pass@{n}": [estimate(len(passed), sum(passed), n) for passed in predictions] for n in k}
        result: dict = {"n": len(predictions), "per_sample": scores} if per_sample else {"n": len(predictions)}
        for name, values in scores.items():
            result[name] = float(np.mean(values))
            result[f"{name}_stderr"] = float(np.std(values, ddof=1) / len(values) ** 0.5) if values[1:] else None
        return result
