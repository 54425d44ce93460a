from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mezzotint import registry
from mezzotint.errors import CapabilityError, CheckpointError, DataError
from mezzotint.metrics import foundation as module
from mezzotint.metrics.foundation import CLIP, DINOv2
from mezzotint.weights.io import file_hash

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny networks with random weights, as their library saves them."""
    folder = tmp_path_factory.mktemp("exports")
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
    transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=70, mlp_ratio=2)).save_pretrained(folder / "dinov2")
    words = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
    text = {**words, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    vision = {**small, "intermediate_size": 32, "image_size": 28, "projection_dim": 12}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    transformers.CLIPModel(config).save_pretrained(folder / "clip")
    return folder


def images(n: int, channels: int = 3, size: tuple[int, int] = (40, 52)) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(n).randint(0, 256, (n, channels, *size))).float() / 127.5 - 1


def test_dinov2_gives_the_class_token_of_the_whole_image(exports: Path) -> None:
    extractor = registry.build("features", f"dinov2,weights={exports / 'dinov2'}", "cpu")
    assert (extractor.name, extractor.resize, extractor.outputs) == ("dinov2", "bicubic antialiased 224", {"pool"})
    assert extractor.hash == file_hash(exports / "dinov2" / "model.safetensors")
    x = images(3)
    entry = extractor.prepare(x)
    levels = ((x[0, 1] + 1) * 127.5).round().numpy()
    pillow = np.asarray(Image.fromarray(levels, mode="F").resize((224, 224), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(entry[0, 1].numpy(), (pillow / 255 - 0.456) / 0.224, atol=1e-5)
    network = transformers.Dinov2Model.from_pretrained(exports / "dinov2").eval()
    network.embeddings.position_embeddings = extractor.network.embeddings.position_embeddings
    torch.testing.assert_close(extractor(x)["pool"], network(entry).last_hidden_state[:, 0])


def test_positions_of_dinov2_are_those_of_its_publication(exports: Path) -> None:
    network = transformers.Dinov2Model.from_pretrained(exports / "dinov2")
    old = network.embeddings.position_embeddings.data[0, 1:].view(5, 5, -1)  # 70 pixels: 5 patches a side
    new = DINOv2(weights=str(exports / "dinov2")).network.embeddings.position_embeddings[0]
    assert new.shape == (1 + 16 * 16, 32)
    torch.testing.assert_close(new[0], network.embeddings.position_embeddings[0, 0])

    def kernel(x: float) -> float:  # bicubic with a = -0.75
        x = abs(x)
        return 1.25 * x**3 - 2.25 * x**2 + 1 if x < 1 else -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0

    def weights(i: int) -> np.ndarray:
        at, out = (i + 0.5) * 5 / 16.1 - 0.5, np.zeros(5)
        for j in range(int(np.floor(at)) - 1, int(np.floor(at)) + 3):
            out[min(max(j, 0), 4)] += kernel(at - j)
        return out

    for row, column in ((0, 0), (3, 8), (15, 2)):
        expected = np.einsum("i,j,ijd->d", weights(row), weights(column), old.numpy())
        np.testing.assert_allclose(new[1 + 16 * row + column].detach().numpy(), expected, atol=1e-6)


def test_clip_gives_the_projected_features_of_the_middle(exports: Path) -> None:
    extractor = registry.build("features", f"clip,weights={exports / 'clip'}", "cpu")
    assert extractor.resize == "centre crop, bicubic antialiased 28, 256 levels"
    x = images(3)
    entry = extractor.prepare(x)
    levels = ((x[0] + 1) * 127.5).round().byte().movedim(0, -1).numpy()[:, 6:46]
    pillow = np.asarray(Image.fromarray(levels).resize((28, 28), Image.Resampling.BICUBIC)).astype(float)
    off = np.abs(255 * (entry[0, 2].numpy() * 0.27577711 + 0.40821073) - pillow[..., 2])
    assert np.mean(off > 1.01) < 0.01 and off.max() < 5  # Pillow also rounds, and bounds, between its two passes
    network = transformers.CLIPModel.from_pretrained(exports / "clip").eval()
    expected = network.visual_projection(network.vision_model(pixel_values=entry).pooler_output)
    torch.testing.assert_close(extractor(x)["pool"], expected)
    assert extractor(x)["pool"].shape == (3, 12)


@pytest.mark.parametrize("cls, name", [(DINOv2, "dinov2"), (CLIP, "clip")])
def test_features_do_not_depend_on_the_batch(cls: Any, name: str, exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = cls(weights=str(exports / name))
    x = images(7)
    whole = extractor(x)["pool"]
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    torch.testing.assert_close(extractor(x)["pool"], whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([extractor(one)["pool"] for one in x.split(1)]), whole, rtol=1e-4, atol=1e-5)
    gray = images(2, channels=1)
    torch.testing.assert_close(extractor(gray)["pool"], extractor(gray.expand(-1, 3, -1, -1))["pool"])
    with pytest.raises(DataError, match="neither gray nor RGB"):
        extractor(images(1, channels=2))


def test_preprocessing_is_read_from_its_file(exports: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((exports / "dinov2" / name).read_bytes())
    settings = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "crop_size": {"height": 70, "width": 70}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    extractor = DINOv2(weights=str(tmp_path))
    assert extractor.resize == "bicubic antialiased 70"
    torch.testing.assert_close(extractor.prepare(torch.ones(1, 3, 9, 9)), torch.full((1, 3, 70, 70), 2.0))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"crop_size": 71}))
    with pytest.raises(CheckpointError, match="71 pixels, which its patches of 14 do not divide"):
        DINOv2(weights=str(tmp_path))


def test_what_cannot_be_loaded_says_so_in_one_line(exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    with pytest.raises(CheckpointError, match="is a 'clip', not a 'dinov2'"):
        DINOv2(weights=str(exports / "clip"))
    with pytest.raises(CheckpointError, match="no weights at"):
        CLIP(weights=str(tmp_path))
    (tmp_path / "config.json").write_bytes((exports / "dinov2" / "config.json").read_bytes())
    state = load_file(exports / "dinov2" / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "layernorm.weight"}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 tensor\(s\), such as layernorm.weight"):
        DINOv2(weights=str(tmp_path))

    original = builtins.__import__

    def without(name: str, *args: Any, **settings: Any) -> Any:
        if name == "transformers":
            raise ImportError(name)
        return original(name, *args, **settings)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(CapabilityError, match=r"pip install 'mezzotint\[features\]'") as caught:
        DINOv2(weights=str(exports / "dinov2"))
    assert "\n" not in str(caught.value)
