"""Trains, guides, samples, upscales and evaluates image diffusion models.

The names below are loaded when they are first used, so that importing the package does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mezzotint.checkpoint import fresh as fresh
    from mezzotint.checkpoint import load as load
    from mezzotint.configs import DataConfig as DataConfig
    from mezzotint.configs import Recipe as Recipe
    from mezzotint.data import Source as Source
    from mezzotint.data import open_source as open_source
    from mezzotint.errors import MezzotintError as MezzotintError
    from mezzotint.noise import Noise as Noise
    from mezzotint.pipelines.generate import ClassifierModel as ClassifierModel
    from mezzotint.pipelines.generate import Job as Job
    from mezzotint.pipelines.generate import Model as Model

    __version__: str

_HOMES = {
    "ClassifierModel": "mezzotint.pipelines.generate",
    "DataConfig": "mezzotint.configs",
    "Job": "mezzotint.pipelines.generate",
    "MezzotintError": "mezzotint.errors",
    "Model": "mezzotint.pipelines.generate",
    "Noise": "mezzotint.noise",
    "Recipe": "mezzotint.configs",
    "Source": "mezzotint.data",
    "fresh": "mezzotint.checkpoint",
    "load": "mezzotint.checkpoint",
    "open_source": "mezzotint.data",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("mezzotint")
        except PackageNotFoundError:  # run from a source tree that is not installed
            return "0+source"
    if name not in _HOMES:
        raise AttributeError(f"module 'mezzotint' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
