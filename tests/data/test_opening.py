"""Folders, ZIP files, arrays and digits: what is read, in which order, and which settings matter."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.data.makers import encoded, folder, pixels, three_classes, zipped

from mezzotint.configs import DataConfig
from mezzotint.data import check_enough, open_source, split_ids, subset
from mezzotint.errors import DataError
from mezzotint.noise import Noise

SHARED = Path(__file__).parents[3] / "shared" / "data"


def opened(path: Path | str, **settings):
    return open_source(DataConfig(path=str(path), **settings))


def kinds(root: Path) -> dict[str, Path]:
    around = zipped(root / "around.zip", three_classes("pictures/") | {"__MACOSX/pictures/._0.png": b"x", "pictures/.DS_Store": b"x"})
    return {
        "folder": folder(root / "folder", three_classes()),
        "zip": zipped(root / "plain.zip", three_classes()),
        "deflated": zipped(root / "deflated.zip", three_classes(), deflate=True),
        "around": around,
        "backslashes": zipped(root / "windows.zip", {name.replace("/", "\\"): data for name, data in three_classes().items()}),
    }


def test_all_kinds_of_files_give_the_same_source(tmp_path):
    sources = {kind: opened(path) for kind, path in kinds(tmp_path).items()}
    first = sources["folder"]
    assert first.facts.classes == ("ant", "bee", "cat")
    assert first.facts.size == (8, 8)
    assert first.facts.channels == 3
    assert first.names[0] == "ant/0.png"
    assert first.class_map == {"ant": 0, "bee": 1, "cat": 2}
    for kind, source in sources.items():
        assert (source.facts, source.names, source.fingerprint) == (first.facts, first.names, first.fingerprint), kind
        assert [source.label(i) for i in range(6)] == [0, 0, 1, 1, 2, 2]
        assert all((source.array(i) == first.array(i)).all() for i in range(6))
        source.verify()


def test_pixels_are_those_of_the_file(tmp_path):
    array = pixels(5, 7, 3)
    source = opened(folder(tmp_path, {"a.png": encoded(array)}))
    assert (source.array(0) == array).all()
    assert source.label(0) is None
    assert source.batch([0]).label is None


def test_batch_is_scaled_labelled_and_pure(tmp_path):
    source = opened(folder(tmp_path, three_classes()), flip=True)
    ids = [5, 0, 3]
    plain = source.batch(ids)
    assert plain.images.dtype == torch.float32
    assert plain.ids.tolist() == ids
    assert plain.label.tolist() == [2, 0, 1]
    expected = torch.from_numpy(source.array(5).astype(np.float32) / 127.5 - 1).permute(2, 0, 1)
    assert torch.allclose(plain.images[0], expected, atol=1e-7)
    together = source.batch(ids, noise=Noise(3, ids, step=7))
    alone = torch.cat([source.batch([i], noise=Noise(3, [i], step=7)).images for i in ids])
    assert torch.equal(together.images, alone)
    mirrored = [
        not torch.equal(source.batch(ids, noise=Noise(3, ids, step=step)).images[k], plain.images[k])
        for step in range(60)
        for k in range(3)
    ]
    assert 0.35 < np.mean(mirrored) < 0.65
    k = mirrored.index(True)
    assert torch.equal(source.batch(ids, noise=Noise(3, ids, step=k // 3)).images[k % 3], plain.images[k % 3].flip(2))


def test_without_the_setting_nothing_is_mirrored(tmp_path):
    source = opened(folder(tmp_path, three_classes()))
    assert all(torch.equal(source.batch([1], noise=Noise(0, [1], step=s)).images, source.batch([1]).images) for s in range(10))


def test_random_cuts_depend_on_seed_image_and_step_alone(tmp_path):
    files = {f"{i}.png": encoded(pixels(20, 30, 3, seed=i)) for i in range(4)}
    np.savez(tmp_path / "a.npz", np.stack([pixels(20, 30, 3, seed=i) for i in range(4)]))
    source = opened(folder(tmp_path / "x", files), size=(8, 8), fit="random")
    ids = [2, 0, 3]
    together = source.batch(ids, noise=Noise(3, ids, step=7)).images
    assert torch.equal(together, torch.cat([source.batch([i], noise=Noise(3, [i], step=7)).images for i in ids]))
    assert torch.equal(together, opened(tmp_path / "a.npz", size=(8, 8), fit="random").batch(ids, noise=Noise(3, ids, step=7)).images)
    assert torch.equal(together, subset(source, ids).batch([0, 1, 2], noise=Noise(3, ids, step=7)).images)
    many = torch.stack([source.batch([2], noise=Noise(3, [2], step=step)).images for step in range(20)])
    assert len(torch.unique(many, dim=0)) > 10
    assert torch.equal(source.batch(ids).images, opened(tmp_path / "x", size=(8, 8)).batch(ids).images)


@pytest.mark.parametrize("kind", ["folder", "zip", "npz", "digits"])
def test_workers_get_a_small_copy_that_reads_the_same(tmp_path, kind):
    if kind == "npz":
        np.savez(tmp_path / "a.npz", pixels(500, 16, 16, 3))
    path = {"npz": tmp_path / "a.npz", "digits": "digits"}.get(kind) or kinds(tmp_path)[kind]
    source = opened(path)
    first = source.array(3)
    data = pickle.dumps(source)
    assert len(data) < (200_000 if kind == "digits" else 20_000)
    assert (pickle.loads(data).array(3) == first).all()


def test_deeper_folders_belong_to_the_first(tmp_path):
    files = {f"{name}/{deep}{i}.png": encoded(pixels(4, 4, 3)) for name in ("dog", "cat") for deep in ("", "young/") for i in range(2)}
    source = opened(folder(tmp_path, files))
    assert source.facts.classes == ("cat", "dog")
    assert len(source) == 8


def test_numbered_folders_are_counted_not_spelled(tmp_path):
    source = opened(folder(tmp_path, {f"{k}/a.png": encoded(pixels(4, 4, 3)) for k in range(12)}))
    assert source.facts.classes == tuple(str(k) for k in range(12))


def test_labels_can_be_left_out(tmp_path):
    files = three_classes() | {"loose.png": encoded(pixels(8, 8, 3))}
    source = opened(folder(tmp_path, files), labels=False)
    assert len(source) == 7
    assert source.facts.classes == ()
    assert source.labels is None


def test_parts_share_one_class_map(tmp_path):
    files = {f"train/{c}/{i}.png": encoded(pixels(4, 4, 3)) for c in "abc" for i in range(2)} | {
        f"test/{c}/0.png": encoded(pixels(4, 4, 3)) for c in "bc"
    }
    path = folder(tmp_path, files)
    assert [len(opened(path, split=part)) for part in ("all", "train", "test")] == [8, 6, 2]
    test = opened(path, split="test")
    assert test.facts.classes == ("a", "b", "c")
    assert [test.label(i) for i in range(2)] == [1, 2]


def test_npz_channels_bits_labels(tmp_path):
    for channels in (None, 1, 2, 3, 5):
        for dtype in (np.uint8, np.uint16):
            for save in (np.savez, np.savez_compressed):
                array = pixels(4, 6, 5, *([] if channels is None else [channels]), dtype=dtype)
                save(tmp_path / "a.npz", array, np.array([3, 0, 1, 1]))
                source = opened(tmp_path / "a.npz")
                assert source.facts.channels == (channels or 1)
                assert source.facts.size == (6, 5)
                assert source.facts.bits == 8 * np.dtype(dtype).itemsize
                assert source.facts.classes == ("0", "1", "2", "3")
                assert all((source.array(i).reshape(array[i].shape) == array[i]).all() for i in range(4))
                images = source.batch([1]).images
                top = np.iinfo(dtype).max
                assert torch.allclose(images[0, 0].double(), torch.from_numpy(source.array(1)[..., 0] * (2 / top) - 1), atol=1e-6)
                source.verify()
    bare = opened(tmp_path / "a.npz", labels=False)
    assert bare.facts.classes == ()
    assert bare.labels is None


def test_npz_is_mapped_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", np.asfortranarray(pixels(4, 6, 5, 3)))
    np.savez_compressed(tmp_path / "b.npz", pixels(4, 6, 5, 3))
    mapped, loaded = opened(tmp_path / "a.npz"), opened(tmp_path / "b.npz")
    assert isinstance(mapped.pixels, np.memmap)
    assert not isinstance(loaded.pixels, np.memmap)
    assert (mapped.array(2) == loaded.array(2)).all()


def test_npz_of_other_pixels_has_another_fingerprint(tmp_path):
    prints = set()
    for seed in (0, 1):
        np.savez(tmp_path / "a.npz", pixels(4, 6, 5, 3, seed=seed))
        prints.add(subset(opened(tmp_path / "a.npz"), [0, 1]).fingerprint)
    assert len(prints) == 2


def test_digits_keep_their_grays_and_their_division():
    whole, train, test = (opened("digits", split=part) for part in ("all", "train", "test"))
    assert (len(whole), len(train), len(test)) == (1797, 1258, 539)
    assert whole.facts.classes == tuple("0123456789")
    assert whole.facts.size == (8, 8)
    assert whole.facts.channels == 1
    from sklearn.datasets import load_digits

    raw, labels = load_digits(return_X_y=True)
    grays = np.stack([whole.array(i)[..., 0] for i in range(1797)])
    assert set(np.unique(grays)) == {int(v * 255 / 16 + 0.5) for v in range(17)}
    assert (np.rint(grays.reshape(1797, -1) / 255 * 16) == raw).all()
    assert (whole.labels == labels).all()
    assert not set(train.names) & set(test.names)
    assert set(train.names) | set(test.names) == set(whole.names)
    for name, part in (("train", train), ("test", test)):
        bare = opened("digits", split=name, labels=False)
        assert bare.names == part.names and bare.labels is None
    shares = np.bincount(test.labels) / np.bincount(whole.labels)
    assert shares.min() > 0.29
    assert shares.max() < 0.31
    # The division is part of every published figure: it may not change.
    assert hashlib.sha256(json.dumps(test.names).encode()).hexdigest()[:16] == "e5c01f8167c722af"


def test_split_is_disjoint_stratified_and_repeatable():
    train = opened("digits", split="train")
    one, two = split_ids(train, (0.5, 0.5), seed=1)
    assert not set(one) & set(two)
    assert len(one) + len(two) == len(train)
    assert abs(np.bincount(train.labels[list(one)]) - np.bincount(train.labels[list(two)])).max() <= 1
    assert (one, two) == split_ids(train, (0.5, 0.5), seed=1) != split_ids(train, (0.5, 0.5), seed=2)
    view = subset(train, two)
    assert view.names[3] == train.names[two[3]]
    assert view.label(3) == train.label(two[3])
    assert (view.array(3) == train.array(two[3])).all()
    assert torch.equal(view.batch([3]).images, train.batch([two[3]]).images)
    assert view.batch([3]).ids.tolist() == [3]
    assert len({view.fingerprint, train.fingerprint, subset(train, one).fingerprint}) == 3
    with pytest.raises(DataError, match="sum of at most 1"):
        split_ids(train, (0.7, 0.7))
    with pytest.raises(DataError, match="larger share"):
        split_ids(train, (1e-6,))
    with pytest.raises(DataError, match="0 to 1257"):
        subset(train, [1258])


def test_notes_tell_what_was_left_out_and_stepped_into(tmp_path):
    files = three_classes("pictures/") | {"pictures/README.txt": b"hello", "pictures/x.heic": b"x"}
    notes = " | ".join(opened(zipped(tmp_path / "a.zip", files)).notes)
    assert "pictures/" in notes
    assert "2 files are not images" in notes
    assert ".heic" in notes


def test_links_back_to_the_folder_end(tmp_path):
    path = folder(tmp_path / "data", three_classes())
    (path / "ant" / "again").symlink_to(path, target_is_directory=True)
    assert len(opened(path)) == 6


def test_fewer_images_than_a_batch(tmp_path):
    source = opened(folder(tmp_path, three_classes()))
    check_enough(source, 6)
    with pytest.raises(DataError, match=r"6 images but a batch takes 7.*--train.batch 6"):
        check_enough(source, 7)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside this clone")
def test_real_zips():
    cifar = opened(SHARED / "cifar10-jpeg-test.zip")
    assert len(cifar) == 8000
    assert cifar.facts.size == (32, 32)
    assert cifar.notes == ()
    assert cifar.facts.classes == ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert np.bincount(cifar.labels).tolist() == [800] * 10
    photos = opened(SHARED / "bsds500-256.zip", split="test", size=(64, 64))
    assert len(photos) == 200
    assert photos.facts.classes == ()
    assert photos.array(0).shape == (64, 64, 3)
    assert len(opened(SHARED / "bsds500-256.zip")) == 500
