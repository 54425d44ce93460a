"""Tar shards: the same data as a folder, WebDataset's conventions, addresses, and tars that cannot be trusted."""

from __future__ import annotations

import http.server
import io
import json
import pickle
import tarfile
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.data.makers import encoded, folder, pixels, tarred, three_classes, wide_png
from tests.data.test_hostile import refused

from mezzotint.configs import DataConfig
from mezzotint.data import open_source
from mezzotint.data.shards import pick_images, split_key
from mezzotint.errors import DataError


def opened(path: Path | str, **settings):
    return open_source(DataConfig(path=str(path), **settings))


def test_a_tar_of_a_folder_is_that_folder(tmp_path):
    first = opened(folder(tmp_path / "folder", three_classes()))
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        source = opened(tarred(tmp_path / f"{kind}.tar", three_classes(), kind=kind))
        assert (source.facts, source.names, source.fingerprint) == (first.facts, first.names, first.fingerprint)
        assert all((source.array(i) == first.array(i)).all() for i in range(6))
    copy = pickle.dumps(source)
    assert len(copy) < 20_000
    assert (pickle.loads(copy).array(3) == first.array(3)).all()


def test_what_holds_for_archives_holds_for_tars(tmp_path):
    long = "x" * 150
    around = tarred(tmp_path / "a.tar", {f"./pictures/{long}/{n}": d for n, d in three_classes().items()} | {"./pictures/._0.png": b"x"})
    assert opened(around).facts.classes == ("ant", "bee", "cat")
    parts = three_classes("train/") | {"test/ant/9.png": encoded(pixels(8, 8, 3)), "dataset.json": b'{"labels": null}'}
    assert len(opened(tarred(tmp_path / "b.tar", parts), split="test")) == 1
    table = {"a.png": encoded(pixels(4, 4, 3)), "labels.csv": b"file,label\na.png,owl\n"}
    assert opened(tarred(tmp_path / "c.tar", table)).facts.classes == ("owl",)


def sharded(root: Path, *, start: int = 0, per_shard: int = 4, num: int = 10) -> Path:
    for shard, begin in enumerate(range(0, num, per_shard)):
        files: dict[str, bytes] = {}
        for i in range(begin, min(begin + per_shard, num)):
            key = f"{i if start == 0 else i - begin:06d}"
            files |= {f"{key}.png": encoded(pixels(8, 8, 3, seed=i)), f"{key}.cls": str(i % 3).encode(), f"{key}.txt": b"a caption"}
        tarred(root / f"x-{shard:03d}.tar", files)
    return root


def test_shards_by_braces_and_wildcards_are_one_data_set(tmp_path):
    root = sharded(tmp_path)
    braces, stars = opened(root / "x-{000..002}.tar"), opened(root / "x-*.tar")
    assert braces.fingerprint == stars.fingerprint
    assert braces.names == tuple(f"{i:06d}.png" for i in range(10))
    assert [braces.label(i) for i in range(10)] == [i % 3 for i in range(10)]
    assert all((braces.array(i) == pixels(8, 8, 3, seed=i)).all() for i in range(10))
    assert braces.notes == ()
    assert len(opened(root / "x-{000..001}.tar")) == 8


def test_shards_that_count_anew_keep_their_images_apart(tmp_path):
    source = opened(sharded(tmp_path, start=1) / "x-*.tar")
    assert len(source) == 10
    assert source.facts.classes == ("0", "1", "2")
    found = {source.name(i): i for i in range(10)}
    assert (source.array(found["x-001~000002.png"]) == pixels(8, 8, 3, seed=6)).all()
    assert source.label(found["x-001~000002.png"]) == 0


