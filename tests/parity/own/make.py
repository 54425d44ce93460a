"""Makes the project's own parity cases, for clones without the reference folder: our numbers on our inputs, in the reference format.

``python -m tests.parity.own.make --reference DIR`` first runs all reference cases of the same systems, and stops unless they agree.
"""

from __future__ import annotations

import argparse
import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.parity.adapters.guided_diffusion import network_config
from tests.parity.harness import OWN, Case, discover, load_adapters, problems, run, weight

from mezzotint.checkpoint.official import guided_diffusion as official
from mezzotint.registry import get

UNET = {"image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 3, "num_res_blocks": 1}
UNET |= {"attention_resolutions": [2], "channel_mult": [1, 2], "num_heads": 2, "use_scale_shift_norm": True}
IMPROVED = {name: value for name, value in UNET.items() if name != "image_size"}
ENCODER = {**{k: v for k, v in UNET.items() if k != "num_heads"}, "out_channels": 5, "num_head_channels": 16, "resblock_updown": True}
SCRIPT = {"image_size": 16, "num_channels": 32, "num_res_blocks": 1, "attention_resolutions": "8", "timestep_respacing": "ddim20"}
SCRIPT |= {"channel_mult": "1,2", "learn_sigma": True, "noise_schedule": "cosine", "diffusion_steps": 200}
CLASSIFIER = {"image_size": 64, "classifier_width": 32, "classifier_depth": 1, "classifier_attention_resolutions": "8"}
CLASSIFIER |= {"classifier_pool": "adaptive", "diffusion_steps": 150}
RESPACED = {"noise_schedule": "cosine", "diffusion_steps": 120, "timestep_respacing": "ddim8"}
TABLES = ["betas", "alphas_cumprod", "alphas_cumprod_prev", "alphas_cumprod_next", "sqrt_alphas_cumprod"]
TABLES += ["sqrt_one_minus_alphas_cumprod", "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod"]
TABLES += ["posterior_variance", "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2", "timestep_map"]


@dataclass(frozen=True)
class Spec:
    """A case to be made. Inputs are shapes of normal numbers, or ready arrays; draws are shapes."""

    name: str
    kind: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Sequence[int] | np.ndarray] = field(default_factory=dict)
    draws: Sequence[Sequence[int]] = ()
    outputs: Sequence[str] = ()
    system: str = "guided_diffusion"


def floats(*values: float) -> np.ndarray:
    return np.asarray(values, dtype=np.float32)


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, dtype=np.int64)


IMAGE = (2, 3, 5, 4)
PIXELS = {"M": floats(0.1, -0.3, 0.2), "S": floats(0.4, 0.2, 0.5)}
GUIDE = {"centres": (3, 3), "y": ints(2, 0)}
X0 = np.random.default_rng(0).integers(0, 256, IMAGE).astype(np.float32) / np.float32(127.5) - np.float32(1)
TIMES = {"timesteps": floats(3, 70)}
LOSS = {"x_start": X0, "noise": IMAGE, "t": ints(0, 5)}

