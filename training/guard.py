"""Skips a bad step on the device: nothing waits to learn whether the gradients were sound.

A step is bad when its gradient norm is not finite, or far above the running mean of those before. The norm is the same
on every rank, so all skip alike. A fused optimizer leaves weights, moments and step count as they were where
`found_inf` is 1. Not here: who stops a run that skips too often (trainer.py, when it logs).
"""

import torch
from torch import Tensor

MEAN_OVER = 100  # steps; before as many as KNOWN_AFTER a norm is only compared with infinity
KNOWN_AFTER = 20


class StepGuard:
    """`values` is everything that it knows, in float32, to be saved and loaded as it is."""

    def __init__(self, skip_above: float | None, device: torch.device) -> None:
        self._factor = skip_above or float("inf")
        self.values = torch.zeros(6, dtype=torch.float32, device=device)
        self._step_loss = torch.zeros((), dtype=torch.float32, device=device)

    def add_loss(self, loss: Tensor) -> None:
        """Of a micro-batch; counted when its step turns out to be good."""
        self._step_loss += loss

    def judge(self, norm: Tensor) -> Tensor:
        """1.0 if the step is bad, as an optimizer's `found_inf`."""
        mean, good_steps, skipped, in_a_row, loss_sum, loss_steps = self.values.unbind()
        known = good_steps >= KNOWN_AFTER
        sound = norm.isfinite() & (~known | ~(norm > self._factor * mean))
        good = sound.float()
        mean += torch.where(sound, (norm - mean) / (good_steps + 1).clamp(max=MEAN_OVER), 0.0)
        good_steps += good
        skipped += 1 - good
        in_a_row.add_(1).mul_(1 - good)
        loss_sum += torch.where(sound, self._step_loss, 0.0)
        loss_steps += good
        self._step_loss.zero_()
        return 1 - good

    def clear_losses(self) -> None:
        """Their sum and number, of the good steps that this rank saw."""
        self.values[4:].zero_()
