"""diffusers: its schedulers, on formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.configs import DenoiserConfig, DiscreteConfig
from mezzotint.data.worlds import mixture
from mezzotint.denoise import Bound, Denoiser, NetworkDenoiser, Wrapper
from mezzotint.noise import Noise
from mezzotint.process import add_noise, expand, from_x0, target
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.base import Sampler
from mezzotint.sample.dpm_solver import DPMSolver
from mezzotint.sample.grid import make_grid
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import Euler, EulerAncestral, Heun
from mezzotint.sample.unipc import UniPC
from mezzotint.schedules import Discrete, Schedule, build_schedule
from mezzotint.schedules import betas as betas_of
from mezzotint.types import Cond, Plan, Posterior

Settings = Mapping[str, Any]
Predicts = Literal["eps", "x0", "v"]
EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler")
"""Those that count in sigma: they pass x / alpha on, take times between the levels, and read the table as linear in sigma there."""
MULTISTEP = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
BETAS: Mapping[Any, Literal["linear", "scaled_linear"]] = {
    ("linear", 0.0001, 0.02): "linear",
    ("scaled_linear", 0.00085, 0.012): "scaled_linear",
}
KINDS: Mapping[str, Predicts] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
VARIANCES: Mapping[str, Literal["fixed_small", "fixed_large", "learned_range"]] = {
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "learned_range": "learned_range",
}


def own_sigmas(given: Settings) -> bool:
    return any(given.get(f"use_{name}_sigmas") for name in ("karras", "exponential"))


def schedule_of(name: str, given: Settings) -> Discrete:
    """Our schedule of a scheduler, whose table is in float32."""
    shape = given.get("beta_schedule", "linear")
    betas = "cosine" if shape == "squaredcos_cap_v2" else BETAS[shape, given["beta_start"], given["beta_end"]]
    between = "sigma" if name in EULER and not own_sigmas(given) else "log_sigma"
    config = DiscreteConfig(betas=betas, steps=given["num_train_timesteps"], zero_snr=given.get("rescale_betas_zero_snr", False))
    bar = torch.cat([torch.ones(1), (1 - torch.from_numpy(betas_of(config)).float()).cumprod(0)]).double()
    schedule = build_schedule(DiscreteConfig(custom=tuple((1 - bar[1:] / bar[:-1]).tolist()), interpolate=between))
    assert isinstance(schedule, Discrete)
    return schedule


def sampler_of(name: str, given: Settings, step: Settings) -> Sampler:
    """Our sampler of a scheduler and of the arguments of its step."""
    if name == "DDPMScheduler":
        return Ancestral()
    if name == "DDIMScheduler":
        return DDIM(eta=step.get("eta", 0.0), recompute_eps=step.get("use_clipped_model_output", False))
    if name in EULER:
        return {"Euler": Euler, "EulerAncestral": EulerAncestral, "Heun": Heun}[name.removesuffix("Scheduler").removesuffix("Discrete")]()
    lower = given.get("lower_order_final", True)
    if name == "UniPCMultistepScheduler":
        off = given.get("disable_corrector", [])
        assert off == list(range(len(off)))
        return UniPC(
            order=given.get("solver_order", 2),
            variant=given.get("solver_type", "bh2"),
            prediction="data" if given.get("predict_x0", True) else "noise",
            uncorrected=len(off),
            lower_order_final=lower,
            jump_counts=True,
        )
    algorithm = given.get("algorithm_type", "dpmsolver++")
    return DPMSolver(
        order=given.get("solver_order", 2),
        variant="++" if algorithm.endswith("++") else "noise",
        correction="taylor" if given.get("solver_type") == "heun" else "midpoint",
        eta=1.0 if algorithm.startswith("sde") else 0.0,
        lower_order_final=lower,
        lower_below=15,
        jump_counts=True,
        official=True,
    )


def plan_of(name: str, given: Settings, sampler: Sampler, schedule: Discrete, steps: int) -> Plan:
    """Our plan of what a scheduler's ``set_timesteps`` does."""
    default = "linspace" if name in EULER or name in MULTISTEP else "leading"
    spacing, offset = given.get("timestep_spacing", default), given.get("steps_offset", 0)
    last = "last" if given.get("final_sigmas_type") == "sigma_min" or not given.get("set_alpha_to_one", True) else 0.0
    if own_sigmas(given):
        curve = "karras" if given.get("use_karras_sigmas") else "logsnr"
        if spacing == "leading":  # between the ends of the times that it would have without
            ends = plan_of(name, {**given, "use_karras_sigmas": False}, sampler, schedule, steps).grid[:-1]
            between = make_grid(schedule, curve, steps - 1, t_start=ends[0], t_end=ends[-1])[:, 0]
            curve, steps = "times:" + ",".join(map(repr, between.tolist())), len(between)
        return sampler.plan(schedule, steps=steps, spacing=curve, t_end=last)
    if spacing != "trailing":
        if name in EULER and spacing == "linspace":
            return sampler.plan(schedule, steps=steps, spacing="uniform", t_end=last)
        spacing += "_open" * (name in MULTISTEP) + f":{offset}" * (spacing == "leading")
    return sampler.plan(schedule, steps=steps, spacing=spacing, t_end=last)


def first_scale(name: str, given: Settings, plan: Plan, schedule: Schedule) -> Tensor:
    """Standard deviation of the noise that a scheduler wants to begin from."""
    if name not in EULER:
        return torch.ones((), dtype=torch.float64)
    most = torch.exp(-schedule.half_log_snr(plan.grid[0, 0]))
    return most if given.get("timestep_spacing", "linspace") != "leading" else (most**2 + 1).sqrt()


