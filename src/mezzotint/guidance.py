"""Guidance: denoisers around a denoiser that pull samples towards a condition.

Scale conventions: ``scale=1`` (classifier-free and auto-guidance) and classifier ``scale=0`` mean no guidance. Intervals are in the
schedule's t: guidance acts where from < t <= to. Classifier guidance does not move x0: it hands ``score_shift`` to the sampler, which
applies it in its own kernel (the ancestral step shifts its mean by variance * shift, DDIM and the ODE solvers shift eps by
-sigma * shift).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypedDict, Unpack, cast, get_args

import torch
from torch import Tensor, nn

from mezzotint.classifier import class_gradient
from mezzotint.denoise import Denoiser, Wrapper
from mezzotint.errors import CapabilityError, ConfigError, unknown
from mezzotint.noise import Noise
from mezzotint.process import Kind, as_of, bridge, expand, from_x0, to_x0
from mezzotint.registry import register
from mezzotint.types import Cond, KernelHead, Posterior

SPACES = get_args(Kind)


class Site(NamedTuple):
    """What a guidance may need of the place where it is attached.

    Attributes:
        null: Turns conditions into those of the null class; None where the model knows none.
        load: Loads another model by path or name; ``ema`` chooses its weights.
        classes: Names of the model's classes.
        codec: Settings of the space that the model works in.
    """

    null: Callable[[Cond], Cond] | None
    load: Callable[..., Any]
    classes: tuple[str, ...] = ()
    codec: object = None


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


class Settings(TypedDict, total=False):
    """The settings of ``Extrapolation``, where they are handed on."""

    scale: float
    from_: float
    to: float
    channels: int | None
    rescale: float
    space: str
    parallel: float
    norm: float


class Extrapolation(Guidance):
    """Goes from what a weaker denoiser believes beyond what a better one does: weak + scale (given - weak), on unclipped means of x0.

    Args:
        inner: The better denoiser. What it says of the reverse variance stays as it is.
        scale: 1 is the better denoiser, 0 the weaker one; each of these asks only one of the two.
        from_: Guidance acts where from < t <= to; elsewhere the weaker denoiser is not asked.
        to: End of the interval, included.
        channels: Guide only the first so many channels.
        rescale: Brings the standard deviation of each guided image back to that of the unguided one; 1 altogether, 0 not at all.
        space: What that standard deviation is taken of: "model" is what the network predicts, otherwise one of ``SPACES``.
        parallel: Share that is kept of the part of given - weak along the given estimate, which saturates colours; APG has 0.
        norm: Largest norm of given - weak, over all of an image; what is longer is shortened before the part along is taken out.

    Source: Ho & Salimans 2022, equation 6 with w = scale - 1; Kynkäänniemi et al. 2024 (interval); Peebles & Xie 2023 (channels);
    Lin et al. 2024, section 3.4 (rescale); Sadat et al. 2025 (APG), algorithm 1 without its momentum (parallel, norm).
    """

    def __init__(
        self,
        inner: Denoiser,
        *,
        scale: float,
        from_: float = 0.0,
        to: float = math.inf,
        channels: int | None = None,
        rescale: float = 0.0,
        space: str = "model",
        parallel: float = 1.0,
        norm: float = math.inf,
    ):
        super().__init__(inner, from_=from_, to=to)
        if not 0 <= rescale <= 1:
            raise ConfigError(f"rescale={rescale:g} is not in [0, 1]; 0.7 is usual")
        if not norm > 0:
            raise ConfigError(f"norm={norm:g}; give the largest norm of a difference, above 0")
        if space not in ("model", *SPACES):
            raise unknown("space", space, ("model", *SPACES))
        self.scale, self.channels, self.rescale, self.parallel, self.norm = scale, channels, rescale, parallel, norm
        self.space: Kind = inner.predicts if space == "model" else cast(Kind, space)

    def weak(self, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> Posterior:
        """What the weaker denoiser believes."""
        raise NotImplementedError

    def both(self, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> tuple[Posterior, Posterior]:
        """What the better and the weaker denoiser believe."""
        return self.inner(x_t, t, cond, noise=noise), self.weak(x_t, t, cond, noise)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        cond = cond or {}
        active = self.active(t)
        if self.scale == 1 or not active.any():
            return self.inner(x_t, t, cond, noise=noise)
        whole = self.channels is None and self.rescale == 0 and self.parallel == 1 and self.norm == math.inf
        if self.scale == 0 and whole and active.all():
            return self.weak(x_t, t, cond, noise)
        given, weak = self.both(x_t, t, cond, noise)
        part = slice(self.channels)
        mean = given.mean.clone()
        mean[:, part] = self._mix(given.mean[:, part], weak.mean[:, part], x_t[:, part], t)
        mean = torch.where(expand(active, mean).bool(), mean, given.mean)
        head = given.kernel
        if head is not None and head.mean is not None and head.s is not None:
            a, b, _ = bridge(self.schedule, t, head.s)
            head = replace(head, mean=expand(a, x_t) * mean + expand(b, x_t) * x_t)
        return replace(given, mean=mean, bounded=None, kernel=head)

    def _mix(self, given: Tensor, weak: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        away = given - weak.to(given)
        if self.norm < math.inf:
            away = away * expand((self.norm / _rows(away).norm(dim=1)).clamp_max(1), away)
        if self.parallel != 1:
            along = (_rows(away) * _rows(given)).sum(1) / _rows(given).square().sum(1).clamp_min(1e-30)
            away = away - (1 - self.parallel) * expand(along, given) * given
        mixed = given + (self.scale - 1) * away
        return mixed if self.rescale == 0 else self._rescaled(mixed, given, x_t, t)

    def _rescaled(self, mixed: Tensor, given: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = self.schedule(t)
        guided = from_x0(self.space, mixed, x_t, alpha, sigma)
        spread, wanted = (_rows(value).std(dim=1) for value in (guided, from_x0(self.space, given, x_t, alpha, sigma)))
        factor = 1 + self.rescale * (torch.where(spread > 0, wanted / spread, 1) - 1)
        scaled = to_x0(self.space, expand(factor, guided) * guided, x_t, alpha, sigma)
        if self.space in ("x0", "v", "flow"):
            return scaled
        return torch.where(expand(alpha > 0, mixed).bool(), scaled, mixed)  # pure noise is all of eps, whatever x0


def _rows(x: Tensor) -> Tensor:
    """Images as rows, in a type whose sums are good."""
    return (x if x.dtype == torch.float64 else x.float()).flatten(1)


@register("guidance", "cfg")
class ClassifierFree(Extrapolation):
    """Classifier-free: the weaker belief is that under the null condition, from one pass of a doubled batch.

    Args:
        inner: A denoiser that was trained with dropped conditions.
        null: Turns conditions into those of the null class.
        settings: As for ``Extrapolation``.

    Source: Ho & Salimans 2022, equation 6 with w = scale - 1.
    """

    def __init__(self, inner: Denoiser, null: Callable[[Cond], Cond], **settings: Unpack[Settings]):
        super().__init__(inner, **{"scale": 1.5, **settings})
        self.null = null

    @classmethod
    def attach(
        cls,
        inner: Denoiser,
        site: Site,
        *,
        scale: float = 1.5,
        from_: float = 0.0,
        to: float = math.inf,
        channels: int | None = None,
        rescale: float = 0.0,
        space: str = "model",
        parallel: float = 1.0,
        norm: float = math.inf,
    ) -> ClassifierFree:
        if site.null is None:
            raise CapabilityError(
                "classifier-free guidance needs a model trained with dropped labels; train with --label.drop 0.1, or guide by a classifier"
            )
        more = Settings(scale=scale, from_=from_, to=to, channels=channels, rescale=rescale, space=space, parallel=parallel, norm=norm)
        return cls(inner, site.null, **more)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        if not cond:
            raise ConfigError("classifier-free guidance without a condition; give classes")
        return super().forward(x_t, t, cond, noise=noise)

    def weak(self, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> Posterior:
        return self.inner(x_t, t, self.null(cond), noise=noise)

    def both(self, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> tuple[Posterior, Posterior]:
        doubled = {name: torch.cat([value, null]) for (name, value), null in zip(cond.items(), self.null(cond).values(), strict=True)}
        streams = noise.rows([*range(len(x_t))] * 2) if noise is not None else None
        return _halves(self.inner(torch.cat([x_t, x_t]), torch.cat([t, t]), doubled, noise=streams), len(x_t))


@register("guidance", "auto")
class AutoGuidance(Extrapolation):
    """By a weaker model of the same images: one that is smaller, was trained for less time, or is another average of the weights.

    Args:
        inner: The better denoiser.
        other: The weaker one; its schedule may differ. It is told those conditions that it knows; an unconditional one stands for the
            null condition of classifier-free guidance.
        settings: As for ``Extrapolation``.

    Source: Karras et al. 2024 (autoguidance), section 4, with w = scale.
    """

    def __init__(self, inner: Denoiser, other: Denoiser, **settings: Unpack[Settings]):
        super().__init__(inner, **{"scale": 2.0, **settings})
        self.other = other

    @classmethod
    def attach(
        cls,
        inner: Denoiser,
        site: Site,
        *,
        model: str,
        ema: float | bool = True,
        scale: float = 2.0,
        from_: float = 0.0,
        to: float = math.inf,
        channels: int | None = None,
        rescale: float = 0.0,
        space: str = "model",
        parallel: float = 1.0,
        norm: float = math.inf,
    ) -> AutoGuidance:
        loaded = site.load(model, ema=ema)
        if not hasattr(loaded, "stage"):
            raise CapabilityError(f"'{model}' is a classifier; write classifier,model={model}, or give a weaker generator")
        other = loaded.stage.denoiser
        if loaded.spec.recipe.codec != site.codec:
            raise CapabilityError(f"'{model}' works in another space of images or latents than the model; give one with the same codec")
        if lacking := sorted(other.accepts - inner.accepts):
            raise CapabilityError(f"'{model}' needs {', '.join(lacking)}, which the model knows nothing of; give one with its conditions")
        if "label" in other.accepts:
            if site.classes != loaded.classes:
                raise ConfigError(_other_classes(model, loaded.classes, site.classes))
            if site.null is not None and loaded.null is None:
                raise CapabilityError(f"'{model}' has no null class, as the model has; give one that was trained with dropped labels too")
        more = Settings(scale=scale, from_=from_, to=to, channels=channels, rescale=rescale, space=space, parallel=parallel, norm=norm)
        return cls(inner, other, **more)

    def weak(self, x_t: Tensor, t: Tensor, cond: Cond, noise: Noise | None) -> Posterior:
        known = {name: value for name, value in cond.items() if name in self.other.accepts}
        x_t, t = as_of(self.other.schedule, self.schedule, x_t, t)
        return self.other(x_t, t, known, noise=noise)


def _other_classes(model: str, classes: Sequence[str], wanted: Sequence[str]) -> str:
    named, own = (", ".join(names) or "none" for names in (classes, wanted))
    return f"'{model}' knows the classes {named}, the model {own}; train it on data with the same class folders"


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
            raise ConfigError(_other_classes(model, loaded.classes, site.classes))
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
