from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint import registry
from mezzotint.errors import CheckpointError, ConfigError, DataError
from mezzotint.metrics import inception as module
from mezzotint.metrics.inception import Inception, InceptionNetwork, published_weights, resize_bicubic, resize_tf1, to_levels
from mezzotint.weights.io import file_hash


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    state = {k: v for k, v in InceptionNetwork().state_dict().items() if not k.endswith("num_batches_tracked")}
    # A gain of the normalisations that lets differences of the images through to the end.
    torch.save({k: 3 * v if k.endswith("bn.weight") else v for k, v in state.items()}, path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Inception:
    return registry.build("features", f"inception,weights={weights}", "cpu")


def images(n: int, channels: int = 3, size: tuple[int, int] = (20, 24)) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(n).randint(0, 256, (n, channels, *size))).float() / 127.5 - 1


# --- preparing images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (64, 48), (256, 300), (512, 512)])
def test_resizing_is_that_of_tensorflow_1(size: tuple[int, int]) -> None:
    rng = np.random.RandomState(0)
    x = rng.randint(0, 256, size).astype(np.float64)
    got = resize_tf1(torch.from_numpy(x).float()[None, None], (299, 299))[0, 0].numpy()
    for i, j in rng.randint(0, 299, (500, 2)):
        top, left = (k * old / 299 for k, old in zip((i, j), size, strict=True))
        (a, b), (u, v) = (int(top), int(left)), (top - int(top), left - int(left))
        c, d = min(a + 1, size[0] - 1), min(b + 1, size[1] - 1)
        expected = (x[a, b] * (1 - v) + x[a, d] * v) * (1 - u) + (x[c, b] * (1 - v) + x[c, d] * v) * u
        assert got[i, j] == pytest.approx(expected, abs=0.01)


def test_a_ramp_is_read_at_the_corner_of_each_pixel() -> None:
    ramp = torch.arange(64.0).expand(1, 1, 2, 64)
    at = torch.arange(299) * 64 / 299
    torch.testing.assert_close(resize_tf1(ramp, (2, 299))[0, 0, 0], at.clamp_max(63), rtol=1e-5, atol=1e-5)
    aligned = resize_tf1(ramp, (2, 127), align_corners=True)[0, 0, 1]
    torch.testing.assert_close(aligned, torch.arange(127) / 2)


