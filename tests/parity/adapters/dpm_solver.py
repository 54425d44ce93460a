"""LuChengTHU/dpm-solver and wl-zhao/UniPC, on formulas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor

from mezzotint.configs import DiscreteConfig, ScheduleConfig, VPConfig
from mezzotint.data.worlds import mixture
from mezzotint.denoise import CLIPPED, Bound, Denoiser, FunctionDenoiser, Wrapper, time_input
from mezzotint.guidance import ClassifierFree, ScoreShift
from mezzotint.noise import Noise
from mezzotint.process import Kind, add_noise, from_x0, to_x0
from mezzotint.sample.ancestral import shifted
from mezzotint.sample.base import Sampler
from mezzotint.sample.dpm_solver import DPMSolver, DPMSolverAdaptive, clipped_start
from mezzotint.sample.grid import make_grid
from mezzotint.sample.loop import sample
from mezzotint.schedules import Discrete, Schedule, build_schedule
from mezzotint.types import Cond, Plan, Posterior, State

SPACINGS = {"time_uniform": "uniform", "logSNR": "logsnr", "time_quadratic": "quadratic"}
KINDS: Mapping[str, Kind] = {"noise": "eps", "x_start": "x0", "v": "v", "score": "score"}


def schedule_of(case: Case, *, clips: bool = True) -> Schedule:
    """Our schedule of a case. The authors' DPM-Solver cuts the noisy end off discrete tables, and stretches the rest over (0, 1].

    Without ``clips`` the table is whole, as the product has it: the sampler then begins below the noisy end, and "index_clipped" is what
    the authors tell the network.
    """
    given = case.config["noise_schedule"]
    config: ScheduleConfig
    if given["schedule"] != "discrete":
        low, high = given.get("continuous_beta_0", 0.1), given.get("continuous_beta_1", 20.0)
        return build_schedule(VPConfig(shape=given["schedule"], beta_min=low, beta_max=high))
    low, high, n = given.get("beta_start", 1e-4), given.get("beta_end", 0.02), given["N"]
    if given["betas"] == "cosine":
        config = DiscreteConfig(betas="cosine", steps=n)
    else:
        power = 0.5 if given["betas"] == "scaled_linear" else 1.0
        config = DiscreteConfig(custom=tuple(np.linspace(low**power, high**power, n) ** (1 / power)))
    schedule = build_schedule(config)
    assert isinstance(schedule, Discrete)
    if clips:
        kept = round(clipped_start(schedule, CLIPPED) * n)
        schedule = build_schedule(DiscreteConfig(custom=tuple(schedule.betas[:kept].tolist())))
    return schedule


class Recorded(FunctionDenoiser):
    """The network of a case, by way of its own kind of prediction; writes down the label of each call."""

    def __init__(self, case: Case, schedule: Schedule):
        world = mixture(case.inputs["m"], case.inputs["s"] ** 2, case.inputs["w"])
        kind = KINDS[case.config.get("model_type", "noise")]
        amplify = case.config.get("amplify", 1.0)

        def x0(x: Tensor, alpha: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
            flat, a, g = x.flatten(1), alpha.flatten(), sigma.flatten()
            shift = cond.get("cond", torch.zeros_like(flat)).flatten(1)
            # A shift of all means is a shift of x_t by alpha as much.
            mean = world.posterior(flat - a[:, None] * shift, a, g)[0] + shift
            eps = amplify * from_x0("eps", mean, flat, a, g)
            value = from_x0(kind, to_x0("eps", eps, flat, a, g), flat, a, g)
            return to_x0(kind, value, flat, a, g).reshape(x.shape)

        super().__init__(schedule, x0, accepts=frozenset({"cond"}))
        self.labels: list[Tensor] = []
        self.time_input = "t" if schedule.levels is None else "index_clipped" if case.system == "dpm_solver" else "index_1000"

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        self.labels.append(time_input(self.schedule, t, self.time_input)[0])
        return super().forward(x_t, t, cond, noise=noise)


def denoiser_of(case: Case, schedule: Schedule) -> tuple[Recorded, Denoiser, Cond]:
    """The network, the denoiser around it, and the conditions."""
    network = Recorded(case, schedule)
    scale, inputs = case.config.get("guidance_scale", 1.0), case.inputs
    whole: Denoiser = network
    cond: Cond = {}
    if case.config.get("guidance_type") == "classifier-free":
        whole = ClassifierFree(network, lambda _: {"cond": inputs["uncond"]}, scale=scale)
        cond = {"cond": inputs["cond"]}
    elif case.config.get("guidance_type") == "classifier":
        centre = inputs["centre"][inputs["y"]]
        whole = ScoreShift(network, lambda x, t, cond: -scale * inputs["k"] * (x - centre.reshape(x.shape)))
    solver = case.config.get("DPM_Solver", case.config.get("UniPC", {}))
    if "correcting_x0_fn" in solver or solver.get("thresholding"):
        whole = bound(whole, solver)
    return network, whole, cond


def bound(inner: Denoiser, solver: Mapping[str, Any]) -> Bound:
    """Dynamic thresholding."""
    return Bound(inner, quantile=solver["dynamic_thresholding_ratio"], least=solver.get("thresholding_max_val", solver.get("max_val", 1.0)))


class Shrunk(Wrapper):
    """Looks at x_t before it was multiplied by a factor."""

    def __init__(self, inner: Denoiser, factor: float):
        super().__init__(inner)
        self.factor = factor

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None, *, noise: Noise | None = None) -> Posterior:
        return self.inner(x_t / self.factor, t, cond, noise=noise)


class Corrected(Sampler):
    """Multiplies x by a factor after every step, as the authors' ``correcting_xt_fn`` allows, and writes down what a run passes through.

    The first call of the authors' network sees x_T as it was before its own factor, ``first``.
    """

    def __init__(self, inner: Sampler, *, factor: float = 1.0, first: float = 1.0):
        self.inner, self.factor, self.first = inner, factor, first
        self.path: list[Tensor] = []
        self.states: list[Any] = []

    def init(self, x: Tensor, plan: Plan) -> State:
        return self.inner.init(x, plan)

    def step(
        self, denoiser: Denoiser, x_t: Tensor, plan: Plan, i: int, state: State, *, cond: Cond, noise: Noise | None
    ) -> tuple[Tensor, Tensor, State]:
        network = Shrunk(denoiser, self.first) if i == 0 else denoiser
        x_s, s, state = self.inner.step(network, x_t, plan, i, state, cond=cond, noise=noise)
        self.path.append(x_t)
        self.states.append(state)
        return self.factor * x_s, s, state


@adapter("dpm_solver", "sample")
def dpm_solver(case: Case) -> Outputs:
    schedule = schedule_of(case, clips=False)
    network, denoiser, cond = denoiser_of(case, schedule)
    given, solver = case.config["sample"], case.config["DPM_Solver"]
    end = given.get("t_end", "last")
    to_zero = given.get("denoise_to_zero", False)
    adaptive = given["method"] == "adaptive"
    form = {
        "order": given["order"],
        "variant": "noise" if solver["algorithm_type"] == "dpmsolver" else "++",
        "correction": "taylor" if given.get("solver_type") == "taylor" else "midpoint",
        "clip_lambda": None if schedule.levels is None else CLIPPED,
    }
    span = {"t_start": given.get("t_start"), "t_end": 0.0 if to_zero else end}
    ours: Sampler
    if adaptive:
        ours = DPMSolverAdaptive(norm="batch", atol=given["atol"], rtol=given["rtol"], **form)
        plan = ours.plan(schedule, **span)
    else:
        lower, inverse = given.get("lower_order_final", True), case.config.get("call") == "inverse"
        ours = DPMSolver(method=given["method"], lower_order_final=lower, official=True, inverse=inverse, **form)
        plan = ours.plan(schedule, steps=given["steps"] + to_zero, spacing=SPACINGS[given["skip_type"]], **span)
    factor = 0.99 if "correcting_xt_fn" in solver else 1.0
    run = Corrected(ours, factor=factor, first=factor)
    x = case.inputs["x_T"]
    x = sample(denoiser, run, plan, factor * x, cond=cond).x
    out = {"x": x, "model_times": torch.stack(network.labels)}
    path = run.path if given["method"] == "multistep" else run.path[1:]
    return out if adaptive else {**out, "intermediates": torch.stack([*path, x])}


@adapter("dpm_solver", "schedule_tables")
def schedule_tables(case: Case) -> Outputs:
    schedule = schedule_of(case)
    t, levels = case.inputs["t"], schedule.levels
    log_alpha, t_back = schedule.log_alpha(t), schedule.time_of(schedule.half_log_snr(t))
    (alpha, sigma), lam = schedule(t), schedule.half_log_snr(t)
    if levels is not None:
        # Cleaner than the first level, the authors extend the line through the first two; ours ends at no noise at all.
        first, second = schedule.log_alpha(levels[:2])
        below = t < levels[0] - 1e-9
        log_alpha = torch.where(below, first + (t - levels[0]) * len(levels) * (second - first), log_alpha)
        alpha, sigma = torch.where(below, log_alpha.exp(), alpha), torch.where(below, (-torch.expm1(2 * log_alpha)).sqrt(), sigma)
        lam = torch.where(below, alpha.log() - sigma.log(), lam)
    out = {
        "log_alpha": log_alpha,
        "alpha": alpha,
        "sigma": sigma,
        "lambda": lam,
        "t_back": t_back,
        "t_of_lambda": schedule.time_of(case.inputs["lambda"]),
        "total_N_and_T": torch.tensor([1000 if levels is None else len(levels), schedule.t_max], dtype=torch.float64),
    }
    return out if levels is None else {**out, "t_array": levels, "log_alpha_array": schedule.log_alpha(levels)}


@adapter("dpm_solver", "time_steps")
def time_steps(case: Case) -> Outputs:
    schedule = schedule_of(case)
    start, end = case.config.get("t_T"), case.config.get("t_0", "last")
    out: dict[str, Any] = {}
    for theirs, spacing in SPACINGS.items():
        for n in case.config["N"]:
            out[f"{theirs}_{n}"] = make_grid(schedule, spacing, n, t_start=start, t_end=end)[:, 0]
            for order in (1, 2, 3):
                plan = DPMSolver(order=order, method="singlestep").plan(schedule, steps=n, spacing=spacing, t_start=start, t_end=end)
                out[f"outer_{theirs}_{n}_{order}"] = plan.grid[:, 0]
                out[f"orders_{n}_{order}"] = torch.tensor(plan.orders)
    return out


@adapter("dpm_solver", "wrapper_outputs")
def wrapper_outputs(case: Case) -> Outputs:
    network, denoiser, cond = denoiser_of(case, schedule_of(case))
    _, eps = shifted(denoiser, case.inputs["x"], case.inputs["t"], cond, None)
    return {"noise": eps, "t_input_first": network.labels[0][None]}


@adapter("dpm_solver", "add_noise")
def noised(case: Case) -> Outputs:
    noise = case.replay().normal(case.draws[0].shape, name="noise", dtype=torch.float64)
    x = torch.stack([add_noise(schedule_of(case), case.inputs["x"], eps, t) for eps, t in zip(noise, case.inputs["t"], strict=True)])
    return {"xt": x[0] if len(x) == 1 else x}


@adapter("dpm_solver", "thresholding")
def thresholding(case: Case) -> Outputs:
    identity = FunctionDenoiser(schedule_of(case), lambda x, alpha, sigma, cond: x)
    x0 = case.inputs["x0"]
    return {"x0": bound(identity, case.config["DPM_Solver"])(x0, torch.ones(len(x0))).x0}
