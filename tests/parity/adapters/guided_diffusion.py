"""openai/guided-diffusion and openai/improved-diffusion."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.checkpoint.official import guided_diffusion as official
from mezzotint.classifier import NoisyClassifier, class_gradient
from mezzotint.conditioning import Unconditional
from mezzotint.configs import (
    DenoiserConfig,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    EncoderConfig,
    UNetConfig,
    VLBConfig,
)
from mezzotint.covariance import reverse_kernel, small_log_variance
from mezzotint.denoise import Bound, Denoiser, FunctionDenoiser, NetworkDenoiser, time_input
from mezzotint.errors import ConfigError
from mezzotint.guidance import Classifier, ScoreShift, compose
from mezzotint.metrics.likelihood import vlb
from mezzotint.nn.embeddings import sinusoidal
from mezzotint.noise import ReplayNoise
from mezzotint.objectives.denoising import Denoising
from mezzotint.objectives.variational import VLB, discretized_log_likelihood, normal_cdf, normal_kl, prior_term
from mezzotint.priors import Gaussian
from mezzotint.process import add_noise, bridge, expand, from_x0, step_variance, to_x0
from mezzotint.registry import build, get
from mezzotint.sample.ancestral import DDIMInversion
from mezzotint.sample.base import Sampler
from mezzotint.sample.grid import respaced
from mezzotint.sample.loop import sample
from mezzotint.schedules import Discrete, betas, build_schedule
from mezzotint.times import Importance, UniformLevels
from mezzotint.train.ema import EMA
from mezzotint.types import Cond, Phase, Posterior

GUIDED = "guided_diffusion"
IMPROVED = "improved_diffusion"
PREDICTS = {"PREVIOUS_X": "x_prev", "START_X": "x0", "EPSILON": "eps"}
VARIANCES = {"LEARNED": "learned", "FIXED_SMALL": "fixed_small", "FIXED_LARGE": "fixed_large", "LEARNED_RANGE": "learned_range"}
CONSTRUCTORS: Mapping[str, Callable[[Mapping[str, Any]], UNetConfig | EncoderConfig]] = {
    "UNetModel": official.unet_from_arguments,
    "SuperResModel": official.superres_from_arguments,
    "EncoderUNetModel": official.encoder_from_arguments,
}
CONDITIONS = {"y": "label", "low_res": "low_res"}


# --- networks ----------------------------------------------------------------------------------------------------------


def network_config(case: Case) -> UNetConfig | EncoderConfig:
    """Our config of the network of a case."""
    if case.kind == "script_model":
        return official.model_from_script_flags(case.config["flags"], family=case.system).net
    if case.kind == "script_classifier":
        return official.classifier_from_script_flags(case.config["flags"]).net
    (name,) = CONSTRUCTORS.keys() & case.config.keys()
    return CONSTRUCTORS[name](case.config[name])


def network(case: Case) -> nn.Module:
    config = network_config(case)
    net = get(*config.kind)(config).eval()
    net.load_state_dict(official.to_ours(case.fill(official.to_official(net.state_dict(), config)), config))
    return net


def forward(case: Case, net: nn.Module, x: Tensor) -> Tensor:
    cond = {ours: case.inputs[name] for name, ours in CONDITIONS.items() if name in case.inputs}
    return net(x, case.inputs["timesteps"], cond)


@adapter(GUIDED, "unet_forward", "superres_forward", "classifier_forward")
@adapter(IMPROVED, "unet_forward", "superres_forward")
def network_forward(case: Case) -> Outputs:
    with torch.no_grad():
        out = forward(case, network(case), case.inputs["x"])
    return {"logits" if case.kind == "classifier_forward" else "y": out}


@adapter(GUIDED, "unet_param_grad")
def unet_param_grad(case: Case) -> Outputs:
    net, config = network(case), network_config(case)
    x = case.inputs["x"].clone().requires_grad_()
    loss = (forward(case, net, x) * case.inputs["w"]).mean()
    loss.backward()
    grads = official.to_official({name: p.grad for name, p in net.named_parameters() if p.grad is not None}, config)
    return {
        "loss": loss,
        "grad_x": x.grad,
        **{f"grad_{i:02}": grads[key] for i, key in enumerate(case.config["parameters"])},
    }


@adapter(GUIDED, "classifier_grad")
def classifier_grad(case: Case) -> Outputs:
    schedule = build_schedule(DiscreteConfig())
    assert isinstance(schedule, Discrete)
    classifier = NoisyClassifier(network(case), schedule)
    x, label = case.inputs["x"], case.inputs["y"]
    t = (case.inputs["timesteps"].double() + 1) / schedule.steps
    log_prob, _ = class_gradient(classifier, x, t, label)
    guided = Classifier(FunctionDenoiser(schedule, lambda x_t, *_: x_t), classifier, scale=case.config["classifier_scale"])
    return {"log_prob": log_prob, "gradient": guided(x, t, {"label": label}).score_shift}


def types_of(described: Callable[[Mapping[str, Any]], official.OfficialModel]) -> np.ndarray:
    """Numbers of the mean, variance and loss types, from 1 in the official order, of what changed flags describe."""
    model = described({})
    if isinstance(model.objective, VLBConfig):
        loss = "RESCALED_KL" if model.objective.rescale else "KL"
    else:
        # A weight of the bound that does not follow the number of steps is the official rescaling.
        fewer = described({"diffusion_steps": 250}).objective
        loss = "RESCALED_MSE" if fewer == described({"diffusion_steps": 500}).objective else "MSE"
    types = (
        1 + list(PREDICTS.values()).index(model.denoiser.predicts),
        1 + list(VARIANCES.values()).index(model.denoiser.variance),
        1 + ["MSE", "RESCALED_MSE", "KL", "RESCALED_KL"].index(loss),
    )
    return np.asarray(types)


@adapter(GUIDED, "script_model", "script_classifier")
@adapter(IMPROVED, "script_model")
def script(case: Case) -> Outputs:
    flags = case.config["flags"]

    def described(changes: Mapping[str, Any]) -> official.OfficialModel:
        if case.kind == "script_classifier":
            return official.classifier_from_script_flags({**flags, **changes})
        return official.model_from_script_flags({**flags, **changes}, family=case.system)

    model = described({})
    process = Process(model.schedule, model.respacing)
    with torch.no_grad():
        y = forward(case, network(case), case.inputs["x"])
    out = {
        "logits" if case.kind == "script_classifier" else "y": y,
        "timestep_map": np.asarray(process.kept),
        "betas": process.betas,
        "rescale_timesteps": np.asarray(int(model.denoiser.time_input == "index_1000")),
        "types": types_of(described),
    }
    return {name: value for name, value in out.items() if name in case.wanted}


# --- the process -------------------------------------------------------------------------------------------------------


class Process:
    """A schedule, and the levels of it that an official (respaced) diffusion object has.

    Attributes:
        schedule: The full schedule.
        kept: Indices of the levels in use.
        law: Those levels as a grid of times.
        full: The process that this one's schedule was cut from, where it is a schedule of the kept levels alone.
    """

    full: Process | None = None

    def __init__(self, config: DiscreteConfig, respacing: str | list[int] | None = None):
        schedule = build_schedule(config)
        assert isinstance(schedule, Discrete)
        self.schedule = schedule
        self.spacing = ",".join(map(str, respacing)) if isinstance(respacing, list) else respacing or None
        self.kept = respaced(schedule.steps, self.spacing) if self.spacing else list(range(schedule.steps))
        self.law = UniformLevels(schedule.levels[self.kept])

    @classmethod
    def of(cls, case: Case) -> Process:
        config = case.config
        return cls(DiscreteConfig(betas=config["noise_schedule"], steps=config["diffusion_steps"]), config.get("timestep_respacing"))

    @property
    def betas(self) -> Tensor:
        t, s, _ = self.times(torch.arange(len(self.kept)))
        return step_variance(self.schedule, t, s) if self.spacing else self.schedule.betas

    def times(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """t, s and t_up of official indices."""
        times = self.law.at(index, torch.ones(len(index)))
        assert times.s is not None
        assert times.t_up is not None
        return times.t, times.s, times.t_up

    def own(self) -> Process:
        """The kept levels as a schedule of their own, for networks that speak of single steps of a respaced process."""
        alone = Process(DiscreteConfig(steps=len(self.kept), custom=tuple(self.betas.tolist())))
        alone.full = self
        return alone

    def label(self, t: Tensor, kind: str) -> Tensor:
        """What the official code tells a model of times: the numbers of the original process."""
        if self.full is None:
            return time_input(self.schedule, t, kind)
        return time_input(self.full.schedule, self.full.law.grid[self.law.index_of(t)], kind)


class Linear(nn.Module):
    """The linear stand-in model, in the place of a network."""

    def __init__(self, weights: Tensor):
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        c, d = (expand(value, x) for value in (0.4 + 0.1 * torch.sin(0.01 * t), 0.05 * torch.cos(0.02 * t)))
        y = c * torch.einsum("ij,bj...->bi...", self.weights, x) + d
        return torch.cat([y[:, : x.shape[1]], y[:, x.shape[1] :].tanh()], dim=1)


class GaussianModel(nn.Module):
    """The exact predictor of Gaussian pixels, in the place of a network."""

    def __init__(self, inputs: Mapping[str, Tensor], config: DiscreteConfig, *, predicts: str, rescaled: bool):
        super().__init__()
        self.mean, self.std = (nn.Parameter(inputs[name], requires_grad=False) for name in ("M", "S"))
        self.more = inputs.get("V")
        self.predicts, self.to_index = predicts, config.steps / 1000 if rescaled else 1.0
        self.alpha_bar = torch.from_numpy(np.cumprod(1 - betas(config)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha_bar = expand(self.alpha_bar[(t * self.to_index).round().long()], x)
        mean, std = (value.reshape(-1, *(1,) * (x.ndim - 2)).to(x.dtype) for value in (self.mean, self.std))
        alpha = alpha_bar.sqrt()
        x0 = mean + alpha * std**2 * (x - alpha * mean) / (alpha_bar * std**2 + 1 - alpha_bar)
        # eps by way of x0: at alpha = 0.006 the sampler magnifies the rounding of other orders beyond the limits of some cases.
        value = x0 if self.predicts == "x0" else (x - alpha * x0) / (1 - alpha_bar).sqrt()
        return value if self.more is None else torch.cat([value, torch.einsum("ij,bj...->bi...", self.more, x).tanh()], dim=1)


class Relabelled(nn.Module):
    """Tells a network the numbers of the original process, where its schedule has the kept levels alone."""

    def __init__(self, network: nn.Module, process: Process, kind: str):
        super().__init__()
        self.network, self.process, self.kind = network, process, kind

    def forward(self, x: Tensor, index: Tensor, cond: Cond) -> Tensor:
        t = self.process.law.grid[index.round().long()]
        return self.network(x, self.process.label(t, self.kind).to(x.dtype), cond)


def label_kind(case: Case) -> str:
    return "index_1000" if case.config.get("rescale_timesteps") else "index"


def denoiser_of(case: Case, model: nn.Module) -> tuple[NetworkDenoiser, Process]:
    """The denoiser of a case around a stand-in, and the process that it lives on."""
    process, kind = Process.of(case), label_kind(case)
    predicts = PREDICTS[case.config.get("model_mean_type", "EPSILON")]
    variance = VARIANCES[case.config.get("model_var_type", "FIXED_LARGE")]
    if process.spacing and (predicts == "x_prev" or variance == "learned"):
        process = process.own()
        model, kind = Relabelled(model, process, kind), "index"
    return NetworkDenoiser(model, process.schedule, DenoiserConfig(predicts=predicts, variance=variance, time_input=kind)), process


def bounded(case: Case, inner: Denoiser) -> Bound:
    clip, rule = case.config.get("clip_denoised", True), case.config.get("denoised_fn")
    if rule is None:
        return Bound(inner, clip=clip)
    factor = float(rule.removesuffix("*x"))  # written as in "0.9*x"
    return Bound(inner, clip=clip, transform=lambda x0: factor * x0)


def gaussian(case: Case) -> nn.Module:
    return GaussianModel(
        case.inputs,
        Process.of(case).schedule.config,
        predicts=PREDICTS[case.config.get("model_mean_type", "EPSILON")],
        rescaled=case.config.get("rescale_timesteps", False),
    )


# --- tables and formulas -----------------------------------------------------------------------------------------------


@adapter(GUIDED, "tables")
def tables(case: Case) -> Outputs:
    process = Process.of(case)
    schedule = process.schedule
    t, s, t_up = process.times(torch.arange(len(process.kept)))
    above = torch.cat([t[1:], torch.tensor([torch.inf], dtype=t.dtype)])
    (alpha, sigma), step = schedule(t), bridge(schedule, t, s)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    out = {
        "betas": process.betas,
        "alphas_cumprod": alpha**2,
        "alphas_cumprod_prev": schedule(s)[0] ** 2,
        "alphas_cumprod_next": schedule(above)[0] ** 2,
        "sqrt_alphas_cumprod": alpha,
        "sqrt_one_minus_alphas_cumprod": sigma,
        "log_one_minus_alphas_cumprod": 2 * sigma.log(),
        "sqrt_recip_alphas_cumprod": to_x0("eps", zero, one, alpha, sigma),
        "sqrt_recipm1_alphas_cumprod": -to_x0("eps", one, zero, alpha, sigma),
        "posterior_variance": step.std**2,
        "posterior_log_variance_clipped": small_log_variance(schedule, t, s, t_up),
        "posterior_mean_coef1": step.a,
        "posterior_mean_coef2": step.b,
        "timestep_map": np.asarray(process.kept),
    }
    return {name: value for name, value in out.items() if name in case.wanted}


@adapter(GUIDED, "spacing")
def spacing(case: Case) -> Outputs:
    steps: list[list[int]] = []
    accepted: list[int] = []
    for levels, rule in case.config["requests"]:
        try:
            steps.append(respaced(levels, ",".join(map(str, rule)) if isinstance(rule, list) else rule))
        except ConfigError:
            steps.append([])
        accepted.append(int(bool(steps[-1])))
    return {"accepted": np.asarray(accepted), **{f"steps_{i:02}": np.asarray(kept, dtype=np.int64) for i, kept in enumerate(steps)}}


@adapter(GUIDED, "q_functions")
def q_functions(case: Case) -> Outputs:
    process = Process.of(case)
    schedule = process.schedule
    x0, eps = case.inputs["x_start"], case.inputs["noise"]
    t, s, t_up = process.times(case.inputs["t"])
    alpha, sigma = schedule(t)
    x_t = add_noise(schedule, x0, eps, t)
    posterior = reverse_kernel(schedule, Posterior(x0), x_t, t, s, t_up, variance="fixed_small")
    return {
        "x_t": x_t,
        "q_mean": add_noise(schedule, x0, torch.zeros_like(x0), t),
        "q_variance": add_noise(schedule, torch.zeros_like(x0), torch.ones_like(x0), t) ** 2,
        "q_log_variance": expand(2 * sigma.log(), x0).expand_as(x0),
        "posterior_mean": posterior.mean,
        "posterior_variance": posterior.var.expand_as(x0),
        "posterior_log_variance_clipped": posterior.log_var.expand_as(x0),
        "eps_from_xstart": from_x0("eps", x0, x_t, alpha, sigma),
        "xstart_from_eps": to_x0("eps", eps, x_t, alpha, sigma),
        "prior_bpd": prior_term(schedule, x0, process.law.grid[-1:].expand(len(x0))),
    }


@adapter(GUIDED, "p_mean_variance")
def p_mean_variance(case: Case) -> Outputs:
    inner, process = denoiser_of(case, Linear(case.inputs["A"]))
    x, (t, s, t_up) = case.inputs["x"], process.times(case.inputs["t"])
    with torch.no_grad():
        posterior = bounded(case, inner)(x, t)
        kernel = reverse_kernel(process.schedule, posterior, x, t, s, t_up, variance=inner.variance)
    return {
        "mean": kernel.mean,
        "variance": kernel.var.expand_as(x),
        "log_variance": kernel.log_var.expand_as(x),
        "pred_xstart": posterior.x0,
    }


@adapter(GUIDED, "loss_functions")
def loss_functions(case: Case) -> Outputs:
    mean1, logvar1, mean2, logvar2, x, means, log_scales = (
        case.inputs[name] for name in ("mean1", "logvar1", "mean2", "logvar2", "x", "means", "log_scales")
    )
    zero = torch.zeros(())
    return {
        "kl": normal_kl(mean1, logvar1, mean2, logvar2),
        "kl_to_standard": normal_kl(mean1, logvar1, zero, zero),
        "cdf": normal_cdf(3 * mean1, official=True),  # the official run reached into the tails in this way
        "log_likelihood": discretized_log_likelihood(x, means, log_scales, official=True),
    }


@adapter(GUIDED, "time_embedding")
def time_embedding(case: Case) -> Outputs:
    requests = case.config["dim_and_max_period"]
    return {f"emb_{i}": sinusoidal(case.inputs["timesteps"], dim, max_period=period) for i, (dim, period) in enumerate(requests)}


# --- training ----------------------------------------------------------------------------------------------------------


@adapter(GUIDED, "training_losses")
def training_losses(case: Case) -> Outputs:
    model = Linear(case.inputs["A"])
    denoiser, process = denoiser_of(case, model)
    levels, kind = len(process.kept), case.config["loss_type"]
    arguments = (denoiser, Unconditional(), process.law)
    if kind in ("KL", "RESCALED_KL"):
        objective = VLB(*arguments, VLBConfig(rescale=kind == "RESCALED_KL"), official=True)
    else:
        # Without rescaling, the official term of one level is added as it is: 1 / levels of the whole bound.
        objective = Denoising(*arguments, DenoisingConfig(vlb=0.001 if kind == "RESCALED_MSE" else 1 / levels), official=True)
    times = process.law.at(case.inputs["t"], torch.ones(len(case.inputs["t"])))
    terms = objective.terms(case.inputs["x_start"], case.inputs["noise"], times, {})
    terms["loss"].mean().backward()
    out = {name: terms[name] for name in ("loss", "mse") if name in terms}
    if "vlb" in terms and isinstance(objective, Denoising):
        out["vb"] = objective.config.vlb * terms["vlb"]
    return {**out, "grad_A": model.weights.grad}


class Uniforms(ReplayNoise):
    """Uniform numbers that are made here, in place of stored ones."""

    def __init__(self, seed: int, size: int):
        super().__init__([torch.from_numpy(np.random.RandomState(seed).random_sample(size))])


@adapter(GUIDED, "resampler")
def resampler(case: Case) -> Outputs:
    config = case.config
    size, history = config["num_timesteps"], config["history_per_term"]
    levels = torch.arange(1, size + 1, dtype=torch.float64) / size
    law, uniform = Importance(levels, history=history, uniform=config["uniform_prob"]), UniformLevels(levels)

    def weights() -> Tensor:
        # The official weights are not normalised before every level has its history.
        return law.probabilities * (size if bool((law.counts < history).any()) else 1)

    rows = [weights()]
    for ts, losses in zip(case.inputs["ts"], case.inputs["losses"], strict=True):
        law.update(levels[ts], losses)
        rows.append(weights())
    count, seed = config["batch_size"], config["numpy_global_seed"]
    drawn, plain = (one.draw(count, Uniforms(seed, count)) for one in (law, uniform))
    return {
        "weights": torch.stack(rows),
        "loss_counts": law.counts,
        "sample_indices": law.index_of(drawn.t),
        "sample_weights": drawn.weight,
        "uniform_indices": uniform.index_of(plain.t),
        "uniform_weights": plain.weight,
    }


@adapter(GUIDED, "ema")
def ema(case: Case) -> Outputs:
    rates = tuple(case.config["rates"])
    names = [name.removeprefix("start_") for name in case.inputs if name.startswith("start_")]
    model = nn.ParameterDict({name: nn.Parameter(case.inputs[f"start_{name}"].clone()) for name in names})
    averages = EMA({"model": model}, [Phase("all", (model,))], EMAConfig(decays=rates, warmup=False))
    for values in zip(*(case.inputs[f"steps_{name}"] for name in names), strict=True):
        for name, value in zip(names, values, strict=True):
            model[name].data.copy_(value)
        averages.update("all")
    return {f"ema_{i}_{name}": averages.tensors(rate)[name] for i, rate in enumerate(rates) for name in names}


# --- sampling ----------------------------------------------------------------------------------------------------------


@adapter(GUIDED, "bpd_loop")
def bpd_loop(case: Case) -> Outputs:
    inner, process = denoiser_of(case, gaussian(case))
    plan = Sampler().plan(process.schedule, spacing=process.spacing or "uniform")
    bound = vlb(bounded(case, inner), case.inputs["x_start"], plan, noise=case.replay(), official=True)
    return {"total_bpd": bound.total, "prior_bpd": bound.prior, "vb": bound.terms, "xstart_mse": bound.x0_mse, "mse": bound.eps_mse}


def guides(case: Case, process: Process) -> list[Callable[[Denoiser], Denoiser]]:
    """The stand-in gradient as a wrapper, where the case has one."""

    def gradient(x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return -expand(0.5 + 0.001 * process.label(t, label_kind(case)), x) * (x - expand(case.inputs["centres"][cond["label"]], x))

    return [lambda inner: ScoreShift(inner, gradient)] if "centres" in case.inputs else []


def sampler_text(case: Case) -> str:
    """The sampler of a case, as on the command line."""
    return f"ddim,eta={case.config.get('eta', 0.0)}" if case.config["loop"] == "ddim_sample_loop" else "ancestral"


def without_effect(sampler: Sampler, steps: int) -> int:
    """Draws at the end of an official run that are multiplied by zero: the official loops draw at every step."""
    return 1 if sampler.stochastic else steps


@adapter(GUIDED, "sample_loop")
def sample_loop(case: Case) -> Outputs:
    inner, process = denoiser_of(case, gaussian(case))
    noise = case.replay()
    if "noise_start" in case.inputs:
        x = case.inputs["noise_start"]
    else:
        x, _ = Gaussian(process.schedule).sample(case.config["shape"][1:], cond={}, noise=noise)
    sampler: Sampler = build("sampler", sampler_text(case))
    plan = sampler.plan(process.schedule, spacing=process.spacing or "uniform")
    cond = {"label": case.inputs["y"]} if "centres" in case.inputs else {}
    run = sample(bounded(case, compose(inner, guides(case, process))), sampler, plan, x, cond=cond, noise=noise, save="all")
    noise.skip(without_effect(sampler, plan.steps))
    return {"sample": run.x, "samples": torch.stack(run.xs), "pred_xstarts": torch.stack(run.x0s)}


@adapter(GUIDED, "ddim_reverse")
def ddim_reverse(case: Case) -> Outputs:
    inner, process = denoiser_of(case, gaussian(case))
    sampler = DDIMInversion(official=True)
    plan = sampler.plan(process.schedule, spacing=process.spacing or "uniform")
    return {"samples": torch.stack(sample(bounded(case, inner), sampler, plan, case.inputs["x_start"], save="all").xs)}
