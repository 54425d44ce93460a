"""A two-phase objective on numbers, with a shared module; run as a script it trains in a process of its own."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from mezzotint.configs import (
    DataConfig,
    DataFacts,
    DenoisingConfig,
    DiscreteConfig,
    EMAConfig,
    OptimConfig,
    Recipe,
    Spec,
    TrainConfig,
    UNetConfig,
)
from mezzotint.errors import MezzotintError
from mezzotint.noise import Noise
from mezzotint.objectives.base import Objective
from mezzotint.train.trainer import Trainer
from mezzotint.types import Batch, Loss, Phase

DIM = 4


class Points:
    """Points of a plane; some of them may be poisoned with NaN, and the stream of ids is recorded."""

    def __init__(self, n: int = 40, *, poison: tuple[int, ...] = ()):
        self.points = torch.randn(n, DIM, generator=torch.Generator().manual_seed(1))
        self.points[list(poison)] = float("nan")
        self.fingerprint = hashlib.sha256(self.points.numpy().tobytes()).hexdigest()
        self.seen: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, ids, *, noise: Noise) -> Batch:
        self.seen.append(list(ids))
        shift = noise.normal((len(ids), DIM), name="shift") * 0.1
        return Batch(self.points[list(ids)] + shift, torch.tensor(ids))


class TwoPhases(Objective):
    """A critic that scores points (five steps) against a model that moves them (one step); both see through one trunk."""

    def __init__(self, *, critic_every: int = 1, fresh: bool = True):
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(DIM, 8), nn.Tanh())
        self.model = nn.Sequential(self.trunk, nn.Dropout(0.2), nn.Linear(8, DIM))
        self.critic = nn.Sequential(self.trunk, nn.Linear(8, 1))
        self.register_buffer("history", torch.zeros(3, dtype=torch.float64))
        self._phases = (
            Phase("critic", (self.critic,), repeats=5, every=critic_every, fresh_batch=fresh, optim=OptimConfig(lr=3e-3), ema=False),
            Phase("model", (self.model,), fresh_batch=fresh),
        )

    @property
    def phases(self):
        return self._phases

    @property
    def models(self):
        return {"model": self.model, "critic": self.critic}

    def forward(self, batch: Batch, *, phase: str, step: int, noise: Noise) -> Loss:
        n = len(batch.images)
        t = noise.uniform((n,), name="t")
        x = batch.images + t[:, None] * noise.normal((n, DIM), name="eps")
        if phase == "critic":
            each = (self.critic(x)[:, 0] - x.square().mean(1)) ** 2
        else:
            each = (self.model(x) - batch.images).square().mean(1) + 0.01 * self.critic(x)[:, 0].square()
        return Loss(each.mean() * (1 + 0.01 * self.get_buffer("history")[0].float()), each.detach(), t, {"size": x.detach().abs().mean()})

    def update(self, t: Tensor, per_sample: Tensor, *, phase: str) -> None:
        history = self.get_buffer("history")
        history[0] = 0.9 * history[0] + 0.1 * per_sample.mean()
        history[1] += t.sum()
        history[2] += 1


def spec(train: TrainConfig = TrainConfig(), workers: int = 0) -> Spec:
    """A spec with these settings; what it says of the network does not matter here."""
    recipe = Recipe("toy", "generate", UNetConfig(), DiscreteConfig(), DenoisingConfig(), train=train, data=DataConfig(workers=workers))
    return Spec(recipe, DataFacts())


def trainer(out: Path | str, *, source: Points | None = None, objective: Objective | None = None, workers: int = 0, **settings) -> Trainer:
    """A trainer of the toy objective; keywords of ``TrainConfig`` and of ``Trainer`` may be mixed."""
    own = {name: settings.pop(name) for name in ("resume", "on_sample", "optim", "ema", "watchers") if name in settings}
    train = TrainConfig(**{"images": 96, "batch": 8, "save_every": 32, "sample_every": 0, "log_every": 5, "keep": 0, **settings})
    optim = OptimConfig(lr=1e-2, warmup=16, decay="linear")
    given = {"optim": optim, "ema": EMAConfig(decays=(0.9, 0.5)), **own}
    return Trainer(objective or TwoPhases(), source or Points(), out=out, train=train, spec=spec(train, workers), **given)


class Stalling(Points):
    """Points that the second rank waits for at the fourth step."""

    def batch(self, ids, *, noise: Noise) -> Batch:
        if noise.step == 3 and os.environ["RANK"] == "1":
            time.sleep(9)
        return super().batch(ids, noise=noise)


def draw(models, images: int, path: Path) -> None:
    """A sample grid of a kind: bytes that depend on the average, and a draw from the global stream."""
    torch.randn(3)
    path.write_bytes(images.to_bytes(4, "big") + models["model"][2].weight.detach().numpy().tobytes())


def main() -> int:
    """Runs what the arguments say, each PLACE or PLACE:poison, PLACE:resume or PLACE:stall."""
    sources = {"poison": lambda: Points(poison=(3,)), "stall": Stalling}
    for argument in sys.argv[1:]:
        place, _, how = argument.partition(":")
        source = sources.get(how, Points)()
        timeout = 3 if how == "stall" else 60
        try:
            trainer(place, source=source, resume=how == "resume", micro_batch=2, timeout=timeout).run()
        except MezzotintError as error:
            print(f"toy: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
