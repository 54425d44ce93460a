"""Images that cannot be read: listed, left out or stood in for, up to a limit, the same in every process and after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.data.makers import encoded, folder, pixels, tarred

from mezzotint.configs import DataConfig
from mezzotint.data import open_source, subset
from mezzotint.errors import DataError
from mezzotint.noise import Noise
from mezzotint.train.loader import batches
from mezzotint.train.order import positions
from mezzotint.types import Phase

EARLY, LATE, LAST = 3, 7, 19
"""Ids of images whose damage a glance at the file shows, or only decoding; and of the last, also damaged within."""


def damaged(data: bytes) -> bytes:
    """The same ends, another inside."""
    at = data.find(b"IDAT") + 12
    return data[:at] + bytes(20) + data[at + 20 :]


def files(num: int = 20) -> dict[str, bytes]:
    held = {f"{'ab'[i // 10]}/{i:02d}.png": encoded(pixels(8, 8, 3, seed=i)) for i in range(num)}
    for k, name in enumerate(list(held)):
        if k == EARLY:
            held[name] = b"no image at all"
        elif k in (LATE, LAST):
            held[name] = damaged(held[name])
    return held


def config(path: Path, share: float = 0.2, **settings) -> DataConfig:
    return DataConfig(path=str(path), max_unreadable=share, **settings)


def noise(ids) -> Noise:
    return Noise(0, ids, stage="train", step=5)


def test_none_may_be_unreadable_among_few(tmp_path):
    path = folder(tmp_path, files())
    with pytest.raises(DataError, match="03.png"):
        open_source(DataConfig(path=str(path)))


def test_the_next_readable_image_stands_in(tmp_path):
    source = open_source(config(folder(tmp_path, files())), stand_ins=True)
    assert len(source) == 20
    assert list(source.unreadable) == [EARLY]
    assert any("1 of 20 images cannot be read" in note for note in source.notes)
    ids = [EARLY, LATE, LAST, 5]
    batch = source.batch(ids, noise=noise(ids))
    assert torch.equal(batch.images, source.batch([EARLY + 1, LATE + 1, 0, 5]).images)
    assert batch.ids.tolist() == ids
    assert batch.label.tolist() == [0, 0, 0, 0]
    assert sorted(source.unreadable) == [EARLY, LATE, LAST]
    with pytest.raises(DataError, match="07.png"):
        source.batch([LATE])


def test_ids_and_fingerprint_do_not_depend_on_what_can_be_read(tmp_path):
    whole = files()
    one = open_source(config(folder(tmp_path / "a", whole)), stand_ins=True)
    name = next(iter(whole))
    two = open_source(config(folder(tmp_path / "b", whole | {name: bytes(len(whole[name]))})), stand_ins=True)
    assert one.names == two.names and one.fingerprint == two.fingerprint
    assert set(one.unreadable) != set(two.unreadable)


def test_elsewhere_they_are_left_out(tmp_path):
    source = open_source(config(folder(tmp_path, files())))
    assert len(source) == 19
    assert "a/03.png" not in source.names
    with pytest.raises(DataError, match=r"2 of 19 images cannot be read: a/07.png, b/19.png"):
        source.verify()


def test_the_list_is_shared_and_binding(tmp_path):
    path, listed = folder(tmp_path / "data", files()), tmp_path / "run" / "unreadable.jsonl"
    first = open_source(config(path), stand_ins=True)
    first.record(listed)
    assert not listed.exists()
    first.batch([0], noise=noise([0]))
    assert [json.loads(line)["image"] for line in listed.read_text().splitlines()] == ["a/03.png"]
    first.batch([LATE], noise=noise([LATE]))
    assert len(listed.read_text().splitlines()) == 2
    with listed.open("a") as file:
        file.write('{"image": "a/05.png", "problem": "seen by another process"}\n{"image": "half a li')
    again = open_source(config(path), stand_ins=True)
    again.record(listed)
    assert sorted(again.unreadable) == [EARLY, 5, LATE]
    assert torch.equal(again.batch([5], noise=noise([5])).images, again.batch([6]).images)
    part = subset(again, [4, 5, 6])
    part.record(listed)
    assert torch.equal(part.batch([1], noise=noise([5])).images, again.batch([6]).images)


def test_more_than_allowed_end_the_run(tmp_path):
    path = folder(tmp_path, files())
    with pytest.raises(DataError, match=r"03.png .*or pass --data.max-unreadable 0.053$"):
        open_source(config(path, 0.04))
    source = open_source(config(path, 0.05), stand_ins=True)
    with pytest.raises(DataError) as caught:
        source.batch([LATE], noise=noise([LATE]))
    assert "2 of 20 images cannot be read" in str(caught.value) and "\n" not in str(caught.value)
    share = float(str(caught.value).rsplit(" ", 1)[1])
    source = open_source(config(path, share), stand_ins=True)
    source.batch([LATE], noise=noise([LATE]))
    with pytest.raises(DataError, match="max-unreadable 1.5 is no share"):
        open_source(config(path, 1.5))


def drawn(source, *, first: int = 0, workers: int = 0, rank: int = 0, ranks: int = 1) -> list[torch.Tensor]:
    phases = [Phase("main", ())]
    loader = batches(
        source, phases, seed=1, batch=4, first_step=first, last_step=12, cursor=4 * first, rank=rank, ranks=ranks, workers=workers
    )
    return [batch.images for batch in loader]


def stores(root: Path) -> dict[str, Path]:
    return {"folder": folder(root / "folder", files()), "tar": tarred(root / "a.tar", files())}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_order_and_images_are_the_same_after_a_stop_in_workers_and_on_ranks(tmp_path, kind):
    path = stores(tmp_path)[kind]

    def opened():
        source = open_source(config(path, flip=True, fit="random"), stand_ins=True)
        source.record(tmp_path / "unreadable.jsonl")
        return source

    whole = drawn(opened())
    assert set(positions(1, 20, 0, 48)) == set(range(20))
    assert len(whole) == 12
    for other in (drawn(opened(), first=5), drawn(opened(), first=5, workers=2)):
        assert all(torch.equal(a, b) for a, b in zip(whole[5:], other, strict=True))
    halves = [drawn(opened(), rank=rank, ranks=2) for rank in range(2)]
    assert all(torch.equal(a, torch.cat(parts)) for a, parts in zip(whole, zip(*halves, strict=True), strict=True))
    listed = {json.loads(line)["image"] for line in (tmp_path / "unreadable.jsonl").read_text().splitlines()}
    assert listed == {"a/03.png", "a/07.png", "b/19.png"}


def test_workers_end_a_run_with_too_many(tmp_path):
    source = open_source(config(folder(tmp_path / "data", files()), 0.1), stand_ins=True)
    source.record(tmp_path / "unreadable.jsonl")
    with pytest.raises(DataError, match="3 of 20 images cannot be read, and --data.max-unreadable allows 2"):
        drawn(source, workers=2)
