"""DINOv2 and CLIP as feature networks, from the files of transformers (the extra "features")."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mezzotint.errors import CapabilityError, CheckpointError
from mezzotint.metrics.features import full_mantissa
from mezzotint.metrics.inception import as_rgb, resize_bicubic, to_levels
from mezzotint.registry import register
from mezzotint.weights.io import file_hash

DINOV2 = "facebook/dinov2-large"
CLIP_LARGE = "openai/clip-vit-large-patch14-336"
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_AT_ONCE = 64  # images in a pass
T = TypeVar("T")


class _Vision:
    """What the two have in common."""

    outputs = frozenset({"pool"})

    def __init__(self, network: Any, source: str, side: int, normal: tuple[Tensor, Tensor], device: str | torch.device):
        if side % network.config.patch_size:
            raise CheckpointError(f"{source} takes images of {side} pixels, which its patches of {network.config.patch_size} do not divide")
        self.network = network.eval().requires_grad_(False).to(device)
        self.device, self.side = torch.device(device), side
        self.mean, self.std = (part.to(device) for part in normal)
        self.hash = _hash(source)

    def _resized(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def _pooled(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def prepare(self, images: Tensor) -> Tensor:
        """What the network is given for images ``[b, 1 or 3, h, w]`` in [-1, 1]: ``[b, 3, side, side]`` float32."""
        return (self._resized(to_levels(as_rgb(images.to(self.device)))) / 255 - self.mean) / self.std

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features of images ``[b, 1 or 3, h, w]`` in [-1, 1]: "pool" ``[b, d]`` float32, on the device of the network.

        Raises:
            DataError: Neither one nor three channels.
        """
        with full_mantissa():
            return {"pool": torch.cat([self._pooled(self.prepare(part)).float() for part in images.split(_AT_ONCE)])}