SPECS = (
    Spec("unet", "unet_forward", {"UNetModel": {**UNET, "num_classes": 4}}, {"x": (2, 3, 8, 8), **TIMES, "y": ints(1, 3)}),
    Spec("unet_blocks", "unet_forward", {"UNetModel": {**UNET, "resblock_updown": True}}, {"x": (2, 3, 8, 8), **TIMES}),
    Spec("unet_pool", "unet_forward", {"UNetModel": {**UNET, "conv_resample": False}}, {"x": (2, 3, 8, 8), **TIMES}),
    Spec(
        "unet_gradients",
        "unet_param_grad",
        {"UNetModel": {**UNET, "use_new_attention_order": True}, "parameters": ["input_blocks.2.0.op.bias", "middle_block.1.qkv.bias"]},
        {"x": (2, 3, 8, 8), **TIMES, "w": (2, 3, 8, 8)},
    ),
    Spec("superres", "superres_forward", {"SuperResModel": UNET}, {"x": (2, 3, 8, 8), "low_res": (2, 3, 4, 4), **TIMES}),
    *(
        Spec(f"classifier_{pool}", "classifier_forward", {"EncoderUNetModel": {**ENCODER, "pool": pool}}, {"x": (2, 3, 8, 8), **TIMES})
        for pool in ("adaptive", "attention", "spatial", "spatial_v2")
    ),
    Spec(
        "classifier_gradient",
        "classifier_grad",
        {"EncoderUNetModel": {**ENCODER, "pool": "attention"}, "classifier_scale": 2.5},
        {"x": (2, 3, 8, 8), **TIMES, "y": ints(4, 1)},
    ),
    Spec(
        "flags_model",
        "script_model",
        {"flags": SCRIPT},
        {"x": (1, 3, 8, 8), "timesteps": floats(41)},
        outputs=["y", "timestep_map", "betas", "rescale_timesteps", "types"],
    ),
    Spec(
        "flags_classifier",
        "script_classifier",
        {"flags": CLASSIFIER},
        {"x": (1, 3, 16, 16), "timesteps": floats(41)},
        outputs=["logits", "timestep_map", "betas", "rescale_timesteps", "types"],
    ),
    Spec("tables", "tables", {"noise_schedule": "linear", "diffusion_steps": 40}, outputs=TABLES[:-1]),
    Spec("tables_respaced", "tables", RESPACED, outputs=TABLES),
    Spec("spacing", "spacing", {"requests": [[120, "ddim8"], [120, "17"], [33, "4,2,3"], [12, "ddim11"], [5, "3,3"]]}),
    Spec("q", "q_functions", RESPACED, LOSS),
    *(
        Spec(
            f"p_mean_variance_{mean}_{variance}".lower(),
            "p_mean_variance",
            {"noise_schedule": "linear", "diffusion_steps": 60, "model_mean_type": mean, "model_var_type": variance, "clip_denoised": clip}
            | ({"denoised_fn": "0.8*x", "rescale_timesteps": True} if mean == "START_X" else {}),
            {"x": IMAGE, "t": ints(0, 33), "A": ((6 if "LEARNED" in variance else 3), 3)},
        )
        for mean, variance, clip in (
            ("PREVIOUS_X", "LEARNED", True),
            ("START_X", "FIXED_LARGE", False),
            ("EPSILON", "LEARNED_RANGE", True),
            ("EPSILON", "FIXED_SMALL", False),
        )
    ),
    *(
        Spec(
            f"losses_{loss}_{mean}_{variance}".lower(),
            "training_losses",
            {**RESPACED, "loss_type": loss, "model_mean_type": mean, "model_var_type": variance},
            {**LOSS, "A": ((6 if "LEARNED" in variance else 3), 3)},
        )
        for loss, mean, variance in (
            ("MSE", "EPSILON", "LEARNED_RANGE"),
            ("RESCALED_MSE", "START_X", "LEARNED_RANGE"),
            ("KL", "EPSILON", "FIXED_SMALL"),
            ("RESCALED_KL", "START_X", "FIXED_LARGE"),
        )
    ),
    Spec(
        "losses_previous_x",
        "training_losses",
        {
            "noise_schedule": "linear",
            "diffusion_steps": 60,
            "loss_type": "MSE",
            "model_mean_type": "PREVIOUS_X",
            "model_var_type": "LEARNED",
        },
        {**LOSS, "A": (6, 3)},
    ),
    Spec(
        "bpd",
        "bpd_loop",
        {**RESPACED, "model_mean_type": "EPSILON", "model_var_type": "LEARNED_RANGE", "loss_type": "RESCALED_KL", "clip_denoised": True},
        {"x_start": X0, **PIXELS, "V": (3, 3)},
        draws=[IMAGE] * 8,
    ),
    Spec(
        "sample_guided",
        "sample_loop",
        {**RESPACED, "shape": IMAGE, "loop": "p_sample_loop", "model_var_type": "LEARNED_RANGE", "clip_denoised": True},
        {**PIXELS, "V": (3, 3), **GUIDE},
        draws=[IMAGE] * 9,
    ),
    Spec(
        "sample_fixed_large",
        "sample_loop",
        {**RESPACED, "shape": IMAGE, "loop": "p_sample_loop", "model_var_type": "FIXED_LARGE", "clip_denoised": False},
        PIXELS,
        draws=[IMAGE] * 9,
    ),
    Spec(
        "ddim_guided",
        "sample_loop",
        {**RESPACED, "shape": IMAGE, "loop": "ddim_sample_loop", "eta": 0.3, "clip_denoised": True, "rescale_timesteps": True},
        {**PIXELS, **GUIDE},
        draws=[IMAGE] * 9,
    ),
    Spec("ddim_reverse", "ddim_reverse", {**RESPACED, "clip_denoised": False}, {"x_start": X0, **PIXELS}),
    Spec(
        "loss_functions",
        "loss_functions",
        {},
        dict.fromkeys(("mean1", "logvar1", "mean2", "logvar2", "means", "log_scales"), (3, 4)) | {"x": X0[0, 0, :3]},
    ),
    Spec("time_embedding", "time_embedding", {"dim_and_max_period": [[10, 10000], [7, 300]]}, {"timesteps": floats(0, 0.5, 17, 999)}),
    Spec(
        "resampler",
        "resampler",
        {"num_timesteps": 4, "history_per_term": 3, "uniform_prob": 0.01, "batch_size": 9, "numpy_global_seed": 5},
        {"ts": np.random.default_rng(1).integers(0, 4, (20, 3)), "losses": np.random.default_rng(2).random((20, 3))},
    ),
    Spec("ema", "ema", {"rates": [0.9, 0.99]}, {"start_0": (2, 3), "start_1": (4,), "steps_0": (5, 2, 3), "steps_1": (5, 4)}),
    Spec(
        "unet",
        "unet_forward",
        {"UNetModel": {**IMPROVED, "num_heads_upsample": 4}},
        {"x": (2, 3, 8, 8), **TIMES},
        system="improved_diffusion",
    ),
    Spec(
        "superres",
        "superres_forward",
        {"SuperResModel": {**IMPROVED, "use_scale_shift_norm": False}},
        {"x": (2, 3, 8, 8), "low_res": (2, 3, 4, 4), **TIMES},
        system="improved_diffusion",
    ),
    Spec(
        "flags_model",
        "script_model",
        {"flags": SCRIPT},
        {"x": (1, 3, 8, 8), "timesteps": floats(41)},
        outputs=["y", "timestep_map", "betas", "types"],
        system="improved_diffusion",
    ),
)


