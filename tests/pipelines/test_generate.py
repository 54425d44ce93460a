from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.pipelines.tiny import CLASSES, classifier_spec, generator_spec, model_of, saved

from mezzotint.checkpoint import load
from mezzotint.configs import DenoiserConfig, DiscreteConfig, LabelConfig, SampleConfig, UNetConfig, VPConfig
from mezzotint.denoise import Bound
from mezzotint.errors import CapabilityError, CheckpointError, ConfigError
from mezzotint.guidance import Classifier, ClassifierFree, ScoreShift
from mezzotint.noise import Noise
from mezzotint.pipelines.generate import Job, parse_classes, parse_ids, to_pixels
from mezzotint.priors import Prior

WEAKER = {"net": UNetConfig(width=4, mults=(1,), blocks=1, attention=()), "denoiser": DenoiserConfig(predicts="v", time_input="t_999")}


@pytest.fixture(scope="module")
def model():
    return model_of(generator_spec())


@pytest.fixture(scope="module")
def unconditional():
    return model_of(generator_spec(label=None))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return str(saved(tmp_path_factory.mktemp("classifier") / "model", classifier_spec()))


# --- wishes --------------------------------------------------------------------------------------------------------------


def test_without_a_wish_the_model_s_own_settings_hold(model) -> None:
    job = model.job()
    assert job == Job(tuple(range(16)), tuple(k % 3 for k in range(16)), "ancestral", None, "10", (), 0, True, 64, False)
    assert model.plan(job).steps == 10


@pytest.mark.parametrize(
    "own, wish, grid, steps",
    [
        (SampleConfig(grid="10"), {}, "10", 10),
        (SampleConfig(grid="10"), {"steps": 7}, "uniform", 7),
        (SampleConfig(grid="10"), {"grid": "ddim25"}, "ddim25", 25),
        (SampleConfig(grid="quadratic", steps=6), {}, "quadratic", 6),
        (SampleConfig(grid="quadratic", steps=6), {"steps": 4}, "quadratic", 4),
        (SampleConfig(grid="karras:5", steps=6), {"steps": 4}, "karras:5", 4),
        (SampleConfig(steps=6), {"grid": "5,5"}, "5,5", 10),
        (SampleConfig(grid="10"), {"grid": "logsnr", "steps": 3}, "logsnr", 3),
    ],
)
def test_steps_and_grid(own, wish, grid, steps) -> None:
    spec = generator_spec()
    job = model_of(replace(spec, recipe=replace(spec.recipe, sample=own))).job(**wish)
    assert job.grid == grid and model_of(spec).plan(job).steps == steps


@pytest.mark.parametrize(
    "classes, labels",
    [
        ("cat=2,dog=1", (0, 0, 1)),
        ("dog=1,cat=2", (1, 0, 0)),
        ("0=1,7=2", (0, 2, 2)),  # the class named 7 comes before the label 7, which there is not
        ({"7": 1, 1: 2}, (2, 1, 1)),
        ("null=2,cat=1", (3, 3, 0)),
    ],
)
def test_classes_by_name_and_number(model, classes, labels) -> None:
    job = model.job(classes=classes)
    assert job.labels == labels and job.ids == tuple(range(len(labels)))


def test_ids_pick_from_the_whole_job(model) -> None:
    job = model.job(classes="cat=2,dog=2", ids=[3, 0])
    assert job.ids == (3, 0) and job.labels == (1, 0)
    assert model.job(ids=[7, 2]).labels == (1, 2)  # as image k of the unnamed job has label k mod 3
    assert model.job(ids=[7, 2], num=2).ids == (7, 2)


def test_parts_of_a_job(model) -> None:
    job = model.job(classes="cat=2,dog=2")
    part = job.only([3, 1, 99])
    assert part.ids == (1, 3) and part.labels == (0, 1) and replace(part, ids=job.ids, labels=job.labels) == job


