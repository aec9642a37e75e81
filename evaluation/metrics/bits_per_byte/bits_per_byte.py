"""Bits per byte and perplexities of texts from their log-likelihoods: ratios of sums over all texts.

    metric = evaluate.load("evaluation/metrics/bits_per_byte")        # or BitsPerByte()
    metric.compute(predictions=[-310.5], references=[280], words=[51])

Bits per byte compare across vocabularies; perplexities are per word and per byte, never per token. The standard error
is that of a ratio (from the texts' residuals); of the perplexities it is the same, carried through the exponential.
"""

import math

import datasets
import evaluate
import numpy as np


def ratio(sums, sizes):
    """Mean per unit, and its standard error."""
    value = sums.sum() / sizes.sum()
    residuals = sums - value * sizes
    n = len(sums)
    error = math.sqrt(n / (n - 1) * float(np.square(residuals).sum())) / sizes.sum() if n > 1 else None
    return float(value), error


class BitsPerByte(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Value("float64"),
            "references": datasets.Value("int64"),
            "words": datasets.Value("int64"),
        }
        return evaluate.MetricInfo(description=__doc__, citation="", features=datasets.Features(features))

    def _compute(self, predictions, references, words, per_sample=False):
        nats, sizes, words = -np.array(predictions, float), np.array(references, float), np.array(words, float)
        if not len(nats) or not np.isfinite(nats).all() or not sizes.all() or not words.all():
            raise ValueError("every text needs a finite log-likelihood, bytes and words, and there must be one")
        bits, bits_error = ratio(nats / math.log(2), sizes)
        result = {"n": len(nats), "bits_per_byte": bits, "bits_per_byte_stderr": bits_error}
        for name, units in (("byte_perplexity", sizes), ("word_perplexity", words)):
            mean, error = ratio(nats, units)
            value = math.exp(min(mean, 700.0))
            result |= {name: value, f"{name}_stderr": None if error is None else value * error}
        scores = {"bits_per_byte": (nats / math.log(2) / sizes).tolist()}
        return result | ({"per_sample": scores} if per_sample else {})
