"""``mezzotint covariance``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mezzotint.cli.arguments import parse
from mezzotint.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

    from mezzotint.configs import CovarianceConfig
    from mezzotint.data import Source
    from mezzotint.pipelines.generate import Model


@dataclass(frozen=True)
class Arguments:
    """Adds to a model what the optimal reverse variance needs; `mezzotint sample MODEL --variance optimal` then uses it.

    analytic: one number a noise level, from one pass over images. sn, npr: a second head, trained on the network as it is.
    heuristic: nothing is measured. The weights of the model are not changed.
    """

    model: tyro.conf.Positional[Path]
    """Model folder, or the folder of a training run."""
    data: str = ""
    """The data that the model was trained on, as for train."""
    kind: Literal["analytic", "sn", "npr", "heuristic"] = "analytic"
    """Where the variance comes from."""
    images: int = 1000
    """Images that analytic is measured on (10 to 100 are nearly as good), and --trajectory."""
    levels: int | None = None
    """Noise levels that analytic is measured at; without it all, or 100 of a continuous schedule."""
    train_images: int = 500_000
    """Images that the head of sn or npr is trained on, repeats included."""
    lr: float = 1e-4
    """Learning rate of the head."""
    head: Literal["simple", "block"] = "simple"
    """The head of sn and npr: a convolution, or a residual block that is told of the time before it."""
    average: bool = False
    """Take the mean of the variance over each image."""
    trajectory: Annotated[int, tyro.conf.arg(metavar="K")] = 0
    """Also print the K noise levels that make the bound smallest, for --grid; 0: do not."""
    ema: str = "on"
    """Moving average of the weights that is meant: its decay, on (the first one) or off (the weights as trained)."""
    batch_size: int = 128
    """Images in a pass or an optimiser step."""
    seed: int = 0
    """Seed of the noise."""


def run(command: str, words: list[str]) -> int:
    """Measures or trains, and stores the result with the model.

    Args:
        command: "covariance".
        words: The arguments.

    Raises:
        MezzotintError: A user's mistake.
    """
    given = parse(Arguments, words, prog=f"mezzotint {command}")
    from mezzotint.cli.sample import parse_ema

    ema = parse_ema(given.ema)
    if given.images < 1 or given.batch_size < 1 or given.train_images < 1:
        raise ConfigError("--images, --train-images and --batch-size must be at least 1")
    if not given.data and (given.kind != "heuristic" or given.trajectory):
        raise ConfigError(f"{given.kind} is measured on images; give --data, the data that the model was trained on")

    from mezzotint.checkpoint import load
    from mezzotint.configs import CovarianceConfig, DataConfig
    from mezzotint.data import open_source
    from mezzotint.pipelines.covariance import fit_to, save_variance
    from mezzotint.pipelines.generate import Model

    model = load(given.model, ema=ema)
    if not isinstance(model, Model):
        raise ConfigError(f"{given.model} is a classifier, which makes no images; give a model of `mezzotint train`")
    config = fit_to(model, CovarianceConfig(given.kind, given.head, given.average))
    source = None
    if given.data:
        stored = model.spec.recipe.data
        source = open_source(DataConfig(given.data, stored.size, stored.fit, stored.channels, split=stored.split))
    part, images = None, 0
    if source is not None and given.kind == "analytic":
        part, images = _measure(model, source, given), min(given.images, len(source))
    elif source is not None and given.kind != "heuristic":
        part, images = _train(model, source, given, config), given.train_images
    save_variance(model, config, part, images=images)
    print(f"{model.path} knows Var[x0 | x_t] by {given.kind}; use it by --variance optimal")
    if source is not None and given.trajectory:
        print(f"best {given.trajectory} levels: --grid times:{_trajectory(model, source, given)}")
    return 0


def _measure(model: Model, source: Source, given: Arguments) -> nn.Module:
    from tqdm import tqdm

    from mezzotint.moments import estimate_moments, knots
    from mezzotint.pipelines.covariance import encoded

    times, ids = knots(model.stage.schedule, given.levels), _spread(source, given.images)
    parts = encoded(model, source, ids, batch=given.batch_size, seed=given.seed)
    with tqdm(total=len(times) * -(-len(ids) // given.batch_size), unit="pass", desc="second moments") as bar:
        return estimate_moments(model.stage.denoiser, parts, times, on_pass=bar.update)


def _spread(source: Source, count: int) -> list[int]:
    """Evenly spaced images of a data set, which may be sorted by class."""
    count = min(count, len(source))
    return [i * len(source) // count for i in range(count)]


def _train(model: Model, source: Source, given: Arguments, config: CovarianceConfig) -> nn.Module:
    """Trains the second head with the one trainer, in a run folder that is removed in the end."""
    import tempfile
    from dataclasses import replace

    import torch

    from mezzotint.configs import EMAConfig, OptimConfig, TrainConfig
    from mezzotint.data import check_enough
    from mezzotint.moments import KnownVariance
    from mezzotint.objectives.covariance import CovarianceRegression
    from mezzotint.objectives.encoded import Encoded
    from mezzotint.pipelines.covariance import new_head
    from mezzotint.times import build_law
    from mezzotint.train.trainer import Trainer
    from mezzotint.weights.io import load_into, read_spec, read_weights

    batch = min(given.batch_size, len(source))
    check_enough(source, batch)
    torch.manual_seed(given.seed)
    head = new_head(model, config)
    stage = model.stage
    denoiser = KnownVariance(stage.denoiser, config, head)
    objective = CovarianceRegression(denoiser, stage.conditioner, build_law("uniform", stage.schedule))
    train = TrainConfig(images=given.train_images, batch=batch, seed=given.seed, sample_every=0, keep=1)
    optim = OptimConfig(lr=given.lr, clip=None)
    spec = replace(model.spec, recipe=replace(model.spec.recipe, train=train, optim=optim))
    with tempfile.TemporaryDirectory() as folder:
        whole = objective if config.largest is not None else Encoded(objective, stage.codec)
        trainer = Trainer(whole, source, out=Path(folder) / "head", train=train, optim=optim, ema=EMAConfig(), spec=spec)
        finished = trainer.run()
        head = head.to(model.device)
        load_into(head, read_weights(finished, read_spec(finished)), where=finished)
    return head.eval()


def _trajectory(model: Model, source: Source, given: Arguments) -> str:
    """The best times, noisiest first, as text."""
    from tqdm import tqdm

    from mezzotint.denoise import Bound
    from mezzotint.metrics.likelihood import bound_costs
    from mezzotint.moments import Moments, knots
    from mezzotint.pipelines.covariance import encoded
    from mezzotint.sample.trajectory import least_cost_path, path_from_moments

    schedule = model.stage.schedule
    if isinstance(model.variance_part, Moments):
        kept = path_from_moments(schedule, model.variance_part, given.trajectory)
        times = knots(schedule)[kept]
    else:
        choice, ids = knots(schedule, 100), _spread(source, given.images)
        parts = encoded(model, source, ids, batch=given.batch_size, seed=given.seed)
        with tqdm(total=len(choice) * -(-len(ids) // given.batch_size), unit="pass", desc="bound") as bar:
            costs = bound_costs(Bound(model.with_variance()), parts, choice, variance="optimal", on_pass=bar.update)
        times = choice[[n - 1 for n in least_cost_path(costs, given.trajectory)[1:]]]
    return ",".join(f"{t:.10g}" for t in times.flip(0).tolist())
