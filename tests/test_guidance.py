from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tests.analytic import F64, MIXTURE, SCHEDULES, ExactClassifier, denoiser_of
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig
from mezzotint.denoise import Bound, Denoiser, NetworkDenoiser
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.guidance import AutoGuidance, Classifier, ClassifierFree, ScoreShift, Settings, Site, compose
from mezzotint.noise import Noise
from mezzotint.process import from_x0, to_x0
from mezzotint.registry import build, call_with, get, names
from mezzotint.sample.loop import sample
from mezzotint.schedules import build_schedule
from mezzotint.types import KernelHead, Posterior

LINEAR = build_schedule(DiscreteConfig())
N = 6
X = torch.randn(N, 4, 2, 2, generator=torch.Generator().manual_seed(0))
T = torch.linspace(0.2, 0.9, N, dtype=F64)
COND = {"label": torch.arange(N) % 3}


def null(cond):
    return {**cond, "label": torch.full_like(cond["label"], 3)}


class Recorder(Denoiser):
    """A nonlinear function of x, t and the label that fills every field of its posterior and counts its passes."""

    def __init__(self):
        super().__init__()
        self.schedule, self.accepts, self.variance = LINEAR, frozenset({"label"}), "learned_range"
        self.calls, self.labels, self.noise = 0, [], None

    def forward(self, x_t, t, cond=None, *, noise=None):
        self.calls += 1
        self.labels += cond["label"].tolist()
        self.noise = noise
        level = (cond["label"] + t).to(x_t.dtype).reshape(-1, 1, 1, 1)
        mean = torch.sin(x_t + level)
        return Posterior(mean, var=mean**2, kernel=KernelHead(frac=mean / 2))


def same(a: Posterior, b: Posterior) -> bool:
    return torch.equal(a.mean, b.mean) and torch.equal(a.var, b.var) and torch.equal(a.kernel.frac, b.kernel.frac)