@register("features", "dinov2")
class DINOv2(_Vision):
    """The class token of DINOv2, after the last normalisation.

    Images are resized as a whole. The positions are resized by the rule of the first publication, which the files' own program changed.

    Args:
        device: Where the network runs.
        weights: A folder in the format of transformers, or a name on the Hugging Face hub; None: DINOv2 ViT-L/14.

    Raises:
        CapabilityError: transformers is not installed.
        CheckpointError: The weights cannot be had or are not those of a DINOv2.

    Source: Stein et al. 2023 (the distance); Karras et al. 2024b (the resizing); Oquab et al. 2024.
    """

    def __init__(self, device: str | torch.device = "cpu", *, weights: str | None = None):
        source = weights or DINOV2
        network = _load("AutoModel", source, ("dinov2", "dinov2_with_registers"))
        side, normal = _preprocessing(source, 224, _IMAGENET)
        if network.config.model_type == "dinov2":
            _resize_positions(network.embeddings, side // network.config.patch_size)
        super().__init__(network, source, side, normal, device)
        self.name, self.resize = "dinov2", f"bicubic antialiased {side}"

    def _resized(self, images: Tensor) -> Tensor:
        return resize_bicubic(images, (self.side, self.side))

    def _pooled(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).pooler_output


@register("features", "clip")
class CLIP(_Vision):
    """The image features of CLIP, projected to the space of the texts. Their length is left as it is; ``cmmd`` brings it to one.

    Images are cropped to the square in their middle, resized, and rounded to 256 levels.

    Args:
        device: Where the network runs.
        weights: A folder in the format of transformers, or a name on the Hugging Face hub; None: CLIP ViT-L/14 for 336 pixels.

    Raises:
        CapabilityError: transformers is not installed.
        CheckpointError: The weights cannot be had or are not those of a CLIP.

    Source: Jayasumana et al. 2024 (the distance and the cropping); Radford et al. 2021.
    """

    def __init__(self, device: str | torch.device = "cpu", *, weights: str | None = None):
        source = weights or CLIP_LARGE
        network = _load("CLIPVisionModelWithProjection", source, ("clip", "clip_vision_model"))
        _, normal = _preprocessing(source, 0, _CLIP)
        super().__init__(network, source, network.config.image_size, normal, device)
        self.name, self.resize = "clip", f"centre crop, bicubic antialiased {self.side}, 256 levels"

    def _resized(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, :, top : top + side, left : left + side]
        return resize_bicubic(square, (self.side, self.side)).round_().clamp_(0, 255)

    def _pooled(self, x: Tensor) -> Tensor:
        return self.network(pixel_values=x).image_embeds


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without bars, the list of the tensors that are not needed, and a line for each time that the hub does not answer."""
    logger = logging.getLogger("huggingface_hub")
    level, verbosity, bars = logger.level, transformers.get_verbosity(), transformers.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.set_verbosity_error()
    transformers.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        transformers.set_verbosity(verbosity)
        if bars:
            transformers.enable_progress_bar()


def _cache_first(load: Callable[..., T], *args: Any, **settings: Any) -> T:
    """What a function gives from the files of this machine, or else with those of the hub."""
    try:
        return load(*args, local_files_only=True, **settings)
    except OSError:
        return load(*args, local_files_only=False, **settings)


def _load(kind: str, source: str, types: tuple[str, ...]) -> Any:
    """A network of transformers, in float32; all of its weights come from the files."""
    try:
        import transformers
    except ImportError as error:
        raise CapabilityError("DINOv2 and CLIP need the extra 'features'; install it with: pip install 'mezzotint[features]'") from error
    hint = "give a folder with config.json and model.safetensors as weights=FOLDER, or a name on the Hugging Face hub"
    try:
        with _quiet(transformers.logging):
            found = _cache_first(transformers.AutoConfig.from_pretrained, source).model_type
            if found not in types:
                raise CheckpointError(f"{source} is a '{found}', not a '{types[0]}'; {hint}")
            network, about = _cache_first(getattr(transformers, kind).from_pretrained, source, output_loading_info=True)
    except CheckpointError:
        raise
    except Exception as error:  # the hub raises errors of its own, and of several libraries below it
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"no weights at '{source}' ({first}); {hint}") from error
    missing = sorted(about["missing_keys"])
    if missing:
        raise CheckpointError(f"{source} lacks {len(missing)} tensor(s), such as {missing[0]}; {hint}")
    return network.float()


def _file(source: str, name: str) -> Path | None:
    """A file of a folder or of a name on the hub; None: there is none."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(_cache_first(hf_hub_download, source, name))
    except (EntryNotFoundError, LocalEntryNotFoundError):
        return None


def _hash(source: str) -> str | None:
    files = (_file(source, name) for name in ("model.safetensors", "pytorch_model.bin"))
    return next((file_hash(path) for path in files if path is not None), None)


def _preprocessing(source: str, side: int, normal: tuple[tuple[float, ...], tuple[float, ...]]) -> tuple[int, tuple[Tensor, Tensor]]:
    """Side of the network's images, and mean and deviation ``[3, 1, 1]`` of their channels; what the files do not say is as given."""
    path = _file(source, "preprocessor_config.json")
    said = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    crop = said.get("crop_size", side)
    mean, std = (torch.tensor(said.get(f"image_{name}", value)).view(3, 1, 1) for name, value in zip(("mean", "std"), normal, strict=True))
    return (crop["height"] if isinstance(crop, dict) else crop), (mean, std)


def _resize_positions(embeddings: Any, side: int) -> None:
    """Positions for another number of patches, a tenth of a patch wider than it, as in the networks' first publication."""
    whole = embeddings.position_embeddings.data
    old = round((whole.shape[1] - 1) ** 0.5)
    if old == side:
        return
    grid = whole[:, 1:].unflatten(1, (old, old)).movedim(-1, 1)
    scale = (side + 0.1) / old
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    embeddings.position_embeddings = nn.Parameter(torch.cat([whole[:, :1], grid.flatten(2).movedim(1, -1)], dim=1))
