"""Guidance: denoisers around a denoiser that pull samples towards a condition.

Scale conventions: classifier-free ``scale=1`` and classifier ``scale=0`` mean no guidance. Intervals are in the schedule's t: guidance
acts where from < t <= to. Classifier guidance does not move x0: it hands ``score_shift`` to the sampler, which applies it in its own
kernel (the ancestral step shifts its mean by variance * shift, DDIM and the ODE solvers shift eps by -sigma * shift).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mezzotint.classifier import class_gradient
from mezzotint.denoise import Denoiser, Wrapper
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.process import expand
from mezzotint.registry import register
from mezzotint.types import Cond, KernelHead, Posterior


class Site(NamedTuple):
    """What a guidance may need of the place where it is attached.

    Attributes:
        null: Turns conditions into those of the null class; None where the model knows none.
        load: Loads another model by path or name.
        classes: Names of the model's classes.
    """

    null: Callable[[Cond], Cond] | None
    load: Callable[[str], Any]
    classes: tuple[str, ...] = ()


class Guidance(Wrapper):
    """Base of the guidances. ``attach`` builds one from settings given by name; its keyword arguments are the settings."""

    def __init__(self, inner: Denoiser, *, from_: float = 0.0, to: float = math.inf):
        super().__init__(inner)
        if not from_ < to:
            raise ConfigError(f"guidance from {from_:g} to {to:g} acts nowhere; give from < to")
        self.low, self.high = from_, to

    @classmethod
    def attach(cls, inner: Denoiser, site: Site) -> Guidance:
        """Builds the guidance around a denoiser."""
        raise NotImplementedError

    def active(self, t: Tensor) -> Tensor:
        """Where the interval holds, ``[b]`` bool."""
        return (t > self.low) & (t <= self.high)


@register("guidance", "cfg")
class ClassifierFree(Guidance):
    """Extrapolates from the null prediction through the conditional one: e_0 + scale (e_c - e_0), on unclipped means.

    Args:
        inner: A denoiser that was trained with dropped conditions.
        null: Turns conditions into those of the null class.
        scale: 1 is the conditional model, 0 the unconditional one; each of these needs one pass, others one pass of a doubled batch.
        from_: Guidance acts where from < t <= to; elsewhere the model is conditional, and no null pass is made.
        to: End of the interval, included.
        channels: Guide only the first so many channels; the others stay conditional.

    What the network says of the reverse variance is taken from the conditional pass.

    Source: Ho & Salimans 2022, equation 6 with w = scale - 1; Kynkäänniemi et al. 2024 (interval); Peebles & Xie 2023 (channels).
    """

    def __init__(
        self,
        inner: Denoiser,
        null: Callable[[Cond], Cond],
        *,
        scale: float,
        from_: float = 0.0,
        to: float = math.inf,
        channels: int | None = None,
    ):
        super().__init__(inner, from_=from_, to=to)
        self.null, self.scale, self.channels = null, scale, channels

    @classmethod
    def attach(
        cls, inner: Denoiser, site: Site, *, scale: float = 1.5, from_: float = 0.0, to: float = math.inf, channels: int | None = None
    ) -> ClassifierFree:
        if site.null is None:
            raise CapabilityError(
                "classifier-free guidance needs a model trained with dropped labels; train with --label.drop 0.1, or guide by a classifier"
            )
        return cls(inner, site.null, scale=scale, from_=from_, to=to, channels=channels)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        if not cond:
            raise ConfigError("classifier-free guidance without a condition; give classes")
        active = self.active(t)
        if self.scale == 1 or not active.any():
            return self.inner(x_t, t, cond, noise=noise)
        if self.scale == 0 and active.all() and self.channels is None:
            return self.inner(x_t, t, self.null(cond), noise=noise)
        both = {name: torch.cat([value, null]) for (name, value), null in zip(cond.items(), self.null(cond).values(), strict=True)}
        doubled = noise.rows([*range(len(x_t))] * 2) if noise is not None else None
        joint = self.inner(torch.cat([x_t, x_t]), torch.cat([t, t]), both, noise=doubled)
        given, null = _halves(joint, len(x_t))
        guided = replace(given, mean=self._mix(given.mean, null.mean, active), bounded=None)
        if given.kernel is not None and given.kernel.mean is not None and null.kernel is not None and null.kernel.mean is not None:
            guided = replace(guided, kernel=replace(given.kernel, mean=self._mix(given.kernel.mean, null.kernel.mean, active)))
        return guided

    def _mix(self, given: Tensor, null: Tensor, active: Tensor) -> Tensor:
        mixed = null + self.scale * (given - null)
        if self.channels is not None:
            mixed = torch.cat([mixed[:, : self.channels], given[:, self.channels :]], dim=1)
        return torch.where(expand(active, given).bool(), mixed, given)


@register("guidance", "classifier")
class Classifier(Guidance):
    """Adds scale * grad log p(y | x_t) of a noisy classifier to the score.

    Args:
        inner: Any denoiser, conditional or not.
        classifier: ``classifier(x_t, t, schedule) -> logits``.
        scale: 0 is no guidance, and makes no pass.
        from_: Guidance acts where from < t <= to.
        to: End of the interval, included.

    The class is read from ``cond["label"]``, which an unconditional inner denoiser then does not see.

    Source: Dhariwal & Nichol 2021, algorithms 1 and 2.
    """

    def __init__(self, inner: Denoiser, classifier: nn.Module, *, scale: float, from_: float = 0.0, to: float = math.inf):
        super().__init__(inner, from_=from_, to=to)
        self.classifier, self.scale = classifier, scale
        self.accepts = inner.accepts | {"label"}

    @classmethod
    def attach(cls, inner: Denoiser, site: Site, *, model: str, scale: float = 1.0, from_: float = 0.0, to: float = math.inf) -> Classifier:
        loaded = site.load(model)
        if not hasattr(loaded, "classifier"):
            raise CapabilityError(f"'{model}' is not a classifier; train one with `mezzotint train-classifier`")
        if site.classes and loaded.classes and site.classes != loaded.classes:
            raise ConfigError(
                f"'{model}' knows the classes {', '.join(loaded.classes)}, the model {', '.join(site.classes)}; "
                "train the classifier on data with the same class folders"
            )
        return cls(inner, loaded.classifier, scale=scale, from_=from_, to=to)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        cond = cond or {}
        if "label" not in cond:
            raise ConfigError("classifier guidance without a class; give classes")
        known = {name: value for name, value in cond.items() if name in self.inner.accepts}
        extra = set(cond) - set(known) - {"label"}
        posterior = self.inner(x_t, t, known if not extra else cond, noise=noise)
        active = self.active(t)
        if self.scale == 0 or not active.any():
            return posterior
        _, gradient = class_gradient(self.classifier, x_t, t, cond["label"], self.schedule)
        shift = expand(self.scale * active, x_t) * gradient.to(x_t.dtype)
        return replace(posterior, score_shift=shift if posterior.score_shift is None else posterior.score_shift + shift)


class ScoreShift(Guidance):
    """Adds the score of a user's own function: ``function(x_t, t, cond) -> [b, c, h, w]``, the gradient of its log-density.

    Source: Dhariwal & Nichol 2021, section 4, with any differentiable energy in place of the classifier.
    """

    def __init__(self, inner: Denoiser, function: Callable[[Tensor, Tensor, Cond], Tensor], *, from_: float = 0.0, to: float = math.inf):
        super().__init__(inner, from_=from_, to=to)
        self.function = function
        self.accepts = inner.accepts | {"label"}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        cond = cond or {}
        posterior = self.inner(x_t, t, {k: v for k, v in cond.items() if k in self.inner.accepts or k != "label"}, noise=noise)
        shift = expand(self.active(t), x_t) * self.function(x_t, t, cond).to(x_t.dtype)
        return replace(posterior, score_shift=shift if posterior.score_shift is None else posterior.score_shift + shift)


def _halves(joint: Posterior, size: int) -> tuple[Posterior, Posterior]:
    def cut(value: Tensor | None, part: slice) -> Tensor | None:
        return None if value is None else value[part]

    out = []
    for part in (slice(0, size), slice(size, None)):
        head = joint.kernel
        if head is not None:
            head = KernelHead(cut(head.frac, part), cut(head.log_var, part), cut(head.mean, part), cut(head.s, part))
        shift = cut(joint.score_shift, part)
        out.append(Posterior(joint.mean[part], cut(joint.bounded, part), cut(joint.var, part), head, shift))
    return out[0], out[1]


def compose(inner: Denoiser, wraps: Sequence[Callable[[Denoiser], Denoiser]]) -> Denoiser:
    """Puts wrappers around a denoiser, the first innermost."""
    for wrap in wraps:
        inner = wrap(inner)
    return inner
