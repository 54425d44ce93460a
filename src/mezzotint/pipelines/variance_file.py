"""The file in a model folder that holds what is known of Var[x0 | x_t]: its name, and what is read from it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from mezzotint.configs import Spec
from mezzotint.moments import Moments
from mezzotint.networks.covariance_head import CovarianceHead
from mezzotint.weights.io import load_into, read_tensors, weight_file

NAME = "covariance"
FILE = weight_file(NAME)


def read_variance(folder: Path | None, spec: Spec, *, weights: str | None, channels: int, device: torch.device) -> nn.Module | None:
    """The table or head in a model folder.

    Args:
        folder: The folder; None: there is none.
        spec: What the folder says of itself.
        weights: Name of the weight file that was loaded.
        channels: Channels of what the network sees.
        device: Where a head is to be; a table stays on the CPU.

    Returns:
        A module in evaluation mode; None where there is none, or where it belongs to other weights than those that were loaded.

    Raises:
        CheckpointError: The file is damaged.
    """
    config, info = spec.covariance, spec.weights.get(FILE)
    if config is None or info is None or folder is None or info.get("of") != weights:
        return None
    tensors = read_tensors(folder / FILE, sha256=info["sha256"])
    if config.method == "analytic":
        part: nn.Module = Moments(torch.arange(len(tensors["times"])), torch.zeros(len(tensors["times"])))
    else:
        part = CovarianceHead(config, channels).to(device)
    load_into(part, tensors, where=folder / FILE)
    return part.eval()
