from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.tasks.sets import array_of, digits, memory, write_folder, write_samples, write_zip

from mezzotint.data.source import to_images
from mezzotint.errors import CapabilityError, ConfigError, DataError
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.frechet import frechet_distance
from mezzotint.metrics.inception_score import inception_score
from mezzotint.metrics.precision_recall import precision_recall
from mezzotint.metrics.statistics import read_statistics, write_statistics
from mezzotint.tasks.evaluate import Evaluator, Reading, evaluate, features_text, make_reference
from mezzotint.tasks.figures import METRICS, label

pytestmark = pytest.mark.filterwarnings("ignore:FID-infinity from subsets")  # the sets are small
EVERY = ["fid", "precision", "recall", "kid", "density", "coverage", "cmmd", "fid_infinity"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def real():
    return digits("test")


@pytest.fixture(scope="module")
def fake(real):
    """Digits that the reference does not have, with noise: 300 of them."""
    pixels = array_of(digits("train"))[:300].astype(int)
    pixels += np.random.default_rng(0).integers(-20, 21, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def plain(fake, real):
    return evaluate(memory(fake), real, metrics=EVERY, features="pixels")


def values(done):
    return {name: figure.value for name, figure in done.figures.items()}


def test_figures_are_those_of_the_metrics(plain, fake, real):
    ours, theirs = (to_images(x).flatten(1) for x in (fake, array_of(real)))
    direct = precision_recall(ours, theirs)
    assert (plain.figures["precision"].value, plain.figures["recall"].value) == (direct.precision, direct.recall)
    moments = [(x.double().mean(dim=0), x.double().T.cov()) for x in (ours, theirs)]
    assert plain.figures["fid"].value == pytest.approx(frechet_distance(*moments), rel=1e-9)
    assert list(plain.figures) == [name for name in METRICS if name in EVERY]
    assert all(figure.spread is not None and figure.spread > 0 and figure.spread_of for figure in plain.figures.values())


@pytest.mark.parametrize("form", ["folder", "classes", "zip", "npz", "samples", "own", "own_npz", "images_and_moments"])
def test_every_form_of_the_samples_gives_the_same(tmp_path, form, fake, real, plain):
    metrics = EVERY
    if form == "folder":
        path = write_folder(tmp_path / "x", fake)
    elif form == "classes":
        path = write_folder(tmp_path / "x", fake, folders=[f"c{i * 3 // len(fake)}" for i in range(len(fake))])  # keeps the order
    elif form == "zip":
        path = write_zip(tmp_path / "x.zip", write_folder(tmp_path / "x", fake))
    elif form == "npz":
        path = tmp_path / "x.npz"
        np.savez(path, fake)
    elif form == "samples":
        path = write_samples(tmp_path / "x", fake, None)
    elif form == "images_and_moments":
        path = tmp_path / "x.npz"
        mean, cov = plain.samples.moments["pool"]
        np.savez(path, arr_0=fake, mu=mean, sigma=cov)
    else:
        path = tmp_path / ("x.safetensors" if form == "own" else "x.npz")
        write_statistics(path, make_reference(memory(fake), features="pixels", keep=10_000))
        metrics = EVERY if form == "own" else ["fid"]
    done = evaluate(str(path), real, metrics=metrics, features="pixels")
    assert values(done) == pytest.approx({name: value for name, value in values(plain).items() if name in metrics}, rel=1e-6)


def test_every_form_of_the_reference_gives_the_same(tmp_path, fake, real, plain):
    pixels = array_of(real)
    mean, cov = (x.numpy() for x in plain.reference.moments["pool"])
    np.savez(tmp_path / "adm.npz", arr_0=pixels, mu=mean, sigma=cov)
    np.savez(tmp_path / "moments.npz", mu=mean, sigma=cov)
    np.savez(tmp_path / "clean_kid.npz", feats=plain.reference.vectors["pool"].numpy())
    write_statistics(tmp_path / "own.safetensors", make_reference(real, features="pixels"))
    for name in ("adm.npz", "moments.npz", "clean_kid.npz", "own.safetensors"):
        metrics = ["fid"] if name == "moments.npz" else EVERY
        features = None if name.startswith("own") else "pixels"  # ours say which features they are of
        done = evaluate(memory(fake), tmp_path / name, metrics=metrics, features=features)
        assert values(done) == pytest.approx({k: v for k, v in values(plain).items() if k in metrics}, rel=1e-6), name


def test_adm_reference_batches_hold_fewer_images_than_they_describe(tmp_path, fake, real, plain):
    mean, cov = (x.numpy() for x in plain.reference.moments["pool"])
    np.savez(tmp_path / "ref.npz", arr_0=array_of(real)[:100], mu=mean, sigma=cov)
    done = evaluate(memory(fake), tmp_path / "ref.npz", metrics=["fid", "recall"], features="pixels")
    assert done.figures["fid"].value == pytest.approx(plain.figures["fid"].value)
    assert done.protocol["reference"]["vectors"] == 100


@pytest.mark.parametrize("batch", [1, 64, 500])
def test_batches_and_threads_do_not_matter(batch, fake, real, plain):
    done = evaluate(memory(fake), real, metrics=EVERY, features="pixels", reading=Reading(batch_size=batch, workers=1 + batch % 3))
    assert values(done) == pytest.approx(values(plain), abs=1e-4, rel=1e-4)
    assert done.protocol == plain.protocol


def test_a_set_against_itself(real):
    done = evaluate(real, real, features="pixels")
    assert list(done.figures) == ["fid", "precision", "recall"]  # what pixels can give
    assert done.figures["fid"].value == pytest.approx(0, abs=1e-6)
    assert done.figures["precision"].value == done.figures["recall"].value == 1


def test_two_ranks_give_what_one_gives(tmp_path, fake, plain):
    np.savez(tmp_path / "x.npz", fake)
    out = tmp_path / "two.json"
    words = ["evaluate", str(tmp_path / "x.npz"), "--reference", "digits", "--split", "test", "--features", "pixels"]
    words += ["--metrics", ",".join(EVERY), "--batch-size", "50", "--json", str(out)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "mezzotint"]
    done = subprocess.run([*launch, *words], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("fd_pixels_300") == 1  # one rank speaks
    held = json.loads(out.read_text())
    assert {name: held[name]["value"] for name in EVERY} == pytest.approx(values(plain), abs=1e-4, rel=1e-4)
    assert held["protocol"]["samples"]["hash"] == plain.protocol["samples"]["hash"]
    assert held["protocol"]["images"] == 300


# --- protocol ------------------------------------------------------------------------------------------------------------


def test_protocol_has_what_the_figures_depend_on(tmp_path, fake, real):
    folder = write_samples(tmp_path / "x", fake, None, guidance=("cfg,scale=2",), seed=5)
    done = evaluate(folder, real, metrics=["fid", "precision"], features="pixels", num=100, keep=200)
    held = json.loads(json.dumps(done.to_dict()))["protocol"]
    assert held["images"] == 100
    assert held["reference"]["images"] == len(real)
    assert held["reference"]["vectors"] == 200
    assert held["features"] == {"name": "pixels", "sha256": None}
    assert (held["resize"], held["sampler"], held["steps"], held["guidance"], held["ema"]) == ("none", "ddim", 25, ["cfg,scale=2"], "0.999")
    assert held["seeds"] == {"samples": 5, "metrics": 2020}
    assert held["settings"]["precision"] == {"k": 3, "distances": "float32"}
    assert held["model"]["sha256"] == "ab" * 32
    other = evaluate(memory(255 - fake), real, metrics=["fid"], features="pixels").protocol
    assert other["samples"]["hash"] != held["samples"]["hash"]
    assert other["reference"]["hash"] == held["reference"]["hash"]


def test_figures_of_fewer_images_have_another_name(plain):
    assert plain.figures["fid"].label == "fd_pixels_300"
    assert [label(name, 5000, "inception") for name in ("fid", "sfid", "is", "recall")] == ["fid5k", "sfid5k", "is5k", "recall5k"]
    assert [label("fid", n, "inception") for n in (50_000, 60_000, 49_999)] == ["fid", "fid", "fid49999"]
    assert label("kid", 100, "inception") == "kid"
    assert label("cmmd", 50_000, "clip") == "cmmd"


def test_official_distances_are_those_of_half_precision(fake, real):
    from mezzotint.tasks.figures import Settings

    done = evaluate(memory(fake), real, metrics=["precision"], features="pixels", settings=Settings(official=True, neighbours=2))
    ours, theirs = (to_images(x).flatten(1) for x in (fake, array_of(real)))
    assert done.figures["precision"].value == precision_recall(ours, theirs, k=2, dtype="float16").precision
    assert done.protocol["settings"]["precision"] == {"k": 2, "distances": "float16"}


def test_features_of_the_reference_are_taken_unless_others_are_asked_for(tmp_path, fake):
    write_statistics(tmp_path / "ref.safetensors", make_reference("digits", split="test", features="pixels", size=(4, 4)))
    np.savez(tmp_path / "x.npz", fake)
    held = read_statistics(tmp_path / "ref.safetensors")
    assert held.protocol["brought_to"].startswith("4x4")
    done = evaluate(tmp_path / "x.npz", tmp_path / "ref.safetensors", size=(4, 4), metrics=["fid", "recall"])
    assert len(done.samples.moments["pool"][0]) == 16
    with pytest.raises(ConfigError, match="the samples have 64 pool features and the reference 16"):
        evaluate(memory(fake), tmp_path / "ref.safetensors", metrics=["fid"])
    with pytest.raises(ConfigError, match="a source is measured as it was opened"):
        evaluate(memory(fake), tmp_path / "ref.safetensors", size=(4, 4))


def test_protocols_prepare_images_for_inception():
    assert features_text(None, "edm") == "inception,protocol=adm"
    assert features_text("inception,protocol=clean", "adm") == "inception,protocol=clean"
    with pytest.raises(ConfigError, match="unknown protocol 'amd'; did you mean 'adm'"):
        features_text(None, "amd")


# --- mistakes ------------------------------------------------------------------------------------------------------------


def test_mistakes_are_refused(tmp_path, fake, real):
    write_statistics(tmp_path / "x.safetensors", make_reference(real, features="pixels", keep=0))
    with pytest.raises(ConfigError, match="unknown metric 'fdi'; did you mean 'fid'"):
        evaluate(memory(fake), real, metrics=["fdi"], features="pixels")
    with pytest.raises(CapabilityError, match="sfid needs spatial features, which 'pixels' does not give"):
        evaluate(memory(fake), real, metrics=["sfid"], features="pixels")
    with pytest.raises(DataError, match="holds no vectors of images, which recall needs"):
        evaluate(memory(fake), tmp_path / "x.safetensors", metrics=["fid", "recall"])
    with pytest.raises(ConfigError, match="--num 301: there are 300 samples"):
        evaluate(memory(fake), real, features="pixels", num=301)
    with pytest.raises(ConfigError, match="--num has no effect on the statistics"):
        evaluate(tmp_path / "x.safetensors", real, num=10, metrics=["fid"], features="pixels")
    with pytest.raises(ConfigError, match="unknown features 'pixel'; did you mean 'pixels'"):
        evaluate(memory(fake), real, features="pixel")
    with pytest.raises(DataError, match="holds statistics already"):
        make_reference(tmp_path / "x.safetensors", features="pixels")
    with pytest.raises(DataError, match="nowhere does not exist"):
        evaluate(tmp_path / "nowhere", real, features="pixels")


def test_corrupt_files_are_refused_by_name(tmp_path, fake, real):
    folder = write_folder(tmp_path / "x", fake[:5])
    whole = (folder / "00003.png").read_bytes()
    (folder / "00003.png").write_bytes(whole[:30])
    with pytest.raises(DataError, match=r"00003\.png"):
        evaluate(folder, real, features="pixels")
    middle = len(whole) // 2  # only decoding finds this out
    (folder / "00003.png").write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(DataError, match=r"00003\.png is damaged"):
        evaluate(folder, real, features="pixels")
    incomplete = write_samples(tmp_path / "y", fake[:5], None, complete=False)
    with pytest.raises(DataError, match="y is not complete; type the same"):
        evaluate(incomplete, real, features="pixels")
    missing = write_samples(tmp_path / "z", fake[:5], None)
    (missing / "00002.png").unlink()
    with pytest.raises(DataError, match=r"z/00002\.png is missing"):
        evaluate(missing, real, features="pixels")


# --- the accumulator -----------------------------------------------------------------------------------------------------


def test_accumulator_takes_batches_of_any_type(fake, real, plain):
    reference = plain.reference
    images = to_images(fake)
    levels = torch.from_numpy(fake).permute(0, 3, 1, 2)
    for batches in (levels.split(70), images.split(70), (images.double() + 0.3 / 127.5).split(40)):
        evaluator = Evaluator("pixels", ["fid", "precision"])
        for batch in batches:
            evaluator.add(batch)
        found = evaluator.gather().measure(reference)
        assert found["fid"].value == pytest.approx(plain.figures["fid"].value, rel=1e-6)
        assert found["precision"] == plain.figures["precision"]


def test_accumulator_quantises_as_it_is_told():
    images = torch.full((3, 1, 2, 2), 0.7 / 127.5) + torch.tensor([0.0, 1.0, -1.0])[:, None, None, None]  # levels 128.2, 255.7 and 0.7
    found = {}
    for rule in ("round", "truncate"):
        evaluator = Evaluator(Pixels(), ["fid"], quantise=rule)
        evaluator.add(images)
        found[rule] = ((evaluator.statistics().vectors["pool"][:, 0] + 1) * 127.5).round(decimals=3).tolist()
    assert found == {"round": [128, 255, 1], "truncate": [128, 255, 0]}
    with pytest.raises(ConfigError, match="unknown way to quantise 'floor'"):
        Evaluator(Pixels(), ["fid"], quantise="floor")


def test_accumulator_refuses_what_is_no_image():
    evaluator = Evaluator(Pixels(), ["fid"])
    with pytest.raises(DataError, match="images have pixels of 255"):
        evaluator.add(torch.full((2, 1, 2, 2), 255.0))
    with pytest.raises(DataError, match="image b.png holds NaN"):
        evaluator.add(torch.tensor([0.0, torch.nan]).view(2, 1, 1, 1), names=["a.png", "b.png"])
    with pytest.raises(DataError, match=r"torch.int64 of shape \(2, 1, 2, 2\)"):
        evaluator.add(torch.zeros(2, 1, 2, 2, dtype=torch.int64))


class ThreeOutputs:
    """Has what Inception has."""

    name, hash, resize = "inception", "00" * 32, "none"
    outputs = frozenset({"pool", "spatial", "logits"})

    def __call__(self, images):
        rows = images.flatten(1)
        return {"pool": rows[:, :8], "spatial": rows[:, 8:14], "logits": 4 * rows[:, 20:30]}


def test_a_network_with_three_outputs_gives_five_figures(fake, real):
    held = []
    for pixels in (array_of(real), fake):
        evaluator = Evaluator(ThreeOutputs(), quantise="none")
        evaluator.add(to_images(pixels))
        held.append(evaluator.statistics())
    found = evaluator.measure(held[0])
    assert list(found) == ["fid", "sfid", "is", "precision", "recall"]
    assert [figure.label for figure in found.values()] == ["fid300", "sfid300", "is300", "precision300", "recall300"]
    for name, part in (("fid", "pool"), ("sfid", "spatial")):
        assert found[name].value == pytest.approx(frechet_distance(held[1].moments[part], held[0].moments[part]))
        assert 0 < found[name].spread < found[name].value
    assert found["is"].value == inception_score(held[1].vectors["logits"], splits=1).value


def test_score_of_many_images_is_that_of_splits():
    from mezzotint.metrics.statistics import Statistics
    from mezzotint.tasks.figures import measure

    logits = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0))
    held = Statistics(10_000, {}, {"logits": logits})
    figure = measure(held, held, ["is"])["is"]
    halves = [inception_score(part, splits=1).value for part in logits.split(5_000)]
    assert figure.value == pytest.approx(sum(halves) / 2)
    assert figure.spread == pytest.approx(abs(halves[0] - halves[1]) / 2)
    assert figure.label == "is10k"