def numbers(spec: Spec) -> dict[str, np.ndarray]:
    """The inputs and draws of a case, as they are stored."""
    rng = np.random.default_rng(zlib.crc32(f"{spec.system}/{spec.name}".encode()))
    arrays = {
        f"in_{name}": given if isinstance(given, np.ndarray) else rng.standard_normal(given).astype(np.float32)
        for name, given in spec.inputs.items()
    }
    if spec.draws:
        arrays["noise"] = np.stack([rng.standard_normal(shape) for shape in spec.draws]).astype(np.float32)
    return arrays


def nudged(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with every fractional number moved by one unit in the last place, except pixels, which stay on their levels."""
    rng = np.random.default_rng(0)
    return {
        name: np.nextafter(value, np.where(rng.random(value.shape) < 0.5, -np.inf, np.inf)).astype(value.dtype)
        if value.dtype.kind == "f" and name not in ("in_timesteps", "in_x_start")
        else value
        for name, value in arrays.items()
    }


def state_dict(case: Case) -> list[dict[str, Any]]:
    """The record of the filled weights, as in the reference folders."""
    config = network_config(case)
    shapes = {key: list(value.shape) for key, value in official.to_official(get(*config.kind)(config).state_dict(), config).items()}
    flat = np.concatenate([weight(key, shape, 0.05).numpy().astype(np.float64).ravel() for key, shape in shapes.items()])
    sums = {"filled_values": flat.size, "sum": float(flat.sum()), "sum_of_squares": float((flat**2).sum())}
    return [{"tag": "model", "scale": 0.05, **sums, "state_dict": [[key, shape, "filled"] for key, shape in shapes.items()]}]


def results(case: Case) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(value.detach() if isinstance(value, torch.Tensor) else value).astype("int64" if _whole(value) else _float(value))
        for name, value in run(case).items()
    }


def _whole(value: Any) -> bool:
    return str(value.dtype).rpartition(".")[2].startswith(("int", "bool"))


def _float(value: Any) -> str:
    return "float64" if str(value.dtype).endswith("float64") else "float32"


def limits(expected: np.ndarray, moved: np.ndarray) -> tuple[float, float]:
    """Relative and absolute tolerance: a base for the type, and five times what one unit in the last place of the inputs does."""
    if expected.dtype.kind != "f":
        return 0.0, 0.0
    finite = np.isfinite(expected)
    size = float(np.sqrt(np.mean(expected[finite] ** 2))) if finite.any() else 0.0
    base = 1e-9 if expected.dtype == np.float64 else 2e-5
    return (1e-9 if base < 1e-8 else 1e-4), max(base * max(size, 1e-3), 5 * float(np.abs(expected - moved)[finite].max(initial=0)))


def make(spec: Spec, folder: Path) -> dict[str, Any]:
    """Writes the arrays of a case and returns its entry of ``cases.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = numbers(spec)
    row: dict[str, Any] = {"name": spec.name, "kind": spec.kind, "config": spec.config, "npz": f"{spec.name}.npz"}
    row["inputs"] = {n[3:]: {"shape": list(v.shape), "dtype": str(v.dtype)} for n, v in arrays.items() if n.startswith("in_")}
    row["outputs"] = {name: {} for name in spec.outputs}
    if any(isinstance(setting, dict) for setting in spec.config.values()):  # arguments of a network, or flags
        row["weights"] = {"rule": "crc32 fill", "scale": 0.05, "file": f"state_dicts/{spec.name}.json"}
        path = folder / row["weights"]["file"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(state_dict(Case(folder, spec.system, row))) + "\n", encoding="utf-8")
    if spec.draws:
        row["noise"] = {"arrays": "noise", "calls": len(spec.draws)}

    def outputs(given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        np.savez_compressed(folder / row["npz"], **given)
        return results(Case(folder, spec.system, row))

    moved = outputs(nudged(arrays))
    expected = outputs(arrays)
    np.savez_compressed(folder / row["npz"], **arrays, **{f"out_{name}": value for name, value in expected.items()})
    row["outputs"] = {name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in expected.items()}
    both = {name: limits(value, moved[name]) for name, value in expected.items()}
    row["tolerance"] = {"rtol": max(r for r, _ in both.values()), "atol": {name: atol for name, (_, atol) in both.items()}}
    return row


def make_all(target: Path) -> None:
    """Writes all cases into ``target/<system>/``."""
    for system in dict.fromkeys(spec.system for spec in SPECS):
        rows = [make(spec, target / system) for spec in SPECS if spec.system == system]
        listed = ",\n".join(json.dumps(row) for row in rows)
        text = f'{{"system": "{system}", "source": "mezzotint", "cases": [\n{listed}\n]}}\n'
        (target / system / "cases.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, required=True, metavar="DIR")
    reference = parser.parse_args().reference
    load_adapters()
    systems = {spec.system for spec in SPECS}
    cases = [case for case in discover(reference) if case.system in systems]
    wrong = [f"{case}: {'; '.join(found)}" for case in cases if (found := problems(case))]
    if wrong or not cases:
        sys.exit("\n".join([*wrong, f"{len(wrong)} of {len(cases)} reference cases disagree; nothing was written"]))
    make_all(OWN)


if __name__ == "__main__":
    main()
