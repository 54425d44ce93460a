from __future__ import annotations

import math

import pytest
import torch
from tests.analytic import F64, SCHEDULES
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig, VEConfig, VPConfig
from mezzotint.denoise import Bound, FunctionDenoiser, NetworkDenoiser, Wrapper, time_input
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.process import add_noise, bridge, from_x0
from mezzotint.schedules import build_schedule
from mezzotint.types import Posterior

LINEAR = build_schedule(DiscreteConfig())
VP = build_schedule(VPConfig())


class Answer(nn.Module):
    """A network that answers what it is told to, and keeps what it was asked."""

    accepts = frozenset({"label"})

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, label: Tensor, cond) -> Tensor:
        self.asked = (x, label, cond)
        return self.function(x)


def images(dtype=F64) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 2, 4, 4, dtype=F64, generator=g), torch.randn(3, 2, 4, 4, dtype=F64, generator=g)
    return x0.to(dtype), eps.to(dtype), torch.tensor([0.001, 0.4, 0.999], dtype=F64)


@pytest.mark.parametrize("schedule", [LINEAR, VP, build_schedule(VEConfig())])
@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "flow"])
def test_a_network_that_is_right_gives_the_clean_image(schedule, predicts) -> None:
    x0, eps, t = images()
    x_t = add_noise(schedule, x0, eps, t)
    right = from_x0(predicts, x0, x_t, *schedule(t))
    denoiser = NetworkDenoiser(Answer(lambda x: right), schedule, DenoiserConfig(predicts=predicts, time_input="t"))
    posterior = denoiser(x_t, t)
    torch.testing.assert_close(posterior.mean, x0, rtol=1e-8, atol=1e-8)
    assert posterior.bounded is posterior.var is posterior.kernel is posterior.score_shift is None
    assert torch.equal(denoiser.predict(x_t, t).value, right)


def test_a_network_that_predicts_x_s() -> None:
    x0, eps, _ = images()
    t = torch.tensor([0.001, 0.4, 1.0], dtype=F64)
    x_t = add_noise(LINEAR, x0, eps, t)
    denoiser = NetworkDenoiser(Answer(lambda x: right), LINEAR, DenoiserConfig(predicts="x_prev"))
    s = denoiser.own_s(t)
    assert s.tolist() == [0, 0.399, 0.999]
    a, b, _ = bridge(LINEAR, t, s)
    right = a.reshape(3, 1, 1, 1) * x0 + b.reshape(3, 1, 1, 1) * x_t
    posterior = denoiser(x_t, t)
    torch.testing.assert_close(posterior.mean, x0, rtol=1e-6, atol=1e-6)
    assert posterior.kernel.mean is right and posterior.kernel.s.tolist() == s.tolist()


@pytest.mark.parametrize("data", [0.5, 1.3])
def test_preconditioning(data) -> None:
    """Against the table of the paper, written for alpha = 1."""
    config = DenoiserConfig(predicts="edm", time_input="log_sigma", sigma_data=data)
    network = Answer(lambda x: torch.sin(3 * x))
    schedule = build_schedule(VEConfig())
    x_t, _, _ = images()
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=F64)
    mean = NetworkDenoiser(network, schedule, config)(x_t, sigma).mean
    wide = sigma.reshape(3, 1, 1, 1)
    c_in = 1 / (wide**2 + data**2).sqrt()
    torch.testing.assert_close(network.asked[0], c_in * x_t)
    torch.testing.assert_close(network.asked[1], sigma.log() / 4)
    c_skip, c_out = data**2 * c_in**2, wide * data * c_in
    torch.testing.assert_close(mean, c_skip * x_t + c_out * torch.sin(3 * c_in * x_t))


def test_a_preconditioned_network_believes_the_same_on_vp_and_ve() -> None:
    network = Answer(lambda x: torch.tanh(x) + network.asked[1].reshape(-1, 1, 1, 1))
    config = DenoiserConfig(predicts="edm", time_input="log_sigma")
    ve = build_schedule(VEConfig())
    t = torch.tensor([0.01, 0.4, 0.9], dtype=F64)
    sigma = ve.time_of(VP.half_log_snr(t))
    x, _, _ = images()
    alpha = VP(t)[0].reshape(3, 1, 1, 1)
    torch.testing.assert_close(NetworkDenoiser(network, VP, config)(alpha * x, t).mean, NetworkDenoiser(network, ve, config)(x, sigma).mean)


@pytest.mark.parametrize(
    "kind, expected",
    [("index", [0.0, 0.5, 999.0]), ("index_1000", [0.0, 0.5, 999.0]), ("t", [0.001, 0.0015, 1.0]), ("t_999", [0.999, 1.4985, 999.0])],
)
def test_what_a_network_is_told(kind, expected) -> None:
    t = torch.tensor([0.001, 0.0015, 1.0], dtype=F64)
    torch.testing.assert_close(time_input(LINEAR, t, kind), torch.tensor(expected, dtype=F64), rtol=1e-12, atol=1e-12)


def test_more_of_what_a_network_is_told() -> None:
    long = build_schedule(DiscreteConfig(betas="cosine", steps=4000))
    assert time_input(long, torch.tensor([1.0, 0.5, 0.0], dtype=F64), "index_1000").tolist() == [999.75, 499.75, 0]
    cosine = build_schedule(DiscreteConfig(betas="cosine"))
    # Of its 1000 levels DPM-Solver's code keeps 996, and spreads them over 0 .. 1000.
    told = time_input(cosine, torch.tensor([0.001, 0.501, 0.996], dtype=F64), "index_clipped")
    torch.testing.assert_close(told, torch.tensor([0, 500, 995], dtype=F64) * 1000 / 996)
    assert torch.equal(*(time_input(LINEAR, told / 1000, kind) for kind in ("index", "index_clipped")))
    t = torch.tensor([0.3], dtype=F64)
    assert time_input(VP, t, "alpha") == VP(t)[0]
    alpha, sigma = VP(t)
    assert time_input(VP, t, "log_sigma").item() == pytest.approx(math.log(sigma.item() / alpha.item()) / 4)
    with pytest.raises(CapabilityError, match="time input 'index' needs a discrete schedule"):
        time_input(VP, t, "index")


