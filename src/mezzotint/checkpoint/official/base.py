"""What every family of official checkpoints says of a model, and the comparison of names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mezzotint.configs import (
    CodecConfig,
    DenoiserConfig,
    DenoisingConfig,
    LabelConfig,
    LowResConfig,
    NetworkConfig,
    ObjectiveConfig,
    PixelConfig,
    ScheduleConfig,
    TimesConfig,
)
from mezzotint.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
"""Name of every tensor of a state dict -> its shape."""


@dataclass(frozen=True)
class OfficialModel:
    """What a set of official flags, or a state dict, describes.

    Attributes:
        net: The network.
        schedule: The noise levels that the model was trained with.
        denoiser: What its output stands for.
        objective: The training loss; its weight of the bound is the official one over all levels, without respacing.
        times: The law of the training times.
        respacing: The official respacing rule, such as "250" or "ddim25"; empty: every level.
        size: Side of what the network sees, in pixels: images, or the latents of a codec. 0: not known.
        label: Class conditioning; None: unconditional.
        low_res: How its low-resolution condition is made; None: it has none.
        codec: The space that the network works in.
        clip: Whether the official sampler clips x0 to [-1, 1]; latents are not clipped.
        assumed: Facts that neither the shapes nor the file name tell, by the name of the setting, such as "heads": a usual value stands
            in for them. Facts that only training needs are not listed.
        published: Name of the published model that it was taken for; empty: none.
    """

    net: NetworkConfig
    schedule: ScheduleConfig
    denoiser: DenoiserConfig
    objective: ObjectiveConfig = field(default_factory=DenoisingConfig)
    times: TimesConfig = field(default_factory=TimesConfig)
    respacing: str = ""
    size: int = 0
    label: LabelConfig | None = None
    low_res: LowResConfig | None = None
    codec: CodecConfig = field(default_factory=PixelConfig)
    clip: bool = True
    assumed: tuple[str, ...] = ()
    published: str = ""


def check_names(found: Iterable[str], wanted: Iterable[str], what: str) -> None:
    """Compares the names of a state dict.

    Args:
        found: The names that are there.
        wanted: Those that the settings ask for.
        what: What it should be, for the message, as in "an official checkpoint".

    Raises:
        CheckpointError: Names are missing or left over.
    """
    missing, extra = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or extra:
        raise CheckpointError(
            f"not {what} of these settings: {len(missing)} names are missing (first: {missing[:1] or '-'}), "
            f"{len(extra)} are unknown (first: {extra[:1] or '-'}); check the flags"
        )


def renamed(state: Mapping[str, Tensor], names: Mapping[str, str], what: str) -> dict[str, Tensor]:
    """A state dict under other names.

    Args:
        state: The state dict.
        names: New name -> name in ``state``, one to one.
        what: As for ``check_names``.

    Raises:
        CheckpointError: Names are missing or left over.
    """
    check_names(state, names.values(), what)
    return {new: state[old] for new, old in names.items()}


def count(names: Iterable[str], prefix: str) -> int:
    """Number of the blocks ``prefix0.``, ``prefix1.``, ... that a state dict has.

    Example:
        >>> count(["blocks.0.weight", "blocks.1.weight", "blocks.1.bias"], "blocks.")
        2
    """
    return len({name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)})


def labels_of_rows(rows: int | None, drop: float, *, null: bool) -> tuple[LabelConfig | None, tuple[str, ...]]:
    """Class conditioning from the number of rows of a label embedding, which does not tell whether the last row is a null class.

    Args:
        rows: Number of rows; None: no label embedding.
        drop: Probability of the null class in training, where there is one.
        null: Whether there is one, where the number of rows does not tell: those of ImageNet's 1000 classes do.

    Returns:
        The conditioning, and the names of what is assumed.
    """
    if rows is None:
        return None, ()
    known = rows in (1000, 1001)
    null = rows == 1001 if known else null
    return LabelConfig(num_classes=rows - null, drop=drop if null else 0.0), () if known else ("label.drop",)


def linear_from_patch(weight: Tensor) -> Tensor:
    """A patch embedding's convolution ``[width, c, p, p]`` as a linear layer ``[width, p * p * c]`` on our patches."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def patch_from_linear(weight: Tensor, patch: int) -> Tensor:
    """The inverse of ``linear_from_patch``."""
    return weight.unflatten(1, (patch, patch, -1)).permute(0, 3, 1, 2)
