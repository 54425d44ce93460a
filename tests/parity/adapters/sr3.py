"""Janspiry/Image-Super-Resolution-via-Iterative-Refinement, the common implementation of SR3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.checkpoint.official import sr3 as official
from mezzotint.conditioning import Conditioner
from mezzotint.configs import DenoiserConfig, DenoisingConfig, DiscreteConfig
from mezzotint.covariance import reverse_kernel
from mezzotint.denoise import Bound, Denoiser, NetworkDenoiser
from mezzotint.noise import Noise, ReplayNoise
from mezzotint.objectives.denoising import Denoising
from mezzotint.process import bridge, to_x0
from mezzotint.registry import build, get
from mezzotint.sample.loop import sample
from mezzotint.schedules import Discrete, betas, build_schedule
from mezzotint.times import NoiseLevel
from mezzotint.types import Batch, Cond

SR3 = "sr3"
FLOOR = 1e-20
"""Least posterior variance of the official tables."""


@adapter(SR3, "unet_forward")
def unet_forward(case: Case) -> Outputs:
    config = official.network_from_arguments(case.config["UNet"])
    net = get(*config.kind)(config).eval()
    net.load_state_dict(official.to_ours(case.fill(official.to_official(net.state_dict(), config)), config))
    low_res, x = case.inputs["x"].split([config.low_res_channels, config.in_channels], dim=1)
    with torch.no_grad():
        return {"y": net(x, case.inputs["time"].flatten().float(), {"low_res": low_res})}


def table(name: str, steps: int, first: float, last: float) -> DiscreteConfig:
    """Our settings of an official table; the cosine one knows neither end."""
    ends = {} if name in ("cosine", "jsd") else {"first": first, "last": last}
    return DiscreteConfig(betas=name, steps=steps, **ends)  # type: ignore[arg-type]


def schedule_of(case: Case) -> Discrete:
    option = case.config["schedule_opt"]
    schedule = build_schedule(table(option["schedule"], option["n_timestep"], option["linear_start"], option["linear_end"]))
    assert isinstance(schedule, Discrete)
    return schedule


@adapter(SR3, "beta_schedules")
def beta_schedules(case: Case) -> Outputs:
    return {f"betas_{i}": betas(table(*given)) for i, given in enumerate(case.config["schedule_n_start_end"])}


@adapter(SR3, "tables")
def tables(case: Case) -> Outputs:
    schedule = schedule_of(case)
    t = schedule.levels
    s = torch.cat([torch.zeros(1, dtype=t.dtype), t[:-1]])
    (alpha, sigma), step = schedule(t), bridge(schedule, t, s)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    return {
        "betas": schedule.betas,
        "alphas_cumprod": alpha**2,
        "alphas_cumprod_prev": schedule(s)[0] ** 2,
        "sqrt_alphas_cumprod": alpha,
        "sqrt_alphas_cumprod_prev": schedule(torch.cat([s[:1], t]))[0],
        "sqrt_one_minus_alphas_cumprod": sigma,
        "log_one_minus_alphas_cumprod": 2 * sigma.log(),
        "sqrt_recip_alphas_cumprod": to_x0("eps", zero, one, alpha, sigma),
        "sqrt_recipm1_alphas_cumprod": -to_x0("eps", one, zero, alpha, sigma),
        "posterior_variance": step.std**2,
        "posterior_log_variance_clipped": (step.std**2).clamp_min(FLOOR).log(),
        "posterior_mean_coef1": step.a,
        "posterior_mean_coef2": step.b,
    }


class StandIn(nn.Module):
    """The linear stand-in, in the place of a network: A [condition, x] (0.5 + 0.5 level)."""

    def __init__(self, weights: Tensor, *, conditional: bool):
        super().__init__()
        self.weights = nn.Parameter(weights)
        self.accepts = frozenset({"low_res"} if conditional else ())

    def forward(self, x: Tensor, level: Tensor, cond: Cond) -> Tensor:
        both = torch.cat([cond["low_res"], x], dim=1) if self.accepts else x
        return torch.einsum("ij,bj...->bi...", self.weights, both) * (0.5 + 0.5 * level.to(x.dtype))[:, None, None, None]


def denoiser_of(case: Case) -> NetworkDenoiser:
    config = DenoiserConfig(variance="fixed_small", time_input="alpha")
    return NetworkDenoiser(StandIn(case.inputs["A"], conditional=case.config["conditional"]), schedule_of(case), config)


def cond_of(case: Case) -> Cond:
    return {"low_res": case.inputs["condition_x"]} if case.config["conditional"] else {}


@adapter(SR3, "p_mean_variance")
def p_mean_variance(case: Case) -> Outputs:
    denoiser: Denoiser = Bound(denoiser_of(case), clip=case.config["clip_denoised"])
    schedule = denoiser.schedule
    assert isinstance(schedule, Discrete)
    x = case.inputs["x"]
    out: dict[str, Any] = {}
    for i, index in enumerate(case.config["t"]):
        t = torch.full((len(x),), (index + 1) / schedule.steps, dtype=torch.float64)
        s = t - 1 / schedule.steps if index else torch.zeros_like(t)
        with torch.no_grad():
            found = reverse_kernel(schedule, denoiser(x, t, cond_of(case)), x, t, s, None)
        out[f"mean_{i}"] = found.mean
        out[f"log_variance_{i}"] = found.var.double().clamp_min(FLOOR).log().flatten()[0]
    return out


@adapter(SR3, "sample")
def sample_loop(case: Case) -> Outputs:
    denoiser = Bound(denoiser_of(case))
    noise, sampler = case.replay(), build("sampler", "ancestral")
    plan = sampler.plan(denoiser.schedule)
    size = case.config["image_size"]
    count = len(case.inputs["condition_x"]) if case.config["conditional"] else case.config["batch_size"]
    start = noise.normal((count, 3, size, size), name="start")
    every = 1 | (plan.steps // 10)
    done = sample(denoiser, sampler, plan, start, cond=cond_of(case), noise=noise, save="all")
    kept = [x for step, x in enumerate(done.xs) if (plan.steps - 1 - step) % every == 0]
    return {"continous": torch.cat([case.inputs["condition_x"] if case.config["conditional"] else start, *kept])}


class Given(Conditioner):
    """The condition as the case has it."""

    def __init__(self, cond: Cond):
        super().__init__()
        self.cond = cond

    def forward(self, batch: Batch, *, t: Tensor, noise: Noise, training: bool) -> Cond:
        return self.cond


@adapter(SR3, "losses")
def losses(case: Case) -> Outputs:
    denoiser, images = denoiser_of(case), case.inputs["HR"]
    schedule = denoiser.schedule
    assert isinstance(schedule, Discrete)
    # The official code draws its step and levels from NumPy's global generator.
    stream = np.random.RandomState(case.config["numpy_global_seed"])
    step = int(stream.randint(1, schedule.steps + 1))
    place = torch.from_numpy(stream.uniform(0.0, 1.0, len(images)))
    law = NoiseLevel(schedule, official=True)
    drawn = [torch.full((len(images),), (step - 0.5) / schedule.steps, dtype=torch.float64), place]
    times = law.draw(len(images), ReplayNoise(drawn))
    cond = {"low_res": case.inputs["SR"]} if case.config["conditional"] else {}
    objective = Denoising(denoiser, Given(cond), law, DenoisingConfig(loss=case.config["loss_type"]))
    eps = case.replay().normal(tuple(images.shape), name="eps")
    loss = objective.terms(images, eps, times, cond)["loss"]
    return {"loss": loss.mean() * images.numel(), "t": np.asarray(step), "level": schedule(times.t)[0]}
