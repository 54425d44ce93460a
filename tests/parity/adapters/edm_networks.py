"""NVlabs/edm: networks, preconditioners, losses, and the samplers around a network."""

from __future__ import annotations

import math

import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.checkpoint.official import edm as official
from mezzotint.checkpoint.official.base import OfficialModel
from mezzotint.conditioning import Unconditional
from mezzotint.configs import SongUNetConfig, UNetConfig, VPConfig
from mezzotint.denoise import NetworkDenoiser, nearest_level
from mezzotint.objectives.denoising import Denoising
from mezzotint.registry import get
from mezzotint.sample.loop import sample
from mezzotint.sample.ode import Euler, Heun
from mezzotint.schedules import Schedule, build_schedule
from mezzotint.times import build_law
from mezzotint.types import Cond, Plan, Times


def filled(case: Case, config: SongUNetConfig | UNetConfig, size: int, tag: str | None = None) -> nn.Module:
    """Our network with the weights of the reference run, under a preconditioner's prefix where the run had one."""
    net = get(*config.kind)(config).eval()
    prefix = "" if case.kind == "net_forward" else "model."
    if isinstance(config, UNetConfig) and config.num_classes is not None:
        net.label_embed.weight.data[-1] = 0  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    state = official.to_official(net.state_dict(), config, size=size)
    state = case.fill({prefix + name: value for name, value in state.items()}, tag)
    net.load_state_dict(official.to_ours(state, config))
    return net


def conditions(case: Case, config: SongUNetConfig | UNetConfig) -> Cond:
    """Numbers of classes in place of their one-hot vectors; the number beyond the last is the vector of zeros."""
    cond = {}
    if config.num_classes is not None:
        given = case.inputs.get("class_labels")
        none = config.num_classes - isinstance(config, UNetConfig)
        batch = next(case.inputs[name] for name in ("x", "latents") if name in case.inputs).shape[0]
        cond["label"] = torch.full((batch,), none) if given is None else given.argmax(dim=1)
    if "augment_labels" in case.inputs:
        cond["augment"] = case.inputs["augment_labels"]
    return cond


@adapter("edm", "net_forward")
def net_forward(case: Case) -> Outputs:
    config = official.network_from_arguments(case.config["class"], case.config["kwargs"])
    net = filled(case, config, case.config["kwargs"]["img_resolution"])
    with torch.no_grad():
        return {"y": net(case.inputs["x"], case.inputs["noise_labels"], conditions(case, config))}


def preconditioned(case: Case, name: str, arguments: dict) -> tuple[NetworkDenoiser, OfficialModel, Cond]:
    model = official.model_from_constructor(name, arguments)
    assert isinstance(model.net, SongUNetConfig | UNetConfig)
    net = filled(case, model.net, model.size, name)
    return NetworkDenoiser(net, build_schedule(model.schedule), model.denoiser), model, conditions(case, model.net)


def sigma_of(schedule: Schedule, t: Tensor) -> Tensor:
    """Official sigma: the ratio of our two scales."""
    return torch.exp(-schedule.half_log_snr(t))


def float32_sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """The same as the official VP code rounds it: in float32 little is left of 1 / alpha^2 - 1 where alpha is almost 1."""
    return ((1 / schedule(t)[0] ** 2).float() - 1).sqrt()


@adapter("edm", "precond_forward")
def precond_forward(case: Case) -> Outputs:
    name = case.config["class"]
    denoiser, _, cond = preconditioned(case, name, case.config["kwargs"])
    schedule, sigma = denoiser.schedule, case.inputs["sigma"].double()
    t = schedule.time_of(-sigma.log())
    alpha = schedule(t)[0].float()[:, None, None, None]
    with torch.no_grad():
        mean = denoiser(alpha * case.inputs["x"], t, cond).mean
    # EDM's own preconditioning has no range: it works from no noise to nothing but noise.
    ends = [0.0, torch.inf] if name == "EDMPrecond" else [schedule.t_min, schedule.t_max]
    times = torch.tensor(ends, dtype=torch.float64)
    return {
        "D": mean,
        "sigma_min_max": (float32_sigma if name == "VPPrecond" else sigma_of)(schedule, times),
        "round_sigma": sigma_of(schedule, denoiser.snap(t)),
    }


@adapter("edm", "sigma_functions")
def sigma_functions(case: Case) -> Outputs:
    def schedule_of(name: str, model_type: str) -> Schedule:
        arguments = {"img_resolution": 16, "img_channels": 3, "model_type": model_type}
        return build_schedule(official.model_from_constructor(name, arguments).schedule)

    vp, iddpm = schedule_of("VPPrecond", "SongUNet"), schedule_of("iDDPMPrecond", "DhariwalUNet")
    cosine = build_schedule(VPConfig(shape="cosine"))
    sigma, levels = case.inputs["sigma"], iddpm.levels
    assert levels is not None
    table = sigma_of(iddpm, torch.cat([levels.flip(0), torch.zeros(1)]))
    level = nearest_level(iddpm, iddpm.time_of(-sigma.double().log()))
    # The official inverse adds 1 to sigma^2 in float32.
    rounded = ((1 + sigma**2).double() - 1).sqrt()
    return {
        "vp_sigma": float32_sigma(vp, case.inputs["t"].double()),
        "vp_sigma_inv": vp.time_of(-rounded.log()),
        "iddpm_u": table,
        "iddpm_round": table[len(levels) - 1 - level],
        "iddpm_index": len(levels) - 1 - level,
        # The official function is not divided by its largest value.
        "iddpm_alpha_bar": cosine(1 - case.inputs["j"] / len(levels))[0] ** 2 * math.cos(0.008 / 1.008 * math.pi / 2) ** 2,
    }