@pytest.mark.parametrize(
    "wish, message",
    [
        ({"classes": "cat=2", "num": 3}, "classes fix the number at 2, and num is 3; leave out one of the two"),
        ({"classes": "cat=2", "ids": [2]}, "id 2 is not among the 2 images of the classes; ids run from 0 to 1"),
        ({"classes": "cta=2"}, "unknown class 'cta'; did you mean 'cat'? Known: 7, cat, dog"),
        ({"classes": "3=2"}, "unknown class '3'; Known: 7, cat, dog"),
        ({"classes": "cat=0"}, "0 images of class 'cat'; ask for at least 1"),
        ({"classes": {"cat": -1}}, "-1 images of class 'cat'; ask for at least 1"),
        ({"classes": "cat=1,0=2"}, "class 'cat' stands twice; give one number for each class"),
        ({"classes": "cat"}, "'cat' in classes 'cat' is not class=number; write them as in 3=8,cat=8"),
        ({"classes": "cat=x"}, "'cat=x' in classes 'cat=x' is not class=number; write them as in 3=8,cat=8"),
        ({"ids": [1, 2], "num": 3}, "2 ids, and num is 3; leave out one of the two"),
        (
            {"sampler": "ddim_inversion"},
            "sampler 'ddim_inversion' runs from images to noise; use it with mezzotint.sample.loop, and ddim to sample",
        ),
        ({"ids": []}, "ids must be different numbers from 0 on, at least one"),
        ({"ids": [1, 1]}, "ids must be different numbers from 0 on, at least one"),
        ({"ids": [-1]}, "ids must be different numbers from 0 on, at least one"),
        ({"num": 0}, "0 images; ask for at least 1"),
        ({"batch_size": 0}, "a batch of 0; give at least 1"),
        ({"sampler": "dimm"}, "unknown sampler 'dimm'; did you mean 'ddim'? Known: "),
        ({"sampler": "ddim,eta=2"}, "eta 2.0 is not in [0, 1]"),
        ({"sampler": "ddim,etta=1"}, "unknown setting of ddim 'etta'; did you mean 'eta'?"),
        ({"grid": "250", "steps": 10}, "grid '250' has 250 steps, and 10 were asked for; leave out one of the two"),
        ({"grid": "unifrom"}, "unknown grid 'unifrom'; did you mean 'uniform'?"),
        ({"steps": 0}, "0 steps; give at least 1"),
        ({"guidance": "cgf"}, "unknown guidance 'cgf'; did you mean 'cfg'?"),
        ({"guidance": "cfg,scale=much"}, "cfg: scale=much: expected float"),
        ({"guidance": "cfg,from=1,to=0"}, "guidance from 1 to 0 acts nowhere; give from < to"),
        ({"guidance": "classifier"}, "classifier needs 'model'; write classifier,model=..."),
    ],
)
def test_wishes_that_cannot_be_granted(model, wish, message) -> None:
    with pytest.raises(ConfigError) as caught:
        model.job(**wish)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_wishes_that_this_model_cannot_grant(model, unconditional, classifier, tmp_path) -> None:
    with pytest.raises(ConfigError, match="this model is unconditional; leave out classes, or add classifier guidance"):
        unconditional.job(classes="cat=1")
    with pytest.raises(CapabilityError, match="classifier-free guidance needs a model trained with dropped labels"):
        unconditional.job(guidance="cfg,scale=2")
    certain = model_of(generator_spec(label=LabelConfig()))
    with pytest.raises(CapabilityError, match="trained with dropped labels"):
        certain.job(guidance="cfg")
    with pytest.raises(ConfigError, match="unknown class 'null'"):
        certain.job(classes="null=1")
    with pytest.raises(ConfigError, match="this model knows no classes; leave out classes, and give num"):
        model_of(generator_spec(label=None, classes=())).job(classes="cat=1")
    with pytest.raises(CapabilityError, match="a rule for numbered levels"):
        model_of(generator_spec(schedule=VPConfig(), denoiser=replace(model.spec.recipe.denoiser, time_input="t"))).job()
    with pytest.raises(CheckpointError, match="does not exist"):
        unconditional.job(guidance=f"classifier,model={tmp_path}/nothing")
    other = saved(tmp_path / "other", classifier_spec(size=(8, 8)))
    with pytest.raises(ConfigError, match="is for images of 8x8x3, this model makes 4x4x3"):
        unconditional.job(guidance=f"classifier,model={other}")
    birds = saved(tmp_path / "birds", classifier_spec(classes=("owl", "tit")))
    with pytest.raises(ConfigError, match="knows the classes owl, tit, the model cat, dog, 7"):
        unconditional.job(guidance=f"classifier,model={birds}")
    generator = saved(tmp_path / "generator", generator_spec())
    with pytest.raises(CapabilityError, match="is not a classifier; train one with"):
        unconditional.job(guidance=f"classifier,model={generator}")
    assert unconditional.job(guidance=f"classifier,model={classifier}").labels == tuple(k % 3 for k in range(16))


