"""torch-fidelity, pytorch-fid and ADM's evaluator: statistics, distances, scores, and the feature networks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor

from mezzotint.metrics.inception import Inception, InceptionNetwork, resize_tf1

SYSTEM = "metrics"


# --- feature networks --------------------------------------------------------------------------------------------------


def inception(case: Case, protocol: str) -> Inception:
    """The extractor from a file with the filled weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inception.pth"
        torch.save(case.fill(InceptionNetwork().state_dict()), path)
        return Inception(weights=str(path), protocol=protocol)


def mean(h: Tensor) -> Tensor:
    return h.mean(dim=(2, 3))


@adapter(SYSTEM, "inception_torch_fidelity")
def inception_torch_fidelity(case: Case) -> Outputs:
    extractor = inception(case, "adm")
    images = case.inputs["images"] / 127.5 - 1
    raw = []
    extractor.network.Mixed_6d.branch1x1.conv.register_forward_hook(lambda _, __, out: raw.append(out))  # type: ignore[union-attr]
    found = extractor(images)
    entry = extractor.prepare(images)
    maps = dict(extractor.network.maps(entry))
    return {
        "features_64": mean(maps["pool_1"]),
        "features_192": mean(maps["pool_2"]),
        "features_768": mean(maps["Mixed_6e"]),
        "features_2048": found["pool"],
        "features_logits_unbiased": found["logits"],
        "features_logits": found["logits"] + extractor.network.fc.bias,
        "sfid_features": found["spatial"],
        "mixed_6d_branch1x1_conv_first7": raw[0][:, :7],
        "mixed_6e_every_64th_channel": maps["Mixed_6e"][:, ::64],
        "mixed_6d_channel_mean": mean(maps["Mixed_6d"]),
        "network_input_every_13th": entry[:, :, ::13, ::13],
    }


@adapter(SYSTEM, "inception_pytorch_fid")
def inception_pytorch_fid(case: Case) -> Outputs:
    extractor = inception(case, "pytorch_fid")
    images = case.inputs["images"] * 2 - 1
    maps = dict(extractor.network.maps(extractor.prepare(images)))
    return {
        "block3_2048": extractor(images)["pool"],
        "block2_768_mean": mean(maps["Mixed_6e"]),
        "block2_every_64th_channel": maps["Mixed_6e"][:, ::64],
        "block1_192_mean": mean(maps["pool_2"]),
        "block0_64_mean": mean(maps["pool_1"]),
    }


@adapter(SYSTEM, "resize")
def resize(case: Case) -> Outputs:
    stride = case.config.get("stride", 1)
    out = {}
    for height, width in case.config["sizes"]:
        out[f"out_{height}x{width}"] = resize_tf1(case.inputs["x"], (height, width))[:, :, ::stride, ::stride]
        if case.config.get("align_corners"):
            out[f"aligned_{height}x{width}"] = resize_tf1(case.inputs["x"], (height, width), align_corners=True)
    return out
