"""The Inception network of FID, sFID and the Inception score, as the TensorFlow evaluators see it, with their ways to resize."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.errors import CheckpointError, DataError, unknown
from mezzotint.metrics.features import full_mantissa
from mezzotint.registry import register
from mezzotint.weights.foreign import read_foreign
from mezzotint.weights.hub import cache_folder, fetch, progress_bar
from mezzotint.weights.io import file_hash

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS}"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""Hash of the published weights; its first 8 digits are in their name."""
BYTES = 95_628_359
SIDE = 299
CLASSES = 1008
_SPATIAL = 7  # channels of Mixed_6d that sFID takes
_AT_ONCE = 64  # images in a pass: the first maps of one take 6 MB


# --- the network -----------------------------------------------------------------------------------------------------------


class Conv(nn.Module):
    """A convolution without bias, its batch normalisation, and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], *, stride: int = 1, padding: int | tuple[int, int] = 0):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Layer(NamedTuple):
    """One convolution of a branch; it keeps the size of the map unless it has a stride, and then it does not pad."""

    outputs: int
    kernel: int | tuple[int, int] = 1
    stride: int = 1

    def build(self, inputs: int) -> Conv:
        """The convolution for a number of input channels."""
        sides = (self.kernel, self.kernel) if isinstance(self.kernel, int) else self.kernel
        padding = (0, 0) if self.stride > 1 else (sides[0] // 2, sides[1] // 2)
        return Conv(inputs, self.outputs, self.kernel, stride=self.stride, padding=padding)


Branch = Sequence[Layer | tuple[Layer, Layer]]
"""Convolutions in a row; a pair at the end takes the same input, and both outputs are kept."""
Pool = Callable[[Tensor], Tensor]


def mean_pool(x: Tensor) -> Tensor:
    """Means over 3x3 pixels; the border is not counted. ``[b, c, h, w]`` in and out."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def max_pool(x: Tensor) -> Tensor:
    """Maxima over 3x3 pixels. ``[b, c, h, w]`` in and out."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


def halve(x: Tensor) -> Tensor:
    """Maxima over 3x3 pixels at every second one, ``[b, c, h, w]`` to half of h and w."""
    return F.max_pool2d(x, 3, stride=2)


class Mixed(nn.Module):
    """Branches side by side on one map, and a pooled one; their channels are put one after the other.

    A convolution is named by its branch, with its number behind it where the branch has several, and a letter where two end it.

    Attributes:
        outputs: Number of output channels.

    Args:
        inputs: Number of input channels.
        branches: Name -> its convolutions, in the order of the output.
        pool: How the last branch pools.
        after_pool: Channels of the convolution after it; 0: none.
    """

    def __init__(self, inputs: int, branches: Mapping[str, Branch], pool: Pool, after_pool: int = 0):
        super().__init__()
        self.pool = pool
        self.rows: list[list[tuple[str, ...]]] = []
        self.outputs = after_pool or inputs
        for branch, layers in branches.items():
            row, channels = [], inputs
            for i, layer in enumerate(layers):
                number = f"_{i + 1}" if len(layers) > 1 else ""
                parts = (
                    {f"{branch}{number}": layer}
                    if isinstance(layer, Layer)
                    else {f"{branch}{number}{c}": p for c, p in zip("ab", layer, strict=True)}
                )
                for name, part in parts.items():
                    self.add_module(name, part.build(channels))
                channels = sum(part.outputs for part in parts.values())
                row.append(tuple(parts))
            self.rows.append(row)
            self.outputs += channels
        self.branch_pool = Conv(inputs, after_pool, 1) if after_pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = []
        for row in self.rows:
            h = x
            for names in row:
                h = torch.cat([getattr(self, name)(h) for name in names], dim=1)
            out.append(h)
        return torch.cat([*out, self.branch_pool(self.pool(x))], dim=1)


def _mixed_5(inputs: int, after_pool: int) -> Mixed:
    branches: dict[str, Branch] = {
        "branch1x1": [Layer(64)],
        "branch5x5": [Layer(48), Layer(64, 5)],
        "branch3x3dbl": [Layer(64), Layer(96, 3), Layer(96, 3)],
    }
    return Mixed(inputs, branches, mean_pool, after_pool)


def _mixed_6(inputs: int, c: int) -> Mixed:
    wide, tall = (1, 7), (7, 1)
    branches: dict[str, Branch] = {
        "branch1x1": [Layer(192)],
        "branch7x7": [Layer(c), Layer(c, wide), Layer(192, tall)],
        "branch7x7dbl": [Layer(c), Layer(c, tall), Layer(c, wide), Layer(c, tall), Layer(192, wide)],
    }
    return Mixed(inputs, branches, mean_pool, 192)


def _mixed_7(inputs: int, pool: Pool) -> Mixed:
    pair = (Layer(384, (1, 3)), Layer(384, (3, 1)))
    branches: dict[str, Branch] = {
        "branch1x1": [Layer(320)],
        "branch3x3": [Layer(384), pair],
        "branch3x3dbl": [Layer(448), Layer(384, 3), pair],
    }
    return Mixed(inputs, branches, pool, 192)


class InceptionNetwork(nn.Module):
    """Inception v3 of December 2015, with the names of the published PyTorch weights.

    It is not torchvision's: the means leave out the border, the last block takes maxima, and there are 1008 classes.

    Source: Szegedy et al. 2016; the graph ``inception-2015-12-05`` of Heusel et al. 2017.
    """

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = Mixed(288, {"branch3x3": [Layer(384, 3, 2)], "branch3x3dbl": [Layer(64), Layer(96, 3), Layer(96, 3, 2)]}, halve)
        self.Mixed_6b = _mixed_6(768, 128)
        self.Mixed_6c = _mixed_6(768, 160)
        self.Mixed_6d = _mixed_6(768, 160)
        self.Mixed_6e = _mixed_6(768, 192)
        to_seven: dict[str, Branch] = {
            "branch3x3": [Layer(192), Layer(320, 3, 2)],
            "branch7x7x3": [Layer(192), Layer(192, (1, 7)), Layer(192, (7, 1)), Layer(192, 3, 2)],
        }
        self.Mixed_7a = Mixed(768, to_seven, halve)
        self.Mixed_7b = _mixed_7(1280, mean_pool)
        self.Mixed_7c = _mixed_7(2048, max_pool)
        self.fc = nn.Linear(2048, CLASSES)

    def maps(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """All maps in turn, under the names of their modules; "pool_1" and "pool_2" are those after the first two poolings.

        Args:
            x: ``[b, 3, 299, 299]``, about in [-1, 1].

        Yields:
            Name and map ``[b, c, h, w]``.
        """
        for name, module in self.named_children():
            if name == "fc":
                return
            x = module(x)
            yield name, x
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = halve(x)
                yield ("pool_1" if name == "Conv2d_2b_3x3" else "pool_2"), x

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The features of the metrics.

        Args:
            x: ``[b, 3, 299, 299]``, about in [-1, 1].

        Returns:
            "pool" ``[b, 2048]``, "spatial" ``[b, 2023]`` (17 rows, 17 columns, 7 channels, in that order) and "logits" ``[b, 1008]``,
            to which the bias is not added.
        """
        h, out = x, {}
        for name, h in self.maps(x):
            if name == "Mixed_6d":
                out["spatial"] = h[:, :_SPATIAL].permute(0, 2, 3, 1).flatten(1)
        out["pool"] = h.mean(dim=(2, 3))
        out["logits"] = out["pool"] @ self.fc.weight.T
        return out


