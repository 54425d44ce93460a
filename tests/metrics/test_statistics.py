from __future__ import annotations

import numpy as np
import pytest
import torch

from mezzotint.errors import DataError
from mezzotint.metrics.features import Pixels
from mezzotint.metrics.statistics import (
    Collector,
    Statistics,
    content_hash,
    digests,
    is_statistics,
    read_statistics,
    spread_over,
    write_statistics,
)


def images(n=30, c=2, h=4, w=9, seed=0):
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def collected(x, batch=7, *, kept=None, order=None) -> Statistics:
    collector = Collector(Pixels(), vectors=("pool",), kept=kept)
    order = list(range(len(x))) if order is None else order
    for start in range(0, len(x), batch):
        ids = order[start : start + batch]
        collector.add(x[ids], ids)
    return collector.statistics({"content": collector.content})


def test_what_is_collected():
    x = images()
    found = collected(x)
    rows = x.flatten(1)
    assert found.n == 30
    torch.testing.assert_close(found.moments["pool"][0], rows.double().mean(dim=0))
    torch.testing.assert_close(found.moments["pool"][1], rows.T.double().cov())
    assert torch.equal(found.vectors["pool"], rows)
    levels = x.double() * 127.5 + 127.5
    assert found.pixels["channels"] == 2
    assert found.pixels["size"] == [4, 9]
    np.testing.assert_allclose(found.pixels["mean"], levels.mean(dim=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.pixels["std"], levels.std(dim=(0, 2, 3), unbiased=False), rtol=1e-5)
    steps = (levels[..., 1:] - levels[..., :-1]).abs().mean(dim=(0, 1, 2))
    assert found.pixels["steps"] == pytest.approx(float(steps[7] / steps[:7].mean()), rel=1e-5)


@pytest.mark.parametrize("batch", [1, 4, 30])
def test_order_and_batch_do_not_matter(batch):
    x = images()
    plain = collected(x)
    mixed = collected(x, batch, order=torch.randperm(30, generator=torch.Generator().manual_seed(1)).tolist())
    torch.testing.assert_close(mixed.moments["pool"][1], plain.moments["pool"][1], rtol=0, atol=1e-12)
    assert torch.equal(mixed.vectors["pool"], plain.vectors["pool"])
    assert torch.equal(mixed.digests, plain.digests)
    assert mixed.protocol == plain.protocol


def test_merged_parts_are_the_whole():
    x = images()
    a, b, empty = (Collector(Pixels(), vectors=("pool",)) for _ in range(3))
    a.add(x[10:], range(10, 30))
    b.add(x[:10], range(10))
    whole = empty.merge(a).merge(b).statistics()
    plain = collected(x)
    torch.testing.assert_close(whole.moments["pool"][1], plain.moments["pool"][1], rtol=0, atol=1e-12)
    assert torch.equal(whole.vectors["pool"], plain.vectors["pool"])
    assert whole.pixels["mean"] == pytest.approx(plain.pixels["mean"])


def test_vectors_of_some_images():
    x = images()
    kept = spread_over(30, 4)
    found = collected(x, kept=kept)
    assert found.ids.tolist() == sorted(kept) == [0, 7, 15, 22]
    assert torch.equal(found.vectors["pool"], x.flatten(1)[found.ids])
    assert spread_over(30, 30) is spread_over(30, None) is None


def test_digests_know_pixels_and_not_their_type():
    levels = torch.randint(0, 256, (4, 1, 3, 3), generator=torch.Generator().manual_seed(0))
    x = levels / 127.5 - 1
    assert digests(x) == digests(x.double()) == digests((levels.double() / 255) * 2 - 1)
    assert len(set(digests(x))) == 4
    assert content_hash(digests(x)) != content_hash(digests(x)[::-1])


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_round_trip(tmp_path, suffix):
    held = collected(images())
    file = tmp_path / f"ref.{suffix}"
    write_statistics(file, held)
    assert is_statistics(file)
    assert list(tmp_path.iterdir()) == [file]
    back = read_statistics(file)
    assert back.n == 30
    for a, b in zip(back.moments["pool"], held.moments["pool"], strict=True):
        assert torch.equal(a, b)
    assert back.pixels == held.pixels
    assert {**back.protocol, **held.protocol} == back.protocol
    assert len(back.protocol["file_sha256"]) == 64
    if suffix == "safetensors":
        assert torch.equal(back.vectors["pool"], held.vectors["pool"])
        assert back.ids.tolist() == list(range(30))
    else:
        with np.load(file) as arrays:
            assert {"mu", "sigma"} < set(arrays.files)


def test_files_of_other_code(tmp_path):
    rng = np.random.default_rng(0)
    mu, sigma, feats = rng.normal(size=5), np.eye(5), rng.normal(size=(9, 5)).astype(np.float32)
    np.savez(tmp_path / "pytorch_fid.npz", mu=mu, sigma=sigma)
    np.savez(tmp_path / "adm.npz", arr_0=np.zeros((2, 4, 4, 3), np.uint8), mu=mu, sigma=sigma, mu_s=mu[:3], sigma_s=np.eye(3))
    np.savez(tmp_path / "clean_kid.npz", feats=feats)
    plain, adm, kid = (read_statistics(tmp_path / f"{name}.npz") for name in ("pytorch_fid", "adm", "clean_kid"))
    assert plain.n == adm.n == 0
    assert set(plain.moments) == {"pool"}
    assert set(adm.moments) == {"pool", "spatial"}
    assert torch.equal(adm.moments["spatial"][0], torch.from_numpy(mu[:3]))
    assert kid.n == 9
    np.testing.assert_allclose(kid.moments["pool"][1], np.cov(feats.T), rtol=1e-6)
    np.savez(tmp_path / "images.npz", np.zeros((2, 4, 4, 3), np.uint8))
    assert not is_statistics(tmp_path / "images.npz")


def damaged(folder):
    np.savez(folder / "shape.npz", mu=np.zeros(3), sigma=np.zeros((2, 2)))
    np.savez(folder / "nan.npz", mu=np.full(2, np.nan), sigma=np.eye(2))
    (folder / "cut.npz").write_bytes((folder / "nan.npz").read_bytes()[:40])
    (folder / "cut.safetensors").write_bytes(b"123")
    np.savez(folder / "half.npz", mu=np.zeros(3))


@pytest.mark.parametrize(
    "name, words",
    [
        ("shape.npz", r"mu and sigma of .*shape.npz have shapes \(3,\) and \(2, 2\)"),
        ("nan.npz", "mu or sigma of .*nan.npz holds NaN"),
        ("cut.npz", "cut.npz is damaged"),
        ("cut.safetensors", "cut.safetensors is damaged or no safetensors file"),
        ("half.npz", "half.npz holds no mu and sigma"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, words):
    damaged(tmp_path)
    with pytest.raises(DataError, match=words):
        read_statistics(tmp_path / name)


def test_weights_are_no_statistics(tmp_path):
    from mezzotint.weights.io import write_tensors

    write_tensors(tmp_path / "w.safetensors", {"x": torch.zeros(2)}, metadata={"mezzotint": "weights"})
    with pytest.raises(DataError, match="holds no statistics that this version reads"):
        read_statistics(tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"\.safetensors or \.npz files, not to ref.pkl"):
        write_statistics(tmp_path / "ref.pkl", collected(images()))


def test_bad_images_are_refused_by_name():
    collector = Collector(Pixels())
    x = images(3)
    x[1, 0, 2, 2] = torch.nan
    with pytest.raises(DataError, match="image cats/7.png holds NaN or infinite pixels"):
        collector.add(x, [0, 1, 2], names=["a", "cats/7.png", "b"])
    with pytest.raises(DataError, match=r"image 1 has pixels of 2; bring images to \[-1, 1\]"):
        collector.add(torch.stack([torch.zeros(1, 2, 2), torch.full((1, 2, 2), 2.0)]))
    collector.add(torch.zeros(2, 1, 3, 3))
    with pytest.raises(DataError, match=r"image 5 has shape \(1, 4, 4\), those before \(1, 3, 3\)"):
        collector.add(torch.zeros(1, 1, 4, 4), [5])
    with pytest.raises(DataError, match="12288 features an image are too many"):
        Collector(Pixels()).add(torch.zeros(1, 3, 64, 64))


def test_images_count_once():
    collector = Collector(Pixels())
    collector.add(images(4), [0, 1, 2, 2])
    with pytest.raises(DataError, match="image 2 was counted twice"):
        collector.statistics()
    with pytest.raises(DataError, match=r"statistics of 0 image\(s\)"):
        Collector(Pixels()).statistics()
