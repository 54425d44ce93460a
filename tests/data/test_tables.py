"""Hugging Face data sets from folders and parquet files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from tests.data.makers import encoded, folder, pixels, wide_png
from tests.data.test_hostile import refused

from mezzotint.configs import DataConfig
from mezzotint.data import open_source

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def opened(path, **settings):
    return open_source(DataConfig(path=f"hf:{path}", **settings))


def table(num: int = 6, **columns):
    """A data set whose images are given by ``image``, or are colour noise."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "ant"])}
    held = {"image": [{"bytes": encoded(pixels(8, 8, 3, seed=i)), "path": None} for i in range(num)], "label": [i % 2 for i in range(num)]}
    for name, (kind, values) in columns.items():
        features[name], held[name] = kind, values
    return datasets.Dataset.from_dict(held, features=datasets.Features(features))


def test_parquet_and_saved_folders_are_the_same_data(tmp_path):
    table().save_to_disk(tmp_path / "saved")
    table().to_parquet(tmp_path / "a.parquet")
    folder(tmp_path / "files", {"train-00000-of-00001.parquet": (tmp_path / "a.parquet").read_bytes()})
    sources = [opened(tmp_path / place) for place in ("saved", "a.parquet", "files", "files:train")]
    for source in sources:
        assert (source.fingerprint, source.names) == (sources[0].fingerprint, tuple("012345"))
        assert source.facts.classes == ("cat", "ant") and source.facts.size == (8, 8)
        assert [source.label(i) for i in range(6)] == [0, 1] * 3
        assert all((source.array(i) == pixels(8, 8, 3, seed=i)).all() for i in range(6))
        copy = pickle.dumps(source)
        assert len(copy) < 20_000
        assert (pickle.loads(copy).array(3) == source.array(3)).all()


def test_splits(tmp_path):
    whole = datasets.DatasetDict({"train": table(4), "test": table(2), "extra": table(3)})
    whole.save_to_disk(tmp_path / "saved")
    assert [len(opened(tmp_path / "saved", split=part)) for part in ("all", "train", "test")] == [9, 4, 2]
    assert len(opened(f"{tmp_path / 'saved'}:extra")) == 3
    refused(f"hf:{tmp_path / 'saved'}:val", "no split 'val'", "train, test, extra")
    table().save_to_disk(tmp_path / "one")
    refused(f"hf:{tmp_path / 'one'}:test", "no splits")


def test_columns_are_found_by_type_or_chosen(tmp_path):
    other = {"bytes": encoded(pixels(8, 8, 3, seed=99)), "path": None}
    coarse = datasets.ClassLabel(names=["x", "y", "z"])
    table(2, photo=(datasets.Image(), [other, other]), coarse=(coarse, [2, 0])).save_to_disk(tmp_path / "a")
    refused(f"hf:{tmp_path / 'a'}", "several columns of images (image, photo)", "--data.column image")
    refused(f"hf:{tmp_path / 'a'}", "no images in column 'label'", column="label")
    refused(f"hf:{tmp_path / 'a'}", "no column 'lable'", column="photo,lable")
    source = opened(tmp_path / "a", column="photo")
    assert (source.array(0) == pixels(8, 8, 3, seed=99)).all()
    assert source.facts.classes == ("cat", "ant")
    assert any("coarse" in note for note in source.notes)
    source = opened(tmp_path / "a", column="photo,coarse")
    assert source.facts.classes == ("x", "y", "z") and source.label(0) == 2
    assert opened(tmp_path / "a", column="photo", labels=False).labels is None


def test_labels_of_other_types(tmp_path):
    plain = table(3).remove_columns("label")
    for name, values, classes in [("label", ["b", "a", "b"], ("a", "b")), ("class", [0, 2, 1], ("0", "1", "2"))]:
        plain.add_column(name, values).save_to_disk(tmp_path / name)
        assert opened(tmp_path / name).facts.classes == classes
    plain.save_to_disk(tmp_path / "none")
    assert opened(tmp_path / "none").labels is None
    tags = datasets.Sequence(datasets.ClassLabel(names=["p", "q", "r"]))
    table(3, tags=(tags, [[0, 2], [], [1]])).remove_columns("label").save_to_disk(tmp_path / "tags")
    source = opened(tmp_path / "tags")
    assert source.tags == ("p", "q", "r") and source.labels is None and source.facts.classes == ()
    assert source.batch([0, 1, 2]).extras["tags"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    plain.add_column("label", [0.5, 1.5, 2.5]).save_to_disk(tmp_path / "floats")
    refused(f"hf:{tmp_path / 'floats'}", "neither names nor whole numbers")
    table(3, label=(datasets.ClassLabel(names=["cat", "ant"]), [0, -1, 1])).save_to_disk(tmp_path / "missing")
    refused(f"hf:{tmp_path / 'missing'}", "row 1", "label -1")


def test_bits_paths_and_plain_bytes(tmp_path):
    wide = pixels(5, 7, 3, dtype=np.uint16)
    files = folder(tmp_path / "files", {"a.png": wide_png(wide)})
    rows = {"image": [{"bytes": wide_png(wide), "path": "b.png"}, {"bytes": None, "path": str(files / "a.png")}]}
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).save_to_disk(tmp_path / "a")
    source = opened(tmp_path / "a")
    assert source.facts.bits == 16
    assert (source.array(0) == wide).all() and (source.array(1) == wide).all()
    assert source.num_bytes == (len(wide_png(wide)),) * 2
    datasets.Dataset.from_dict({"png": [encoded(pixels(4, 4, 3))]}).save_to_disk(tmp_path / "b")
    assert (opened(tmp_path / "b").array(0) == pixels(4, 4, 3)).all()


def test_tables_that_cannot_be_read(tmp_path):
    refused(f"hf:{tmp_path / 'gone'}", "cannot be loaded", "exists")
    (tmp_path / "a.parquet").write_bytes(b"nothing like it")
    refused(f"hf:{tmp_path / 'a.parquet'}", "cannot be loaded", "check the path")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "words")
    refused(f"hf:{tmp_path / 'words'}", "no column of images", "text")
    table(0).to_parquet(tmp_path / "empty.parquet")
    refused(f"hf:{tmp_path / 'empty.parquet'}", "no data")
    rows = {"image": [{"bytes": b"no image", "path": None}, None]}
    features = datasets.Features({"image": datasets.Image()})
    for k in range(2):
        datasets.Dataset.from_dict({"image": rows["image"][k : k + 1]}, features=features).save_to_disk(tmp_path / f"bad{k}")
        refused(f"hf:{tmp_path / f'bad{k}'}", "/0 is" if k == 0 else "0 bytes")