def test_shards_written_by_webdataset_are_read(tmp_path):
    wds = pytest.importorskip("webdataset")
    with wds.ShardWriter(str(tmp_path / "x-%03d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            writer.write({"__key__": f"{i:04d}", "png": pixels(6, 5, 3, seed=i), "json": {"label": ["ant", "bee"][i % 2], "width": 5}})
    source = opened(tmp_path / "x-{000..002}.tar")
    assert source.facts.classes == ("ant", "bee")
    assert all((source.array(i) == pixels(6, 5, 3, seed=i)).all() and source.label(i) == i % 2 for i in range(10))


def test_numbers_are_named_by_json_or_by_folders(tmp_path):
    image = encoded(pixels(4, 4, 3))
    named = {f"{i}.{e}": d for i in range(3) for e, d in [("png", image), ("cls", b"%d" % (2 - i)), ("json", b'{"label": "c%d"}' % i)]}
    source = opened(tarred(tmp_path / "a.tar", named))
    assert source.facts.classes == ("c2", "c1", "c0")
    assert [source.label(i) for i in range(3)] == [2, 1, 0]
    folders = {f"{c}/0.{e}": d for k, c in enumerate("zyx") for e, d in [("png", image), ("cls", b"%d" % k)]}
    assert opened(tarred(tmp_path / "b.tar", folders)).facts.classes == ("z", "y", "x")
    assert opened(tarred(tmp_path / "c.tar", {"0.png": image, "0.cls": b"owl", "1.png": image, "1.cls": b"cat"})).label(0) == 1
    several = {"0.png": image, "0.json": b'{"labels": ["b", "a"]}', "1.png": image, "1.json": b'{"labels": []}'}
    source = opened(tarred(tmp_path / "d.tar", several))
    assert source.tags == ("a", "b") and source.labels is None
    assert source.batch([1, 0]).extras["tags"].tolist() == [[0, 0], [1, 1]]
    assert opened(tmp_path / "d.tar", labels=False).tags == ()


def test_samples_of_several_images_need_a_choice(tmp_path):
    files = {f"{i}.{e}": encoded(pixels(4, 4, 3, seed=k)) for i in range(2) for k, e in enumerate(["jpg", "seg.png"])}
    path = tarred(tmp_path / "a.tar", files)
    refused(path, "several images (jpg, seg.png)", "--data.column jpg")
    refused(path, "no images '.png'", "jpg, seg.png", column="png")
    assert opened(path, column="seg.png").names == ("0.seg.png", "1.seg.png")
    assert split_key("a.b/c.seg.PNG") == ("a.b/c", "seg.png")
    dotted = [f"img.{i:03d}.png" for i in range(5)]
    assert pick_images(dotted, None, "x") == dotted


def test_wide_images_keep_their_bits(tmp_path):
    array = pixels(5, 7, 4, dtype="uint16")
    source = opened(tarred(tmp_path / "a.tar", {"a.png": wide_png(array)}))
    assert source.facts.bits == 16
    assert (source.array(0) == array).all()


# --- addresses -----------------------------------------------------------------------------------------------------------


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    root = tmp_path / "served"
    root.mkdir()
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=root)) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_addresses_are_fetched_once_and_compared_from_then_on(server, tmp_path):
    root, url = server
    there, here = sharded(root), sharded(tmp_path)
    source = opened(f"{url}/x-{{000..002}}.tar")
    assert source.fingerprint == opened(here / "x-*.tar").fingerprint
    for shard in there.iterdir():
        shard.unlink()
    again = opened(f"{url}/x-{{000..002}}.tar")
    assert torch.equal(again.batch([3, 9]).images, source.batch([3, 9]).images)
    refused(f"{url}/x-{{000..003}}.tar", "x-003.tar", "404")
    held = next((tmp_path / "cache").rglob("x-001.tar"))
    held.write_bytes(held.read_bytes()[:-1] + b"x")
    refused(f"{url}/x-{{000..002}}.tar", "x-001.tar is not the file of its first use")


@pytest.mark.parametrize("path", ["pipe:cat x.tar", "s3://bucket/x.tar", "http://127.0.0.1:9/x.zip"])
def test_other_addresses_are_refused(path):
    refused(path, "no address of a .tar file", "http")


# --- tars that cannot be trusted -----------------------------------------------------------------------------------------


