"""Classifiers of noised images, and the gradient that guides with them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mezzotint.denoise import time_input
from mezzotint.process import as_of
from mezzotint.schedules import Schedule


class NoisyClassifier(nn.Module):
    """log p(y | x_t): an encoder network on a schedule of its own.

    Args:
        network: ``network(x, time_input, {}) -> logits [b, K]``.
        schedule: The schedule that it was trained on.
        time_input: What it is told of the time, as in ``DenoiserConfig``.

    Source: Dhariwal & Nichol 2021, section 4.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, time_input: str = "index"):
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.time_input = time_input

    def forward(self, x_t: Tensor, t: Tensor, schedule: Schedule | None = None) -> Tensor:
        """Logits ``[b, K]`` for images of any schedule.

        Args:
            x_t: ``[b, c, h, w]``.
            t: ``[b]`` float64, in the coordinate of ``schedule``.
            schedule: The process that x_t belongs to; None: the classifier's own. Images of another process are scaled to what the
                classifier expects at the same signal-to-noise ratio.
        """
        if schedule is not None:
            x_t, t = as_of(self.schedule, schedule, x_t, t)
        fine = x_t.dtype if x_t.dtype == torch.float64 else torch.float32
        label = time_input(self.schedule, t, self.time_input).to(device=x_t.device, dtype=fine)
        return self.network(x_t, label, {}).to(fine)


def class_gradient(classifier: nn.Module, x_t: Tensor, t: Tensor, label: Tensor, schedule: Schedule | None = None) -> tuple[Tensor, Tensor]:
    """log p(y | x_t) and its gradient with respect to x_t.

    Args:
        classifier: ``classifier(x_t, t, schedule) -> logits [b, K]``, for instance a ``NoisyClassifier``.
        x_t: ``[b, c, h, w]``.
        t: ``[b]`` float64.
        label: ``[b]`` int64; the null class, K, has no gradient.
        schedule: The process of x_t, as for ``NoisyClassifier``.

    Returns:
        Log-probability ``[b]`` and gradient ``[b, c, h, w]``, both detached.

    Source: Dhariwal & Nichol 2021, equations 10-14.
    """
    with torch.enable_grad():
        x = x_t.detach().requires_grad_(True)
        every = classifier(x, t, schedule).log_softmax(dim=-1)
        label = label.to(x.device)
        last = every.shape[1] - 1
        log_p = torch.where(label <= last, every.gather(1, label.clamp_max(last)[:, None])[:, 0], 0)
        (gradient,) = torch.autograd.grad(log_p.sum(), x)
    return log_p.detach(), gradient
