"""Several models in a row, used like one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pipelines.tiny import classifier_spec, generator_spec, model_of, saved
from torch import Tensor, nn

from mezzotint.checkpoint import load
from mezzotint.checkpoint.joining import join, set_stage
from mezzotint.configs import DenoiserConfig, DenoisingConfig, LabelConfig, LowResConfig, SampleConfig, SR3Config
from mezzotint.errors import CapabilityError, CheckpointError, ConfigError
from mezzotint.pipelines.cascade import Cascade, parse_stages, stage_seed
from mezzotint.pipelines.generate import Job, Model
from mezzotint.resolution import enlarge

NOISY = LowResConfig(scale=2, augment="cosine", augment_steps=1000)


def base_spec(**changes: Any):
    return generator_spec(**{"sample": SampleConfig(grid="5"), **changes})


def up_spec(**changes: Any):
    return generator_spec(size=(8, 8), **{"low_res": NOISY, "sample": SampleConfig(steps=4), **changes})


def cascade(*specs: Any) -> Cascade:
    return Cascade([model_of(spec) for spec in specs or (base_spec(), up_spec())])


# --- what it makes -------------------------------------------------------------------------------------------------------


def test_the_second_stage_enlarges_the_images_of_the_first() -> None:
    whole = cascade()
    made = whole.sample(num=3, classes=None, seed=7)
    assert made.shape == (3, 3, 8, 8) and whole.shape == (3, 8, 8)
    small = whole.stages[0].sample(num=3, seed=7)  # the first stage has its own streams
    by_hand = whole.stages[1].sample(low_res=small, seed=stage_seed(7, 2))
    assert torch.equal(made, by_hand)
    assert not torch.equal(made, whole.sample(num=3, seed=8)) and len({stage_seed(7, k) for k in range(1, 5)}) == 4


@pytest.mark.parametrize("truncated", [False, True])
def test_image_k_depends_on_its_id_alone(truncated) -> None:
    whole, settings = cascade(), {2: {"level": 0.3, "truncated": truncated}}
    made = whole.sample(num=5, seed=1, stages=settings, batch_size=2)
    alone = whole.sample(ids=[3], seed=1, stages=settings)
    torch.testing.assert_close(alone, made[3:4], atol=1e-5, rtol=0)
    exact = whole.sample(num=5, seed=1, stages=settings, exact=True)
    assert torch.equal(whole.sample(ids=[4, 1], seed=1, stages=settings, exact=True), exact[[4, 1]])
    assert not torch.equal(made[0], whole.sample(num=1, seed=1)[0])  # the level counts


def test_three_stages_and_classes_by_name() -> None:
    large = generator_spec(size=(16, 16), low_res=LowResConfig(scale=2), sample=SampleConfig(steps=2))
    whole = cascade(base_spec(), up_spec(), large)
    job = whole.job(classes="cat=1,7=2")
    assert job.labels == (0, 2, 2) and whole.num_steps(job) == 5 + 4 + 2
    (chunk,) = whole.run(job)
    assert chunk.labels == (0, 2, 2) and chunk.trajectory.x.shape == (3, 3, 16, 16)


def test_a_stage_without_labels_goes_with_one_that_has_them() -> None:
    whole = cascade(base_spec(), up_spec(label=None))
    assert whole.job(num=4).labels == (0, 1, 2, 0)
    assert not torch.equal(*(whole.sample(classes={name: 1}) for name in ("cat", "dog")))
    other = cascade(base_spec(label=None, classes=()), up_spec())
    assert other.job(classes="dog=2").labels == (1, 1) and other.sample(classes="dog=2").shape == (2, 3, 8, 8)


def test_a_cascade_of_enlargers_begins_from_an_image() -> None:
    large = generator_spec(size=(16, 16), low_res=LowResConfig(scale=2), sample=SampleConfig(steps=2))
    whole = cascade(up_spec(), large)
    assert whole.sample(low_res=torch.zeros(2, 3, 4, 4)).shape == (2, 3, 16, 16)
    with pytest.raises(CapabilityError, match="mezzotint upscale"):
        whole.sample(num=1)


# --- the level -----------------------------------------------------------------------------------------------------------


class Recorder(nn.Module):
    """In the place of the second network: keeps what it is told of the low resolution."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.accepts, self.seen = inner, inner.accepts, []

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        self.seen.append({name: value.clone() for name, value in cond.items()})
        return x.new_zeros(len(x), self.inner.out_channels, *x.shape[2:])


class ExactGaussian(nn.Module):
    """In the place of the first network: the exact eps of pixels N(0.3, 0.2^2)."""

    accepts = frozenset[str]()

    def __init__(self, alpha_bar: Tensor):
        super().__init__()
        self.alpha_bar = nn.Parameter(alpha_bar, requires_grad=False)

    def forward(self, x: Tensor, index: Tensor, cond: Any) -> Tensor:
        alpha_bar = self.alpha_bar[index.round().long()].to(x.dtype)[:, None, None, None]
        return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * 0.3) / (alpha_bar * 0.04 + 1 - alpha_bar)