# --- images ----------------------------------------------------------------------------------------------------------------


def to_levels(images: Tensor) -> Tensor:
    """Images in [-1, 1] to the 256 levels of a file, 0 to 255 in float32: the nearest one, which is exact for images of 8 bits."""
    return ((images.float() + 1) * 127.5).round_().clamp_(0, 255)


def resize_tf1(images: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bilinear resizing as in TensorFlow 1: pixel i is read at ``i * old / new``, and nothing is smoothed when an image shrinks.

    Args:
        images: ``[b, c, h, w]``.
        size: New height and width.
        align_corners: Read at ``i * (old - 1) / (new - 1)`` instead, so that the corners stay corners.

    Returns:
        ``[b, c, *size]``, float32.

    Example:
        >>> resize_tf1(torch.tensor([[[[0.0, 2.0]]]]), (1, 4)).flatten().tolist()
        [0.0, 1.0, 2.0, 2.0]
    """
    out = images.float()
    for dim, new in ((3, size[1]), (2, size[0])):
        old = out.shape[dim]
        step = (old - 1) / max(new - 1, 1) if align_corners else old / new
        # In single precision as there: at a sharp edge the rounding of the place shows in the fifth digit.
        at = torch.arange(new, dtype=torch.float32, device=out.device) * torch.tensor(step, dtype=torch.float32, device=out.device)
        low = at.floor().clamp_max(old - 1)
        weight, index = at - low, low.long()
        first, second = out.index_select(dim, index), out.index_select(dim, (index + 1).clamp_max(old - 1))
        out = torch.lerp(first, second, weight if dim == 3 else weight[:, None])
    return out


def resize_bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resizing with smoothing, as Pillow does it on float images.

    Args:
        images: ``[b, c, h, w]``.
        size: New height and width.

    Returns:
        ``[b, c, *size]``, float32; it may overshoot the range of the images.
    """
    # In double precision, as Pillow counts its coordinates: single precision would be off by a hundredth of a level.
    x = images.float() if images.device.type == "mps" else images.double()
    return F.interpolate(x, size=size, mode="bicubic", antialias=True).float()


def as_rgb(images: Tensor) -> Tensor:
    """Images with three channels ``[b, 3, h, w]``; the one of gray images is repeated.

    Raises:
        DataError: Neither one nor three channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"images of shape {tuple(images.shape[1:])} are neither gray nor RGB, which is all that this feature network sees; "
            "use the features of a classifier of your own, or pixels"
        )
    return images.expand(-1, 3, -1, -1)


def _adm(images: Tensor) -> Tensor:
    return resize_tf1(to_levels(images), (SIDE, SIDE)).sub_(128).div_(128)


def _pytorch_fid(images: Tensor) -> Tensor:
    return F.interpolate(images.float(), size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _clean(images: Tensor) -> Tensor:
    return resize_bicubic(to_levels(images), (SIDE, SIDE)).clamp_(0, 255).sub_(128).div_(128)


PROTOCOLS: Mapping[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "adm": (f"tf1-bilinear {SIDE}", _adm),
    "pytorch_fid": (f"half-pixel bilinear {SIDE}, levels / 127.5 - 1", _pytorch_fid),
    "clean": (f"pil-bicubic {SIDE}", _clean),
}
"""Name -> (the rule in words, images ``[b, 3, h, w]`` in [-1, 1] to the network's input ``[b, 3, 299, 299]``)."""


# --- the extractor ---------------------------------------------------------------------------------------------------------


@register("features", "inception")
class Inception:
    """Features of images by the Inception network: "pool" 2048, "spatial" 2023, "logits" 1008.

    The protocol "adm" is that of ADM's evaluator, of torch-fidelity and, but for rounding, of EDM's; "pytorch_fid" and "clean" (clean-fid)
    resize in their own ways, so that their distances are not comparable.

    Args:
        device: Where the network runs.
        weights: File of the weights, with the names of pytorch-fid's; None: the published ones, from the cache of this program or of
            ``torch.hub``, or fetched.
        protocol: Name of the way to prepare images.

    Raises:
        ConfigError: An unknown protocol.
        CheckpointError: The weights cannot be had, or are not those of this network.

    Source: Heusel et al. 2017 (FID); Nash et al. 2021 (sFID); Dhariwal & Nichol 2021 (the evaluator).
    """

    outputs = frozenset({"pool", "spatial", "logits"})

    def __init__(self, device: str | torch.device = "cpu", *, weights: str | None = None, protocol: str = "adm"):
        if protocol not in PROTOCOLS:
            raise unknown("protocol of Inception", protocol, PROTOCOLS)
        self.resize, self._prepare = PROTOCOLS[protocol]
        path = Path(weights) if weights is not None else published_weights()
        with torch.device("meta"):
            network = InceptionNetwork()
        load_strictly(network, read_foreign(path), path)
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self.name, self.hash = "inception", file_hash(path)

    def prepare(self, images: Tensor) -> Tensor:
        """What the network is given for images ``[b, 1 or 3, h, w]`` in [-1, 1]: ``[b, 3, 299, 299]`` float32."""
        return self._prepare(as_rgb(images.to(self.device)))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images.

        Args:
            images: ``[b, 1 or 3, h, w]`` in [-1, 1]; other values are taken for the nearest of 256 levels.

        Returns:
            "pool" ``[b, 2048]``, "spatial" ``[b, 2023]`` and "logits" ``[b, 1008]`` without bias, float32, on the device of the network.

        Raises:
            DataError: Neither one nor three channels.
        """
        with full_mantissa():
            parts = [self.network(self.prepare(part)) for part in images.split(_AT_ONCE)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def published_weights() -> Path:
    """The published weights: from the cache of ``torch.hub``, where other evaluators keep them, from this program's, or fetched.

    Raises:
        CheckpointError: They cannot be fetched, or the file that is there is another one.
    """
    place = f"features/{WEIGHTS}"
    if not (cache_folder() / place).is_file():
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        for name in (WEIGHTS, WEIGHTS.replace("pt_", "weights-", 1)):
            if (folder / name).is_file() and file_hash(folder / name) == SHA256:
                return folder / name
    return fetch(URL, place, sha256=SHA256, size=BYTES, progress=progress_bar(WEIGHTS))


def load_strictly(network: nn.Module, state: Any, path: Path) -> None:
    """Gives a network its weights; the numbers of batches that normalisations have seen may be absent.

    Args:
        network: The network; its tensors are replaced, so that it may be on the device "meta".
        state: What the file holds.
        path: The file, for messages.

    Raises:
        CheckpointError: A tensor is missing, has another shape, or is not known to the network.
    """
    wanted = network.state_dict()
    counts = {name for name in wanted if name.endswith("num_batches_tracked")}
    if not isinstance(state, Mapping) or not any(name in state for name in wanted.keys() - counts):
        raise CheckpointError(f"{path} has none of the tensors of {type(network).__name__}; give a copy of {WEIGHTS}")
    for words, names in (("lacks", wanted.keys() - counts - state.keys()), ("has unknown", state.keys() - wanted.keys())):
        if names:
            raise CheckpointError(f"{path} {words} {len(names)} tensor(s), such as {min(names)}; give a copy of {WEIGHTS}")
    for name, value in wanted.items():
        if name in state and (not isinstance(state[name], Tensor) or state[name].shape != value.shape):
            shape = tuple(getattr(state[name], "shape", ()))
            raise CheckpointError(f"{path}: {name} has shape {shape}, not {tuple(value.shape)}; give a copy of {WEIGHTS}")
    zero = torch.zeros((), dtype=torch.int64)
    network.load_state_dict({name: state.get(name, zero) for name in wanted}, assign=True)
