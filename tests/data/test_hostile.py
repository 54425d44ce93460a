"""Paths and files that cannot be data, by mistake or on purpose: one line each that says what to do."""

from __future__ import annotations

import json
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tests.data.makers import encoded, folder, pixels, tarred, three_classes, wide_png, wide_tiff, zipped

from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.data.store import ZipStore
from mezzotint.errors import DataError


def refused(path, *words: str, **settings) -> None:
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(path=str(path), **settings)).verify()
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_paths_that_are_not_data(tmp_path, monkeypatch):
    folder(tmp_path / "photos", {"a.png": encoded(pixels(8, 8, 3)), "notes.txt": b"x"})
    refused("", "--data", "digits")
    refused(tmp_path / "fotos", "does not exist", f"did you mean '{tmp_path / 'photos'}'")
    refused(tmp_path / "fotos" / "train" / "x", f"did you mean '{tmp_path / 'photos'}'")
    refused(tmp_path / "photos" / "notes.txt", "unknown kind", ".npz")
    refused(tmp_path / "photos" / "a.png", "single image", "folder")
    monkeypatch.chdir(tmp_path)
    refused("digit", "did you mean 'digits'")


def test_empty_places(tmp_path):
    refused(folder(tmp_path / "a", {"x/y.txt": b""}), "no images", "x/y.txt", ".png")
    (tmp_path / "b").mkdir()
    refused(tmp_path / "b", "no images")
    refused(zipped(tmp_path / "c.zip", {}), "no images")
    np.savez(tmp_path / "d.npz", pixels(0, 8, 8, 3))
    refused(tmp_path / "d.npz", "no images")


def test_parts_that_are_not_there(tmp_path):
    refused(folder(tmp_path / "a", three_classes()), "no part 'test'", "--data.split all", split="test")
    refused(folder(tmp_path / "b", three_classes("train/")), "no part 'test'", "train", split="test")
    np.savez(tmp_path / "c.npz", pixels(2, 8, 8, 3))
    refused(tmp_path / "c.npz", "--data.split test", split="test")


def test_files_that_cannot_be_read(tmp_path):
    path = folder(tmp_path, three_classes())
    (path / "ant" / "9.png").symlink_to(path / "gone.png")
    refused(path, "ant/9.png cannot be read")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_files_without_permission(tmp_path):
    path = folder(tmp_path, three_classes())
    (path / "ant" / "0.png").chmod(0)
    refused(path, "ant/0.png cannot be read")


