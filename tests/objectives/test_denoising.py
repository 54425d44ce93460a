from __future__ import annotations

import pytest
import torch
from tests.analytic import F64, SCHEDULES
from tests.objectives.nets import Linear, Table

from mezzotint.conditioning import Label, Unconditional
from mezzotint.configs import DenoiserConfig, DenoisingConfig, DiscreteConfig, LabelConfig, VLBConfig
from mezzotint.denoise import NetworkDenoiser
from mezzotint.errors import CapabilityError
from mezzotint.noise import Noise
from mezzotint.objectives.denoising import Denoising, weight
from mezzotint.objectives.variational import VLB
from mezzotint.process import bridge, from_x0
from mezzotint.schedules import build_schedule
from mezzotint.times import Importance, UniformLevels, UniformTimes
from mezzotint.types import Batch, Times

LINEAR = build_schedule(DiscreteConfig())
G = torch.Generator().manual_seed(0)
X0 = (torch.rand(5, 2, 3, 3, dtype=F64, generator=G) * 255).round() / 127.5 - 1
EPS = torch.randn(5, 2, 3, 3, dtype=F64, generator=G)
T = torch.tensor([0.001, 0.002, 0.3, 0.7, 1.0], dtype=F64)
TIMES = Times(t=T, weight=torch.ones(5), s=T - 0.001, t_up=(T + 0.001).clamp_max(1.0))
IDS = torch.arange(5)


def objective(network, schedule=LINEAR, law=None, *, config=DenoisingConfig(), conditioner=None, **denoiser) -> Denoising:
    law = law or UniformLevels(LINEAR.levels)
    return Denoising(NetworkDenoiser(network, schedule, DenoiserConfig(**denoiser)), conditioner or Unconditional(), law, config)


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "flow"])
@pytest.mark.parametrize("weighting", ["snr", "truncated_snr", "min_snr", "edm"])
def test_a_weighting_is_one_loss_whatever_is_predicted(name, weighting) -> None:
    """The weighted squared error of the prediction is that of x0, in every space."""
    schedule = build_schedule(SCHEDULES[name])
    t = torch.linspace(0.05, 0.9, 5, dtype=F64) * schedule.t_max
    alpha, sigma = schedule(t)
    x_t = alpha.reshape(5, 1, 1, 1) * X0 + sigma.reshape(5, 1, 1, 1) * EPS
    guess = 0.7 * X0 + 0.1
    losses = []
    for kind in ("x0", "eps", "v", "score", "flow"):
        error = from_x0(kind, guess, x_t, alpha, sigma) - from_x0(kind, X0, x_t, alpha, sigma)
        losses.append(weight(weighting, kind, alpha, sigma, sigma_data=0.4) * error.square().flatten(1).mean(1))
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0], rtol=1e-6, atol=1e-9)


def test_weights_by_the_papers() -> None:
    alpha, sigma = torch.tensor([0.6, 0.8, 0.99], dtype=F64), torch.tensor([0.8, 0.6, 0.1], dtype=F64)
    snr = (alpha / sigma) ** 2
    assert torch.equal(weight("simple", "eps", alpha, sigma), torch.ones(3, dtype=F64))
    torch.testing.assert_close(weight("snr", "eps", alpha, sigma), torch.ones(3, dtype=F64))
    torch.testing.assert_close(weight("min_snr", "x0", alpha, sigma), torch.tensor([0.5625, 16 / 9, 5.0], dtype=F64))
    torch.testing.assert_close(weight("min_snr", "eps", alpha, sigma)[2], 5 / snr[2])
    torch.testing.assert_close(weight("truncated_snr", "x0", alpha, sigma), torch.stack([snr[0] * 0 + 1, snr[1], snr[2]]))
    one = torch.ones(2, dtype=F64)
    level = torch.tensor([0.3, 5.0], dtype=F64)
    torch.testing.assert_close(weight("edm", "edm", one, level, sigma_data=0.5), (level**2 + 0.25) / (level * 0.5) ** 2)


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "score", "flow", "x_prev", "edm"])
def test_the_loss_is_zero_where_the_network_is_right_and_only_there(predicts) -> None:
    piece = objective(Table((5, 2, 3, 3)), predicts=predicts)
    denoiser = piece.denoiser
    alpha, sigma = (v.reshape(5, 1, 1, 1) for v in LINEAR(T))
    x_t = alpha * X0 + sigma * EPS
    if predicts == "x_prev":
        a, b, _ = (v.reshape(5, 1, 1, 1) for v in bridge(LINEAR, T, TIMES.s))
        right = a * X0 + b * x_t
    elif predicts == "edm":  # the network's own target, by inverting the preconditioning
        ratio = sigma / alpha
        total = (ratio**2 + 0.25).sqrt()
        right = (X0 - 0.25 / total**2 * x_t / alpha) * total / (ratio * 0.5)
    else:
        right = from_x0(predicts, X0, x_t, *LINEAR(T))
    denoiser.network.out.data = right
    terms = piece.terms(X0, EPS, TIMES, {})
    assert terms["loss"].abs().max() < 1e-15 and set(terms) == {"mse", "loss"}
    denoiser.network.out.data = right + 0.5
    assert piece.terms(X0, EPS, TIMES, {})["loss"].min() > 1e-9


