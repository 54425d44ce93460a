from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.sets import array_of, digits, memory, write_folder

from mezzotint.data.source import to_images
from mezzotint.errors import DataError
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.statistics import Collector, Statistics
from mezzotint.tasks.checks import check, memorisation, nearest
from mezzotint.tasks.evaluate import evaluate


def statistics(pixels: np.ndarray) -> Statistics:
    collector = Collector(Pixels(), moments=("pool",) if pixels[0].size < 4096 else (), vectors=("pool",))
    collector.add(to_images(pixels))
    return collector.statistics()


def scenes(n, size=32, seed=0):
    """Smooth pictures with a little grain, ``[n, size, size, 3]``."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 6, 6, 3)).astype(np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(x).resize((size, size), Image.Resampling.BICUBIC)) for x in coarse]).astype(int)
    return (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)


def through_jpeg(pixels, quality=30):
    out = []
    for x in pixels:
        file = io.BytesIO()
        Image.fromarray(x).save(file, "JPEG", quality=quality)
        out.append(np.asarray(Image.open(file)))
    return np.stack(out)


def test_nothing_to_complain_of():
    a, b = (statistics(scenes(80, 8, seed)) for seed in (1, 2))
    found = check(a, b, names=["1.png"], reference_names=["2.png"])
    assert [w for w in found.warnings if "features" not in w] == []


def test_few_images():
    many, few = (statistics(scenes(n, 8, 1)) for n in (200, 192))
    assert check(many, many).warnings == ()
    (words,) = check(few, many).warnings
    assert words.startswith("192 samples are not more than the 192 features")


def test_duplicates_by_pixels():
    pixels = scenes(200, 8)
    pixels[7] = pixels[150] = pixels[3]
    found = check(statistics(pixels), statistics(scenes(200, 8, 1)))
    assert found.found["duplicates"] == {"images": 2, "groups": [[3, 7, 150]]}
    assert found.warnings == ("2 of 200 samples repeat the pixels of another, such as 3 and 7",)


def test_drift_of_channels():
    pixels = scenes(200, 8)
    swapped = check(statistics(np.ascontiguousarray((pixels * [1.0, 0.8, 0.6]).astype(np.uint8))), statistics(pixels))
    assert "the mean of the samples is off by" in swapped.warnings[0]
    assert "channel 2" in swapped.warnings[0]
    shift = swapped.found["channels"]["mean_shift"]
    assert shift[2] == pytest.approx(float((pixels[..., 2] * 0.6).astype(np.uint8).mean() - pixels[..., 2].mean()), abs=1e-3)


def test_other_sizes():
    assert "samples are 8x8 and reference images 32x32" in " ".join(check(statistics(scenes(9, 8)), statistics(scenes(9, 32))).warnings)


def test_traces_of_jpeg_in_pixels():
    plain, other, pressed = statistics(scenes(60)), statistics(scenes(60, seed=1)), statistics(through_jpeg(scenes(60)))
    assert not any("JPEG" in words for words in check(plain, other).warnings)
    assert any("as JPEG compression leaves it" in words for words in check(pressed, other).warnings)
    assert not any("JPEG" in words for words in check(other, pressed).warnings)  # the reference is what it is


def test_jpeg_files(tmp_path):
    samples = write_folder(tmp_path / "samples", scenes(6, 8), suffix="jpg")
    reference = write_folder(tmp_path / "reference", scenes(6, 8, 1))
    done = evaluate(samples, reference, metrics=["fid"], features="pixels")
    assert any(words.startswith("6 of 6 samples are JPEG or WebP files, compared with PNG") for words in done.checks.warnings)
    Image.fromarray(scenes(1, 8)[0]).save(reference / "x.jpeg")
    mixed = evaluate(reference, reference, metrics=["fid"], features="pixels").checks
    assert any("1 of 7 reference images are JPEG" in words for words in mixed.warnings)
    assert mixed.found["files"]["reference"] == {".png": 6, ".jpeg": 1}


def test_nearest_rows():
    a, b = torch.tensor([[0.0, 0.0], [5.0, 0.0]]), torch.tensor([[4.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    distance, row = nearest(a, b)
    assert (distance.tolist(), row.tolist()) == ([0, 1], [2, 0])
    distance, row = nearest(b, b, itself=True)
    assert row.tolist() == [2, 2, 1]


def test_a_model_that_repeats_its_training_set_is_found():
    train, unseen = array_of(digits("train")), array_of(digits("test"))
    known, held_out = statistics(train), statistics(unseen)
    honest = memorisation(statistics(unseen[:250]), known, statistics(unseen[250:]))
    assert 0.4 < honest.share_closer < 0.6
    assert honest.share_copies < 0.03
    assert honest.same_pixels == 0
    assert honest.baseline == "held-out images"
    copies = train[:100].astype(int) + np.random.default_rng(0).integers(-2, 3, train[:100].shape)
    caught = memorisation(statistics(copies.clip(0, 255).astype(np.uint8)), known, held_out)
    assert caught.share_closer == caught.share_copies == 1
    assert all(sample == original for sample, original, _ in caught.pairs)
    assert [d for *_, d in caught.pairs] == sorted(d for *_, d in caught.pairs)
    assert any("the model may repeat its training set" in w for w in check(statistics(unseen), held_out, memory=caught).warnings)


def test_training_images_among_the_samples_are_counted():
    train = array_of(digits("train"))
    found = memorisation(statistics(np.concatenate([train[5:8], 255 - train[:40]])), statistics(train), None)
    assert found.same_pixels == 3
    assert {pair[:2] for pair in found.pairs[:3]} == {(0, 5), (1, 6), (2, 7)}


def test_a_reference_that_is_the_training_set_is_no_baseline():
    train = statistics(array_of(digits("train")))
    found = memorisation(statistics(array_of(digits("test"))), train, train)
    assert found.baseline == "training images, each left out in turn"
    assert 0.4 < found.share_closer < 0.6


def test_memorisation_needs_training_images():
    known = statistics(array_of(digits("test"))[:9])
    with pytest.raises(DataError, match="needs at least 2 training images"):
        memorisation(known, Statistics(5, known.moments), None)


def test_report_of_memorisation(tmp_path):
    train = digits("train")
    done = evaluate(memory(array_of(train)[:60]), digits("test"), metrics=["fid"], features="pixels", train=train)
    held = done.to_dict()["checks"]["memorisation"]
    assert held["same_pixels"] == 60
    assert held["share_copies"] == 1
    assert held["baseline"] == "held-out images"
    assert held["training_images"] == len(train)
    assert held["closest"][0]["distance"] == 0
