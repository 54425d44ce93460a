"""The cases would notice: each product function, made 1 % larger, breaks at least one case that goes through it."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity.harness import OWN, Case, discover, load_adapters, problems

from mezzotint.errors import MezzotintError

load_adapters()

FACTOR = 1.01
NETWORKS = "unet_forward superres_forward classifier_forward"
CHAIN = "sample_loop ddim_reverse"

# What is scaled -> (parts of its result, kinds of case of which one must fail). "" is the whole result; a kind without a system is one
# of guided_diffusion.
TARGETS: Mapping[str, tuple[str, str]] = {
    "schedules:betas": ("", "tables"),
    "schedules:Schedule.__call__": ("0 1", "q_functions"),
    "schedules:Discrete.log_alpha": ("", "tables"),
    "schedules:Discrete.position": ("", "tables p_mean_variance"),
    "process:expand": ("", "q_functions"),
    "process:add_noise": ("", "q_functions"),
    "process:to_x0": ("", "tables"),
    "process:from_x0": ("", "q_functions"),
    "process:target": ("", "training_losses"),
    "process:bridge": ("a b std", "tables"),
    "process:step_variance": ("", "tables"),
    "covariance:small_log_variance": ("", "tables"),
    "covariance:reverse_kernel": ("mean var log_var", "p_mean_variance"),
    "covariance:x0_variance": ("", "extended_analytic_dpm/second_moments"),
    "covariance:noise_cap": ("", "analytic_dpm/reverse"),
    "moments:Moments.at": ("", "analytic_dpm/reverse"),
    "moments:KnownVariance.forward": ("var", "extended_analytic_dpm/step"),
    "objectives.covariance:CovarianceRegression.terms": ("mean loss", "extended_analytic_dpm/criterion"),
    "metrics.likelihood:bound_costs": ("", "analytic_dpm/nelbo_terms"),
    "metrics.frechet:Moments.mean": ("", "metrics/fid_adm"),
    "metrics.frechet:Moments.cov": ("", "metrics/fid_adm"),
    "metrics.frechet:frechet_distance": ("", "metrics/fid_adm"),
    "metrics.inception:to_levels": ("", "metrics/inception_torch_fidelity"),
    "metrics.inception:resize_tf1": ("", "metrics/resize"),
    "metrics.inception:mean_pool": ("", "metrics/inception_pytorch_fid"),
    "metrics.inception:halve": ("", "metrics/inception_pytorch_fid"),
    "metrics.inception:InceptionNetwork.forward": ("pool spatial logits", "metrics/inception_torch_fidelity"),
    "metrics.inception_score:inception_score": ("value spread", "metrics/isc"),
    "metrics.kernel:polynomial": ("", "metrics/kid"),
    "metrics.kernel:gaussian": ("", "metrics/kid"),
    "metrics.kernel:squared_mmd": ("", "metrics/mmd"),
    "metrics.kernel:kid": ("value spread", "metrics/kid"),
    "metrics.precision_recall:squared_distances": ("", "metrics/prc_adm"),
    "metrics.precision_recall:neighbour_radii": ("", "metrics/prc_adm"),
    "metrics.precision_recall:precision_recall": ("precision recall", "metrics/prc"),
    "metrics.precision_recall:realism": ("0", "metrics/prc_adm"),
    "denoise:time_input": ("", "p_mean_variance"),
    "denoise:NetworkDenoiser.predict": ("value head", "p_mean_variance"),
    "denoise:NetworkDenoiser.posterior": ("mean", "p_mean_variance"),
    "denoise:NetworkDenoiser.own_s": ("", "training_losses p_mean_variance"),
    "denoise:Bound.forward": ("bounded", "p_mean_variance"),
    "classifier:class_gradient": ("0 1", "classifier_grad"),
    "classifier:NoisyClassifier.forward": ("", "classifier_grad"),
    "guidance:Classifier.forward": ("score_shift", "classifier_grad"),
    "guidance:ScoreShift.forward": ("score_shift", "sample_loop"),
    "objectives.variational:normal_kl": ("", "loss_functions"),
    "objectives.variational:normal_cdf": ("", "loss_functions"),
    "objectives.variational:discretized_log_likelihood": ("", "loss_functions"),
    "objectives.variational:bits_per_dim": ("", "training_losses"),
    "objectives.variational:prior_term": ("", "q_functions"),
    "objectives.variational:vlb_term": ("", "bpd_loop"),
    "objectives.variational:VLB.terms": ("loss", "training_losses"),
    "objectives.denoising:weight": ("", "training_losses"),
    "objectives.denoising:Denoising.terms": ("mse vlb loss", "training_losses"),
    "metrics.likelihood:vlb": ("total prior terms x0_mse eps_mse", "bpd_loop"),
    "priors:Gaussian.sample": ("0", "sample_loop"),
    "times:Importance.probabilities": ("", "resampler"),
    "times:Importance.draw": ("weight", "resampler"),
    "times:UniformLevels.draw": ("weight", "resampler"),
    "times:UniformLevels.at": ("t s", "tables"),
    "train.ema:decay_at": ("", "ema"),
    "train.ema:EMA.tensors": ("0 1", "ema"),
    "sample.grid:respaced": ("", "spacing"),
    "sample.grid:make_grid": ("", CHAIN),
    "sample.trajectory:kept_levels": ("", "analytic_dpm/choice_steps"),
    "sample.ancestral:Cap.__call__": ("", "analytic_dpm/reverse"),
    "sample.sde:EulerMaruyama.step": ("0", "extended_analytic_dpm/euler_maruyama"),
    "sample.base:draw": ("", CHAIN),
    "sample.ancestral:shifted": ("0 1", CHAIN),
    "sample.ancestral:Ancestral.step": ("0", CHAIN),
    "sample.ancestral:DDIM.step": ("0", CHAIN),
    "sample.ancestral:DDIMInversion.step": ("0", CHAIN),
    "sample.ode:Euler.step": ("0", "edm/sampler"),
    "sample.ode:lagrange_weights": ("", "k_diffusion/lms_coeff"),
    "sample.dpm_solver:DPMSolver.step": ("0", "dpm_solver/sample"),
    "sample.dpm_solver:DPMSolverAdaptive.step": ("0", "dpm_solver/sample"),
    "sample.unipc:UniPC.step": ("0", "unipc/sample"),
    "nn.embeddings:sinusoidal": ("", "time_embedding"),
    "nn.embeddings:TimeEmbedding.forward": ("", NETWORKS),
    "nn.attention:SelfAttention.forward": ("", NETWORKS),
    "nn.attention:split_qkv": ("0 1 2", NETWORKS),
    "nn.attention:merge_heads": ("", NETWORKS),
    "nn.attention:AttentionPool.forward": ("", "classifier_forward"),
    "nn.norm:GroupNorm.forward": ("", NETWORKS),
    "nn.resample:halve": ("", NETWORKS),
    "nn.resample:double": ("", NETWORKS),
    "nn.resample:Resample.forward": ("", NETWORKS),
    "nn.residual:ResidualBlock.forward": ("", NETWORKS),
    "nn.trunk:Block.forward": ("", NETWORKS),
    "nn.trunk:Middle.forward": ("", NETWORKS),
    "networks.encoder:AdaptiveHead.pool": ("", "classifier_forward"),
    "networks.encoder:AttentionHead.pool": ("", "classifier_forward"),
    "networks.encoder:SpatialHead.pool": ("", "classifier_forward"),
    "networks.unet:Head.forward": ("", "unet_forward"),
}


def larger(value: Any) -> Any:
    if isinstance(value, list):
        return [int(FACTOR * item) for item in value]
    return FACTOR * value if isinstance(value, float | torch.Tensor | np.ndarray) else value


def scaled(value: Any, part: str) -> Any:
    """A result with one of its parts made larger."""
    if not part:
        return larger(value)
    if isinstance(value, dict):
        return {**value, part: larger(value[part])} if part in value else value
    if hasattr(value, "_replace"):
        return value._replace(**{part: larger(getattr(value, part))})
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part: larger(getattr(value, part))})
    return tuple(larger(item) if i == int(part) else item for i, item in enumerate(value))


def scale(monkeypatch: pytest.MonkeyPatch, path: str, part: str) -> None:
    """Replaces a function wherever it has been imported, a method in its class."""
    module, _, name = path.partition(":")
    owner: Any = importlib.import_module(f"mezzotint.{module}")
    *outer, name = name.split(".")
    for part_of in outer:
        owner = getattr(owner, part_of)
    original = inspect.getattr_static(owner, name)

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return scaled(function(*args, **kwargs), part)

        return wrapper

    if isinstance(original, property):
        assert original.fget is not None
        monkeypatch.setattr(owner, name, property(wrap(original.fget)))
    elif isinstance(owner, type):
        monkeypatch.setattr(owner, name, wrap(original))
    else:
        changed = wrap(original)
        for at, importer in list(sys.modules.items()):
            if at.startswith(("mezzotint", "tests.parity.adapters")) and getattr(importer, name, None) is original:
                monkeypatch.setattr(importer, name, changed)


def disagrees(case: Case) -> bool:
    try:
        return bool(problems(case))
    except (AssertionError, IndexError, RuntimeError, ValueError, MezzotintError):
        return True


@pytest.fixture(scope="module")
def cases(request: pytest.FixtureRequest) -> list[Case]:
    reference = Path(request.config.getoption("--reference"))
    return [*discover(OWN), *(discover(reference) if reference.is_dir() else [])]


@pytest.mark.parametrize(("path", "part"), [(path, part) for path, (parts, _) in TARGETS.items() for part in parts.split() or [""]])
def test_one_percent_breaks_a_case(path: str, part: str, cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [kind if "/" in kind else f"guided_diffusion/{kind}" for kind in TARGETS[path][1].split()]
    relevant = [case for case in cases if f"{case.system}/{case.kind}" in kinds]
    if not relevant:
        pytest.skip("no cases of these kinds here; give a folder of reference cases with --reference DIR")
    scale(monkeypatch, path, part)
    assert any(disagrees(case) for case in relevant), f"no case of {kinds} notices {path} {part}"