def test_the_clean_resizing_is_that_of_pillow() -> None:
    x = np.random.RandomState(0).randint(0, 256, (40, 700)).astype(np.float32)
    pillow = np.asarray(Image.fromarray(x, mode="F").resize((299, 299), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(resize_bicubic(torch.from_numpy(x)[None, None], (299, 299))[0, 0].numpy(), pillow, atol=1e-4)


def test_levels_of_files_are_found_exactly() -> None:
    levels = torch.arange(256.0)
    assert torch.equal(to_levels(levels / 127.5 - 1), levels)
    assert torch.equal(to_levels((levels / 127.5 - 1).double()), levels)
    assert to_levels(torch.tensor([-1.2, 1.2])).tolist() == [0, 255]


def test_three_protocols(weights: Path) -> None:
    grey = torch.full((1, 3, 10, 10), 255 / 127.5 - 1)
    ranges = {"adm": 127 / 128, "pytorch_fid": 1.0, "clean": 127 / 128}
    for name, white in ranges.items():
        extractor = Inception(weights=str(weights), protocol=name)
        entry = extractor.prepare(grey)
        assert entry.shape == (1, 3, 299, 299)
        torch.testing.assert_close(entry, torch.full_like(entry, white))
    noise = images(1)
    assert len({float(module.PROTOCOLS[name][1](noise).std()) for name in ranges}) == 3
    assert len({module.PROTOCOLS[name][0] for name in ranges}) == 3
    with pytest.raises(ConfigError, match="unknown protocol of Inception 'clen'; did you mean 'clean'"):
        Inception(protocol="clen")


# --- the network -----------------------------------------------------------------------------------------------------------


def test_the_network_has_the_tensors_of_the_published_file() -> None:
    with torch.device("meta"):
        state = InceptionNetwork().state_dict()
    sizes = {k: v.numel() for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert sum(sizes.values()) == 23_885_392
    for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_6d.branch7x7dbl_5.bn.running_var", "Mixed_7c.branch3x3dbl_3b.bn.weight", "fc.bias"):
        assert name in sizes
    assert module.WEIGHTS.split("-")[-1] == f"{module.SHA256[:8]}.pth"


def test_outputs_and_their_order(extractor: Inception, weights: Path) -> None:
    x = images(2)
    found = extractor(x)
    assert {k: v.shape for k, v in found.items()} == {"pool": (2, 2048), "spatial": (2, 2023), "logits": (2, 1008)}
    assert found.keys() == extractor.outputs
    assert extractor.hash == file_hash(weights) and extractor.resize == "tf1-bilinear 299"
    maps = dict(extractor.network.maps(extractor.prepare(x)))
    assert maps["Mixed_6d"].shape == (2, 768, 17, 17) and maps["Mixed_7c"].shape == (2, 2048, 8, 8)
    marked = found["spatial"].reshape(2, 17, 17, 7)
    torch.testing.assert_close(marked[1, 3, 5], maps["Mixed_6d"][1, :7, 3, 5])
    torch.testing.assert_close(found["pool"], maps["Mixed_7c"].mean(dim=(2, 3)))
    torch.testing.assert_close(found["logits"], torch.nn.functional.linear(found["pool"], extractor.network.fc.weight))


def test_pools_of_the_blocks() -> None:
    ones = torch.ones(1, 1, 4, 4)
    assert torch.equal(module.mean_pool(ones), ones)  # zeros beyond the border are not counted
    network = InceptionNetwork()
    pools = {name: block.pool for name, block in network.named_children() if name.startswith("Mixed")}
    assert {name for name, pool in pools.items() if pool is module.max_pool} == {"Mixed_7c"}
    assert {name for name, pool in pools.items() if pool is module.halve} == {"Mixed_6a", "Mixed_7a"}


def test_features_do_not_depend_on_the_batch(extractor: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(3)
    whole = extractor(x)
    assert float(whole["pool"].std(dim=0).mean()) > 0.01  # the images differ
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    for other in (extractor(x), {k: torch.cat([extractor(one)[k] for one in x.split(1)]) for k in whole}):
        for name, value in whole.items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-4)


def test_gray_images_are_seen_as_rgb(extractor: Inception) -> None:
    gray = images(1, channels=1)
    torch.testing.assert_close(extractor(gray)["pool"], extractor(gray.repeat(1, 3, 1, 1))["pool"])
    with pytest.raises(DataError, match="neither gray nor RGB"):
        extractor(images(1, channels=4))


# --- its weights -----------------------------------------------------------------------------------------------------------


def changed(state: dict[str, torch.Tensor], what: str) -> object:
    if what == "lacks":
        return {k: v for k, v in state.items() if k != "fc.weight"}
    if what == "unknown":
        return {**state, "AuxLogits.fc.bias": torch.zeros(2)}
    if what == "shape":
        return {**state, "fc.bias": torch.zeros(1000)}
    return [1, 2] if what == "list" else {"model": state}


@pytest.mark.parametrize(
    "what, words",
    [
        ("lacks", r"lacks 1 tensor\(s\), such as fc.weight"),
        ("unknown", r"has unknown 1 tensor\(s\), such as AuxLogits.fc.bias"),
        ("shape", r"fc.bias has shape \(1000,\), not \(1008,\)"),
        ("list", "has none of the tensors of InceptionNetwork"),
        ("nested", "has none of the tensors of InceptionNetwork"),
    ],
)
def test_other_weights_are_refused_in_one_line(weights: Path, tmp_path: Path, what: str, words: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(changed(torch.load(weights, mmap=True), what), path)
    with pytest.raises(CheckpointError, match=words) as caught:
        Inception(weights=str(path))
    assert "\n" not in str(caught.value)


def test_where_the_published_weights_are_looked_for(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path / "own"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(module, "URL", "http://127.0.0.1:9/none.pth")
    with pytest.raises(CheckpointError, match="cannot fetch"):
        published_weights()
    other = tmp_path / "hub" / "checkpoints" / module.WEIGHTS.replace("pt_", "weights-")
    other.parent.mkdir(parents=True)
    other.write_bytes(weights.read_bytes())
    with pytest.raises(CheckpointError, match="cannot fetch"):  # not the published file, whatever its name
        published_weights()
    monkeypatch.setattr(module, "SHA256", file_hash(weights))
    assert published_weights() == other
    assert Inception().hash == file_hash(weights)
    own = tmp_path / "own" / "features" / module.WEIGHTS
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_bytes(b"changed")
    with pytest.raises(CheckpointError, match="is not the published file"):
        published_weights()