class Formula(nn.Module):
    """The network of a case; writes down the label and the noise level of each call."""

    def __init__(self, case: Case, given: Settings, table: Schedule, *, whole: bool):
        super().__init__()
        self.world = mixture(case.inputs["m"], case.inputs["s"] ** 2, case.inputs["w"])
        self.kind: Predicts = KINDS[given.get("prediction_type", "epsilon")]
        self.learned = given.get("variance_type") == "learned_range"
        self.table, self.count, self.whole = table, given["num_train_timesteps"], whole
        self.labels: list[Tensor] = []
        self.sigmas: list[Tensor] = []

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        label = label.double().round() if self.whole else label.double()
        alpha, sigma = self.table((label + 1) / self.count)
        self.labels.append(label[0])
        self.sigmas.append((sigma / alpha)[0])
        flat = x.flatten(1).double()
        out = from_x0(self.kind, self.world.posterior(flat, alpha, sigma)[0], flat, alpha, sigma).reshape(x.shape).to(x.dtype)
        return torch.cat([out, torch.tanh(2 * x)], dim=1) if self.learned else out


class Seen(Wrapper):
    """Writes down what the denoiser is asked about, in the scale of the scheduler."""

    def __init__(self, inner: Denoiser, *, relative: bool):
        super().__init__(inner)
        self.relative = relative
        self.inputs: list[Tensor] = []

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        self.inputs.append(x_t / expand(self.schedule(t)[0], x_t) if self.relative else x_t)
        return self.inner(x_t, t, cond, noise=noise)


def bounds(name: str, given: Settings, inner: Denoiser) -> Denoiser:
    """Clipping, or dynamic thresholding."""
    if given.get("thresholding"):
        return Bound(inner, quantile=given["dynamic_thresholding_ratio"], most=given.get("sample_max_value", 1.0))
    return Bound(inner) if name in ("DDPMScheduler", "DDIMScheduler") and given["clip_sample"] else inner


@adapter("diffusers", "scheduler")
def scheduler(case: Case) -> Outputs:
    name, given = case.config["class"], case.config["config"]
    sampler, schedule = sampler_of(name, given, case.config.get("step", {})), schedule_of(name, given)
    plan = plan_of(name, given, sampler, schedule, case.config["num_inference_steps"])
    table = build_schedule(DiscreteConfig(custom=tuple(schedule.betas.tolist()), interpolate="log_sigma"))
    network = Formula(case, given, table, whole=name in MULTISTEP)  # these tell it whole numbers only
    variance = VARIANCES[given.get("variance_type", "fixed_small")]
    denoiser = NetworkDenoiser(network, schedule, DenoiserConfig(predicts=network.kind, variance=variance))
    seen = Seen(bounds(name, given, denoiser), relative=name in EULER)
    # The official code also draws, to no effect, on the step that ends at the clean image.
    noise = case.replay(range(plan.steps - 1)) if sampler.stochastic else None
    scale = first_scale(name, given, plan, schedule)
    start = scale * schedule(plan.grid[0, 0])[0] if name in EULER else scale
    x = sample(seen, sampler, plan, start.to(case.inputs["x_T"].dtype) * case.inputs["x_T"], noise=noise).x
    out: dict[str, Any] = {
        "timesteps": torch.stack(network.labels),
        "samples": torch.stack([*seen.inputs[1:], x]),
        "sample": x,
        "model_timesteps": torch.stack(network.labels),
        "model_sigmas": torch.stack(network.sigmas),
        "init_noise_sigma": scale,
    }
    return {**out, "sigmas": sigmas_of(name, schedule, plan)} if name in (*EULER, *MULTISTEP) else out


def sigmas_of(name: str, schedule: Schedule, plan: Plan) -> Tensor:
    """The noise levels of a plan, relative to alpha; for Heun's method those of its calls."""
    sigmas = torch.exp(-schedule.half_log_snr(plan.grid[:, 0]))
    return sigmas.repeat_interleave(2)[1:-1] if name == "HeunDiscreteScheduler" else sigmas


@adapter("diffusers", "scheduler_tables")
def tables(case: Case) -> Outputs:
    out: dict[str, Any] = {}
    for i, (name, given, steps) in enumerate(case.config["schedulers"]):
        schedule = schedule_of(name, given)
        plan = plan_of(name, given, sampler_of(name, given, {}), schedule, steps)
        labels = schedule.position(plan.grid[:-1, 0]) - 1
        labels = labels.round() if name in MULTISTEP else labels
        out[f"timesteps_{i}"] = labels.repeat_interleave(2)[1:] if name == "HeunDiscreteScheduler" else labels
        out[f"alphas_cumprod_{i}"] = schedule(schedule.levels[::50])[0] ** 2
        if name in (*EULER, *MULTISTEP):
            out[f"sigmas_{i}"] = sigmas_of(name, schedule, plan)
    return out


@adapter("diffusers", "scheduler_functions")
def functions(case: Case) -> Outputs:
    name = case.config["class"]
    schedule = schedule_of(name, case.config["config"])
    # Before ``set_timesteps`` the multistep schedulers keep their times and their noise levels in opposite orders.
    levels = schedule.levels.flip(0) if name in MULTISTEP else schedule.levels
    t = levels[case.inputs["t"].long()]
    x, eps = case.inputs["x"], case.inputs["noise"]
    out = {"add_noise": add_noise(schedule, x, eps, t)}
    return {**out, "velocity": target("v", x, eps, *schedule(t))} if "velocity" in case.wanted else out
