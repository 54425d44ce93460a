"""Claims of super-resolution and cascades on digits from 4x4 to 8x8: the order of things, not their size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mezzotint import load
from mezzotint.cli import main
from mezzotint.configs import DataConfig
from mezzotint.data import Source, open_source
from mezzotint.data.samples import open_samples, read_manifest
from mezzotint.metrics.fidelity import consistency, psnr
from mezzotint.resolution import reduce
from mezzotint.tasks.cas import accuracy_score

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DIGITS = ("--data", "digits", "--data.split", "train", "--train.sample-every", "0")
SR3 = (*DIGITS, "--low-res.scale", "2", "--net.mults", "1", "2", "--net.attention", "2", "--train.images", "20000")
ADM = (
    *(*DIGITS, "--data.no-flip", "--train.precision", "fp32", "--train.batch", "64", "--train.images", "60000"),
    *("--optim.lr", "1e-3", "--optim.warmup", "640", "--ema.decays", "0.999"),
    *("--net.width", "32", "--net.mults", "1", "2", "--net.blocks", "1", "--net.attention", "2"),
)
BASE = (*ADM, "--data.size", "4", "4", "--net.head-channels", "16")
LARGE = (*ADM, "--data.size", "8", "8", "--net.heads", "4", "--low-res.scale", "2", "--schedule.steps", "1000")
AUGMENT = ("--low-res.augment", "cosine", "--low-res.augment-steps", "1000")


def digits(split: Any) -> Source:
    return open_source(DataConfig(path="digits", split=split))


def test_a_regression_is_nearer_and_sr3_has_more_than_one_answer(tmp_path: Path) -> None:
    """Equal networks. Both agree with what they begin from, far better than images that were made from something else.

    A digit of 4x4 pixels leaves little open: that SR3 looks more real shows where more is left open (see recipes/test_super_resolution.py).
    """
    torch.set_num_threads(1)
    for recipe in ("sr3-small", "sr3-regression-small"):
        assert main(["train", recipe, *SR3, "--out", str(tmp_path / recipe)]) == 0
    models: list[Any] = [load(tmp_path / recipe, device="cpu") for recipe in ("sr3-small", "sr3-regression-small")]
    sr3, regression = models
    source = digits("test")
    real = source.batch(range(len(source))).images
    low = reduce(real, 2)
    refined, at_once = sr3.sample(low_res=low, seed=1, batch_size=256).clamp(-1, 1), regression.sample(low_res=low).clamp(-1, 1)
    assert psnr(at_once, real).mean() >= psnr(refined, real).mean() > 10
    stranger = consistency(refined, low.roll(1, 0), 2).mean()
    assert consistency(at_once, low, 2).mean() < 0.01 * stranger and consistency(refined, low, 2).mean() < 0.1 * stranger
    again = sr3.sample(low_res=low[:50], seed=2).clamp(-1, 1)
    assert (again - refined[:50]).square().flatten(1).mean(dim=1).min() > 0
    assert torch.equal(regression.sample(low_res=low[:50], seed=2).clamp(-1, 1), at_once[:50])


def test_real_digits_teach_more_than_a_cascade_and_that_more_than_a_weak_base_enlarged(tmp_path: Path) -> None:
    """The upsampler of ADM, class-conditional; the weak base takes three steps and is enlarged bicubically."""
    torch.set_num_threads(1)
    base, large, both = (str(tmp_path / name) for name in ("base", "large", "both"))
    assert main(["train", "adm", *BASE, "--out", base]) == 0
    assert main(["train", "adm-upsampler-64-256", *LARGE, *AUGMENT, "--out", large]) == 0
    assert main(["cascade", base, large, "--out", both, "--stage", "1.grid=50", "--stage", "2.grid=25"]) == 0
    classes = ("--classes", ",".join(f"{k}=120" for k in range(10)), "--batch-size", "256")
    assert main(["sample", both, *classes, "--out", str(tmp_path / "good")]) == 0
    assert main(["sample", base, *classes, "--sampler", "ddim", "--steps", "3", "--out", str(tmp_path / "weak")]) == 0
    sources = {"real": digits("train")}
    for name, size in (("good", None), ("weak", (8, 8))):
        manifest = read_manifest(tmp_path / name)
        assert manifest is not None
        sources[name] = open_samples(tmp_path / name, manifest, DataConfig(size=size))
    test = digits("test")
    found = {name: accuracy_score(source, test, recipe="digits-classifier", images=4000).accuracy for name, source in sources.items()}
    assert found["real"] > found["good"] > found["weak"] + 0.05, found
