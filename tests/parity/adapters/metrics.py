"""torch-fidelity, pytorch-fid and ADM's evaluator: statistics, distances, scores, and the feature networks."""

from __future__ import annotations

import tempfile
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tests.parity.harness import Case, Outputs, adapter
from torch import Tensor

from mezzotint.metrics.frechet import Moments, frechet_distance
from mezzotint.metrics.inception import Inception, InceptionNetwork, resize_tf1
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.kernel import Kernel, draw_subsets, gaussian, kid, polynomial, squared_mmd
from mezzotint.metrics.precision_recall import neighbour_radii, precision_recall, realism, squared_distances

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


# --- distances and scores ----------------------------------------------------------------------------------------------


@adapter(SYSTEM, "fid_torch_fidelity", "fid_pytorch_fid", "fid_adm")
def fid(case: Case) -> Outputs:
    first, second = (Moments().add(case.inputs[name]) for name in ("features_1", "features_2"))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Frechet distance from")
        out = {"mu_1": first.mean, "sigma_1": first.cov, "fid": np.asarray(frechet_distance(first, second))}
    return {name: out[name] for name in case.wanted}


@adapter(SYSTEM, "kid")
def kernel_distance(case: Case) -> Outputs:
    given = dict(case.config["kwargs"])
    draws = {"subsets": given["kid_subsets"], "size": given["kid_subset_size"], "seed": given["rng_seed"]}
    if given.get("kid_kernel") == "rbf":
        kernel: Kernel = partial(gaussian, sigma=given["kid_kernel_rbf_sigma"])
    else:
        names = {"kid_kernel_poly_degree": "degree", "kid_kernel_poly_gamma": "gamma", "kid_kernel_poly_coef0": "offset"}
        kernel = partial(polynomial, **{ours: given[name] for name, ours in names.items() if name in given})
    generated, real = case.inputs["features_1"], case.inputs["features_2"]
    found = kid(generated, real, **draws, kernel=kernel)
    first, second = draw_subsets(len(generated), len(real), **draws)
    return {
        "mean": np.asarray(found.value),
        "std": np.asarray(found.spread),
        "subsets_1": first,
        "subsets_2": second,
        "each": np.asarray(found.parts),
    }


@adapter(SYSTEM, "mmd")
def mmd(case: Case) -> Outputs:
    names = {"biased": "biased", "unbiased": "unbiased", "u-statistic": "u_statistic"}
    a, b = case.inputs["features_1"], case.inputs["features_2"]
    return {name: np.asarray(squared_mmd(a, b, estimator=ours)) for name, ours in names.items()}  # type: ignore[arg-type]


@adapter(SYSTEM, "isc")
def score(case: Case) -> Outputs:
    given = case.config["kwargs"]
    seed = given.get("rng_seed", 2020) if given.get("shuffle", True) else None
    found = inception_score(case.inputs["logits"], splits=given.get("splits", 10), shuffle=seed)
    return {"mean": np.asarray(found.value), "std": np.asarray(found.spread)}


@adapter(SYSTEM, "isc_adm")
def score_adm(case: Case) -> Outputs:
    logits = case.inputs["features"] @ case.inputs["weight"]
    return {"inception_score": np.asarray(inception_score(logits, split_size=case.config["split_size"]).value)}


@adapter(SYSTEM, "prc")
def torch_fidelity_precision_recall(case: Case) -> Outputs:
    found = precision_recall(case.inputs["features_1"], case.inputs["features_2"], k=case.config["kwargs"]["prc_neighborhood"])
    values = {"precision": found.precision, "recall": found.recall, "f_score": found.f_score}
    # Official distances are tiled or not, by the size of the sets.
    return {f"{name}_{form}": np.asarray(value) for name, value in values.items() for form in ("full", "part")}


@adapter(SYSTEM, "prc_adm")
def adm_precision_recall(case: Case) -> Outputs:
    real, generated = case.inputs["features_ref"], case.inputs["features_sample"]
    sizes = case.config["kwargs"].get("nhood_sizes", [3])
    found = [precision_recall(generated, real, k=k, dtype="float16") for k in sizes]
    depth, nearest = realism(generated, real, k=sizes[0], dtype="float16")
    return {
        "radii_ref": torch.stack([neighbour_radii(real, k, dtype="float16") for k in sizes], dim=1),
        "radii_sample": torch.stack([neighbour_radii(generated, k, dtype="float16") for k in sizes], dim=1),
        "precision": np.asarray([one.precision for one in found]),
        "recall": np.asarray([one.recall for one in found]),
        "fraction": np.asarray(np.mean([one.precision for one in found])),
        "realism": depth,
        "nearest": nearest,
        "distances_4x4": squared_distances(real, generated, dtype="float16")[:4, :4],
    }