# --- classifier-free -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [-1.0, 0.0, 0.3, 4.0])
def test_both_conventions_are_one(w) -> None:
    inner = Recorder()
    given, free = inner(X, T, COND).mean, inner(X, T, null(COND)).mean
    guided = ClassifierFree(inner, null, scale=w + 1)(X, T, COND).mean
    torch.testing.assert_close(guided, (1 + w) * given - w * free, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale, labels", [(1.0, COND["label"].tolist()), (0.0, [3] * N)])
def test_the_ends_are_single_passes_equal_in_all_bits(scale, labels) -> None:
    inner = Recorder()
    posterior = ClassifierFree(inner, null, scale=scale)(X, T, COND)
    assert inner.calls == 1 and inner.labels == labels
    assert same(posterior, inner(X, T, COND if scale else null(COND)))


def test_other_scales_take_one_pass_of_a_doubled_batch() -> None:
    inner = Recorder()
    ClassifierFree(inner, null, scale=2.0)(X, T, COND, noise=Noise(0, [5, 6, 7, 8, 9, 10]))
    assert inner.calls == 1 and len(inner.labels) == 2 * N
    assert inner.noise.ids == (5, 6, 7, 8, 9, 10) * 2  # both halves see the same noise


def test_the_variance_is_that_of_the_conditional_pass() -> None:
    inner = Recorder()
    given = inner(X, T, COND)
    guided = ClassifierFree(inner, null, scale=3.0)(X, T, COND)
    assert torch.equal(guided.kernel.frac, given.kernel.frac) and torch.equal(guided.var, given.var)


def test_intervals_are_open_below_and_closed_above() -> None:
    inner = Recorder()
    given, full = inner(X, T, COND).mean, ClassifierFree(inner, null, scale=3.0)(X, T, COND).mean
    low, high = T[1].item(), T[4].item()
    part = ClassifierFree(inner, null, scale=3.0, from_=low, to=high)(X, T, COND).mean
    assert torch.equal(part[[0, 1, 5]], given[[0, 1, 5]])
    assert torch.equal(part[2:5], full[2:5]) and bool((part[2:5] != given[2:5]).all())


def test_outside_the_interval_no_null_pass_is_made() -> None:
    """The number of null passes of a run is the number of its steps inside."""
    inner = Recorder()
    sampler = build("sampler", "ddim")
    plan = sampler.plan(LINEAR, steps=20)
    inside = int(((plan.grid[:-1] > 0.25) & (plan.grid[:-1] <= 0.7)).sum())
    run = sample(ClassifierFree(inner, null, scale=2.0, from_=0.25, to=0.7), sampler, plan, X, cond=COND)
    assert 0 < inside < 20
    assert run.calls == inner.calls == 20 and inner.labels.count(3) == inside * N


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_the_interval_decides_for_each_image(scale) -> None:
    inner = Recorder()
    guided = ClassifierFree(inner, null, scale=scale, from_=0.5)
    whole = guided(X, T, COND)
    for i in range(N):
        row = slice(i, i + 1)
        one = guided(X[row], T[row], {"label": COND["label"][row]})
        torch.testing.assert_close(whole.mean[row], one.mean, rtol=1e-6, atol=1e-6)


def test_some_channels_may_stay_conditional() -> None:
    inner = Recorder()
    given, full = inner(X, T, COND).mean, ClassifierFree(inner, null, scale=3.0)(X, T, COND).mean
    part = ClassifierFree(inner, null, scale=3.0, channels=3)(X, T, COND).mean
    assert torch.equal(part[:, :3], full[:, :3]) and torch.equal(part[:, 3:], given[:, 3:])
    free = ClassifierFree(inner, null, scale=0.0, channels=1)(X, T, COND).mean
    assert torch.equal(free[:, 1:], given[:, 1:]) and not torch.equal(free[:, :1], given[:, :1])


@pytest.mark.parametrize("kind", ["eps", "v", "score", "flow"])
def test_guiding_one_prediction_guides_all(kind) -> None:
    inner, x = Recorder(), X.double()
    scales = LINEAR(T)
    given, free = (from_x0(kind, inner(x, T, c).mean, x, *scales) for c in (COND, null(COND)))
    guided = to_x0(kind, free + 2.5 * (given - free), x, *scales)
    torch.testing.assert_close(ClassifierFree(inner, null, scale=2.5)(x, T, COND).mean, guided, rtol=1e-6, atol=1e-8)


def test_a_clip_inside_does_not_hide_the_guidance() -> None:
    """An estimate that was clipped before the mixing belongs to no mixture; it is dropped, not handed on as if it were guided."""
    guided = ClassifierFree(Bound(Recorder()), null, scale=3.0)(X, T, COND)
    assert torch.equal(guided.x0, guided.mean)


def test_a_predicted_mean_of_x_s_is_guided_too() -> None:
    class Network(nn.Module):
        accepts = frozenset({"label"})

        def forward(self, x: Tensor, t: Tensor, cond) -> Tensor:
            return torch.sin(x + cond["label"].reshape(-1, 1, 1, 1))

    t = torch.full((N,), 0.5, dtype=F64)
    inner = NetworkDenoiser(Network(), LINEAR, DenoiserConfig(predicts="x_prev"))
    x = X.double()
    given, free = (inner(x, t, c).kernel.mean for c in (COND, null(COND)))
    guided = ClassifierFree(inner, null, scale=2.0)(x, t, COND)
    torch.testing.assert_close(guided.kernel.mean, 2 * given - free)
    torch.testing.assert_close(guided.kernel.s, inner.own_s(t))


def test_without_a_condition_there_is_nothing_to_guide() -> None:
    for cond in (None, {}):
        with pytest.raises(ConfigError, match="without a condition"):
            ClassifierFree(Recorder(), null, scale=2.0)(X, T, cond)


# --- rescale, projection, norm --------------------------------------------------------------------------------------------


def pair(x: Tensor = X, t: Tensor = T) -> tuple[Tensor, Tensor]:
    inner = Recorder()
    return inner(x, t, COND).mean, inner(x, t, null(COND)).mean


def rows(x: Tensor) -> Tensor:
    return x.flatten(1)


@pytest.mark.parametrize("space", ["x0", "eps", "v", "flow"])
def test_rescaled_images_have_the_spread_of_the_unguided(space) -> None:
    x = X.double()
    (given, free), scales = pair(x), LINEAR(T)
    for share in (1.0, 0.7):
        guided = ClassifierFree(Recorder(), null, scale=5.0, rescale=share, space=space)(x, T, COND).mean
        plain, found, wanted = (rows(from_x0(space, v, x, *scales)) for v in (free + 5 * (given - free), guided, given))
        factor = share * wanted.std(dim=1) / plain.std(dim=1) + 1 - share
        torch.testing.assert_close(found, factor[:, None] * plain)
    none = ClassifierFree(Recorder(), null, scale=5.0, rescale=0.0, space=space)(x, T, COND).mean
    assert torch.equal(none, ClassifierFree(Recorder(), null, scale=5.0)(x, T, COND).mean)


def test_the_space_of_the_network_is_the_default() -> None:
    inner = Recorder()
    inner.predicts = "v"
    named, own = (ClassifierFree(inner, null, scale=5.0, rescale=0.7, **more)(X, T, COND).mean for more in ({"space": "v"}, {}))
    assert torch.equal(named, own)
    assert NetworkDenoiser(nn.Identity(), LINEAR, DenoiserConfig(predicts="v")).predicts == "v"
    assert NetworkDenoiser(nn.Identity(), LINEAR, DenoiserConfig(predicts="edm")).predicts == "x0"
    assert Bound(inner).predicts == "v"


def test_pure_noise_and_constant_images_survive_rescaling() -> None:
    flow = build_schedule(SCHEDULES["flow"])
    inner = Recorder()
    inner.schedule, ones = flow, torch.ones(N, dtype=F64)
    for space in ("x0", "eps", "score", "v", "flow"):
        assert bool(ClassifierFree(inner, null, scale=3.0, rescale=0.7, space=space)(X, ones, COND).mean.isfinite().all())
    assert bool((ClassifierFree(Flat(), null, scale=3.0, rescale=1.0)(X, T, COND).mean == 0).all())


class Flat(Recorder):
    """Knows nothing."""

    def forward(self, x_t, t, cond=None, *, noise=None):
        return Posterior(torch.zeros_like(x_t))


def test_without_the_parallel_part_only_what_is_across_is_added() -> None:
    given, free = (rows(v) for v in pair(X.double()))
    guided = rows(ClassifierFree(Recorder(), null, scale=4.0, parallel=0.0)(X.double(), T, COND).mean)
    added = guided - given
    torch.testing.assert_close((added * given).sum(1), torch.zeros(N, dtype=F64), rtol=0, atol=1e-6)
    away = given - free
    along = (away * given).sum(1, keepdim=True) / given.square().sum(1, keepdim=True) * given
    torch.testing.assert_close(added, 3 * (away - along), rtol=1e-5, atol=1e-6)
    half = rows(ClassifierFree(Recorder(), null, scale=4.0, parallel=0.5)(X.double(), T, COND).mean)
    torch.testing.assert_close(half - given, 3 * (away - 0.5 * along), rtol=1e-5, atol=1e-6)


def test_long_differences_are_shortened_and_short_ones_left() -> None:
    given, free = (rows(v) for v in pair())
    lengths = (given - free).norm(dim=1)
    limit = lengths.median().item()
    added = rows(ClassifierFree(Recorder(), null, scale=3.0, norm=limit)(X, T, COND).mean) - given
    torch.testing.assert_close(added.norm(dim=1), 2 * lengths.clamp_max(limit))
    torch.testing.assert_close(added / added.norm(dim=1, keepdim=True), (given - free) / lengths[:, None], rtol=1e-4, atol=1e-5)


def test_all_settings_keep_to_interval_channels_and_the_image() -> None:
    how: Settings = {"scale": 4.0, "rescale": 0.7, "parallel": 0.2, "norm": 1.0}
    given, full = pair()[0], ClassifierFree(Recorder(), null, **how)(X, T, COND).mean
    part = ClassifierFree(Recorder(), null, from_=T[2].item(), **how)(X, T, COND).mean
    assert torch.equal(part[:3], given[:3]) and torch.equal(part[3:], full[3:])
    few = ClassifierFree(Recorder(), null, channels=3, **how)(X, T, COND).mean
    assert torch.equal(few[:, 3:], given[:, 3:])
    # What is guided is guided as if it were the whole image.
    alone = ClassifierFree(Recorder(), null, **how)(X[:, :3], T, COND).mean
    torch.testing.assert_close(few[:, :3], alone)
    for i in range(N):
        row = slice(i, i + 1)
        one = ClassifierFree(Recorder(), null, **how)(X[row], T[row], {"label": COND["label"][row]}).mean
        torch.testing.assert_close(one, full[row], rtol=1e-6, atol=1e-6)


# --- auto-guidance --------------------------------------------------------------------------------------------------------


class Weak(Recorder):
    """Another function of the same conditions."""

    def forward(self, x_t, t, cond=None, *, noise=None):
        return Posterior(0.5 * super().forward(x_t, t, cond, noise=noise).mean)


def test_a_weaker_model_is_left_behind() -> None:
    good, bad = Recorder(), Weak()
    guided = AutoGuidance(good, bad, scale=2.5)(X, T, COND, noise=Noise(0, range(N)))
    mean, weak = good(X, T, COND).mean, bad(X, T, COND).mean
    torch.testing.assert_close(guided.mean, weak + 2.5 * (mean - weak), rtol=1e-6, atol=1e-6)
    assert torch.equal(guided.kernel.frac, good(X, T, COND).kernel.frac)
    assert bad.noise is None and bad.labels[:N] == COND["label"].tolist()


def test_the_ends_of_auto_guidance_ask_one_model_only() -> None:
    for scale, asked in ((1.0, (1, 0)), (0.0, (0, 1))):
        good, bad = Recorder(), Weak()
        guided = AutoGuidance(good, bad, scale=scale)(X, T, COND)
        assert (good.calls, bad.calls) == asked and torch.equal(guided.mean, (good if scale else bad)(X, T, COND).mean)
    good, bad = Recorder(), Weak()
    part = AutoGuidance(good, bad, scale=3.0, from_=T[2].item())(X, T, COND).mean
    assert torch.equal(part[:3], good(X, T, COND).mean[:3])
    AutoGuidance(good, bad, scale=3.0, from_=0.95)(X, T, COND)
    assert bad.calls == 1


@pytest.mark.parametrize("name", ["cosine", "ve", "flow"])
def test_the_weaker_model_may_have_another_schedule(name) -> None:
    """Exact denoisers of one world agree at one signal-to-noise ratio, so that their difference is nothing."""
    points, t = torch.tensor([[0.3, -0.2], [1.2, 0.9]], dtype=F64), torch.tensor([0.1, 0.7], dtype=F64)
    good, bad = denoiser_of(MIXTURE, LINEAR), denoiser_of(MIXTURE, build_schedule(SCHEDULES[name]))
    cond = {"label": torch.tensor([0, 2])}
    torch.testing.assert_close(AutoGuidance(good, bad, scale=5.0)(points, t, cond).mean, good(points, t, cond).mean, rtol=1e-9, atol=1e-9)
    noise = AutoGuidance(denoiser_of(MIXTURE, build_schedule(SCHEDULES["flow"])), bad, scale=2.0)(points, torch.ones(2, dtype=F64), cond)
    assert bool(noise.mean.isfinite().all())  # pure noise, which the other process may not have


def test_an_unconditional_weaker_model_is_classifier_free_guidance() -> None:
    inner = denoiser_of(MIXTURE, LINEAR)
    points, t, cond = torch.tensor([[0.3, -0.2]], dtype=F64), torch.tensor([0.5], dtype=F64), {"label": torch.tensor([1])}
    given, free = inner(points, t, cond).mean, inner(points, t).mean
    torch.testing.assert_close(AutoGuidance(inner, Plain(), scale=3.0)(points, t, cond).mean, free + 3 * (given - free))


def test_auto_and_classifier_free_guidance_compose() -> None:
    free = lambda d: ClassifierFree(d, null, scale=2.0)  # noqa: E731
    auto = lambda d: AutoGuidance(d, Weak(), scale=3.0)  # noqa: E731
    given, none = pair()
    weak = 0.5 * given
    outside = compose(Recorder(), [free, auto])(X, T, COND).mean
    torch.testing.assert_close(outside, weak + 3 * (none + 2 * (given - none) - weak), rtol=1e-5, atol=1e-5)
    inside = compose(Recorder(), [auto, free])(X, T, COND).mean
    better = [0.5 * v + 3 * (v - 0.5 * v) for v in (given, none)]
    torch.testing.assert_close(inside, better[1] + 2 * (better[0] - better[1]), rtol=1e-5, atol=1e-5)


def test_attaching_a_weaker_model() -> None:
    asked = []

    def load(path, *, ema=True):
        asked.append((path, ema))
        return Weaker()

    for text, ema in (({}, True), ({"ema": "off"}, False), ({"ema": "0.99"}, 0.99)):
        guided = attach("auto", {"model": "x", "scale": "3", "rescale": "0.5", **text}, site(load=load))
        assert (guided.scale, guided.rescale) == (3, 0.5) and asked[-1] == ("x", ema)
    with pytest.raises(CapabilityError, match="'x' has no null class, as the model has"):
        attach("auto", {"model": "x"}, site(load=lambda path, ema: Weaker(null=None)))
    with pytest.raises(CapabilityError, match="'x' needs label, which the model knows nothing of"):
        attach("auto", {"model": "x"}, site(load=lambda path, ema: Weaker()), Plain())
    plain = attach("auto", {"model": "x"}, site(load=lambda path, ema: Weaker(Plain(), classes=(), null=None)))
    assert isinstance(plain.other, Plain)


# --- classifier ----------------------------------------------------------------------------------------------------------

POINTS = torch.tensor([[0.3, -0.2], [1.2, 0.9], [0.1, 0.1]], dtype=F64)
LEVEL = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
LABEL = {"label": torch.tensor([0, 1, 2])}


class Plain(Denoiser):
    """The exact unconditional denoiser, which does not know labels."""

    def __init__(self, schedule=LINEAR):
        super().__init__()
        self.schedule, self.inner = schedule, denoiser_of(MIXTURE, schedule)

    def forward(self, x_t, t, cond=None, *, noise=None):
        assert not cond
        return self.inner(x_t, t, cond)


@pytest.mark.parametrize("name", ["linear", "ve", "flow"])
def test_the_exact_classifier_turns_the_mixture_into_its_component(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    posterior = Classifier(Plain(schedule), ExactClassifier(MIXTURE, schedule), scale=1.0)(POINTS, LEVEL, LABEL)
    alpha, sigma = schedule(LEVEL)
    turned = posterior.mean + (sigma**2 / alpha)[:, None] * posterior.score_shift
    torch.testing.assert_close(turned, MIXTURE.posterior(POINTS, alpha, sigma, LABEL["label"])[0], rtol=1e-9, atol=1e-9)


def test_the_shift_grows_with_the_scale_and_adds_up() -> None:
    classifier = ExactClassifier(MIXTURE, LINEAR)
    one = Classifier(Plain(), classifier, scale=1.0)(POINTS, LEVEL, LABEL)
    four = Classifier(Plain(), classifier, scale=4.0)(POINTS, LEVEL, LABEL)
    torch.testing.assert_close(four.score_shift, 4 * one.score_shift)
    twice = Classifier(Classifier(Plain(), classifier, scale=1.0), classifier, scale=3.0)(POINTS, LEVEL, LABEL)
    torch.testing.assert_close(twice.score_shift, four.score_shift)
    assert torch.equal(four.mean, one.mean)


def test_scale_zero_is_no_guidance_and_no_pass() -> None:
    classifier = ExactClassifier(MIXTURE, LINEAR)
    posterior = Classifier(Plain(), classifier, scale=0.0)(POINTS, LEVEL, LABEL)
    assert posterior.score_shift is None and classifier.calls == 0
    assert torch.equal(posterior.mean, Plain()(POINTS, LEVEL).mean)


def test_the_interval_of_a_classifier() -> None:
    classifier = ExactClassifier(MIXTURE, LINEAR)
    full = Classifier(Plain(), classifier, scale=2.0)(POINTS, LEVEL, LABEL).score_shift
    part = Classifier(Plain(), classifier, scale=2.0, from_=0.1, to=0.5)(POINTS, LEVEL, LABEL).score_shift
    assert torch.equal(part[1], full[1]) and bool((part[[0, 2]] == 0).all())
    before = classifier.calls
    assert Classifier(Plain(), classifier, scale=2.0, from_=0.95)(POINTS, LEVEL, LABEL).score_shift is None
    assert classifier.calls == before


def test_a_conditional_inner_denoiser_sees_the_label() -> None:
    inner = denoiser_of(MIXTURE, LINEAR)
    posterior = Classifier(inner, ExactClassifier(MIXTURE, LINEAR), scale=1.0)(POINTS, LEVEL, LABEL)
    assert torch.equal(posterior.mean, inner(POINTS, LEVEL, LABEL).mean)


def test_conditions_of_a_classifier_are_checked() -> None:
    guided = Classifier(Plain(), ExactClassifier(MIXTURE, LINEAR), scale=1.0)
    assert guided.accepts == {"label"}
    with pytest.raises(ConfigError, match="classifier guidance without a class"):
        guided(POINTS, LEVEL, {})
    with pytest.raises(ConfigError, match="unknown condition 'colour'"):
        Classifier(denoiser_of(MIXTURE, LINEAR), ExactClassifier(MIXTURE, LINEAR), scale=1.0)(POINTS, LEVEL, {**LABEL, "colour": LEVEL})


def test_images_keep_their_type() -> None:
    posterior = Classifier(Plain(), ExactClassifier(MIXTURE, LINEAR), scale=1.0)(POINTS.float(), LEVEL, LABEL)
    assert posterior.score_shift.dtype == posterior.mean.dtype == torch.float32


# --- composition ---------------------------------------------------------------------------------------------------------


def test_classifier_and_classifier_free_guidance_compose_in_either_order() -> None:
    inner, classifier = denoiser_of(MIXTURE, LINEAR), ExactClassifier(MIXTURE, LINEAR)
    free = lambda d: ClassifierFree(d, null, scale=2.0)  # noqa: E731
    by_class = lambda d: Classifier(d, classifier, scale=1.5)  # noqa: E731
    one = compose(inner, [free, by_class])(POINTS, LEVEL, LABEL)
    other = compose(inner, [by_class, free])(POINTS, LEVEL, LABEL)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.score_shift, other.score_shift)
    torch.testing.assert_close(one.mean, free(inner)(POINTS, LEVEL, LABEL).mean)


def test_the_first_wrapper_is_the_innermost() -> None:
    outer = compose(denoiser_of(MIXTURE, LINEAR), [lambda d: Bound(d, clip=False), lambda d: ClassifierFree(d, null, scale=2.0)])
    assert isinstance(outer, ClassifierFree) and isinstance(outer.inner, Bound)
    plain = Plain()
    assert compose(plain, []) is plain


def test_a_function_of_ones_own() -> None:
    function = lambda x, t, cond: cond["label"][:, None] * x  # noqa: E731
    guided = ScoreShift(Plain(), function, from_=0.2)(POINTS, LEVEL, LABEL)
    torch.testing.assert_close(guided.score_shift, (LEVEL > 0.2)[:, None] * function(POINTS, LEVEL, LABEL))
    both = ScoreShift(Classifier(Plain(), ExactClassifier(MIXTURE, LINEAR), scale=1.0), function)(POINTS, LEVEL, LABEL)
    alone = Classifier(Plain(), ExactClassifier(MIXTURE, LINEAR), scale=1.0)(POINTS, LEVEL, LABEL)
    torch.testing.assert_close(both.score_shift, alone.score_shift + function(POINTS, LEVEL, LABEL))


def test_an_empty_interval_is_an_error() -> None:
    with pytest.raises(ConfigError, match="acts nowhere"):
        ClassifierFree(Recorder(), null, scale=2.0, from_=0.5, to=0.5)


# --- attaching by name ----------------------------------------------------------------------------------------------------


class Loaded:
    def __init__(self, classes):
        self.classifier, self.classes = ExactClassifier(MIXTURE, LINEAR), classes


class Weaker:
    """A generator as a guidance sees it."""

    def __init__(self, denoiser: Denoiser | None = None, *, classes=("a", "b", "c"), codec=None, null=null):
        self.stage, self.classes, self.null = SimpleNamespace(denoiser=denoiser or denoiser_of(MIXTURE, LINEAR)), classes, null
        self.spec = SimpleNamespace(recipe=SimpleNamespace(codec=codec))


def attach(text_name: str, settings: dict[str, str], site: Site, inner: Denoiser | None = None):
    return call_with(get("guidance", text_name).attach, settings, inner or denoiser_of(MIXTURE, LINEAR), site, what=text_name)


def site(**changes) -> Site:
    given = {"null": null, "load": lambda path, ema=True: Loaded(("a", "b", "c")), "classes": ("a", "b", "c")}
    return Site(**{**given, **changes})


def test_attaching_reads_the_settings() -> None:
    free = attach("cfg", {"scale": "3", "from": "0.1", "to": "0.9", "channels": "2"}, site())
    assert (free.scale, free.low, free.high, free.channels, free.null) == (3, 0.1, 0.9, 2, null)
    assert attach("cfg", {}, site()).high == math.inf
    by_class = attach("classifier", {"model": "x", "scale": "4"}, site())
    assert (by_class.scale, by_class.low, by_class.high) == (4, 0, math.inf)


@pytest.mark.parametrize("name", names("guidance"))
def test_every_guidance_can_be_attached_and_refuses_an_empty_interval(name) -> None:
    settings = {} if name == "cfg" else {"model": "x"}
    place = site(load=lambda path, ema=True: Weaker()) if name == "auto" else site()
    guided = attach(name, settings, place)
    assert guided.schedule == LINEAR and "label" in guided.accepts
    with pytest.raises(ConfigError, match="acts nowhere"):
        attach(name, {**settings, "from": "0.5", "to": "0.1"}, place)


@pytest.mark.parametrize(
    "name, settings, changes, error, message",
    [
        ("cfg", {}, {"null": None}, CapabilityError, "needs a model trained with dropped labels"),
        ("cfg", {"scal": "2"}, {}, ConfigError, "unknown setting of cfg 'scal'; did you mean 'scale'"),
        ("classifier", {}, {}, ConfigError, "classifier needs 'model'"),
        ("classifier", {"model": "x"}, {"load": lambda path: object()}, CapabilityError, "'x' is not a classifier"),
        ("cfg", {"rescale": "2"}, {}, ConfigError, "rescale=2 is not in [0, 1]"),
        ("cfg", {"norm": "0"}, {}, ConfigError, "norm=0; give the largest norm"),
        ("cfg", {"space": "vv"}, {}, ConfigError, "unknown space 'vv'; did you mean 'v'"),
        ("auto", {}, {}, ConfigError, "auto needs 'model'"),
        ("auto", {"model": "x"}, {}, CapabilityError, "'x' is a classifier; write classifier,model=x"),
        ("auto", {"model": "x", "ema": "some"}, {}, ConfigError, "auto: ema=some: expected"),
        ("auto", {"model": "x"}, {"codec": "vae"}, CapabilityError, "'x' works in another space"),
        ("auto", {"model": "x"}, {"classes": ("a",)}, ConfigError, "'x' knows the classes a, b, c, the model a"),
        (
            "classifier",
            {"model": "x"},
            {"load": lambda path: Loaded(("a", "b"))},
            ConfigError,
            "'x' knows the classes a, b, the model a, b, c",
        ),
    ],
)
def test_what_cannot_be_attached(name, settings, changes, error, message) -> None:
    if name == "auto" and changes:
        changes = {"load": lambda path, ema=True: Weaker(), **changes}
    with pytest.raises(error) as caught:
        attach(name, settings, site(**changes))
    assert str(caught.value).startswith(message.split(";")[0]) or message in str(caught.value)
    assert "\n" not in str(caught.value)