def entry(path: Path, name: str, **settings) -> Path:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo(name)
        for key, value in settings.items():
            setattr(info, key, value)
        archive.addfile(info)
        data = encoded(pixels(4, 4, 3))
        info = tarfile.TarInfo("ok.png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_names_that_lead_outside(tmp_path, name):
    refused(entry(tmp_path / "a.tar", name), "leads outside")


def test_members_that_are_no_files(tmp_path):
    refused(entry(tmp_path / "a.tar", "a.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "link 'a.png'", "tar -h")
    refused(entry(tmp_path / "b.tar", "a.png", type=tarfile.LNKTYPE, linkname="ok.png"), "link 'a.png'")
    refused(entry(tmp_path / "c.tar", "a.png", type=tarfile.FIFOTYPE), "no plain file")
    refused(entry(tmp_path / "d.tar", "a.png", type=tarfile.CHRTYPE), "no plain file")
    refused(entry(tmp_path / "e.tar", "ok.png"), "'ok.png' twice")


@pytest.mark.parametrize("size", [-1, -512, -1024, -5000])
def test_sizes_below_zero(tmp_path, size):
    data = bytearray(tarred(tmp_path / "a.tar", {"a.png": encoded(pixels(4, 4, 3)), "b.png": encoded(pixels(4, 4, 3))}).read_bytes())
    at = data.rfind(b"b.png")
    data[at + 124 : at + 136] = f"-{-size:010o}".encode() + b"\0"
    data[at + 148 : at + 156] = b" " * 8
    data[at + 148 : at + 156] = f"{sum(data[at : at + 512]):06o}".encode() + b"\0 "
    (tmp_path / "b.tar").write_bytes(data)
    refused(tmp_path / "b.tar", "b.tar")


def test_tars_that_are_cut_or_are_none(tmp_path):
    whole = tarred(tmp_path / "a.tar", three_classes()).read_bytes()
    end = len(whole.rstrip(b"\0"))
    cuts = {"inside a member": whole[: end - 20], "inside a header": whole[:1300], "empty": b"", "text": b"nothing like it" * 100}
    cuts |= {"after a member": whole[: -(-end // 512) * 512], "from the middle": whole[700:], "zeros": bytes(0)}
    cuts |= {"two in one": whole + whole, "a broken header": whole[:1024] + b"x" * 512 + whole[1536:]}
    for name, data in cuts.items():
        path = tmp_path / "b.tar"
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            opened(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name
    source = opened(tmp_path / "a.tar")
    (tmp_path / "a.tar").write_bytes(whole[:2000])
    with pytest.raises(DataError, match="shorter than when it was opened"):
        source.array(5)


def test_paths_that_are_no_tars(tmp_path):
    refused(tmp_path / "x.tar.gz", "packed")
    refused(tmp_path / "x-{000..002}.tar", "x-000.tar does not exist")
    refused(tmp_path / "x-*.tar", "no file fits")
    refused(tmp_path / "x-{000.tar", "brace")
    refused(tarred(tmp_path / "a.tar", {"a.txt": b"x"}), "no images")
    (tmp_path / "b.tar").mkdir()
    refused(tmp_path / "b.tar", "no images")


def test_labels_that_do_not_fit(tmp_path):
    image = encoded(pixels(4, 4, 3))
    refused(tarred(tmp_path / "a.tar", {"0.png": image, "0.cls": b"1", "1.png": image}), "gives 1.png no label")
    refused(tarred(tmp_path / "b.tar", {"0.png": image, "0.json": b"{"}), "'0.json'", "not JSON", "--data.no-labels")
    refused(tarred(tmp_path / "c.tar", {"0.png": image, "0.cls": b"\xff\xfe"}), "not UTF-8")
    refused(tarred(tmp_path / "d.tar", {"0.png": image, "0.json": json.dumps({"label": 1.5}).encode()}), "label 1.5")
    two = {"0.png": image, "0.cls": b"0", "0.json": b'{"label": "a"}', "1.png": image, "1.cls": b"0", "1.json": b'{"label": "b"}'}
    refused(tarred(tmp_path / "e.tar", two), "two names or two numbers")
