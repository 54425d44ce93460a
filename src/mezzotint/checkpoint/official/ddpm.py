"""The models of Ho et al. (DDPM), in the names of the commonly mirrored PyTorch port of the TensorFlow weights.

The port names the layers of the same network that diffusers has, so that names are translated by way of those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from mezzotint.checkpoint.official import diffusers
from mezzotint.checkpoint.official.base import OfficialModel, Shapes, check_names, count
from mezzotint.configs import UNet2DConfig

NAME = "ddpm"

# Ours by way of diffusers: (part of the port's name, part of diffusers' name).
_STARTS = (
    ("temb.dense.0.", "time_embedding.linear_1."),
    ("temb.dense.1.", "time_embedding.linear_2."),
    ("mid.block_1.", "mid_block.resnets.0."),
    ("mid.block_2.", "mid_block.resnets.1."),
    ("mid.attn_1.", "mid_block.attentions.0."),
    ("norm_out.", "conv_norm_out."),
    ("down.", "down_blocks."),
    ("up.", "up_blocks."),
)
_PARTS = (
    (".block.", ".resnets."),
    (".attn.", ".attentions."),
    (".downsample.", ".downsamplers.0."),
    (".upsample.", ".upsamplers.0."),
    (".temb_proj.", ".time_emb_proj."),
    (".nin_shortcut.", ".conv_shortcut."),
    (".proj_out.", ".to_out.0."),
    (".norm.", ".group_norm."),
    (".q.", ".to_q."),
    (".k.", ".to_k."),
    (".v.", ".to_v."),
)


def _translated(name: str, levels: int, *, back: bool = False) -> str:
    """A name of the port as that of diffusers, or back; the port counts the levels of the way up from the finest."""
    a, b = (1, 0) if back else (0, 1)
    for pair in _STARTS:
        if name.startswith(pair[a]):
            name = pair[b] + name.removeprefix(pair[a])
            break
    name = re.sub(r"^(up(?:_blocks)?)\.(\d+)\.", lambda match: f"{match[1]}.{levels - 1 - int(match[2])}.", name)
    for pair in _PARTS:
        name = name.replace(pair[a], pair[b])
    return name


def _by_diffusers(state: Mapping[str, Any]) -> dict[str, Any]:
    levels = count((name for name in state if name.startswith("down.")), "down.")
    return {_translated(name, levels): value for name, value in state.items()}


def recognise(shapes: Shapes, filename: str = "") -> OfficialModel | None:
    """Reads the architecture off a state dict.

    Args:
        shapes: Name -> shape.
        filename: Not used; it makes the call that of other families.

    Returns:
        The model, with the settings that all of DDPM's models have, or None where it is of another family.

    Source: Ho et al. 2020, appendix B.
    """
    if "temb.dense.0.weight" not in shapes or "mid.attn_1.q.weight" not in shapes:
        return None
    model = diffusers.recognise(_by_diffusers(shapes))
    return None if model is None else replace(model, assumed=())


def official_keys(config: UNet2DConfig) -> dict[str, tuple[str, ...]]:
    """The names of every tensor: ours -> those of the port; q, k and v are one tensor here and three there."""
    keys = diffusers.official_keys(config)
    return {ours: tuple(_translated(name, len(config.widths), back=True) for name in names) for ours, names in keys.items()}


def to_ours(state: Mapping[str, Tensor], config: UNet2DConfig) -> dict[str, Tensor]:
    """Renames a state dict of the port and brings its weights to our layout.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    check_names(state, [name for names in official_keys(config).values() for name in names], "a DDPM checkpoint")
    return diffusers.to_ours(_by_diffusers(state), config)


def to_official(state: Mapping[str, Tensor], config: UNet2DConfig) -> dict[str, Tensor]:
    """The inverse of ``to_ours``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    out = {}
    for name, value in diffusers.to_official(state, config).items():
        name = _translated(name, len(config.widths), back=True)
        attention = re.search(r"\.(?:q|k|v|proj_out)\.weight$", name)  # 1x1 convolutions there
        out[name] = value[:, :, None, None] if attention else value
    return out
