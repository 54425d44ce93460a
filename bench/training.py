"""A training step of mezzotint against the same network in diffusers, trained by the plain loop of its documentation.

mezzotint's side is a real ``Trainer.run`` with all that it does: random streams, law of times, gradient norm and clipping, AdamW, a moving
average of the weights, meters and log. Its data source is asked for a batch at the start of each step; there the plain loop makes its own
step, so that the two alternate in one process.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from clock import CPU, WALL, Stopwatch, between, gemm_rate, median, now
from mezzotint.configs import DataFacts, DenoiserConfig, EMAConfig, OptimConfig, Spec, TrainConfig
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, build_stage, resolve
from mezzotint.recipes.ddpm import ddpm
from mezzotint.train.ema import EMA
from mezzotint.train.trainer import Trainer
from mezzotint.types import Batch
from sampling import network

WARM_UP = 3
LR, CLIP = 1e-4, 1.0
PARTS = ("forward", "backward", "clipping", "optimiser", "average")


class _Enough(Exception):
    """Ends the trainer's run when everything is measured."""


class Alternating:
    """A data source that makes a step of the plain loop before it hands out each batch.

    Attributes:
        plain: Time of each step of the plain loop, each ``[2]``.
        product: Time of each step of the trainer, which lies between two of those.
    """

    fingerprint = "random"

    def __init__(self, batch: int, steps: int, plain_step: Callable[[Tensor], None], watch: Stopwatch):
        self.images = torch.rand(batch, 3, 32, 32) * 2 - 1
        self.steps, self.plain_step, self.watch = steps, plain_step, watch
        self.plain: list[np.ndarray] = []
        self.product: list[np.ndarray] = []
        self._began: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: Sequence[int], *, noise: Noise) -> Batch:
        """The images; the noise is not used, since nothing is augmented."""
        if self._began is not None:
            self.product.append(now() - self._began)
        if len(self.product) == WARM_UP:
            self.watch.seconds.clear()
        self.watch.owner, begin = "plain", now()
        self.plain_step(self.images)
        self.plain.append(now() - begin)
        if len(self.product) == self.steps + WARM_UP:
            raise _Enough
        self.watch.owner, self._began = "product", now()
        return Batch(self.images, torch.tensor(ids))


def counterpart(width: int) -> UNet2DModel:
    """The network of ``sampling.network`` as diffusers has it."""
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(width, 2 * width, 2 * width, 2 * width),
        layers_per_block=2,
        down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=width,
        resnet_time_scale_shift="scale_shift",
    )


def plain_loop(model: UNet2DModel) -> Callable[[Tensor], None]:
    """One step as in diffusers' training tutorial, without its log and its learning-rate schedule."""
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    model.train()

    def step(clean: Tensor) -> None:
        noise = torch.randn(clean.shape)
        t = torch.randint(0, 1000, (len(clean),))
        predicted = model(scheduler.add_noise(clean, noise, t), t, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        F.mse_loss(predicted, noise).backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def flops(call: Callable[[Tensor, Tensor], Tensor], batch: int) -> int:
    """Floating-point operations of a forward and backward pass; attention is counted by its matrix products."""
    x, t = torch.randn(batch, 3, 32, 32), torch.arange(batch).float()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call(x, t).sum().backward()
    return counter.get_total_flops()


def measure(*, width: int, batch: int, steps: int) -> dict[str, Any]:
    """Both training steps, side by side."""
    print("measuring training", file=sys.stderr, flush=True)
    torch.manual_seed(0)
    facts = DataFacts(channels=3, size=(32, 32))
    train = TrainConfig(images=10**9, batch=batch)
    optim, ema = OptimConfig(lr=LR, clip=CLIP), EMAConfig()
    recipe = replace(ddpm(), net=network(width), denoiser=DenoiserConfig(), train=train, optim=optim, ema=ema)
    recipe = resolve(recipe, facts)
    stage = build_stage(recipe)
    net, other = stage.denoiser.network, counterpart(width)
    ours = flops(lambda x, t: net(x, t, {}), batch)
    theirs = flops(lambda x, t: other(x, t, return_dict=False)[0], batch)
    for each in (net, other):
        each.zero_grad(set_to_none=True)

    watch = Stopwatch()
    source = Alternating(batch, steps, plain_loop(other), watch)
    rates = [gemm_rate()]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        trainer = Trainer(
            build_objective(recipe, stage), source, out=Path(folder) / "run", train=train, optim=optim, ema=ema, spec=Spec(recipe, facts)
        )
        with (
            watch.on(
                ("forward", net, "forward"),
                ("forward", other, "forward"),
                ("backward", torch.autograd, "backward"),
                ("clipping", nn.utils, "clip_grad_norm_"),
                ("clipping", nn.utils, "get_total_norm"),
                ("clipping", nn.utils, "clip_grads_with_norm_"),
                ("optimiser", torch.optim.AdamW, "step"),
                ("average", EMA, "update"),
            ),
            contextlib.suppress(_Enough),
        ):
            trainer.run()
    rates.append(gemm_rate())
    rate = np.mean(rates, axis=0)

    plain, product = source.plain[WARM_UP:], source.product[WARM_UP:]
    ratios = 1 / between(plain, product)
    return {
        "batch": batch,
        "steps": steps,
        "gemm_gflops_per_second": dict(zip(("wall", "cpu"), (rate / 1e9).tolist(), strict=True)),
        "flops_ratio": ours / theirs,
        "speed_ratio": {"wall": median(ratios[:, WALL]), "cpu": median(ratios[:, CPU])},
        "sides": {
            "mezzotint": _side(product, "product", ours, net, batch, rate, watch),
            "diffusers": _side(plain, "plain", theirs, other, batch, rate, watch),
        },
    }


def _side(spans: list[np.ndarray], owner: str, work: int, net: nn.Module, batch: int, rate: np.ndarray, watch: Stopwatch) -> dict[str, Any]:
    seconds = np.median(spans, axis=0)
    parts = {name: float(watch.seconds[owner, name][CPU]) / len(spans) * 1e3 for name in PARTS}
    parts["rest"] = float(np.mean(spans, axis=0)[CPU]) * 1e3 - sum(parts.values())
    clocks = ("wall", "cpu")
    return {
        "parameters": sum(p.numel() for p in net.parameters()),
        "gflops_per_step": work / 1e9,
        "ms_per_step": dict(zip(clocks, (seconds * 1e3).tolist(), strict=True)),
        "images_per_second": dict(zip(clocks, (batch / seconds).tolist(), strict=True)),
        "fraction_of_gemm": dict(zip(clocks, (work / seconds / rate).tolist(), strict=True)),
        "cpu_ms_of_parts": parts,
    }