@adapter("edm", "network_sampler")
def network_sampler(case: Case) -> Outputs:
    given = case.config["precond"]
    denoiser, _, cond = preconditioned(case, given["class"], given["kwargs"])
    kwargs, schedule = case.config["kwargs"], denoiser.schedule
    steps, churn = kwargs["num_steps"], float(kwargs.get("S_churn", 0))
    if case.config["call"] == "edm_sampler":
        ours = Heun(s_churn=churn)
        grid = ours.plan(schedule, steps=steps, spacing="karras:7").grid
    else:
        assert (kwargs["solver"], kwargs["schedule"], kwargs["discretization"], kwargs["scaling"]) == ("euler", "vp", "vp", "vp")
        ours = Euler(coordinate="t")
        grid = torch.cat([torch.linspace(1, 1e-3, steps, dtype=torch.float64), torch.zeros(1)])[:, None]
    x = case.inputs["latents"] * schedule(grid[0])[1]
    # The official code draws at every step, whether it churns or not.
    noise = case.replay() if churn else case.replay([]) and None
    with torch.no_grad():
        return {"x": sample(denoiser, ours, Plan(grid), x, cond=cond, noise=noise).x}


class PixelNetwork(nn.Module):
    """The raw network whose preconditioned output is the exact mean of x0 for pixels N(M, S^2); every pixel is an image of its own."""

    def __init__(self, denoiser: NetworkDenoiser | None, mean: Tensor, std: Tensor):
        super().__init__()
        self.denoiser, self.mean, self.std = denoiser, mean, std

    def forward(self, x: Tensor, label: Tensor, cond: Cond) -> Tensor:
        assert self.denoiser is not None
        config = self.denoiser.config
        label = label.double()
        if config.time_input == "t_999":
            sigma = sigma_of(self.denoiser.schedule, label / 999)
        else:
            sigma = label.exp() * 2 if config.time_input == "log_half_sigma" else (4 * label).exp()
        sigma = sigma[:, None, None, None]
        variance, data = self.std.double()[:, None, None, None] ** 2, config.sigma_data
        mean = self.mean.double()[:, None, None, None]
        scale = {"eps": (1 + sigma**2).sqrt(), "scaled_score": 1, "edm": (sigma**2 + data**2).sqrt()}[config.predicts]
        noisy = x.double() * scale
        x0 = mean + variance / (variance + sigma**2) * (noisy - mean)
        if config.predicts == "edm":
            return ((x0 - data**2 / scale**2 * noisy) * scale / (sigma * data)).to(x)
        return ((noisy - x0) / sigma * (1 if config.predicts == "eps" else -1)).to(x)


@adapter("edm", "losses")
def losses(case: Case) -> Outputs:
    name, kwargs = case.config["class"], case.config["kwargs"]
    precond = {"VPLoss": "VPPrecond", "VELoss": "VEPrecond", "EDMLoss": "EDMPrecond"}[name]
    arguments = {"img_resolution": 16, "img_channels": 3, "model_type": "SongUNet"}
    if "sigma_data" in kwargs:
        arguments["sigma_data"] = kwargs["sigma_data"]
    model = official.model_from_constructor(precond, arguments)
    images, pixels = case.inputs["images"], case.inputs["images"][0].numel()
    schedule = build_schedule(model.schedule)
    law = build_law(model.times.law, schedule, mean=kwargs.get("P_mean", model.times.mean), std=kwargs.get("P_std", model.times.std))
    time, eps = case.draws
    # The official law of VP counts from the noisy end.
    case.draws[:] = [1 - time.flatten() if name == "VPLoss" else time.flatten(), eps.reshape(-1, 1, 1, 1)]
    noise = case.replay()
    times = law.draw(len(images), noise)
    each = Times(t=times.t.repeat_interleave(pixels), weight=times.weight.repeat_interleave(pixels))
    channel = torch.arange(images.shape[1])[None, :, None, None].expand(images.shape).flatten()
    network = PixelNetwork(None, case.inputs["M"][channel], case.inputs["S"][channel])
    denoiser = NetworkDenoiser(network, schedule, model.denoiser)
    network.denoiser = denoiser
    objective = Denoising(denoiser, Unconditional(), law, model.objective)  # pyright: ignore[reportArgumentType]
    drawn = noise.normal((images.numel(), 1, 1, 1), name="eps")
    return {"loss": objective.terms(images.reshape(-1, 1, 1, 1), drawn, each, {})["loss"].reshape(images.shape)}