def test_a_job_survives_json(model) -> None:
    job = model.job(classes="cat=2,dog=1", guidance=["cfg,scale=2"], sampler="ddim", seed=5, exact=True)
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    value = job.to_dict()
    del value["seed"]
    with pytest.raises(ConfigError, match="a sampling job without 'seed'; it was written by another version or changed by hand"):
        Job.from_dict(value)


def test_functions_are_named_in_the_job(model) -> None:
    def towards_light(x, t, cond):
        return torch.ones_like(x)

    def wrap(inner):
        return ScoreShift(inner, towards_light)

    job = model.job(guidance=["cfg,scale=2", wrap])
    assert job.guidance[0] == "cfg,scale=2" and job.guidance[1].endswith("wrap")


@pytest.mark.parametrize("text", ["", "1-", "5-3", "a", "1,,2", "-1"])
def test_ids_that_are_none(text) -> None:
    with pytest.raises(ConfigError, match="neither a number nor a range; write them as in 5,17-20"):
        parse_ids(text)


def test_class_names_may_hold_equals_signs() -> None:
    assert parse_classes("a=b=3, c = 1") == [("a=b", 3), ("c", 1)]


# --- the denoiser of a job -----------------------------------------------------------------------------------------------


def test_bounds_stand_outside_all_guidance(model, classifier) -> None:
    denoiser = model.denoiser(model.job(guidance=["cfg,scale=2", f"classifier,model={classifier},scale=3"]))
    assert isinstance(denoiser, Bound) and isinstance(denoiser.inner, Classifier) and isinstance(denoiser.inner.inner, ClassifierFree)
    assert denoiser.inner.inner.inner is model.stage.denoiser and not denoiser.training
    assert denoiser.inner.scale == 3 and denoiser.inner.inner.scale == 2
    assert model.denoiser(model.job(clip=False)) is model.stage.denoiser


def test_models_that_guide_are_read_once(classifier, tmp_path) -> None:
    """By a job and its run, and until another job does without them."""
    model, weaker = model_of(generator_spec()), str(saved(tmp_path / "weaker", generator_spec()))
    read, load = [], model._load
    model._load = lambda path, **how: read.append(path) or load(path, **how)
    both = [f"classifier,model={classifier},scale=3", f"auto,model={weaker},scale=2"]
    model.sample(num=2, guidance=both)
    assert read == [classifier, weaker]
    list(model.run(model.job(num=1, guidance=both[1])))
    assert read == [classifier, weaker]
    model.job(num=1, guidance=f"{both[1]},ema=off")
    model.job(num=1)
    model.job(num=1, guidance=both[1])
    assert read[2:] == [weaker, weaker]


def test_auto_guidance_of_a_model_folder(model, tmp_path) -> None:
    weaker, settings = saved(tmp_path / "weaker", generator_spec(schedule=VPConfig(), **WEAKER)), {"classes": "cat=2,dog=2", "seed": 3}
    plain = model.sample(**settings)
    assert torch.equal(model.sample(guidance=f"auto,model={weaker},scale=1", **settings), plain)
    guided = model.sample(guidance=[f"auto,model={weaker},scale=2", "cfg,scale=2,rescale=0.7"], **settings)
    assert bool(guided.isfinite().all()) and (guided - plain).abs().max() > 1e-3
    with pytest.raises(ConfigError, match="knows the classes owl, the model cat, dog, 7"):
        model.job(guidance=f"auto,model={saved(tmp_path / 'owls', generator_spec(classes=('owl',)))}")
    with pytest.raises(CapabilityError, match="has no null class"):
        model.job(guidance=f"auto,model={saved(tmp_path / 'certain', generator_spec(label=LabelConfig()))}")


