"""What the sampling loop, guidance and the random streams cost beside the network calls that they cannot do without.

Two measurements of one run. *Accounting*: the time inside the networks is taken by wrapping them; all else of ``Model.job`` and
``Model.run`` is overhead. *Interleaved*: after each step of the product the same network calls are made bare, and their times are compared
step by step; this one also sees what the product may do to the networks' own speed, but has the noise of the machine in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clock import CPU, WALL, Stopwatch, between, median, now
from mezzotint.classifier import NoisyClassifier
from mezzotint.configs import DataFacts, EncoderConfig, LabelConfig, Recipe, Spec, UNetConfig
from mezzotint.guidance import Classifier
from mezzotint.pipelines.build import build_classifier, build_stage, resolve
from mezzotint.pipelines.generate import Model
from mezzotint.recipes.adm import adm_cfg, adm_classifier

FACTS = DataFacts(channels=3, size=(32, 32), classes=tuple(f"class {k}" for k in range(10)))


def network(width: int) -> UNetConfig:
    """The U-Net of ADM for 32x32 images; about 10 M parameters at width 64."""
    return UNetConfig(
        width=width, mults=(1, 2, 2, 2), blocks=2, attention=(2, 4), head_channels=width, attention_order="new", resample="block"
    )


def generator(width: int) -> Model:
    recipe = resolve(replace(adm_cfg(), net=network(width), label=LabelConfig(drop=0.1)), FACTS)
    return Model(Spec(recipe, FACTS), build_stage(recipe), load=lambda path: None)


def classifier(width: int) -> NoisyClassifier:
    net = EncoderConfig(width=width // 2, mults=(1, 2, 2, 2), blocks=1, attention=(4,), head_channels=width // 2, attention_order="new")
    recipe: Recipe = resolve(replace(adm_classifier(), net=net), FACTS)
    return build_classifier(recipe).eval()


def bare_call(model: Model, noisy: NoisyClassifier | None, rows: int) -> Callable[[], None]:
    """One step's network calls, and nothing else."""
    net, x = model.stage.denoiser.network, torch.randn(rows, *model.shape)
    index, label = torch.full((rows,), 500.0), torch.arange(rows) % len(FACTS.classes)

    @torch.no_grad()
    def call() -> None:
        net(x, index, {"label": label})
        if noisy is not None:
            with torch.enable_grad():
                image = x.detach().requires_grad_(True)
                log_p = noisy.network(image, index, {}).log_softmax(dim=1).gather(1, label[:, None])
                torch.autograd.grad(log_p.sum(), image)

    return call


def overhead(model: Model, noisy: NoisyClassifier | None, *, guidance: Any, steps: int, batch: int, doubled: bool) -> dict[str, Any]:
    """Runs one batch of the product, with the bare calls between its steps.

    Args:
        model: The generator.
        noisy: The classifier that takes part, or None.
        guidance: As for ``Model.job``.
        steps: Number of ancestral steps.
        batch: Number of images.
        doubled: Whether the network is called with twice as many.
    """
    bare = bare_call(model, noisy, 2 * batch if doubled else batch)
    watch = Stopwatch()
    places: list[tuple[str, Any, str]] = [("network", model.stage.denoiser.network, "forward")]
    if noisy is not None:
        places += [("classifier forward", noisy.network, "forward"), ("classifier backward", torch.autograd, "grad")]
    bares: list[np.ndarray] = []
    products: list[np.ndarray] = []
    begin = now()

    def once() -> np.ndarray:
        watch.owner, start = None, now()
        bare()
        watch.owner = "product"
        return now() - start

    def on_step(step: int, total: int) -> None:
        nonlocal begin
        products.append(now() - begin)
        bares.append(once())
        begin = now()

    with watch.on(*places):
        bare()  # warm-up
        bares.append(once())
        begin = now()
        job = model.job(num=batch, batch_size=batch, steps=steps, grid="uniform", guidance=guidance, seed=1)
        images: Tensor = next(model.run(job, guidance=guidance, on_step=on_step)).trajectory.x
        products.append(now() - begin)  # what comes after the last step
    assert len(products) == steps + 1
    assert bool(images.isfinite().all())
    inside = np.sum(list(watch.seconds.values()), axis=0)
    outside = np.sum(products, axis=0) - inside
    # The first step has the planning in it, which the accounting counts.
    ratios = between(bares, products[:-1])[1:] - 1
    return {
        "images_in_network": 2 * batch if doubled else batch,
        "accounting": dict(zip(("wall", "cpu"), (outside / inside).tolist(), strict=True)),
        "interleaved": {"wall": median(ratios[:, WALL]), "cpu": median(ratios[:, CPU])},
        "ms_per_step_inside": dict(zip(("wall", "cpu"), (inside / steps * 1e3).tolist(), strict=True)),
        "ms_per_step_outside": dict(zip(("wall", "cpu"), (outside / steps * 1e3).tolist(), strict=True)),
    }


def measure(*, width: int, batch: int, steps: int, cases: Collection[str]) -> dict[str, Any]:
    """The overhead without guidance, with classifier-free guidance, and with a classifier, or for some of these."""
    torch.manual_seed(0)
    model, noisy = generator(width), classifier(width)
    by_classifier = [lambda inner: Classifier(inner, noisy, scale=1.0)]
    settings: dict[str, dict[str, Any]] = {
        "none": {"guidance": (), "noisy": None, "doubled": False},
        "classifier-free": {"guidance": ("cfg,scale=2",), "noisy": None, "doubled": True},
        "classifier": {"guidance": by_classifier, "noisy": noisy, "doubled": False},
    }
    found = {}
    for name in cases:
        print(f"measuring sampling, guidance: {name}", file=sys.stderr, flush=True)
        found[name] = overhead(model, steps=steps, batch=batch, **settings[name])
    return {
        "parameters": sum(p.numel() for p in model.stage.denoiser.parameters()),
        "classifier_parameters": sum(p.numel() for p in noisy.parameters()),
        "batch": batch,
        "steps": steps,
        "cases": found,
    }
