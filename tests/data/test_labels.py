"""Class names: all ways of giving them agree, and mistakes in them are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.data.makers import encoded, folder, pixels, three_classes, zipped

from mezzotint.configs import DataConfig
from mezzotint.data import open_source, subset
from mezzotint.errors import DataError

FLAT = {f"{i}.png": encoded(pixels(8, 8, 3, seed=i)) for i in range(6)}
NAMES = ["cat", "ant", "bee", "ant", "cat", "bee"]
INDEX = [2, 0, 1, 0, 2, 1]


def opened(path, **settings):
    return open_source(DataConfig(path=str(path), **settings))


def rows(pattern: str) -> str:
    return "\n".join(pattern.format(i=i, name=NAMES[i]) for i in range(6))


WAYS = {
    "labels.csv": "file,label\n" + rows("{i}.png,{name}"),
    "metadata.csv": "\ufefffile_name,text,label\n" + rows('{i}.png,"a picture, small",{name}'),
    "labels.jsonl": rows('{{"file": "{i}.png", "label": "{name}"}}'),
    "metadata.jsonl": rows('{{"file_name": "{i}.png", "label": "{name}", "text": "x"}}') + "\n",
    "dataset.json": json.dumps({"labels": [[f"{i}.png", INDEX[i]] for i in range(6)], "classes": ["ant", "bee", "cat"]}),
}


@pytest.mark.parametrize("way", [*WAYS, "headless"])
@pytest.mark.parametrize("place", ["folder", "zip", "zip with a folder around"])
def test_all_ways_give_the_map_of_class_folders(tmp_path, way, place):
    file, text = ("labels.csv", rows("./{i}.png,{name}")) if way == "headless" else (way, WAYS[way])
    files = FLAT | {file: text.encode()}
    around = "x/" if place.endswith("around") else ""
    path = (
        folder(tmp_path, files) if place == "folder" else zipped(tmp_path / "a.zip", {around + name: data for name, data in files.items()})
    )
    source = opened(path)
    by_folder = opened(folder(tmp_path / "by_folder", {f"{NAMES[i]}/{i}.png": FLAT[f"{i}.png"] for i in range(6)}))
    assert source.class_map == by_folder.class_map == {"ant": 0, "bee": 1, "cat": 2}
    assert source.labels.tolist() == INDEX
    assert {(name[0], source.label(i)) for i, name in enumerate(source.names)} == {
        (name[4], by_folder.label(i)) for i, name in enumerate(by_folder.names)
    }
    assert opened(path, labels=False).labels is None


def test_edm_labels_over_class_folders_keep_the_folder_names(tmp_path):
    files = three_classes()
    entries = [[name, {"ant": 0, "bee": 1, "cat": 2}[name[:3]]] for name in files]
    path = folder(tmp_path, files | {"dataset.json": json.dumps({"labels": entries}).encode()})
    assert opened(path).class_map == {"ant": 0, "bee": 1, "cat": 2}


def test_edm_labels_without_names_are_numbers(tmp_path):
    files = {f"00000/{i}.png": FLAT[f"{i}.png"] for i in range(6)}
    entries = [[name, INDEX[i]] for i, name in enumerate(files)]
    path = zipped(tmp_path / "a.zip", files | {"dataset.json": json.dumps({"labels": entries}).encode()})
    source = opened(path)
    assert source.facts.classes == ("0", "1", "2")
    assert source.labels.tolist() == INDEX
    numbered = folder(tmp_path / "numbered", {f"{INDEX[i]}/{i}.png": FLAT[f"{i}.png"] for i in range(6)})
    assert opened(numbered).class_map == source.class_map
    none = zipped(tmp_path / "b.zip", FLAT | {"dataset.json": b'{"labels": null}'})
    assert opened(none).labels is None


def test_captions_are_no_labels(tmp_path):
    files = three_classes() | {"metadata.jsonl": b'{"file_name": "ant/0.png", "text": "an ant"}\n'}
    assert opened(folder(tmp_path, files)).facts.classes == ("ant", "bee", "cat")


def test_label_file_over_parts(tmp_path):
    files = {f"{'train' if i < 4 else 'test'}/{i}.png": FLAT[f"{i}.png"] for i in range(6)}
    text = "file,label\n" + "\n".join(f"{name},{NAMES[int(name[-5])]}" for name in files)
    path = folder(tmp_path, files | {"labels.csv": text.encode()})
    test = opened(path, split="test")
    assert test.facts.classes == ("ant", "bee", "cat")
    assert test.labels.tolist() == INDEX[4:]


MISTAKES = {
    "below zero": ("dataset.json", json.dumps({"labels": [["0.png", -1]]}), ["0.png the label -1", "from 0"]),
    "too high": ("dataset.json", json.dumps({"labels": [["0.png", 3]], "classes": ["a", "b"]}), ["0.png the label 3", "0 to 1"]),
    "no number": ("dataset.json", json.dumps({"labels": [["0.png", "cat"]]}), ["whole number"]),
    "not JSON": ("dataset.json", "{", ["not JSON"]),
    "no entry": ("dataset.json", "[]", ['"labels"']),
    "missing image": ("labels.csv", "file,label\n0.pnk,cat", ["'0.pnk'", "did you mean '0.png'"]),
    "image without a label": ("labels.csv", "file,label\n0.png,cat", ["no label for 1.png"]),
    "empty label": ("labels.csv", WAYS["labels.csv"].replace("3.png,ant", "3.png,"), ["3.png no label"]),
    "two labels": ("labels.csv", WAYS["labels.csv"] + "\n0.png,bee", ["0.png two labels"]),
    "short row": ("labels.csv", "file,label\n0.png", ["row 2", "1 columns"]),
    "other columns": ("labels.csv", "a,b,c\n1,2,3", ["file_name and label"]),
    "no labels": ("labels.csv", "file_name,text\n0.png,x", ["no labels"]),
    "no file": ("labels.jsonl", '{"label": "cat"}', ["line 1", "names no file"]),
    "vector": ("labels.jsonl", '{"file": "0.png", "label": [1, 0]}', ["[1, 0]"]),
    "not UTF-8": ("labels.csv", "file,label\n0.png,é".encode("latin-1"), ["UTF-8"]),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_in_label_files(tmp_path, what):
    file, text, words = MISTAKES[what]
    path = folder(tmp_path, FLAT | {file: text if isinstance(text, bytes) else text.encode()})
    with pytest.raises(DataError) as caught:
        opened(path)
    assert all(word in str(caught.value) for word in [*words, file]), caught.value


def test_two_label_files(tmp_path):
    path = folder(tmp_path, FLAT | {way: WAYS[way].encode() for way in ("labels.csv", "labels.jsonl")})
    with pytest.raises(DataError, match=r"several label files, labels\.csv, labels\.jsonl"):
        opened(path)


def test_label_file_inside_a_part(tmp_path):
    files = {f"train/{name}": data for name, data in FLAT.items()} | {"train/metadata.csv": WAYS["metadata.csv"].encode()}
    with pytest.raises(DataError, match="inside a part"):
        opened(folder(tmp_path, files), split="train")
    assert opened(tmp_path / "train").facts.classes == ("ant", "bee", "cat")


def test_a_class_folder_without_images(tmp_path):
    path = folder(tmp_path / "data", three_classes() | {"dog/readme.txt": b"soon"})
    (path / "eel").mkdir()
    with pytest.raises(DataError, match=r"class folder dog .* has no images.*--data.no-labels"):
        opened(path)
    assert len(opened(path, labels=False)) == 6
    with pytest.raises(DataError, match="class folder dog "):
        opened(zipped(tmp_path / "a.zip", three_classes() | {"dog/": b""}))


def test_images_inside_and_outside_class_folders(tmp_path):
    path = folder(tmp_path, three_classes() | {"loose.png": encoded(pixels(8, 8, 3))})
    with pytest.raises(DataError, match=r"outside class folders \(loose.png\) and inside \(ant/0.png\)"):
        opened(path)


@pytest.mark.parametrize(
    ("labels", "word"),
    [
        (np.array([0, -1, 2]), "image 1 the label -1"),
        (np.array([0, 10**9, 2]), "image 1 the label 1000000000"),
        (np.array([0.0, 1.0, 2.0]), "float64"),
        (np.array([0, 1]), "each of 3 images"),
    ],
)
def test_labels_of_arrays(tmp_path, labels, word):
    np.savez(tmp_path / "a.npz", pixels(3, 8, 8, 3), labels)
    with pytest.raises(DataError, match=word):
        opened(tmp_path / "a.npz")


def test_class_names_are_composed(tmp_path):
    source = opened(folder(tmp_path, {"e\u0301/a.png": FLAT["0.png"], "f/a.png": FLAT["1.png"]}))
    assert source.facts.classes == ("f", "\u00e9")


IMAGES = {f"{k}.png": encoded(pixels(4, 4, 3, seed=k)) for k in range(3)}
TAGGED = {
    "labels.csv": "file_name,labels\n2.png,cat; ant\n0.png,\n1.png,bee\n",
    "metadata.jsonl": '{"file":"2.png","tags":["ant","cat"]}\n{"file":"0.png","tags":[]}\n{"file":"1.png","tags":["bee"]}\n',
    "dataset.json": '{"labels":[["2.png",[1,0,1]],["0.png",[0,0,0]],["1.png",[0,1,0]]],"classes":["ant","bee","cat"]}',
}


@pytest.mark.parametrize("file", TAGGED)
def test_images_may_have_several_labels(tmp_path, file):
    source = open_source(DataConfig(path=str(folder(tmp_path, IMAGES | {file: TAGGED[file].encode()}))))
    assert source.tags == ("ant", "bee", "cat")
    assert source.labels is None and source.facts.classes == ()
    batch = source.batch([0, 1, 2])
    assert batch.label is None
    assert batch.extras["tags"].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1]]
    part = subset(source, [2, 1])
    assert part.batch([0]).extras["tags"].tolist() == [[1, 0, 1]]
    assert len({source.fingerprint, open_source(DataConfig(path=str(tmp_path), labels=False)).fingerprint}) == 2


WRONG_TAGS = {
    "vectors of two lengths": ("dataset.json", '{"labels":[["0.png",[1,0]],["1.png",[1]],["2.png",[0,1]]]}', "list of 2"),
    "vectors and numbers": ("dataset.json", '{"labels":[["0.png",[1,0]],["1.png",1],["2.png",[0,1]]]}', "several kinds"),
    "vectors beside names": ("dataset.json", '{"labels":[["0.png",[1,0]],["1.png",[1,0]],["2.png",[0,1]]],"classes":["a"]}', "list of 1"),
    "other numbers": ("dataset.json", '{"labels":[["0.png",[2]]]}', "[0, 1, ...]"),
    "no names": ("labels.jsonl", '{"file":"0.png","labels":[1.5]}', "label 1.5"),
}


@pytest.mark.parametrize("what", WRONG_TAGS)
def test_tags_that_do_not_fit(tmp_path, what):
    file, text, words = WRONG_TAGS[what]
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(path=str(folder(tmp_path, IMAGES | {file: text.encode()}))))
    assert words in str(caught.value) and "\n" not in str(caught.value)
