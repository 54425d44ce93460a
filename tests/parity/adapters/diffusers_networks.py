"""diffusers: its U-Net and its embedding of the time."""

from __future__ import annotations

import torch
from tests.parity.harness import Case, Outputs, adapter

from mezzotint.checkpoint.official import diffusers as official
from mezzotint.networks.unet2d import UNet2D
from mezzotint.nn.embeddings import sinusoidal


@adapter("diffusers", "unet2d_forward")
def unet2d_forward(case: Case) -> Outputs:
    config = official.network_from_config(case.config["UNet2DModel"])
    net = UNet2D(config).eval()
    net.load_state_dict(official.to_ours(case.fill(official.to_official(net.state_dict(), config)), config))
    cond = {"label": case.inputs["class_labels"]} if "class_labels" in case.inputs else {}
    with torch.no_grad():
        return {"sample": net(case.inputs["sample"], case.inputs["timestep"], cond)}


@adapter("diffusers", "time_embedding")
def time_embedding(case: Case) -> Outputs:
    def call(embedding_dim: int, *, flip_sin_to_cos: bool = False, downscale_freq_shift: float = 1, **same: float) -> torch.Tensor:
        return sinusoidal(case.inputs["timesteps"], embedding_dim, shift=downscale_freq_shift, sine_first=not flip_sin_to_cos, **same)

    return {f"emb_{i}": call(**given) for i, given in enumerate(case.config["calls"])}
