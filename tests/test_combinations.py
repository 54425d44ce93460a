"""Every sampler with every guidance on every kind of denoiser: it runs, and keeps the promise of the same image."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.pipelines.tiny import CLASSES, generator_spec, model_of
from torch import Tensor, nn

from mezzotint.classifier import NoisyClassifier
from mezzotint.configs import DenoiserConfig, DiscreteConfig, FlowConfig, SampleConfig, VEConfig, VPConfig
from mezzotint.guidance import ScoreShift
from mezzotint.registry import names
from mezzotint.schedules import build_schedule

DENOISERS: dict[str, tuple[Any, DenoiserConfig]] = {
    "adm": (DiscreteConfig(betas="linear", steps=1000), DenoiserConfig(predicts="eps", variance="learned_range")),
    "edm": (VEConfig(sigma_max=80.0), DenoiserConfig(predicts="edm", time_input="log_sigma")),
    "v": (VPConfig(shape="cosine"), DenoiserConfig(predicts="v", time_input="t_999")),
    "x0": (FlowConfig(), DenoiserConfig(predicts="x0", time_input="t")),
}


def towards_light(inner: Any) -> ScoreShift:
    return ScoreShift(inner, lambda x, t, cond: torch.ones_like(x), to=0.5)


GUIDANCES: dict[str, list[Any]] = {
    "cfg": ["cfg,scale=2"],
    "auto": ["auto,model=weaker,scale=2"],
    "classifier": ["classifier,model=judge,scale=5"],
    "all": [
        "cfg,scale=3,parallel=0,norm=8,to=50",
        "auto,model=weaker,scale=1.5,rescale=0.7,channels=2",
        "classifier,model=judge,scale=5",
        towards_light,
    ],
}
LOOSE = {  # those that choose their own steps would take many through an untrained network
    "ode": "ode,method=adaptive_heun,rtol=1,atol=1",
    "dpm_solver_adaptive": "dpm_solver_adaptive,rtol=0.5,atol=0.5,h_init=1",
}
SAMPLERS = [name for name in names("sampler") if name != "ddim_inversion"]


class Tiny(nn.Module):
    """Two convolutions that hear time and class; the class after the last is the null class."""

    accepts = frozenset({"label"})

    def __init__(self, out: int, seed: int, *, width: int = 6):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, out, 3, padding=1)
        self.embed = nn.Embedding(len(CLASSES) + 1, width)

    def forward(self, x: Tensor, time: Tensor, cond) -> Tensor:
        told = torch.sin(time / 100)[:, None] + (self.embed(cond["label"]) if "label" in cond else 0)
        return self.last(torch.nn.functional.silu(self.first(x) + told[:, :, None, None]))


class Pooled(Tiny):
    """The same as a classifier."""

    def forward(self, x: Tensor, time: Tensor, cond) -> Tensor:
        return super().forward(x, time, cond).mean(dim=(2, 3))


@cache
def model(kind: str) -> Any:
    """A model of 8x8 pictures with tiny networks, which finds those that guide it by name."""
    schedule, config = DENOISERS[kind]
    spec = generator_spec(size=(8, 8), schedule=schedule, denoiser=config, sample=SampleConfig())
    made, weaker = model_of(spec), model_of(spec)
    out = 6 if config.variance == "learned_range" else 3
    made.stage.denoiser.network, weaker.stage.denoiser.network = Tiny(out, 0), Tiny(out, 1, width=4)
    judge = NoisyClassifier(Pooled(len(CLASSES), 2), build_schedule(DiscreteConfig(betas="cosine", steps=100)))
    others = {"weaker": weaker, "judge": SimpleNamespace(classifier=judge, classes=CLASSES)}
    made._load = lambda name, **how: others[name]
    return made


def test_all_guidances_are_among_these() -> None:
    assert {text.partition(",")[0] for texts in GUIDANCES.values() for text in texts if isinstance(text, str)} == set(names("guidance"))


@pytest.mark.parametrize("kind", DENOISERS)
def test_each_guidance_has_an_effect(kind) -> None:
    images = [model(kind).sample(num=3, sampler="ddim", steps=3, guidance=guidance) for guidance in ((), *GUIDANCES.values())]
    assert all((a - b).abs().max() > 1e-3 for i, a in enumerate(images) for b in images[:i])


@pytest.mark.parametrize("kind", DENOISERS)
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_images_do_not_depend_on_their_batch(name, guidance, kind) -> None:
    """Within one level of 255 in batches of 1, 7 and 32, and in all bytes with ``exact``."""
    if name == "ode":
        pytest.importorskip("torchdiffeq")
    made = model(kind)
    how = {"sampler": LOOSE.get(name, name), "guidance": GUIDANCES[guidance], "steps": None if name in LOOSE else 3, "seed": 4}
    sizes = (3, 2, 1) if name == "ode" else (32, 7, 1)  # it integrates each image by itself, whatever the batch
    whole = made.sample(num=sizes[0], batch_size=sizes[0], **how)
    assert bool(whole.isfinite().all()) and (whole[0] - whole[1]).abs().max() > 0.01
    for ids in (range(sizes[1]), [sizes[1] - 1]):
        part = made.sample(ids=ids, batch_size=len(ids), **how)
        off = made.pixels(part).astype(int) - made.pixels(whole[list(ids)]).astype(int)
        assert np.abs(off).max() <= 1
    exact = made.sample(num=8, exact=True, **how)
    assert torch.equal(made.sample(ids=[6, 1], exact=True, **how), exact[[6, 1]])