def test_no_op_scales_are_equal_in_all_bits(model, unconditional, classifier) -> None:
    """Classifier-free 1 is the conditional model, 0 the unconditional one; classifier 0 is none."""
    settings = {"classes": "cat=2,dog=2", "seed": 3}
    plain = model.sample(**settings)
    assert torch.equal(model.sample(guidance="cfg,scale=1", **settings), plain)
    assert torch.equal(model.sample(guidance=f"classifier,model={classifier},scale=0", **settings), plain)
    free = model.sample(guidance="cfg,scale=0", **settings)
    assert torch.equal(free, model.sample(classes="null=4", seed=3)) and not torch.equal(free, plain)
    guided = unconditional.sample(guidance=f"classifier,model={classifier},scale=0", num=4, seed=3)
    assert torch.equal(guided, unconditional.sample(num=4, seed=3))


def test_guidance_changes_the_images(model, unconditional, classifier) -> None:
    settings = {"classes": "cat=2,dog=2", "seed": 3}
    made = [model.sample(guidance=g, **settings) for g in ((), "cfg,scale=3", f"classifier,model={classifier},scale=50")]
    made.append(model.sample(guidance=["cfg,scale=3", f"classifier,model={classifier},scale=50"], **settings))
    made.append(model.sample(guidance=[lambda inner: ScoreShift(inner, lambda x, t, cond: 5 * torch.ones_like(x))], **settings))
    for i, a in enumerate(made):
        assert bool(a.isfinite().all())
        for b in made[:i]:
            assert (a - b).abs().max() > 1e-3
    one = unconditional.sample(guidance=f"classifier,model={classifier},scale=50", classes="cat=2", seed=3)
    assert (one - unconditional.sample(num=2, seed=3)).abs().max() > 1e-3


# --- ends, bounds, starts ------------------------------------------------------------------------------------------------


def test_images_may_end_before_0(model) -> None:
    for end, last in ((0, 0.0), ("last", 0.001), (0.25, 0.25)):
        job = model.job(num=2, steps=7, end=end)
        assert model.plan(job).grid[-1].item() == last and model.plan(job).steps == 7
        (chunk,) = model.run(job)
        assert chunk.trajectory.t.tolist() == [last] * 2
        assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    assert model.job(end=0) == model.job() and "end" not in model.job().to_dict()
    for end in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="sampling must end at a smaller time"):
            model.job(steps=7, end=end)
    with pytest.raises(ConfigError, match="runs over the whole process"):
        model.job(end="last")  # the model's own grid is a respacing rule


def test_a_run_that_stops_goes_on_to_the_same_image(model) -> None:
    """The states at a given end are those of the whole run there."""
    whole = next(iter(model.run(model.job(num=2, grid="times:1,0.7,0.4,0.1", sampler="ddim"), save="all"))).trajectory
    part = next(iter(model.run(model.job(num=2, grid="times:1,0.7,0.4", sampler="ddim", end=0.1)))).trajectory
    torch.testing.assert_close(part.x, whole.xs[2])


def test_dynamic_thresholding(model) -> None:
    job = model.job(num=4, clip=0.9)
    bound = model.denoiser(job)
    assert isinstance(bound, Bound) and bound.quantile == 0.9 and job.clip == 0.9
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job
    made = [model.sample(num=4, clip=clip, guidance="cfg,scale=5") for clip in (True, 0.9, False)]
    assert made[1].abs().max() <= 1 and all((a - b).abs().max() > 1e-3 for a in made for b in made if a is not b)
    for clip in (0.0, 1.5, -1.0):
        with pytest.raises(ConfigError, match=r"give on, off or a quantile in \(0, 1\]"):
            model.job(clip=clip)


class Halfway(Prior):
    """Begins at other times than the noisiest."""

    def __init__(self, *times: float):
        self.times = times

    def sample(self, shape, *, cond, noise):
        x = noise.normal((len(noise.ids), *shape), name="prior")
        return x, torch.tensor(self.times, dtype=torch.float64)[list(noise.ids)]


