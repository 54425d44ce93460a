"""From official checkpoints to specs of ours, and from our models to files that official code loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mezzotint
from mezzotint.checkpoint.families import FAMILIES, Official
from mezzotint.checkpoint.official import diffusers, dit, guided_diffusion, u_vit
from mezzotint.checkpoint.official.base import OfficialModel
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DiscreteConfig,
    DiTConfig,
    EMAConfig,
    EncoderConfig,
    Recipe,
    SampleConfig,
    Spec,
    UNetConfig,
    UViTConfig,
    VAELatentConfig,
)
from mezzotint.errors import ConfigError, unknown
from mezzotint.sample.grid import SPACINGS
from mezzotint.weights.io import writing

TARGETS = (guided_diffusion.NAME, diffusers.NAME, dit.NAME, u_vit.NAME)
"""Families that models can be written for."""
_NETWORKS = {guided_diffusion.NAME: UNetConfig | EncoderConfig, dit.NAME: DiTConfig, u_vit.NAME: UViTConfig}


def spec_of(official: Official, *, sha256: str) -> Spec:
    """The spec of an official checkpoint, with where it came from.

    Args:
        official: The checkpoint.
        sha256: Hash of its file.
    """
    model, card = official.model, official.card
    net = model.net
    encoder = isinstance(net, EncoderConfig)
    side = net.image_size[0] if encoder else model.size
    channels, factor = net.in_channels, 1
    if isinstance(model.codec, VAELatentConfig):
        channels, factor = 3, model.codec.factor
    count = net.out_channels if encoder else 0 if model.label is None else model.label.num_classes
    sampling = _sampling(model) if card is None or card.sampling is None else card.sampling
    recipe = Recipe(
        name=card.name if card else model.published or official.family,
        task="classify" if encoder else "generate",
        net=net,
        schedule=model.schedule,
        objective=ClassifyConfig() if encoder else model.objective,
        denoiser=model.denoiser,
        label=model.label,
        low_res=model.low_res,
        times=model.times,
        codec=model.codec,
        ema=EMAConfig(decays=()),
        sample=SampleConfig(sampling.sampler, sampling.steps, sampling.grid, clip=model.clip),
        cite=card.cite if card else (),
    )
    provenance: dict[str, Any] = {
        "made_by": f"mezzotint {mezzotint.__version__}",
        "family": official.family,
        "file": official.file.name,
        "sha256": sha256,
    }
    if card is not None:
        about = {"card": card.name, "what": card.what, "address": card.url or card.page, "scores": card.scores, "guidance": card.guidance}
        provenance |= {name: text for name, text in about.items() if text}
        if not card.proven:
            provenance["unproven"] = "the adapter of this family has not been tried on a published file"
    elif model.published:
        provenance["taken_for"] = model.published
    facts = DataFacts(channels=channels, size=(side * factor, side * factor), classes=tuple(str(k) for k in range(count)))
    return Spec(recipe=recipe, data=facts, provenance=provenance)


def _sampling(model: OfficialModel) -> SampleConfig:
    if model.respacing:
        return SampleConfig(grid=model.respacing)
    if isinstance(model.schedule, DiscreteConfig):
        return SampleConfig()
    if model.denoiser.predicts == "edm":
        return SampleConfig(sampler="heun", steps=18, grid="karras")
    return SampleConfig(sampler="euler_maruyama", steps=1000)


def official_of(spec: Spec) -> OfficialModel:
    """What a spec describes, in terms that adapters share."""
    recipe = spec.recipe
    if spec.data.size[0] != spec.data.size[1]:
        raise ConfigError(f"the model is for images of {spec.data.size[0]}x{spec.data.size[1]}; official code takes square ones alone")
    factor = recipe.codec.factor if isinstance(recipe.codec, VAELatentConfig) else 1
    return OfficialModel(
        net=recipe.net,
        schedule=recipe.schedule,
        denoiser=recipe.denoiser,
        objective=recipe.objective,
        times=recipe.times,
        respacing="" if recipe.sample.grid in SPACINGS else recipe.sample.grid,
        size=spec.data.size[0] // factor,
        label=recipe.label,
        low_res=recipe.low_res,
        codec=recipe.codec,
        clip=recipe.sample.clip,
    )


def write_official(path: Path, state: Mapping[str, Tensor], spec: Spec, family: str) -> list[str]:
    """Writes a model as official code loads it.

    Args:
        path: A folder for diffusers, a file for the others.
        state: The state dict of our network.
        spec: What the model is.
        family: One of ``TARGETS``.

    Returns:
        What the other side needs to know, in lines.

    Raises:
        ConfigError: The other side has no such model.
        CheckpointError: The file system refuses.
    """
    if family not in TARGETS:
        raise unknown("target", family, TARGETS)
    model = official_of(spec)
    net = model.net
    if family == diffusers.NAME:
        diffusers.write_folder(path, state, model)
        kind = "DDPMPipeline.from_pretrained" if model.label is None else "UNet2DModel.from_pretrained(..., subfolder='unet')"
        return [f"diffusers loads it by {kind}"]
    if not isinstance(net, _NETWORKS[family]):
        raise ConfigError(f"{family} has no network of kind '{net.kind[1]}'; choose another --to")
    if isinstance(net, UNetConfig) and (net.group_channels, net.augment, net.attention_middle) != (1, 0, True):
        raise ConfigError("guided-diffusion has no U-Net with EDM's settings (group_channels, augment, attention_middle)")
    made = {name: value.contiguous() for name, value in FAMILIES[family].to_official(state, net).items()}
    temporary = path.with_name(f".{path.name}.new")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(made, temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return ["flags: " + " ".join(f"--{k} {v}" for k, v in script_flags(model).items())] if family == guided_diffusion.NAME else []


def script_flags(model: OfficialModel) -> dict[str, Any]:
    """The flags of guided-diffusion's scripts for a model.

    Raises:
        ConfigError: Its scripts cannot make such a model: multipliers that are no whole numbers and none of its own tables, or a noise
            process that it does not have.
    """
    net = model.net
    assert isinstance(net, UNetConfig | EncoderConfig)
    schedule = model.schedule
    if not isinstance(schedule, DiscreteConfig) or schedule.custom is not None or schedule.betas not in ("linear", "cosine"):
        raise ConfigError("guided-diffusion's scripts know the schedules linear and cosine alone; this model has another")
    side = model.size
    attention = ",".join(str(side // factor) for factor in net.attention) or str(2 * side)
    if isinstance(net, EncoderConfig):
        flags: dict[str, Any] = {
            "image_size": side,
            "classifier_width": net.width,
            "classifier_depth": net.blocks,
            "classifier_attention_resolutions": attention,
            "classifier_use_scale_shift_norm": net.scale_shift,
            "classifier_resblock_updown": net.resample == "block",
            "classifier_pool": net.pool,
        }
    else:
        sizes = {"large_size": side, "small_size": side // model.low_res.scale} if model.low_res is not None else {"image_size": side}
        flags = {
            **sizes,
            "num_channels": net.width,
            "num_res_blocks": net.blocks,
            "attention_resolutions": attention,
            "num_heads": net.heads,
            "num_head_channels": net.head_channels or -1,
            "class_cond": net.num_classes is not None,
            "dropout": net.dropout,
            "use_scale_shift_norm": net.scale_shift,
            "resblock_updown": net.resample == "block",
            "learn_sigma": model.denoiser.variance == "learned_range",
            "sigma_small": model.denoiser.variance == "fixed_small",
            "predict_xstart": model.denoiser.predicts == "x0",
            "rescale_timesteps": model.denoiser.time_input == "index_1000",
        }
        if not net.low_res_channels:
            flags["use_new_attention_order"] = net.attention_order == "new"
            if all(mult == int(mult) for mult in net.mults):
                flags["channel_mult"] = ",".join(str(int(mult)) for mult in net.mults)
    return {**flags, "diffusion_steps": schedule.steps, "noise_schedule": schedule.betas}
