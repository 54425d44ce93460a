"""baofff/Analytic-DPM and baofff/Extended-Analytic-DPM, on formulas. Their levels are numbered from 1; 0 is the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.conditioning import Unconditional
from mezzotint.configs import CovarianceConfig, DenoiserConfig, DenoisingConfig, DiscreteConfig, VPConfig
from mezzotint.covariance import noise_cap, reverse_kernel, x0_variance
from mezzotint.denoise import Bound, Denoiser, NetworkDenoiser
from mezzotint.metrics.likelihood import bound_costs, vlb
from mezzotint.moments import KnownVariance, Moments
from mezzotint.noise import Noise
from mezzotint.objectives.covariance import CovarianceRegression
from mezzotint.objectives.denoising import Denoising
from mezzotint.objectives.variational import prior_term
from mezzotint.process import bridge, expand, step_variance
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.base import Sampler
from mezzotint.sample.loop import sample
from mezzotint.sample.sde import EulerMaruyama
from mezzotint.sample.trajectory import kept_levels, least_cost_path, path_from_moments
from mezzotint.schedules import Discrete, Schedule, build_schedule
from mezzotint.times import UniformLevels
from mezzotint.types import Cond, Plan, Posterior, Times

FIRST, EXTENDED = "analytic_dpm", "extended_analytic_dpm"
RULES = {"linear": "even", "linear_ddim": "stride", "quad_ddim": "quad"}
METHODS = {"eps_eps2": "sn", "eps_epsc": "npr", "eps": "heuristic"}
VARIANCES = {"small": "fixed_small", "big": "fixed_large", "optimal": "optimal"}


# --- the process -------------------------------------------------------------------------------------------------------


def schedule_of(config: Mapping[str, Any]) -> Discrete:
    """Our schedule of a named table, or of the continuous one at N levels."""
    levels = config["N"]
    if config.get("kind") == "vpsde":
        log_alpha = build_schedule(VPConfig()).log_alpha(torch.arange(levels + 1, dtype=torch.float64) / levels)
        made = DiscreteConfig(custom=tuple((-torch.expm1(2 * log_alpha.diff())).tolist()))
    else:
        made = DiscreteConfig(betas=config.get("name", config.get("schedule")), steps=levels)
    schedule = build_schedule(made)
    assert isinstance(schedule, Discrete)
    return schedule


def moments_of(schedule: Discrete, table: Tensor) -> Moments:
    return Moments(schedule.levels, table[1:])


def steps_of(schedule: Discrete, count: int, rule: str, table: Tensor | None = None) -> list[int]:
    """The levels of a trajectory, counted from 1."""
    if rule == "dp_seg":
        assert table is not None
        return [1 + n for n in path_from_moments(schedule, moments_of(schedule, table), count)]
    return [1 + n for n in kept_levels(schedule.steps, count, RULES.get(rule, rule))]


def plan_of(schedule: Discrete, steps: Sequence[int]) -> Plan:
    return Plan(torch.tensor([*reversed(steps), 0], dtype=torch.float64)[:, None] / schedule.steps)


class Stand(nn.Module):
    """The exact predictor of Gaussian pixels, in the place of a network, with features for a second head."""

    def __init__(
        self, inputs: Mapping[str, Tensor], schedule: Schedule, *, predicts: str = "eps", iddpm: bool = False, shift1: bool = True
    ):
        super().__init__()
        self.mean, self.std = inputs["M"], inputs["S"]
        self.schedule, self.predicts, self.iddpm = schedule, predicts, iddpm
        self.below = 1.0 if shift1 else 0.0

    def known(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The prediction, and Var[x_t | ...] that both heads use."""
        alpha_bar = expand(self.schedule(self.time(label))[0] ** 2, x)
        mean, std = (value.reshape(-1, 1, 1) for value in (self.mean, self.std))
        kept = alpha_bar * std**2
        residual = (x - alpha_bar.sqrt() * mean) / (kept + 1 - alpha_bar)
        value = mean + alpha_bar.sqrt() * std**2 * residual if self.predicts == "x0" else (1 - alpha_bar).sqrt() * residual
        return value, kept / (kept + 1 - alpha_bar) + 0.2 * torch.sin(3 * x)

    def time(self, label: Tensor) -> Tensor:
        """The time that a label stands for. Our label of level n is n - 1; the official ones, shifted and scaled or not, say the same."""
        if not isinstance(self.schedule, Discrete):
            return label / 999
        return (label.round() + 1) / self.schedule.steps

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        value, _ = self.known(x, label)
        return torch.cat([value, torch.tanh(2 * x)], dim=1) if self.iddpm else value

    def with_head(self, x: Tensor, label: Tensor, cond: Cond, head: nn.Module) -> tuple[Tensor, Tensor]:
        value, excess = self.known(x, label)
        return value, head(torch.stack([value, excess]), label)