def test_sampling_begins_where_the_prior_says() -> None:
    model = model_of(generator_spec(sample=SampleConfig(sampler="ddim")))
    model.stage = replace(model.stage, prior=Halfway(0.6, 0.3))
    both = next(iter(model.run(model.job(num=2, steps=3), save="all"))).trajectory
    assert [t.tolist() for t in both.ts][-1] == [0, 0] and both.ts[0][0] > both.ts[0][1]
    alone = next(iter(model.run(model.job(ids=[1], steps=3)))).trajectory
    torch.testing.assert_close(alone.x[0], both.x[1], rtol=1e-4, atol=1e-4)
    model.stage = replace(model.stage, prior=Halfway(0.0, 0.0))
    job = model.job(num=2, steps=3)
    done = next(iter(model.run(job))).trajectory
    assert done.steps == done.calls == 0
    assert torch.equal(done.x, model.stage.prior.sample((3, 4, 4), cond={}, noise=Noise(0, [0, 1], stage="sample").sub("prior"))[0])


def test_networks_that_know_only_some_times_are_asked_at_these() -> None:
    spec = generator_spec(denoiser=DenoiserConfig(time_input="nearest"), schedule=DiscreteConfig(betas="cosine", steps=20))
    for sampler, steps, end in (("ddim", 7, 0), ("heun", 9, "last"), ("ddim", 20, 0), ("dpm_solver,order=3", 5, 0.3)):
        model = model_of(spec)
        grid = model.plan(model.job(sampler=sampler, steps=steps, end=end, grid="karras")).grid
        levels = grid[:-1] * 20
        assert len(grid) == steps + 1 and bool((grid.diff(dim=0) < 0).all()) and grid[0] == 1
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-9)
        assert grid[-1].item() == {"last": 1 / 20}.get(end, end)
    with pytest.raises(ConfigError, match="21 steps, and this network knows 20 noise levels on the way; give at most so many steps"):
        model.job(steps=21, grid="uniform")
    free = model_of(generator_spec(schedule=DiscreteConfig(betas="cosine", steps=20)))
    assert free.plan(free.job(steps=7, grid="karras")).grid[1] * 20 % 1 != 0  # such a network is told a number between the levels


# --- the same image -------------------------------------------------------------------------------------------------------


def test_an_image_depends_on_seed_class_and_id(model) -> None:
    images = model.sample(classes="cat=3,dog=3", seed=1)
    assert images.shape == (6, 3, 4, 4) and images.dtype == torch.float32 and images.device.type == "cpu"
    assert images.min() >= -1 and images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) == 6
    assert torch.equal(images, model.sample(classes="cat=3,dog=3", seed=1))
    assert not torch.equal(images, model.sample(classes="cat=3,dog=3", seed=2))
    other = model.sample(classes="cat=2,dog=4", seed=1)  # only image 2 has changed its class
    assert [bool(torch.allclose(a, b, atol=1e-6)) for a, b in zip(images, other, strict=True)] == [True, True, False, True, True, True]


@pytest.fixture(scope="module")
def wide():
    return model_of(generator_spec(size=(32, 32), net=UNetConfig(width=4, mults=(1, 1, 1), blocks=1, attention=())))


LONG = {"grid": "250", "seed": 4}


def test_exact_images_are_equal_in_all_bytes_for_any_batch_order_and_subset(wide) -> None:
    """At 32x32 over 250 steps; batches that are asked for beside it have no effect."""
    whole = wide.sample(num=8, exact=True, **LONG)
    with pytest.warns(UserWarning, match="a batch of 7 has no effect with exact"):
        shuffled = wide.sample(ids=[5, 0, 3], exact=True, batch_size=7, **LONG)
    assert torch.equal(shuffled, whole[[5, 0, 3]])
    with pytest.warns(UserWarning, match="no effect"):
        assert torch.equal(wide.sample(ids=[7], exact=True, batch_size=1, **LONG), whole[7:])
    more = wide.sample(num=9, exact=True, batch_size=8, grid="10")  # over two blocks
    assert torch.equal(wide.sample(ids=[8, 2], exact=True, grid="10"), more[[8, 2]])