def seen(whole: Cascade, num: int = 4, **level: Any) -> dict[str, Tensor]:
    """What the last stage is told of the low resolution."""
    network = Recorder(whole.stages[-1].stage.denoiser.network)
    whole.stages[-1].stage.denoiser.network = network
    whole.sample(num=num, stages={2: {"steps": 1, **level}}, batch_size=num)
    whole.stages[-1].stage.denoiser.network = network.inner
    return network.seen[0]


def test_level_0_is_plain_cascading_in_both_forms() -> None:
    whole = cascade()
    plain = seen(whole)
    small = whole.stages[0].sample(num=4)
    assert torch.equal(plain["low_res"], enlarge(small, (8, 8))) and plain["low_res_level"].tolist() == [0] * 4
    for truncated in (False, True):
        again = seen(whole, level=0.0, truncated=truncated)
        assert all(torch.equal(again[name], value) for name, value in plain.items())


def test_truncated_hands_the_noisy_state_on_as_it_is() -> None:
    whole = cascade()
    told = seen(whole, level=0.4, truncated=True)
    base = whole.stages[0]
    plan = base.plan(base.job(num=1))
    kept = [t for t in plan.grid[:, 0].tolist() if t > 0.4]
    z = base.sample(num=4, grid="times:" + ",".join(map(repr, kept)), end=0.4)
    assert torch.equal(told["low_res"], enlarge(z, (8, 8))) and told["low_res_level"].tolist() == [0.4] * 4
    assert z.abs().max() > 1  # it is not clipped
    job = whole.job(num=1, stages={2: {"level": 0.4, "truncated": True}})
    assert whole.num_steps(job) == len(kept) + 4 and whole.num_steps(job) < whole.num_steps(whole.job(num=1))


def test_both_forms_agree_for_an_exact_base() -> None:
    """z_s has the mean alpha m and the variance alpha^2 s^2 + sigma^2 in either form."""
    whole = Cascade([model_of(base_spec(label=None, classes=(), denoiser=DenoiserConfig())), model_of(up_spec(label=None, classes=()))])
    base = whole.stages[0]
    alpha, _ = base.stage.schedule(base.stage.schedule.levels)
    base.stage.denoiser.network = ExactGaussian(alpha**2)
    base.spec = replace(base.spec, recipe=replace(base.spec.recipe, sample=SampleConfig("ddim", 200, clip=False)))
    low = whole.stages[1].stage.conditioner.schedule
    a, sigma = (float(v) for v in low(torch.tensor([0.35], dtype=torch.float64)))
    wanted = torch.full((3, 8, 8), a * 0.3)
    moments = []
    for truncated in (False, True):
        z = seen(whole, 1500, level=0.35, truncated=truncated)["low_res"]
        # The corner pixel of an enlarged image is nearly that of the small one: variances are compared between the forms.
        torch.testing.assert_close(z.mean(dim=0), wanted, atol=0.09, rtol=0)
        moments.append((z.mean().item(), torch.cov(z[:, 0].flatten(1).T)))
    assert moments[0][0] == pytest.approx(moments[1][0], abs=0.01)
    scale = a**2 * 0.04 + sigma**2
    torch.testing.assert_close(moments[0][1], moments[1][1], atol=0.15 * scale, rtol=0)
    assert moments[0][1].diagonal().mean().item() == pytest.approx(moments[1][1].diagonal().mean().item(), rel=0.03)


def test_levels_that_cannot_be() -> None:
    plain = cascade(base_spec(), up_spec(low_res=LowResConfig(scale=2)))
    with pytest.raises(CapabilityError, match="trained without noise"):
        plain.job(num=1, stages={2: {"level": 0.1}})
    whole = cascade()
    with pytest.raises(ConfigError, match="levels are from 0"):
        whole.job(num=1, stages={2: {"level": 1.2}})
    with pytest.raises(ConfigError, match="above the first step"):
        whole.job(num=1, stages={2: {"level": 1.0, "truncated": True}})
    with pytest.raises(ConfigError, match="begins from no low-resolution image"):
        whole.job(num=1, stages={1: {"level": 0.1}})


# --- settings and folders ------------------------------------------------------------------------------------------------


def test_plain_settings_are_those_of_every_stage_and_single_ones_win() -> None:
    whole = cascade()
    job = whole.job(num=1, steps=3, sampler="ddim", guidance="cfg,scale=2", stages={1: {"steps": 2}, 2: {"guidance": ()}}, level=0.2)
    first, second = whole.parts(job)
    assert (first.sampler, first.steps, second.sampler, second.steps) == ("ddim", 2, "ddim", 3)
    assert first.guidance == ("cfg,scale=2",) and (first.level, second.level) == (None, 0.2)
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    for wrong, message in (({3: {}}, "stages are 1 to 2"), ({2: {"steps": 2, "calls": 3}}, "calls chooses")):
        with pytest.raises(ConfigError, match=message):
            whole.job(num=1, stages=wrong)
    with pytest.raises(ConfigError, match="not tuned as a whole"):
        whole.job(num=1, calls=4)


