"""crowsonkb/k-diffusion: samplers, noise levels and coefficients, on formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from tests.parity.adapters.edm import Recorded
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig, VEConfig, VPConfig
from mezzotint.denoise import NetworkDenoiser, time_input
from mezzotint.process import add_noise, expand, target
from mezzotint.sample.base import Sampler
from mezzotint.sample.dpm_solver import DPMSolver, DPMSolverAdaptive
from mezzotint.sample.grid import make_grid
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import DPM2, LMS, Euler, EulerAncestral, Heun, ancestral_split, lagrange_weights
from mezzotint.sample.sde import DPMSolverSDE
from mezzotint.schedules import Discrete, Schedule, build_schedule
from mezzotint.types import Plan

CHURN = {"s_churn": "s_churn", "s_tmin": "s_min", "s_tmax": "s_max", "s_noise": "s_noise"}


def sigmas(function: str, n: int, sigma_min: float = 0.0, sigma_max: float = 0.0, rho: float | None = None, **betas: float) -> Tensor:
    """A table of noise levels that ends at 0."""
    if function == "get_sigmas_vp":
        low, rise = betas.get("beta_min", 0.1), betas.get("beta_d", 19.9)
        vp = build_schedule(VPConfig(beta_min=low, beta_max=low + rise, t_min=betas.get("eps_s", 1e-3)))
        # In float32, and by a difference that loses four digits at the clean end, as the official table has it.
        return (torch.exp(-2 * vp.log_alpha(make_grid(vp, "uniform", n)[:, 0]).float()) - 1).sqrt()
    spacing = "karras" if function == "get_sigmas_karras" else "logsnr"
    spacing += f":{rho}" if rho else ""
    return make_grid(build_schedule(VEConfig(sigma_min, sigma_max)), spacing, n)[:, 0]


def ours(name: str, given: dict[str, Any]) -> Sampler:
    """Our sampler of an official one, with its settings."""
    churn = {CHURN[key]: value for key, value in given.items() if key in CHURN}
    noisy = {key: value for key, value in given.items() if key in ("eta", "s_noise")}
    if name in ("sample_euler", "sample_heun", "sample_dpm_2"):
        return {"sample_euler": Euler, "sample_heun": Heun, "sample_dpm_2": DPM2}[name](**churn)
    if name == "sample_lms":
        return LMS(**given)
    if name == "sample_euler_ancestral":
        return EulerAncestral(**noisy)
    if name == "sample_dpmpp_sde":
        return DPMSolverSDE(**given)
    if name in ("sample_dpm_2_ancestral", "sample_dpmpp_2s_ancestral"):
        variant = "noise" if name == "sample_dpm_2_ancestral" else "++"
        return DPMSolver(order=2, variant=variant, method="singlestep_fixed", **{"eta": 1.0, **noisy})
    if name == "sample_dpm_fast":
        return DPMSolver(order=3, variant="noise", method="singlestep", **noisy)
    if name == "sample_dpm_adaptive":
        return DPMSolverAdaptive(order=given["order"], variant="noise", norm="mean", controller="smooth")
    if name == "sample_dpmpp_2m":
        return DPMSolver(order=2, lower_order_final=False)
    if name == "sample_dpmpp_2m_sde":
        correction = "taylor" if given.get("solver_type", "midpoint") == "heun" else "midpoint"
        return DPMSolver(order=2, lower_order_final=False, correction=correction, **{"eta": 1.0, **noisy})
    assert name == "sample_dpmpp_3m_sde"
    return DPMSolver(order=3, lower_order_final=False, correction="taylor", official=True, **{"eta": 1.0, **noisy})


@adapter("k_diffusion", "sample")
def samples(case: Case) -> Outputs:
    given = dict(case.config["kwargs"])
    sampler = ours(case.config["sampler"], given)
    if "sigmas" in case.config:
        table = sigmas(case.config["sigmas"]["function"], **case.config["sigmas"]["kwargs"])
        schedule = build_schedule(VEConfig(float(table[-2]), float(table[0])))
        plan = Plan(table[:, None])
        if isinstance(sampler, DPMSolver):  # one step of the whole order from each level to the next
            text = "times:" + ",".join(str(float(t)) for t in table[:-1])
            orders = sampler.plan(schedule, spacing=text).orders if sampler.method == "multistep" else (2,) * (len(table) - 2) + (1,)
            plan = Plan(table[:, None], orders)
    else:
        schedule = build_schedule(VEConfig(given["sigma_min"], given["sigma_max"]))
        plan = sampler.plan(schedule, steps=given.get("n"), spacing="logsnr", t_end="last")
    denoiser = Recorded(schedule, case)
    # Without churn or eta the official code draws as well, to no effect.
    keep: list[int] | None = None if sampler.stochastic else []
    if isinstance(sampler, Euler) and sampler.stochastic:
        t = plan.grid[:-1, 0]
        keep = [i for i in range(len(t)) if sampler.s_min <= t[i] <= sampler.s_max]
    elif case.config["sampler"] == "sample_dpm_fast" and sampler.stochastic:
        keep = list(range(plan.steps - 1))  # the last step may not go below the end, and so adds none
    x = sample(denoiser, sampler, plan, case.inputs["x"], noise=case.replay(keep) if sampler.stochastic else case.replay([]) and None).x
    return {"x": x, "model_sigmas": torch.stack(denoiser.sigmas)}


@adapter("k_diffusion", "sigmas_tables")
def tables(case: Case) -> Outputs:
    return {f"table_{i}": sigmas(function, **kwargs) for i, (function, kwargs) in enumerate(case.config["calls"])}


@adapter("k_diffusion", "ancestral")
def ancestral(case: Case) -> Outputs:
    given = torch.tensor(case.config["from_to_eta"], dtype=torch.float64)
    down, up = zip(*(ancestral_split(a[None], b[None], float(eta)) for a, b, eta in given), strict=True)
    return {"down": torch.cat(down), "up": torch.cat(up)}


@adapter("k_diffusion", "lms_coeff")
def lms_coefficients(case: Case) -> Outputs:
    t = case.inputs["t"].double()
    out = [lagrange_weights(t[i - torch.arange(order)][:, None], t[i + 1 : i + 2])[j, 0] for order, i, j in case.config["order_i_j"]]
    return {"coeff": torch.stack(out)}


def denoised(
    case: Case, schedule: Schedule, kind: Literal["eps", "v"], label: Callable[[Tensor], Tensor], time_input: Literal["index", "alpha"]
) -> Outputs:
    """Output and loss of a network A x (1 + c label) on images that are not scaled down, x0 + sigma eps."""
    inputs = case.inputs
    network = nn.Module()
    network.forward = lambda x, t, cond: torch.einsum("ij,bjhw->bihw", inputs["A"], x) * (1 + expand(label(t), x))
    denoiser = NetworkDenoiser(network, schedule, DenoiserConfig(predicts=kind, time_input=time_input))
    t = schedule.time_of(-inputs["sigma"].double().log())
    alpha, sigma = schedule(t)
    wanted = target(kind, inputs["x"], inputs["noise"], alpha, sigma)
    got = denoiser.predict(add_noise(schedule, inputs["x"], inputs["noise"], t), t).value
    return {"D": denoiser(expand(alpha, inputs["x"]) * inputs["x"], t).mean, "loss": (got - wanted).square().flatten(1).mean(1)}


@adapter("k_diffusion", "discrete_denoiser")
def discrete_denoiser(case: Case) -> Outputs:
    bar = torch.cat([torch.ones(1, dtype=torch.float64), case.inputs["alphas_cumprod"].double()])
    schedule = build_schedule(DiscreteConfig(custom=tuple((1 - bar[1:] / bar[:-1]).tolist()), interpolate="log_sigma"))
    assert isinstance(schedule, Discrete)
    assert schedule.levels is not None
    index = (lambda t: t.round()) if case.config["quantize"] else lambda t: t
    to_sigma = lambda t: torch.exp(-schedule.half_log_snr(t))  # noqa: E731
    return {
        "sigmas": to_sigma(schedule.levels),
        "t": index(time_input(schedule, schedule.time_of(-case.inputs["sigma"].double().log()), "index")),
        "t_to_sigma": to_sigma((case.inputs["t"].double() + 1) / schedule.steps),
        "get_sigmas": to_sigma(make_grid(schedule, "uniform", case.config["n"])[:, 0]),
        "get_sigmas_all": to_sigma(make_grid(schedule, "uniform", None)[:, 0]),
        **denoised(case, schedule, case.config["prediction"], lambda t: 0.001 * index(t), "index"),
    }


@adapter("k_diffusion", "v_denoiser")
def v_denoiser(case: Case) -> Outputs:
    """The angle of (alpha, sigma) as time; any schedule that preserves variance has the same values at the same angle."""
    schedule = build_schedule(VPConfig())
    alpha, sigma = schedule(schedule.time_of(-case.inputs["sigma"].double().log()))
    angle = lambda alpha: torch.arccos(alpha) * 2 / math.pi  # noqa: E731
    return {"t": angle(alpha), "sigma": sigma / alpha, **denoised(case, schedule, "v", angle, "alpha")}
