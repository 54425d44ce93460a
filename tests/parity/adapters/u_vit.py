"""baofff/U-ViT."""

from __future__ import annotations

import torch
from tests.parity.harness import Case, Outputs, adapter

from mezzotint.checkpoint.official import u_vit as official
from mezzotint.configs import VPConfig
from mezzotint.networks.uvit import UViT
from mezzotint.nn.embeddings import sinusoidal
from mezzotint.nn.tokens import patchify, unpatchify
from mezzotint.process import add_noise, expand
from mezzotint.schedules import build_schedule

CONDITIONS = {"y": "label", "context": "text"}


@adapter("u_vit", "forward", "forward_t2i")
def forward(case: Case) -> Outputs:
    config = official.config_from_arguments(case.config["UViT"])
    net = UViT(config).eval()
    net.load_state_dict(official.to_ours(case.fill(official.to_official(net.state_dict(), config)), config))
    cond = {ours: case.inputs[name] for name, ours in CONDITIONS.items() if name in case.inputs}
    with torch.no_grad():
        return {"y": net(case.inputs["x"], case.inputs["timesteps"], cond)}


@adapter("u_vit", "patches")
def patches(case: Case) -> Outputs:
    x, side = case.inputs["x"], case.config["patch_size"]
    cut = patchify(x, side)
    back = unpatchify(cut, side, (x.shape[2] // side, x.shape[3] // side))
    return {"patches": cut, "back": back, "time": sinusoidal(case.inputs["timesteps"], case.config["dim"])}


@adapter("u_vit", "sde_tables")
def sde_tables(case: Case) -> Outputs:
    schedule = build_schedule(VPConfig(shape="cosine" if case.config["name"] == "vpsde_cosine" else "linear"))
    t, x = case.inputs["t"], case.inputs["x"]
    alpha, sigma = schedule(t)
    f, g2 = schedule.rates(t)
    snr = (2 * schedule.half_log_snr(t)).exp()
    return {
        "cum_alpha": alpha**2,
        "cum_beta": sigma**2,
        "snr": snr,
        "nsr": 1 / snr,
        "mean": add_noise(schedule, x, torch.zeros_like(x), t),
        "std": sigma,
        "drift": expand(f, x) * x,
        "diffusion": g2.sqrt(),
    }