def test_the_time_reaches_the_network_in_the_precision_of_the_images() -> None:
    for dtype, wanted in ((F64, F64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        network = Answer(lambda x: x)
        x_t, _, t = images(dtype)
        posterior = NetworkDenoiser(network, LINEAR, DenoiserConfig())(x_t, t)
        assert network.asked[1].dtype == wanted and posterior.mean.dtype == dtype


def test_the_variance_half_of_the_output() -> None:
    x_t, _, t = images()
    both = torch.cat([x_t, torch.full_like(x_t, -0.5)], dim=1)
    ranged = NetworkDenoiser(Answer(lambda x: both), LINEAR, DenoiserConfig(variance="learned_range"))
    assert torch.equal(ranged(x_t, t).kernel.frac, torch.full_like(x_t, 0.25))
    assert ranged.variance == "learned_range"
    own = torch.tensor([0.001, 0.4, 0.999], dtype=F64)
    free = NetworkDenoiser(Answer(lambda x: both), LINEAR, DenoiserConfig(variance="learned"))(x_t, own).kernel
    assert torch.equal(free.log_var, torch.full_like(x_t, -0.5)) and free.s.tolist() == [0, 0.399, 0.998]


@pytest.mark.parametrize(
    "variance, channels, message",
    [("learned_range", 2, "needs 4 output channels, the network gives 2"), ("fixed_small", 4, "4 channels for images of 2")],
)
def test_a_network_with_other_channels(variance, channels, message) -> None:
    x_t, _, t = images()
    denoiser = NetworkDenoiser(Answer(lambda x: torch.zeros(3, channels, 4, 4)), LINEAR, DenoiserConfig(variance=variance))
    with pytest.raises(CapabilityError, match=message):
        denoiser(x_t, t)


def test_only_known_conditions_pass() -> None:
    network = Answer(lambda x: x)
    denoiser = NetworkDenoiser(network, LINEAR, DenoiserConfig())
    x_t, _, t = images()
    label = torch.tensor([0, 1, 2])
    denoiser(x_t, t, {"label": label})
    assert network.asked[2]["label"] is label
    with pytest.raises(ConfigError, match="unknown condition 'labels'; did you mean 'label'"):
        denoiser(x_t, t, {"labels": label})
    alone = FunctionDenoiser(LINEAR, lambda x, alpha, sigma, cond: x)
    with pytest.raises(ConfigError, match="the model is unconditional"):
        alone(x_t, t, {"label": label})


def test_single_steps_need_levels() -> None:
    denoiser = NetworkDenoiser(Answer(lambda x: x), VP, DenoiserConfig(predicts="x_prev", time_input="t"))
    x_t, _, t = images()
    with pytest.raises(CapabilityError, match="only a discrete schedule has single steps"):
        denoiser(x_t, t)


@pytest.mark.parametrize("name", ["linear", "ve"])
def test_a_formula_gets_scales_that_fit_the_images(name) -> None:
    schedule = build_schedule(SCHEDULES[name])
    x_t, _, t = images(torch.float32)
    denoiser = FunctionDenoiser(schedule, lambda x, alpha, sigma, cond: (x * alpha, sigma**2 + 0 * x))
    posterior = denoiser(x_t, t)
    alpha, _ = schedule(t)
    torch.testing.assert_close(posterior.mean, x_t * alpha.float().reshape(3, 1, 1, 1))
    assert posterior.var.dtype == torch.float32


# --- Bound ---------------------------------------------------------------------------------------------------------------


def bounded(mean: Tensor, **settings) -> Posterior:
    return Bound(FunctionDenoiser(LINEAR, lambda *_: mean), **settings)(mean, torch.full((len(mean),), 0.5, dtype=F64))


def test_clipping_leaves_the_mean_as_it_is() -> None:
    mean = torch.tensor([[-3.0, 0.5], [0.2, 1.5]])
    posterior = bounded(mean)
    assert posterior.mean is mean
    assert posterior.bounded.tolist() == posterior.x0.tolist() == [[-1, 0.5], [mean[1, 0].item(), 1]]


def test_dynamic_thresholding_is_by_image() -> None:
    mean = torch.stack([torch.linspace(0, 4, 5), torch.linspace(-0.5, 0.5, 5)])
    out = bounded(mean, quantile=0.75).bounded
    torch.testing.assert_close(out[0], mean[0].clamp(-3, 3) / 3)
    assert torch.equal(out[1], mean[1])
    out = bounded(mean, quantile=0.75, most=2.0).bounded
    torch.testing.assert_close(out[0], mean[0].clamp(-2, 2) / 2)


def test_a_transform_comes_before_the_clipping() -> None:
    mean = torch.tensor([[0.8]])
    assert bounded(mean, transform=lambda x: 2 * x).bounded.item() == 1
    assert bounded(mean, transform=lambda x: 2 * x, clip=False).bounded.item() == pytest.approx(1.6)


def test_wrappers_take_over_what_samplers_ask_for() -> None:
    inner = NetworkDenoiser(Answer(lambda x: x), LINEAR, DenoiserConfig(variance="fixed_large"))
    outer = Wrapper(Bound(inner))
    assert (outer.schedule, outer.accepts, outer.variance) == (LINEAR, frozenset({"label"}), "fixed_large")
    t = torch.rand(4)
    assert outer.snap(t) is t
