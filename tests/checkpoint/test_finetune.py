"""Training that begins from another model keeps what fits, and begins where that one stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.checkpoint.files import ANSWERS, NET, official_file

from mezzotint.checkpoint.finetune import begin, take_over
from mezzotint.checkpoint.loading import fresh, load
from mezzotint.configs import (
    ClassifyConfig,
    DataFacts,
    DenoisingConfig,
    DiscreteConfig,
    EncoderConfig,
    LabelConfig,
    Recipe,
    Spec,
    UNetConfig,
)
from mezzotint.errors import ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_objective, resolve
from mezzotint.pipelines.generate import Model
from mezzotint.registry import get
from mezzotint.types import Batch
from mezzotint.weights.io import WeightSet, save_model

GRAY = DataFacts(1, (8, 8), ("a", "b"))


def saved(tmp_path: Path) -> Path:
    """An official file as a model folder."""
    model = load(official_file(tmp_path / "x.pt"), device="cpu", settings=ANSWERS)
    assert isinstance(model, Model)
    save_model(tmp_path / "m", replace(model.spec, weights={}), [WeightSet(model.stage.denoiser.network.state_dict())])
    return tmp_path / "m"


def started(source: Path, recipe: Recipe, facts: DataFacts) -> tuple[Model, list[str]]:
    start = begin(source, recipe, facts)
    model = fresh(Spec(start.recipe, facts), device="cpu")
    lines = take_over(start, model)
    assert isinstance(model, Model)
    return model, lines


def small() -> Recipe:
    return get("recipe", "small")()


def test_all_is_kept_where_the_data_is_alike(tmp_path: Path) -> None:
    source = saved(tmp_path)
    recipe = replace(small(), label=LabelConfig(), net=UNetConfig(dropout=0.3))
    model, lines = started(source, recipe, DataFacts(3, (16, 16), ("a", "b", "c", "d")))
    old = load(source, device="cpu")
    assert isinstance(old, Model)
    total = len(old.stage.denoiser.network.state_dict())
    assert lines == [f"begins from {source}: {total} of {total} tensors kept"]
    assert all(
        torch.equal(a, b) for a, b in zip(model.stage.denoiser.network.parameters(), old.stage.denoiser.network.parameters(), strict=True)
    )
    assert model.spec.recipe.net == replace(NET, dropout=0.3) and model.spec.recipe.schedule == old.spec.recipe.schedule
    assert model.spec.recipe.optim == small().optim


def test_what_does_not_fit_begins_by_the_rule(tmp_path: Path) -> None:
    source = saved(tmp_path)
    model, lines = started(source, small(), GRAY)
    old = load(source, device="cpu")
    assert isinstance(old, Model)
    a, b = (m.stage.denoiser.network.state_dict() for m in (old, model))
    changed = ["label_embed.weight", "stem.weight", "head.conv.weight", "head.conv.bias"]
    assert [line.split()[2] for line in lines[1:]] == [name for name in b if name in changed]
    assert lines[0].endswith(f"{len(b) - 4} of {len(b)} tensors kept")
    torch.testing.assert_close(b["stem.weight"][:, 0], a["stem.weight"].sum(dim=1))
    torch.testing.assert_close(b["head.conv.weight"], torch.stack([a["head.conv.weight"][:3].mean(0), a["head.conv.weight"][3:].mean(0)]))
    torch.testing.assert_close(b["label_embed.weight"], a["label_embed.weight"].mean(dim=0).expand(3, -1))
    assert "label_embed.weight [3, 128] (was [4, 128]), each row as the mean of the old classes" in "\n".join(lines)
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([5.0, 500.0]), torch.tensor([0, 2])
    assert torch.isfinite(model.stage.denoiser.network(x, t, {"label": label})).all()


def test_the_null_class_stays(tmp_path: Path) -> None:
    model = load(official_file(tmp_path / "x.pt"), device="cpu", settings={**ANSWERS, "label.drop": 0.1})
    assert isinstance(model, Model)
    save_model(tmp_path / "m", replace(model.spec, weights={}), [WeightSet(model.stage.denoiser.network.state_dict())])
    begun, _ = started(tmp_path / "m", small(), DataFacts(3, (8, 8), ("a", "b")))
    a, b = (m.stage.denoiser.network.state_dict()["label_embed.weight"] for m in (model, begun))
    assert torch.equal(b[2], a[3])
    torch.testing.assert_close(b[0], a[:3].mean(dim=0))


def test_labels_come_and_go(tmp_path: Path) -> None:
    source = saved(tmp_path)
    _, lines = started(source, replace(small(), label=None), DataFacts(3, (8, 8)))
    assert lines[-1] == "left out: label_embed.weight [4, 128]" and len(lines) == 2
    without = fresh(
        Spec(resolve(replace(small(), net=replace(NET, num_classes=None), label=None), DataFacts(3, (8, 8))), DataFacts(3, (8, 8)))
    )
    assert isinstance(without, Model)
    save_model(tmp_path / "w", without.spec, [WeightSet(without.stage.denoiser.network.state_dict())])
    model, lines = started(tmp_path / "w", small(), DataFacts(3, (8, 8), ("a", "b")))
    assert not model.stage.denoiser.network.state_dict()["label_embed.weight"].any() and lines[1].endswith("(was absent), as zeros")


def test_training_starts_below_a_fresh_network(tmp_path: Path) -> None:
    # The source denoises flat images; gray ones of two classes are near enough.
    facts = DataFacts(3, (8, 8), ("a",))
    recipe = resolve(
        Recipe("x", "generate", replace(NET, out_channels=0, num_classes=None), DiscreteConfig(), DenoisingConfig(), label=LabelConfig()),
        facts,
    )
    source = fresh(Spec(recipe, facts), device="cpu")
    assert isinstance(source, Model)

    def loss(model: Model, channels: int, step: int, *, train: bool = True) -> torch.Tensor:
        levels = torch.linspace(-1, 1, 32)[:, None, None, None].expand(32, channels, 8, 8)
        batch = Batch(levels, ids=torch.arange(32), label=torch.zeros(32, dtype=torch.long))
        objective = build_objective(model.spec.recipe, model.stage)
        with torch.set_grad_enabled(train):
            return objective(batch, phase="denoise", step=step, noise=Noise(step, range(32))).total

    optimizer = torch.optim.Adam(source.stage.denoiser.parameters(), 2e-3)
    for step in range(60):
        optimizer.zero_grad()
        loss(source, 3, step).backward()
        optimizer.step()
    save_model(tmp_path / "m", source.spec, [WeightSet(source.stage.denoiser.network.state_dict())])
    own = Recipe("y", "generate", UNetConfig(), DiscreteConfig(), DenoisingConfig(), label=LabelConfig())
    begun, _ = started(tmp_path / "m", own, GRAY)
    anew = fresh(begun.spec, device="cpu")
    assert isinstance(anew, Model)
    assert loss(begun, 1, 999, train=False) < 0.6 * loss(anew, 1, 999, train=False)


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    classifier = Recipe(
        "c", "classify", EncoderConfig(width=16, mults=(1,), blocks=1, attention=(), heads=1), DiscreteConfig(), ClassifyConfig()
    )
    with pytest.raises(ConfigError, match="is a model of `mezzotint train`, and recipe 'c' is not"):
        begin(saved(tmp_path), classifier, GRAY)