def hybrid(vlb: float = 0.001) -> tuple[Denoising, Denoising, VLB]:
    """The hybrid loss, its simple part, and the bound alone, on one network."""
    network = Table((5, 4, 3, 3))
    mixed = objective(network, config=DenoisingConfig(vlb=vlb), variance="learned_range")
    simple = objective(network, config=DenoisingConfig(vlb=0.0), variance="learned_range")
    return mixed, simple, VLB(mixed.denoiser, Unconditional(), mixed.law, VLBConfig())


def gradient(piece) -> torch.Tensor:
    network = piece.denoiser.network
    network.zero_grad()
    piece.terms(X0, EPS, TIMES, {})["loss"].mean().backward()
    return network.out.grad.clone()


@pytest.mark.parametrize("vlb", [0.001, 1.0])
def test_the_bound_trains_the_variance_alone(vlb) -> None:
    mixed, simple, bound = map(gradient, hybrid(vlb))
    assert torch.equal(mixed[:, :2], simple[:, :2]) and simple[:, 2:].abs().max() == 0
    torch.testing.assert_close(mixed[:, 2:], vlb * bound[:, 2:], rtol=1e-9, atol=1e-15)
    assert mixed[:, 2:].flatten(1).abs().amax(1).min() > 0 and bound[:, :2].abs().max() > 0


def test_the_bound_is_scaled_by_the_number_of_levels() -> None:
    mixed, simple, bound = hybrid(0.001)
    terms, whole = mixed.terms(X0, EPS, TIMES, {}), bound.terms(X0, EPS, TIMES, {})["loss"]
    torch.testing.assert_close(terms["vlb"], whole)
    torch.testing.assert_close(terms["loss"], simple.terms(X0, EPS, TIMES, {})["mse"] + 0.001 * whole)
    assert mixed.num_levels == 1000


def test_a_learned_variance_needs_levels() -> None:
    vp = build_schedule(SCHEDULES["vp"])
    with pytest.raises(CapabilityError, match="a learned variance is trained on numbered levels"):
        objective(Table((1, 4, 3, 3)), vp, UniformTimes(0.001, 1.0), variance="learned_range", time_input="t")
    fixed = objective(Table((5, 2, 3, 3)), LINEAR, config=DenoisingConfig(vlb=1.0), variance="fixed_small")
    assert "vlb" not in fixed.terms(X0, EPS, TIMES, {})


def batch(label: bool = True) -> Batch:
    return Batch(X0, IDS, torch.tensor([0, 1, 2, 0, 1]) if label else None)


def test_forward_draws_what_terms_then_weighs() -> None:
    piece = objective(Linear(2, 2), predicts="v", config=DenoisingConfig(weighting="min_snr"))
    noise = Noise(3, IDS)
    loss = piece(batch(False), phase="denoise", step=0, noise=noise)
    times = piece.law.draw(5, noise)
    eps = noise.normal((5, 2, 3, 3), name="eps", dtype=F64)
    terms = piece.terms(X0, eps, times, {})
    assert torch.equal(loss.per_sample, terms["loss"]) and torch.equal(loss.t, times.t)
    assert loss.total == terms["loss"].mean() and loss.total.requires_grad and not loss.per_sample.requires_grad
    assert loss.logs["mse"] == terms["mse"].mean()


def test_an_example_s_loss_does_not_depend_on_its_batch() -> None:
    piece = objective(Linear(2, 2))
    whole = piece(batch(False), phase="denoise", step=0, noise=Noise(3, IDS)).per_sample
    part = piece(Batch(X0[[3, 1]], IDS[[3, 1]]), phase="denoise", step=0, noise=Noise(3, [3, 1])).per_sample
    torch.testing.assert_close(part, whole[[3, 1]])


def test_importance_weights_act_on_the_total_alone() -> None:
    law = Importance(LINEAR.levels)
    for _ in range(10):
        law.update(LINEAR.levels, torch.linspace(1, 50, 1000))
    piece = objective(Linear(2, 2), law=law)
    noise = Noise(3, IDS)
    loss = piece(batch(False), phase="denoise", step=0, noise=noise)
    weights = law.draw(5, noise).weight.double()
    assert weights.std() > 0
    torch.testing.assert_close(loss.total, (weights * loss.per_sample).mean())
    before = law.losses.clone()
    piece.update(loss.t, loss.per_sample, phase="denoise")
    assert not torch.equal(law.losses, before)


def test_labels_reach_the_network_and_are_dropped_in_training_only() -> None:
    piece = objective(Linear(2, 2), conditioner=Label(LabelConfig(num_classes=3, drop=0.9)))
    noise = Noise(0, IDS)
    training = piece.train()(batch(), phase="denoise", step=0, noise=noise).per_sample
    quiet = piece.eval()(batch(), phase="denoise", step=0, noise=noise).per_sample
    assert not torch.equal(training, quiet)
    piece.conditioner.drop = 0.0
    assert torch.equal(piece(batch(), phase="denoise", step=0, noise=noise).per_sample, quiet)
    without = objective(Linear(2, 2))(batch(), phase="denoise", step=0, noise=noise).per_sample
    assert not torch.equal(without, quiet)


def test_what_the_trainer_is_told() -> None:
    piece = objective(Linear(2, 2))
    (phase,) = piece.phases
    assert phase.name == "denoise" and phase.modules == (piece.denoiser.network,) and piece.models == {"model": piece.denoiser.network}