def test_by_default_images_are_equal_within_one_level(wide) -> None:
    whole = wide.sample(num=6, batch_size=32, **LONG)
    part = wide.sample(ids=[5, 0], batch_size=1, **LONG)
    assert (part - whole[[5, 0]]).abs().max() <= 1 / 127.5
    assert np.abs(wide.pixels(part).astype(int) - wide.pixels(whole[[5, 0]]).astype(int)).max() <= 1
    shuffled = wide.sample(ids=[8, 3, 5, 0, 1, 2], batch_size=4, grid="25")
    assert (shuffled - wide.sample(num=9, grid="25")[[8, 3, 5, 0, 1, 2]]).abs().max() <= 1 / 127.5


def test_exact_needs_no_warning_by_itself(model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.job(exact=True).batch == 8


def test_batches_come_in_order_and_carry_their_labels(model) -> None:
    job = model.job(classes="cat=3,dog=4", batch_size=3)
    chunks = list(model.run(job))
    assert [c.ids for c in chunks] == [(0, 1, 2), (3, 4, 5), (6,)] and [c.labels for c in chunks] == [(0, 0, 0), (1, 1, 1), (1,)]
    images = model.sample(classes="cat=3,dog=4", batch_size=3)
    assert torch.equal(torch.cat([c.trajectory.x for c in chunks]), images)


def test_exact_blocks_give_only_what_was_asked_for(model) -> None:
    job = model.job(classes="cat=9,dog=9", ids=[17, 2, 9], exact=True)
    chunks = list(model.run(job, save="all"))
    assert [c.ids for c in chunks] == [(2,), (9,), (17,)] and [c.labels for c in chunks] == [(0,), (1,), (1,)]
    for chunk in chunks:
        run = chunk.trajectory
        assert len(run.x) == len(run.t) == 1 and len(run.xs) == 10 and all(len(v) == 1 for v in (*run.xs, *run.x0s, *run.ts))
        assert torch.equal(run.xs[-1], run.x)


def test_parts_of_a_job_make_the_same_images(model) -> None:
    job = model.job(classes="cat=9,dog=9", exact=True)
    whole = dict(zip(job.ids, torch.cat([c.trajectory.x for c in model.run(job)]), strict=True))
    for chunk in model.run(job.only([3, 16, 10])):
        for k, image in zip(chunk.ids, chunk.trajectory.x, strict=True):
            assert torch.equal(image, whole[k])


def test_progress_is_reported(model, capsys) -> None:
    seen = []
    list(model.run(model.job(num=3, batch_size=2), on_step=lambda i, n: seen.append((i, n))))
    assert seen == [(i, 10) for i in range(1, 11)] * 2
    model.sample(num=2, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_without_clipping_images_may_leave_the_range(model) -> None:
    assert model.sample(num=4, clip=False).abs().max() > 1 >= model.sample(num=4).abs().max()


# --- pixels --------------------------------------------------------------------------------------------------------------


def test_pixels() -> None:
    x = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0]).reshape(1, 1, 1, 5)
    assert to_pixels(x).tolist() == [[[[0], [0], [128], [255], [255]]]]
    assert to_pixels(x, official=True).flatten().tolist() == [0, 0, 127, 254, 255]
    assert to_pixels(x, bits=16).dtype == np.uint16 and to_pixels(x, bits=16).flatten().tolist()[-1] == 65535
    every = torch.arange(256).reshape(1, 1, 16, 16) / 127.5 - 1
    assert to_pixels(every).flatten().tolist() == list(range(256))
    assert to_pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


# --- classifiers ---------------------------------------------------------------------------------------------------------


def test_a_classifier_model(classifier) -> None:
    judge = load(classifier, device="cpu")
    x = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    log_p = judge.log_prob(x)
    assert log_p.shape == (5, 3) and judge.classes == CLASSES
    torch.testing.assert_close(log_p.exp().sum(1), torch.ones(5))
    torch.testing.assert_close(judge.log_prob(x, batch_size=2), log_p)
    assert (judge.log_prob(x, t=0.9) - log_p).abs().max() > 1e-4
