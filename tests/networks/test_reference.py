"""The networks against the figures of the official code; skipped where the folder of reference cases is absent."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mezzotint.checkpoint.official import guided_diffusion as official
from mezzotint.configs import EncoderConfig, UNetConfig
from mezzotint.networks.encoder import Encoder
from mezzotint.networks.unet import UNet
from mezzotint.nn.embeddings import sinusoidal

SYSTEMS: tuple[official.Family, ...] = ("guided_diffusion", "improved_diffusion")
CONSTRUCTORS: Mapping[str, Callable[[Mapping[str, Any]], UNetConfig | EncoderConfig]] = {
    "UNetModel": official.unet_from_arguments,
    "SuperResModel": official.superres_from_arguments,
    "EncoderUNetModel": official.encoder_from_arguments,
}
FORWARD = {"unet_forward", "superres_forward", "classifier_forward", "script_model", "script_classifier"}
GRADIENTS = {"classifier_grad", "unet_param_grad"}


def build(config: UNetConfig | EncoderConfig) -> UNet | Encoder:
    return (UNet if isinstance(config, UNetConfig) else Encoder)(config)  # type: ignore[arg-type]


def config_of(case: dict[str, Any], system: official.Family) -> UNetConfig | EncoderConfig:
    config = case["config"]
    if case["kind"] == "script_model":
        return official.model_from_script_flags(config["flags"], family=system).net
    if case["kind"] == "script_classifier":
        return official.classifier_from_script_flags(config["flags"]).net
    name = next(name for name in CONSTRUCTORS if name in config)
    return CONSTRUCTORS[name](config[name])


def fill(key: str, shape: tuple[int, ...], scale: float) -> Tensor:
    """The weights of the reference runs: random numbers seeded with the name of the parameter."""
    value = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32) * np.float32(scale)
    if len(shape) == 1 and key.endswith("weight"):
        value = value + np.float32(1)
    return torch.from_numpy(np.asarray(value, dtype=np.float32))


def close(case: dict[str, Any], name: str, got: Tensor, expected: np.ndarray) -> None:
    atol = case["tolerance"]["atol"][name]
    np.testing.assert_allclose(got.detach().numpy(), expected, rtol=case["tolerance"]["rtol"], atol=atol, err_msg=f"{case['name']} {name}")


@pytest.mark.parametrize("system", SYSTEMS)
def test_networks_agree_with_the_official_ones(reference_dir: Path, system: official.Family) -> None:
    seen = set()
    for case in json.loads((reference_dir / system / "cases.json").read_text())["cases"]:
        if case["kind"] not in FORWARD | GRADIENTS:
            continue
        seen.add(case["kind"])
        with np.load(reference_dir / system / case["npz"]) as arrays:
            given = {k[3:]: torch.from_numpy(arrays[k]) for k in arrays.files if k.startswith("in_")}
            expected = {k[4:]: arrays[k] for k in arrays.files if k.startswith("out_")}
        config = config_of(case, system)
        net = build(config).eval()
        shapes = {key: tuple(value.shape) for key, value in official.to_official(net.state_dict(), config).items()}
        rows = json.loads((reference_dir / system / "state_dicts" / f"{case['name']}.json").read_text())[0]["state_dict"]
        assert shapes == {key: tuple(shape) for key, shape, _ in rows}, case["name"]
        state = {key: fill(key, shape, case["weights"].get("scale", 0.05)) for key, shape in shapes.items()}
        net.load_state_dict(official.to_ours(state, config))
        x = given["x"].requires_grad_()
        names = {"y": "label", "low_res": "low_res"}
        out = net(x, given["timesteps"], {names[k]: v for k, v in given.items() if names.get(k) in net.accepts})
        if case["kind"] == "unet_param_grad":
            loss = (out * given["w"]).mean()
            ours = {b: a for a, b in official.official_keys(config).items()}
            parameters = dict(net.named_parameters())
            wanted = [parameters[ours[key]] for key in case["config"]["parameters"]]
            grads = torch.autograd.grad(loss, [x, *wanted])
            close(case, "loss", loss, expected["loss"])
            close(case, "grad_x", grads[0], expected["grad_x"])
            for i, grad in enumerate(grads[1:]):
                close(case, f"grad_{i:02}", grad.reshape(expected[f"grad_{i:02}"].shape), expected[f"grad_{i:02}"])
        elif case["kind"] == "classifier_grad":
            log_prob = out.log_softmax(dim=1).gather(1, given["y"][:, None])[:, 0]
            close(case, "log_prob", log_prob, expected["log_prob"])
            gradient = torch.autograd.grad(log_prob.sum(), x)[0] * case["config"]["classifier_scale"]
            close(case, "gradient", gradient, expected["gradient"])
        else:
            name = "logits" if isinstance(net, Encoder) else "y"
            close(case, name, out, expected[name])
    assert {"unet_forward", "superres_forward", "script_model"} <= seen


def test_time_embedding_agrees_with_the_official_one(reference_dir: Path) -> None:
    folder = reference_dir / "guided_diffusion"
    case = next(c for c in json.loads((folder / "cases.json").read_text())["cases"] if c["kind"] == "time_embedding")
    with np.load(folder / case["npz"]) as arrays:
        for i, (width, period) in enumerate(case["config"]["dim_and_max_period"]):
            got = sinusoidal(torch.from_numpy(arrays["in_timesteps"]), width, max_period=period)
            close(case, f"emb_{i}", got, arrays[f"out_emb_{i}"])


def manifests(folder: Path) -> list[Path]:
    return sorted([*folder.glob("guided-diffusion.*.json"), *folder.glob("improved-diffusion.*.json")])


def test_names_and_shapes_of_published_models(reference_dir: Path) -> None:
    found = manifests(reference_dir / "manifests")
    assert found, "no manifests beside the reference cases"
    for path in found:
        manifest = json.loads(path.read_text())
        family: official.Family = "improved_diffusion" if path.name.startswith("improved") else "guided_diffusion"
        flags = {k: v for k, v in manifest["config"].items() if k != "readme_flags"}
        if "classifier_width" in flags:
            config = official.classifier_from_script_flags(flags).net
        else:
            config = official.model_from_script_flags(flags, family=family).net
        with torch.device("meta"):
            net = build(config)
        ours = {key: tuple(value.shape) for key, value in official.to_official(net.state_dict(), config).items()}
        theirs = {key: tuple(shape) for key, shape in manifest["state_dict"].items()}
        assert ours == theirs, path.name
        assert sum(p.numel() for p in net.parameters()) == manifest["parameters"]