def test_a_cascade_is_a_model_folder(tmp_path: Path) -> None:
    paths = [saved(tmp_path / "small", base_spec()), saved(tmp_path / "large", up_spec())]
    settings = parse_stages(["1.steps=3", "1.guidance=cfg,scale=1.5", "2.level=0.2", "2.truncated=true"])
    made = join(paths, tmp_path / "both", settings=settings)
    again = load(tmp_path / "both", device="cpu")
    assert isinstance(again, Cascade) and isinstance(again, Model) and again.path == tmp_path / "both"
    images = again.sample(num=2)
    assert torch.equal(images, made.sample(num=2))
    by_hand = Cascade([load(path, device="cpu") for path in paths])  # type: ignore[misc]
    wish = {1: {"steps": 3, "guidance": "cfg,scale=1.5"}, 2: {"level": 0.2, "truncated": True}}
    assert torch.equal(images, by_hand.sample(num=2, stages=wish))
    set_stage(tmp_path / "both", 2, {"level": 0.5})
    changed = load(tmp_path / "both", device="cpu")
    assert isinstance(changed, Cascade) and changed.job(num=1).level == 0.5
    job = again.job(num=1)
    assert job.before is not None
    with pytest.raises(ConfigError, match="another cascade"):
        again.parts(replace(job, before=({**job.before[0], "weights": "0"},)))
    with pytest.raises(ConfigError, match="already exists"):
        join(paths, tmp_path / "both")


def test_stages_that_do_not_fit(tmp_path: Path) -> None:
    small, large = saved(tmp_path / "small", base_spec()), saved(tmp_path / "large", up_spec())
    others = {
        "wide": (base_spec(size=(6, 6)), "makes images of 6x6x3, and stage 2 begins from 4x4x3"),
        "names": (base_spec(classes=("a", "b")), "the stages know other classes"),
    }
    for name, (spec, message) in others.items():
        with pytest.raises(ConfigError, match=message):
            join([saved(tmp_path / name, spec), large], tmp_path / "out")
    with pytest.raises(ConfigError, match="stage 2 begins from no low-resolution image"):
        join([large, small], tmp_path / "out")
    with pytest.raises(ConfigError, match="is a classifier"):
        join([saved(tmp_path / "judge", classifier_spec()), large], tmp_path / "out")
    with pytest.raises(ConfigError, match="stages are 1 to 2"):
        join([small, large], tmp_path / "out", settings={3: {"steps": 2}})
    with pytest.raises(CheckpointError, match="no model at"):
        join([small, tmp_path / "nothing"], tmp_path / "out")
    join([small, large], tmp_path / "out")
    with pytest.raises(ConfigError, match="a cascade itself"):
        join([tmp_path / "out", saved(tmp_path / "huge", generator_spec(size=(16, 16), low_res=LowResConfig(scale=2)))], tmp_path / "more")


@pytest.mark.parametrize(
    "text, message",
    [("steps=3", "no setting of a stage"), ("1.stepps=3", "did you mean 'steps'"), ("2.level=high", "does not fit level")],
)
def test_settings_that_cannot_be_read(text, message) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_stages([text])


def test_a_model_that_needs_an_image_says_so() -> None:
    alone = model_of(
        up_spec(label=LabelConfig(), net=SR3Config(width=8, mults=(1,), blocks=1, attention=(), groups=4), objective=DenoisingConfig())
    )
    with pytest.raises(CapabilityError, match="`mezzotint upscale`.*`mezzotint cascade`"):
        alone.sample(num=1)
    low = torch.zeros(2, 3, 4, 4)
    made = alone.sample(low_res=low, level=0.3)
    assert made.shape == (2, 3, 8, 8)
    assert torch.equal(
        alone.sample(low_res={5: low[0]}, ids=[5], level=0.3), alone.sample(low_res=torch.zeros(6, 3, 4, 4), ids=[5], level=0.3)
    )
    assert alone.sample(low_res=torch.zeros(1, 3, 5, 3)).shape == (1, 3, 10, 6)
    job = alone.job(num=2, low_res=low)
    with pytest.raises(ConfigError, match="a hash differs"):
        list(alone.run(job, low_res=low + 0.1))
    for wrong, message in ((torch.zeros(1, 3, 4, 4), "no low-resolution image among 1"), (torch.zeros(2, 1, 4, 4), "of 1 channels")):
        with pytest.raises(ConfigError, match=message):
            list(alone.run(alone.job(num=2), low_res=wrong))
    with pytest.raises(ConfigError, match="no use|leave out low_res"):
        model_of(base_spec()).sample(num=1, low_res=torch.zeros(1, 3, 2, 2))