class Excess(nn.Module):
    """The stand-in of NPR-DPM's head."""

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        return h[1]


class Square(nn.Module):
    """The stand-in of SN-DPM's head."""

    def forward(self, h: Tensor, label: Tensor) -> Tensor:
        return h[0].square() + h[1]


HEADS: Mapping[str, type[nn.Module]] = {"sn": Square, "npr": Excess}


def network_of(case: Case, schedule: Schedule, typ: str) -> NetworkDenoiser:
    predicts, iddpm = ("x0" if typ == "x0" else "eps"), typ == "eps_iddpm"
    time_input = "index" if isinstance(schedule, Discrete) else "t_999"
    config = DenoiserConfig(predicts=predicts, variance="learned_range" if iddpm else "fixed_small", time_input=time_input)
    return NetworkDenoiser(Stand(case.inputs, schedule, predicts=predicts, iddpm=iddpm), schedule, config)


def known(inner: Denoiser, method: str, *, average: bool = False) -> KnownVariance:
    return KnownVariance(inner, CovarianceConfig(method=method, average=average), HEADS[method]() if method in HEADS else None)  # pyright: ignore


def analytic(inner: Denoiser, schedule: Discrete, table: Tensor) -> KnownVariance:
    return KnownVariance(inner, CovarianceConfig(), moments_of(schedule, table))


def denoiser_of(case: Case, schedule: Discrete) -> tuple[Denoiser, str]:
    """The whole denoiser of a case of the extended code, and the name of its reverse variance."""
    typ, diffusion = case.config["wrapper"]["typ"], case.config["diffusion"]
    variance = VARIANCES[case.config["rev_var_type"]]
    inner: Denoiser = network_of(case, schedule, typ)
    if typ == "eps_iddpm":
        variance = "learned_range"
    elif "ms_eps" in case.inputs:
        inner = analytic(inner, schedule, case.inputs["ms_eps"])
    elif variance == "optimal":
        inner = known(inner, METHODS[typ], average=diffusion.get("avg_cov", False))
    return Bound(inner, clip=diffusion["clip_x0"]), variance


def pair(schedule: Discrete, numbers: Sequence[int], size: int) -> tuple[Tensor, Tensor, Tensor]:
    """t, s and the level above t."""
    s, t = (torch.full((size,), n / schedule.steps, dtype=torch.float64) for n in numbers)
    return t, s, t + 1 / schedule.steps


# --- tables ------------------------------------------------------------------------------------------------------------


@adapter(FIRST, "choice_steps")
@adapter(EXTENDED, "choice_steps")
def choice_steps(case: Case) -> Outputs:
    out = {}
    for i, (levels, count, rule) in enumerate(case.config["requests"]):
        schedule = schedule_of({"name": case.config["schedule"], "N": levels})
        out[f"steps_{i}"] = np.asarray(steps_of(schedule, count, rule, case.inputs.get(f"ms_eps_{i}")))
    return out


