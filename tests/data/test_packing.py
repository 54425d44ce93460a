"""Packing: the same images and labels come back, from a job that was killed as well."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.makers import encoded, folder, pixels, three_classes, wide_png
from tests.data.test_unreadable import files

from mezzotint.configs import DataConfig
from mezzotint.data import open_source, packing
from mezzotint.data.packing import pack
from mezzotint.errors import DataError


def opened(path: Path | str, **settings):
    return open_source(DataConfig(path=str(path), **settings))


def same_images(one, two, order=None) -> bool:
    ids = range(len(one)) if order is None else order
    return len(one) == len(two) and all((one.array(i) == two.array(k)).all() for k, i in enumerate(ids))


@pytest.mark.parametrize("out", ["a.zip", "a.tar", "a-%02d.tar"])
def test_images_labels_and_names_come_back(tmp_path, out):
    source = opened(folder(tmp_path / "data", three_classes()))
    pack(DataConfig(path=str(tmp_path / "data")), tmp_path / out, per_shard=4)
    back = opened(tmp_path / out.replace("%02d", "*"))
    assert same_images(source, back)
    assert (back.facts, back.names) == (source.facts, source.names)
    assert [back.label(i) for i in range(6)] == [source.label(i) for i in range(6)]
    assert len(list(tmp_path.iterdir())) == (3 if "%" in out else 2)


def test_files_that_need_nothing_are_copied_as_they_are(tmp_path):
    held = {"a/x.y.jpg": encoded(pixels(8, 8, 3), "JPEG"), "a/z.PNG": encoded(pixels(8, 16, 3)), "a/x_y.png": encoded(pixels(8, 8, 1))}
    pack(DataConfig(path=str(folder(tmp_path / "data", held)), size=(8, 8), channels=3), tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert sorted(archive.namelist()) == ["x_y.jpg", "x_y_1.png", "z.png"]
        assert archive.read("x_y.jpg") == held["a/x.y.jpg"]
    source = opened(tmp_path / "data", size=(8, 8), channels=3)
    order = [source.names.index(name) for name in ("x.y.jpg", "x_y.png", "z.PNG")]
    assert same_images(source, opened(tmp_path / "a.zip"), order)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bits_and_channels_are_kept(tmp_path, channels):
    held = {f"{i}.png": wide_png(pixels(9, 7, channels, seed=i, dtype=np.uint16)) for i in range(2)}
    config = DataConfig(path=str(folder(tmp_path / "data", held)), size=(5, 4))
    pack(config, tmp_path / "a.tar")
    back = opened(tmp_path / "a.tar")
    assert back.facts.bits == 16 and back.facts.channels == channels
    assert same_images(open_source(config), back)


def test_all_kinds_of_labels_are_kept(tmp_path):
    image = {f"{k}.png": encoded(pixels(4, 4, 3, seed=k)) for k in range(3)}
    tagged = folder(tmp_path / "tags", image | {"labels.csv": b"file,labels\n0.png,b;a\n1.png,\n2.png,c\n"})
    named = folder(tmp_path / "names", image | {"labels.csv": b"file,label\n0.png,b/x\n1.png,a\n2.png,a\n"})
    for suffix in ("zip", "tar"):
        pack(DataConfig(path=str(tagged)), tmp_path / f"tags.{suffix}")
        back = opened(tmp_path / f"tags.{suffix}")
        assert back.tags == ("a", "b", "c")
        assert back.tagged is not None and back.tagged.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
        pack(DataConfig(path=str(named)), tmp_path / f"names.{suffix}")
        back = opened(tmp_path / f"names.{suffix}")
        assert back.facts.classes == ("a", "b/x") and [back.label(i) for i in range(3)] == [1, 0, 0]
    np.savez(tmp_path / "a.npz", pixels(4, 6, 5, 3), np.array([0, 3, 1, 1]))
    pack(DataConfig(path=str(tmp_path / "a.npz")), tmp_path / "b.zip")
    assert same_images(opened(tmp_path / "a.npz"), opened(tmp_path / "b.zip"))
    assert opened(tmp_path / "b.zip").facts.classes == ("0", "1", "2", "3")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("out", ["a.zip", "a.tar", "a-%02d.tar"])
@pytest.mark.parametrize("at", [1, 5, 9])
def test_a_killed_job_goes_on(tmp_path, monkeypatch, out, at):
    monkeypatch.setattr(packing, "_PART", 3)
    config = DataConfig(path=str(folder(tmp_path / "data", files() | {f"c/{i}.png": encoded(pixels(8, 8, 3)) for i in range(3)})))
    config = DataConfig(path=config.path, max_unreadable=0.2, size=(6, 6))
    (tmp_path / "one").mkdir()
    pack(config, tmp_path / "one" / out, per_shard=3)
    made = []
    encode = packing.encode_png

    def dying(*args):
        made.append(1)
        if len(made) == at:
            raise Killed
        return encode(*args)

    monkeypatch.setattr(packing, "encode_png", dying)
    with pytest.raises(Killed):
        pack(config, tmp_path / "two" / out, per_shard=3)
    if "%" not in out:
        assert not (tmp_path / "two" / out).exists()
    with pytest.raises(DataError, match="other settings"):
        pack(DataConfig(path=config.path, max_unreadable=0.2, size=(5, 5)), tmp_path / "two" / out, per_shard=3)
    pack(config, tmp_path / "two" / out, per_shard=3, workers=2)
    assert len(made) <= 20 + 2  # no more than the part in which it was killed is made twice
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if not name.endswith(".jsonl"))
    assert len(opened(tmp_path / "two" / out.replace("%02d", "*"))) == 20
    assert (tmp_path / "two" / f"{out.replace('%', '')}.unreadable.jsonl").read_text().count("\n") == 3


def test_places_that_cannot_be_packed_to(tmp_path):
    config = DataConfig(path=str(folder(tmp_path / "data", three_classes())))
    for out, words in [
        ("a.txt", "X.zip"),
        ("a%.tar", "no pattern"),
        ("a-%d-%d.tar", "no pattern"),
        ("a-%%.tar", "no pattern"),
        ("a-%d.zip", "X-%05d.tar"),
    ]:
        with pytest.raises(DataError, match=words):
            pack(config, tmp_path / out)
    with pytest.raises(DataError, match="at least 1"):
        pack(config, tmp_path / "a-%d.tar", per_shard=0)
    for name in ("a.zip", "a-1.tar"):
        (tmp_path / name).write_bytes(b"mine")
        with pytest.raises(DataError, match="exists already"):
            pack(config, tmp_path / name.replace("1", "%d"), per_shard=3)
        assert (tmp_path / name).read_bytes() == b"mine"
    np.savez(tmp_path / "a.npz", pixels(2, 4, 4, 5))
    with pytest.raises(DataError, match="5 channels"):
        pack(DataConfig(path=str(tmp_path / "a.npz")), tmp_path / "b.zip")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot write"):
        pack(config, tmp_path / "file" / "b.zip")
