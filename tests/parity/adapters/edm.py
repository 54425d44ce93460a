"""NVlabs/edm: the samplers on formulas."""

from __future__ import annotations

import math

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor

from mezzotint.configs import DiscreteConfig, VEConfig, VPConfig
from mezzotint.data.worlds import mixture
from mezzotint.denoise import FunctionDenoiser
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import Euler, Heun
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.types import Cond, Plan, Posterior

RANGES = {"vp": (None, None), "ve": (0.02, 100.0), "iddpm": (0.002, 81.0), "edm": (0.002, 80.0)}


class Recorded(FunctionDenoiser):
    """The exact denoiser of a mixture; writes down the sigma of each call, and may know only some of them."""

    def __init__(self, schedule: Schedule, case: Case, known: Tensor | None = None):
        world = mixture(case.inputs["m"], case.inputs["s"] ** 2, case.inputs["w"])
        super().__init__(schedule, lambda x, alpha, sigma, cond: world.posterior(x, alpha, sigma)[0])
        self.sigmas: list[Tensor] = []
        self.known = known

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: object = None) -> Posterior:
        alpha, sigma = self.schedule(t)
        self.sigmas.append((sigma / alpha)[0])
        return super().forward(x_t, t, cond)

    def snap(self, t: Tensor) -> Tensor:
        if self.known is None:
            return t
        near = (self.known - torch.exp(-self.schedule.half_log_snr(t))[..., None]).abs().argmin(-1)
        return self.schedule.time_of(-self.known[near].log())


def _vp(low: float, high: float, eps: float) -> VPConfig:
    """The VP schedule with given sigma / alpha at eps and 1."""
    a, b = torch.log1p(torch.tensor([low, high], dtype=torch.float64) ** 2).tolist()
    rise = 2 * (a / eps - b) / (eps - 1)
    return VPConfig(beta_min=b - rise / 2, beta_max=b + rise / 2, t_min=eps)


def _iddpm_ratios() -> Tensor:
    """1 - beta of the cosine levels, ``[1000]``, as the official code has them: in float32, number by number."""
    alpha_bar = torch.stack([(0.5 * math.pi * torch.as_tensor(j) / 1000 / 1.008).sin() ** 2 for j in range(1001)])
    return (alpha_bar[:-1] / alpha_bar[1:]).clip(min=0.001).flip(0)


def _rounded_to(case: Case) -> Tensor:
    """The levels of the official network, least first; recorded, since their last digit in float32 differs between processors."""
    with np.load(case.folder / "sigma_functions.npz") as arrays:
        return torch.from_numpy(arrays["out_iddpm_u"][:-1]).flip(0).double()


def _levels(schedule: Schedule, low: float, high: float, steps: int) -> Tensor:
    """Evenly numbered levels of a discrete schedule within a range of sigma / alpha."""
    assert schedule.levels is not None
    known = torch.exp(-schedule.half_log_snr(schedule.levels)).flip(0)
    known = known[(known >= low) & (known <= high)]
    return known[((len(known) - 1) / (steps - 1) * torch.arange(steps, dtype=torch.float64)).round().long()]


@adapter("edm", "sampler")
def sampler(case: Case) -> Outputs:
    given = case.config["kwargs"]
    steps, eps, kind = given.get("num_steps", 18), given.get("epsilon_s", 1e-3), given.get("discretization", "edm")
    low, high = RANGES[kind]
    if kind == "vp":
        high, low = torch.exp(-build_schedule(VPConfig()).half_log_snr(torch.tensor([1.0, eps], dtype=torch.float64))).tolist()
    low = max(given.get("sigma_min", low), case.config.get("net_sigma_min", 0.0))
    high = min(given.get("sigma_max", high), case.config.get("net_sigma_max", float("inf")))
    iddpm = build_schedule(DiscreteConfig(custom=tuple((1 - _iddpm_ratios().double()).tolist())))
    rounds = case.config.get("round") == "iddpm"
    if rounds:
        low = max(low, float(_rounded_to(case).min()))
    vp, ve = build_schedule(_vp(low, high, eps)), build_schedule(VEConfig(low, high))
    schedule = vp if given.get("schedule") == "vp" else ve

    settings = {"s_" + name[2:].lower(): float(value) for name, value in given.items() if name.startswith("S_")}
    settings["coordinate"] = {"vp": "t", "ve": "variance", "linear": "sigma"}[given.get("schedule", "linear")]
    ours = Euler(**settings) if given.get("solver") == "euler" else Heun(**settings, alpha=given.get("alpha", 1.0))
    denoiser = Recorded(schedule, case, _rounded_to(case) if rounds else None)
    if kind == "iddpm":
        grid = torch.cat([schedule.time_of(-_levels(iddpm, low, high, steps).log()), torch.zeros(1)])[:, None]
    elif kind == "vp":
        grid = ours.plan(vp, steps=steps).grid
        grid = grid if schedule is vp else torch.cat([schedule.time_of(vp.half_log_snr(grid[:-1])), grid[-1:]])
    else:
        spacing = "logsnr" if kind == "ve" else f"karras:{given.get('rho', 7)}"
        grid = ours.plan(schedule, steps=steps, spacing=spacing).grid
    plan = Plan(torch.cat([denoiser.snap(grid[:-1]), grid[-1:]]))
    x = case.inputs["latents"].double() * schedule(plan.grid[0])[1]
    # The official code draws at every step, whether it churns or not.
    ratio = torch.exp(-schedule.half_log_snr(plan.grid[:-1, 0]))
    churned = [i for i in range(steps) if ours.s_churn > 0 and ours.s_min <= ratio[i] <= ours.s_max]
    x = sample(denoiser, ours, plan, x, noise=case.replay(churned) if ours.stochastic else case.replay([]) and None).x
    return {"x": x, "model_sigmas": torch.stack(denoiser.sigmas)}