@adapter(EXTENDED, "schedule_tables")
def schedule_tables(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    times = torch.arange(schedule.steps + 1, dtype=torch.float64) / schedule.steps
    alpha, sigma = schedule(times)
    some = times[: case.config["show"]]
    t, s = (grid.flatten() for grid in torch.meshgrid(some, some, indexing="xy"))
    forward = t > s
    shape = (len(some), len(some))
    skip = torch.where(forward, step_variance(schedule, t, s), 0)
    tilde = torch.where(forward, bridge(schedule, t, s).std ** 2, torch.nan)
    return {
        "betas": torch.cat([torch.zeros(1, dtype=torch.float64), schedule.betas]),
        "cum_alphas": alpha**2,
        "cum_betas": sigma**2,
        "skip_alphas": (1 - skip).reshape(shape),
        "skip_betas": skip.reshape(shape),
        "snr": (2 * schedule.half_log_snr(times[1:])).exp(),
        "tilde_beta": tilde.reshape(shape),
    }


def kernel_of(case: Case, schedule: Discrete, posterior: Posterior, numbers: Sequence[int], x_t: Tensor, variance: str) -> Any:
    diffusion = case.config["diffusion"]
    ddim = diffusion["forward_type"] == "ddim"
    form = {"eta": diffusion["eta"], "recompute_eps": False} if ddim else {}
    variance = "bridge" if ddim and variance == "fixed_small" else variance
    return reverse_kernel(schedule, posterior, x_t, *pair(schedule, numbers, len(x_t)), variance=variance, **form)


@adapter(EXTENDED, "variance")
def variance(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    out = {}
    for i, numbers in enumerate(case.config["pairs"]):
        cov = case.inputs["cov_x0"][i]
        t, s, _ = pair(schedule, numbers, 1)
        for name in case.config["types"]:
            if name == "big":  # ours is the variance of a sampler, which borrows it at s = 0
                out[f"sigma2_big_{i}"] = step_variance(schedule, t, s)[0]
                continue
            var = kernel_of(case, schedule, Posterior(cov, var=cov), numbers, cov, VARIANCES[name]).var
            out[f"sigma2_{name}_{i}"] = var if name == "optimal" else var.flatten()[0]
    return out


@adapter(EXTENDED, "second_moments")
def second_moments(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    diffusion, typ = case.config["diffusion"], case.config["wrapper"]["typ"]
    largest = 1.0 if diffusion.get("clip_cov_x0", diffusion["clip_x0"]) else None
    out = {}
    for i, numbers in enumerate(case.config["pairs"]):
        first, x_t = case.inputs["first"][i], case.inputs["xt"][i]
        t, _, _ = pair(schedule, numbers, len(x_t))
        scales = schedule(t)
        given = case.inputs["second"][i] if "second" in case.inputs else torch.ones_like(first)
        eps_variance = given if typ == "eps_epsc" else given - first.square()
        cov = x0_variance(eps_variance, *scales, largest=largest, average=diffusion.get("avg_cov", False))
        out[f"cov_x0_{i}"] = cov
        out[f"sigma2_{i}"] = kernel_of(case, schedule, Posterior(x_t, var=cov), numbers, x_t, "optimal").var
        if "ms_eps" in case.inputs:
            moment = 1 - moments_of(schedule, case.inputs["ms_eps"]).at(schedule, t)
            mean = x0_variance(moment, *scales, largest=largest)
            out[f"mean_cov_x0_{i}"] = mean[0]
            var = kernel_of(case, schedule, Posterior(x_t, var=expand(mean, x_t)), numbers, x_t, "optimal").var
            out[f"mean_sigma2_{i}"] = var.flatten()[0]
    return out


@adapter(EXTENDED, "step")
def step(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    x_t = case.inputs["xt"]
    denoiser, name = denoiser_of(case, schedule)
    out = {}
    for i, numbers in enumerate(case.config["pairs"]):
        t, _, _ = pair(schedule, numbers, len(x_t))
        posterior = denoiser(x_t, t)
        if name == "optimal" and not case.config["diffusion"]["clip_x0"]:  # the official switch drops both bounds at once
            head = HEADS[METHODS[case.config["wrapper"]["typ"]]]()
            inner = known(network_of(case, schedule, "eps"), METHODS[case.config["wrapper"]["typ"]])
            inner.part = head
            posterior = Posterior(posterior.x0, var=x0_variance(inner.both(x_t, t)[1], *schedule(t), largest=None))
        kernel = kernel_of(case, schedule, posterior, numbers, x_t, name)
        out[f"mean_{i}"] = kernel.mean
        out[f"sigma2_{i}"] = kernel.var if name in ("optimal", "learned_range") else kernel.var.flatten()[0]
    return out


# --- sampling ----------------------------------------------------------------------------------------------------------


def run(case: Case, denoiser: Denoiser, sampler: Sampler, plan: Plan) -> Tensor:
    # The official DDIM draws at each step but the last, even where it then adds nothing.
    return sample(denoiser, sampler, plan, case.inputs["x_init"], noise=case.replay() if sampler.stochastic else None).x


@adapter(EXTENDED, "sample")
def sampling(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    denoiser, name = denoiser_of(case, schedule)
    given, diffusion = case.config["kwargs"], case.config["diffusion"]
    cap = {"cap": given.get("clip_pixel", 0), "cap_steps": given.get("clip_sigma_idx", 0)}
    if diffusion["forward_type"] == "ddim":
        kind = "bridge" if name == "fixed_small" else name
        sampler: Sampler = DDIM(eta=diffusion["eta"], recompute_eps=False, variance=kind, **cap)
    else:
        sampler = Ancestral(variance=name, **cap)
    steps = steps_of(schedule, given["sample_steps"], given.get("trajectory", "linear"), case.inputs.get("ms_eps"))
    return {"x": run(case, denoiser, sampler, plan_of(schedule, steps))}


@adapter(FIRST, "reverse")
def reverse(case: Case) -> Outputs:
    config, given, inputs = case.config, case.config["kwargs"], case.inputs
    schedule = schedule_of(config)
    inner: Denoiser = network_of(case, schedule, config["model"])
    _, form, *rest = config["function"].split("_")
    analytic_form = rest[0] == "ms"
    if analytic_form:
        inner = analytic(inner, schedule, inputs["ms_eps"])
    denoiser = Bound(inner, clip=given.get("clip_denoise", True))
    steps = steps_of(schedule, given["sample_steps"], given.get("steps_type", "linear"), inputs.get("ms_eps"))
    plan = plan_of(schedule, steps)
    levels, last = given.get("clip_pixel", 0), given.get("clip_sigma_idx", 0)
    eta = given.get("eta", 1.0)
    if form == "ddim":
        name = "optimal" if analytic_form else "bridge"
        sampler: Sampler = DDIM(eta=eta, recompute_eps=False, variance=name, cap=levels, cap_steps=last)
    else:
        name = "optimal" if analytic_form else "fixed_small" if given["small_sigma"] else "fixed_large"
        sampler = Ancestral(variance=name, cap=levels, cap_steps=last)
    if not sampler.stochastic:
        case.replay().skip(len(case.draws))  # drawn and multiplied by zero
    x = run(case, denoiser, sampler, plan)

    t, s = plan.grid[:-1, 0], plan.grid[1:, 0]
    zero = torch.zeros(len(t), 1, dtype=torch.float64)
    posterior = Posterior(zero)
    (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(s)
    coeff = bridge(schedule, t, s, eta=eta).a ** 2
    out = {
        "x": x,
        "s": np.asarray([0, *steps[:-1]][::-1]),
        "r": np.asarray(steps[::-1]),
        "stat_cum_alpha_s": alpha_s**2,
        "stat_cum_beta_r": sigma**2,
        "stat_cum_beta_s": sigma_s**2,
        "stat_skip_beta": step_variance(schedule, t, s),
    }
    if analytic_form:
        moment = 1 - moments_of(schedule, inputs["ms_eps"]).at(schedule, t)
        cov = x0_variance(moment, alpha, sigma)
        posterior = Posterior(zero, var=cov[:, None])
        out |= {"stat_cov_x_0": x0_variance(moment, alpha, sigma, largest=None), "stat_cov_x_0_clamp": cov}
        out |= {"stat_coeff_cov_x_0": coeff, "stat_offset": coeff * cov, "stat_sigma2_small": bridge(schedule, t, s).std ** 2}
    kernel_name = "optimal" if analytic_form else name
    var = reverse_kernel(schedule, posterior, zero, t, s, None, eta=eta, variance=kernel_name).var.flatten()
    near = torch.tensor([(plan.grid[i + 1 :] > 0).sum() <= last for i in range(plan.steps)])
    limit = torch.full_like(var, noise_cap(levels))
    out["stat_sigma2"] = torch.where(near, torch.minimum(var, limit), var)
    out |= {"stat_sigma2_unclip": torch.where(near, var, torch.nan), "stat_sigma2_threshold": torch.where(near, limit, torch.nan)}
    # Nothing is said of the last step, where no noise is added.
    return {k: said_before_the_end(k, v) for k, v in out.items() if k in case.wanted}


def said_before_the_end(name: str, value: Any) -> Any:
    always = ("stat_cum_alpha_s", "stat_cum_beta_r", "stat_cum_beta_s", "stat_skip_beta")
    if not name.startswith("stat_") or name in always:
        return value
    return torch.cat([value[:-1], torch.full_like(value[-1:], torch.nan)])


@adapter(EXTENDED, "euler_maruyama")
def euler_maruyama(case: Case) -> Outputs:
    schedule = build_schedule(VPConfig())
    steps = case.config["sample_steps"]
    plan = EulerMaruyama().plan(schedule, steps=steps)
    return {"x": run(case, network_of(case, schedule, "eps"), EulerMaruyama(official=True), plan)}


# --- likelihood --------------------------------------------------------------------------------------------------------


def nats(bits: Tensor, x0: Tensor) -> Tensor:
    return bits * (math.log(2) * x0[0].numel())


def bound_of(case: Case, denoiser: Denoiser, schedule: Discrete, name: str, rule: str) -> Outputs:
    x0 = case.inputs["x_0"]
    steps = steps_of(schedule, case.config["kwargs"]["sample_steps"], rule, case.inputs.get("ms_eps"))
    found = vlb(denoiser, x0, plan_of(schedule, steps), noise=case.replay(), variance=name, decoder="level", official=True)
    terms = torch.cat([found.terms.flip(1), found.prior[:, None]], dim=1).T
    return {"nelbo": nats(found.total, x0), "terms": nats(terms, x0)}


@adapter(EXTENDED, "nelbo")
def nelbo_extended(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    denoiser, name = denoiser_of(case, schedule)
    return bound_of(case, denoiser, schedule, name, case.config["kwargs"].get("trajectory", "linear"))


@adapter(FIRST, "nelbo")
def nelbo(case: Case) -> Outputs:
    schedule, given = schedule_of(case.config), case.config["kwargs"]
    inner: Denoiser = network_of(case, schedule, "eps")
    name = "fixed_small" if given.get("small_sigma") else "fixed_large"
    if "ms_eps" in case.inputs:
        inner, name = analytic(inner, schedule, case.inputs["ms_eps"]), "optimal"
    return bound_of(case, Bound(inner), schedule, name, given.get("steps_type", "linear"))


def costs_of(case: Case, denoiser: Denoiser, schedule: Discrete, name: str) -> tuple[np.ndarray, float]:
    """All terms between two levels, and that of the noisiest, in nats."""
    x0 = case.inputs["x_0"]
    parts: list[tuple[Tensor, Cond, Noise]] = [(x0, {}, case.replay())]
    costs = bound_costs(denoiser, parts, schedule.levels, variance=name, official=True)
    last = nats(prior_term(schedule, x0, schedule.levels[-1:].expand(len(x0))), x0).mean()
    return costs * (math.log(2) * x0[0].numel()), float(last)


@adapter(FIRST, "nelbo_terms")
def nelbo_terms(case: Case) -> Outputs:
    schedule = schedule_of(case.config)
    name = "fixed_small" if case.config["small_sigma"] else "fixed_large"
    costs, last = costs_of(case, Bound(network_of(case, schedule, "eps")), schedule, name)
    out: dict[str, Any] = {"F": costs, "last_term": np.asarray(last)}
    for count in case.config["K"]:
        path = least_cost_path(costs, count)
        out[f"path_{count}"] = np.asarray(path)
        out[f"nelbo_{count}"] = np.asarray(last + costs[path[:-1], path[1:]].sum())
    return out


@adapter(EXTENDED, "nelbo_terms")
def nelbo_terms_extended(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    denoiser, name = denoiser_of(case, schedule)
    costs, last = costs_of(case, denoiser, schedule, name)
    paths = {f"steps_{count}": np.asarray(least_cost_path(costs, count)[1:]) for count in case.config["K"]}
    return {"F": costs, "last_term": np.asarray(last), **paths}


# --- training ----------------------------------------------------------------------------------------------------------


@adapter(EXTENDED, "criterion")
def criterion(case: Case) -> Outputs:
    schedule = schedule_of(case.config["schedule"])
    x0, typ, function = case.inputs["x_0"], case.config["wrapper"]["typ"], case.config["function"]
    # The levels come from NumPy's global generator; ours are told them.
    n = np.random.RandomState(case.config["numpy_global_seed"]).choice(np.arange(1, schedule.steps + 1), (len(x0),))
    t = torch.from_numpy(n).double() / schedule.steps
    eps = case.replay().normal(tuple(x0.shape), name="eps", dtype=x0.dtype)
    network, law = network_of(case, schedule, "eps"), UniformLevels(schedule.levels)
    if function == "dt_dsm":
        times = Times(t=t, weight=torch.ones(len(t)))
        mse = Denoising(network, Unconditional(), law, DenoisingConfig()).terms(x0, eps, times, {})["mse"]
        return {"n": n, "objective_0": mse * x0[0].numel()}
    # With "epsc", the first criterion has a head that says by how much the squared noise exceeds the square of the predicted one.
    method = "npr" if function == "dt_dsdm_err" else "sn"
    denoiser = known(network, method)
    assert typ in ("eps_eps2", "eps_epsc")
    terms = CovarianceRegression(denoiser, Unconditional(), law).terms(x0, eps, t, {})
    return {"n": n, "objective_0": terms["mean"], "objective_1": terms["loss"]}
