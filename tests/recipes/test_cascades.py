"""The stages of the small cascade belong together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mezzotint.configs import Recipe
from mezzotint.data import open_source
from mezzotint.registry import get
from mezzotint.resolution import reduce


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random 32x32 images, rough at every scale."""
    path = tmp_path_factory.mktemp("data") / "rough.npz"
    np.savez(path, arr_0=np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8))
    return path


def images(name: str, file: Path) -> torch.Tensor:
    recipe: Recipe = get("recipe", name)()
    return open_source(replace(recipe.data, path=str(file), flip=False)).batch(range(20)).images


@pytest.mark.parametrize("small, large", [("cdm-8", "cdm-8-16"), ("cdm-8-16", "cdm-16-32")])
def test_a_stage_trains_on_what_the_one_before_it_learns_to_make(small: str, large: str, file: Path) -> None:
    low: Any = get("recipe", large)().low_res
    seen, made = reduce(images(large, file), low.scale, down=low.down), images(small, file)
    assert (seen - made).abs().max().item() < 2 / 255 + 1e-6  # one gray level, of rounding
    assert (reduce(images(large, file), low.scale) - made).abs().max().item() > 20 / 255  # other rules differ
