"""facebookresearch/DiT."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tests.parity.adapters.guided_diffusion import Process, types_of
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor, nn

from mezzotint.checkpoint.official import dit as official
from mezzotint.conditioning import Label, Unconditional
from mezzotint.configs import DenoiserConfig, DiscreteConfig
from mezzotint.covariance import small_log_variance
from mezzotint.denoise import Bound, NetworkDenoiser
from mezzotint.guidance import ClassifierFree
from mezzotint.networks.dit import DiT
from mezzotint.nn.tokens import grid_positions
from mezzotint.noise import ReplayNoise
from mezzotint.objectives.denoising import Denoising
from mezzotint.process import bridge
from mezzotint.sample.ancestral import DDIM, Ancestral
from mezzotint.sample.loop import sample
from mezzotint.schedules import betas
from mezzotint.types import Batch, Cond


def described(case: Case) -> official.OfficialModel:
    return official.model_from_arguments(case.config.get("DiT", {}), case.config.get("create_diffusion", {}))


def process_of(model: official.OfficialModel) -> Process:
    assert isinstance(model.schedule, DiscreteConfig)
    return Process(model.schedule, model.respacing)


def network(case: Case) -> DiT:
    config = official.config_from_arguments(case.config["DiT"])
    net = DiT(config).eval()
    net.load_state_dict(official.to_ours(case.fill(official.to_official(net.state_dict(), config)), config))
    return net


def null_of(case: Case) -> Label:
    label = described(case).label
    assert label is not None
    return Label(label)


@adapter("dit", "forward")
def forward(case: Case) -> Outputs:
    net = network(case)
    with torch.no_grad():
        y = net(case.inputs["x"], case.inputs["t"], {"label": case.inputs["y"]})
    return {"y": y, "pos_embed": official.to_official(net.state_dict(), net.config)["pos_embed"]}


class Guided(nn.Module):
    """The official guided call: a batch of two halves, of which the first is the image of both.

    What the guidance mixes is the network's own output, which is why it is read as if it were x0.
    """

    def __init__(self, case: Case):
        super().__init__()
        self.network, self.label = network(case), null_of(case)
        learned = self.network.out_channels > self.network.config.in_channels
        config = DenoiserConfig("x0", "learned_range" if learned else "fixed_large", time_input="t")
        plain = NetworkDenoiser(self.network, process_of(described(case)).schedule, config)
        self.guided = ClassifierFree(plain, self.label.null, scale=case.config["cfg_scale"], channels=3)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        half = len(x) // 2
        x, t, given = x[:half], t[:half], {"label": cond["label"][:half]}
        guided = self.guided(x, t, given)
        null = self.network(x, t, self.label.null(given))
        value = [guided.mean]
        if guided.kernel is not None and guided.kernel.frac is not None:
            value.append(2 * guided.kernel.frac - 1)
        return torch.cat([torch.cat(value, dim=1), torch.cat([guided.mean[:, :3], null[:, 3:]], dim=1)])


@adapter("dit", "forward_with_cfg")
def forward_with_cfg(case: Case) -> Outputs:
    with torch.no_grad():
        return {"y": Guided(case)(case.inputs["x"], case.inputs["t"], {"label": case.inputs["y"]})}


@adapter("dit", "label_embedding")
def label_embedding(case: Case) -> Outputs:
    table, label = network(case).label_embed, case.inputs["y"]
    assert table is not None
    batch = Batch(torch.zeros(len(label)), torch.arange(len(label)), label)
    # Drawn numbers that drop exactly the rows that the case names.
    noise = ReplayNoise([1.0 - case.inputs["force_drop_ids"].float()])
    dropped = null_of(case)(batch, t=torch.zeros(len(label)), noise=noise, training=True)
    return {"kept": table(label), "dropped": table(dropped["label"])}


@adapter("dit", "pos_embed")
def pos_embed(case: Case) -> Outputs:
    requests = case.config["embed_dim_and_grid_size"]
    return {f"table_{i}": grid_positions(width, (side, side)) for i, (width, side) in enumerate(requests)}


@adapter("dit", "beta_schedules")
def beta_schedules(case: Case) -> Outputs:
    named = [(official.BETAS.get(name, name), steps) for name, steps in case.config["get_named_beta_schedule"]]
    plain = [(name, steps) for name, low, high, steps in case.config["get_beta_schedule"] if (low, high) == (1e-4, 0.02)]
    tables: dict[str, list[tuple[Any, int]]] = {"named": named, "plain": plain}
    return {f"{kind}_{i}": betas(DiscreteConfig(*request)) for kind, rows in tables.items() for i, request in enumerate(rows)}


@adapter("dit", "diffusion_tables")
def diffusion_tables(case: Case) -> Outputs:
    process = process_of(described(case))
    t, s, t_up = process.times(torch.arange(len(process.kept)))
    given = case.config["create_diffusion"]
    return {
        "timestep_map": np.asarray(process.kept),
        "betas": process.betas,
        "alphas_cumprod": process.schedule(t)[0] ** 2,
        "posterior_variance": bridge(process.schedule, t, s).std ** 2,
        "posterior_log_variance_clipped": small_log_variance(process.schedule, t, s, t_up),
        "types": types_of(lambda flags: official.model_from_arguments({}, {**given, **flags})),
    }


@adapter("dit", "sample")
def sampling(case: Case) -> Outputs:
    model = described(case)
    process = process_of(model)
    net = network(case) if case.config["cfg_scale"] is None else Guided(case)
    inner = NetworkDenoiser(net, process.schedule, model.denoiser)
    inner.accepts = frozenset({"label"})
    sampler = DDIM() if case.config["loop"] == "ddim_sample_loop" else Ancestral()
    plan = sampler.plan(process.schedule, spacing=process.spacing or "uniform")
    noise = case.replay()
    denoiser = Bound(inner, clip=case.config["clip_denoised"])
    run = sample(denoiser, sampler, plan, case.inputs["z"], cond={"label": case.inputs["y"]}, noise=noise, save="all")
    # The official loops draw at every step, also where the noise is then multiplied by zero.
    noise.skip(1 if sampler.stochastic else plan.steps)
    return {"sample": run.x, "samples": torch.stack(run.xs)}


@adapter("dit", "training_losses")
def training_losses(case: Case) -> Outputs:
    model = described(case)
    process = process_of(model)
    denoiser = NetworkDenoiser(network(case), process.schedule, model.denoiser)
    objective = Denoising(denoiser, Unconditional(), process.law, model.objective, official=True)
    times = process.law.at(case.inputs["t"], torch.ones(len(case.inputs["t"])))
    with torch.no_grad():
        terms = objective.terms(case.inputs["x_start"], case.inputs["noise"], times, {"label": case.inputs["y"]})
    return {"loss": terms["loss"], "mse": terms["mse"], "vb": model.objective.vlb * terms["vlb"]}