def test_zip_that_is_cut_or_is_none(tmp_path):
    whole = zipped(tmp_path / "a.zip", three_classes()).read_bytes()
    for k, data in enumerate([whole[: len(whole) // 2], b"", b"nothing like it", whole[100:]]):
        (tmp_path / f"{k}.zip").write_bytes(data)
        refused(tmp_path / f"{k}.zip", f"{k}.zip")


@pytest.mark.parametrize("deflate", [False, True])
def test_zip_with_a_damaged_member(tmp_path, deflate):
    path = zipped(tmp_path / "a.zip", {"a.png": encoded(pixels(8, 8, 3)), "b.png": encoded(pixels(8, 8, 3, seed=1))}, deflate)
    data = bytearray(path.read_bytes())
    at = data.find(b"IDAT") if not deflate else 100
    data[at + 10] ^= 255
    path.write_bytes(data)
    refused(path, "member 'a.png'", "damaged")


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_zip_names_that_lead_outside(tmp_path, name):
    refused(zipped(tmp_path / "a.zip", {name: encoded(pixels(8, 8, 3))}), "leads outside")


def test_zip_that_holds_a_name_twice(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", encoded(pixels(8, 8, 3)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", encoded(pixels(8, 8, 3)))
    refused(tmp_path / "a.zip", "'a.png' twice")


def test_zip_of_a_rare_kind(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", encoded(pixels(8, 8, 3)))
    refused(tmp_path / "a.zip", "method 12", "zip -0")
    data = bytearray(zipped(tmp_path / "b.zip", {"a.png": encoded(pixels(8, 8, 3))}).read_bytes())
    data[data.rfind(b"PK\1\2") + 8] |= 1
    (tmp_path / "b.zip").write_bytes(data)
    refused(tmp_path / "b.zip", "encrypted")


def test_zip_bombs_are_not_unpacked(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50 << 20))
    declared = (50 << 20).to_bytes(4, "little")
    data = path.read_bytes()
    # A member that unpacks to more than it claims is cut off at its claim.
    path.write_bytes(data.replace(declared, (1000).to_bytes(4, "little")))
    refused(path, "member 'a.png'", "damaged")
    path.write_bytes(data.replace(declared, (3 << 30).to_bytes(4, "little")))
    refused(path, "unpacks to 3072 MiB")


def test_zip_offsets_beyond_the_file(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", {"a.png": encoded(pixels(8, 8, 3))}).read_bytes())
    at = data.rfind(b"PK\1\2") + 42
    data[at : at + 4] = (2**31 - 5).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(data)
    refused(tmp_path / "a.zip", "damaged")


def test_long_members_are_opened_by_their_ends(tmp_path, monkeypatch):
    files = {"a.png": encoded(pixels(200, 200, 3)), "b.png": encoded(pixels(200, 200, 3, seed=1))}
    path = zipped(tmp_path / "a.zip", files)
    monkeypatch.setattr(ZipStore, "read", lambda self, name: pytest.fail(f"{name} was read in full"))
    assert open_source(DataConfig(path=str(path))).facts.size == (200, 200)


NPZ = {
    "floats": (lambda p: np.savez(p, np.zeros((2, 4, 4, 3))), ["float64", "uint8"]),
    "channels first": (lambda p: np.savez(p, pixels(2, 3, 32, 32)), ["channels first"]),
    "one image": (lambda p: np.savez(p, pixels(4, 4)), ["must be [n, height"]),
    "other names": (lambda p: np.savez(p, images=pixels(2, 4, 4, 3)), ["images but no arr_0"]),
    "pickled": (lambda p: np.savez(p, np.array([{}, {}], dtype=object)), ["cannot be read"]),
    "no archive": (lambda p: p.write_bytes(b"text"), ["not a readable .npz"]),
}


@pytest.mark.parametrize("what", NPZ)
def test_arrays_that_hold_no_images(tmp_path, what):
    make, words = NPZ[what]
    make(tmp_path / "a.npz")
    refused(tmp_path / "a.npz", *words)


def test_npz_damage(tmp_path):
    path: Path = tmp_path / "a.npz"
    np.savez(path, pixels(2, 32, 32, 3))
    data = bytearray(path.read_bytes())
    data[1000] ^= 255
    path.write_bytes(data)
    refused(path, "check sum")
    path.write_bytes(data[: len(data) // 2])
    refused(path, "not a readable .npz")


def mutated(data: bytes, dice: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at = dice.randrange(len(out) + 1)
        match dice.randrange(4):
            case 0:
                out[at : at + 1] = dice.randbytes(1)
            case 1:
                del out[at:]
            case 2:
                out[at:at] = dice.randbytes(dice.randrange(8))
            case 3:
                out[at : at + 4] = dice.choice([b"\xff" * 4, b"\0" * 4, b"\xff\xff\xff\x7f"])
    return bytes(out)


@pytest.mark.filterwarnings("ignore")
def test_random_damage_is_read_or_refused(tmp_path):
    small, dice = pixels(12, 12, 3), random.Random(0)
    np.savez(tmp_path / "whole.npz", pixels(3, 4, 4, 3), np.array([0, 1, 2]))
    good = {name: encoded(small, kind) for name, kind in [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a.bmp", "BMP")]} | {
        "wide.png": wide_png(pixels(12, 12, 4, dtype=np.uint16)),
        "a.tif": wide_tiff(pixels(12, 12, 3, dtype=np.uint16)),
        "a.gif": encoded(small, "GIF", mode="P"),
        "a.ppm": encoded(small, "PPM"),
        "stored.zip": zipped(tmp_path / "whole.zip", three_classes()).read_bytes(),
        "deflated.zip": zipped(tmp_path / "whole.zip", three_classes(), deflate=True).read_bytes(),
        "a.npz": (tmp_path / "whole.npz").read_bytes(),
        "a.tar": tarred(tmp_path / "whole.tar", three_classes() | {"ant/0.cls": b"0"}).read_bytes().rstrip(b"\0") + bytes(1024),
        "dataset.json": json.dumps({"labels": [["ok.png", 0]], "classes": ["x"]}).encode(),
        "labels.csv": b"file,label\nok.png,x\n",
        "labels.jsonl": b'{"file":"ok.png","label":"x"}\n',
    }
    refusals = []
    for turn in range(50):
        for name, data in good.items():
            place = folder(tmp_path / f"{turn}{name}", {name: mutated(data, dice)})
            if name in ("dataset.json", "labels.csv", "labels.jsonl"):
                folder(place, {"ok.png": good["a.png"]})
            path = place / name if name.endswith((".zip", ".npz", ".tar")) else place
            try:
                open_source(DataConfig(path=str(path), channels=dice.choice([None, 3]))).verify()
            except DataError as error:
                refusals.append(str(error))
    assert len(refusals) > 300
    assert not [message for message in refusals if "\n" in message]
