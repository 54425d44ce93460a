"""What every family of official checkpoints says of a model, and the comparison of names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mezzotint.configs import DenoiserConfig, DenoisingConfig, LabelConfig, NetworkConfig, ObjectiveConfig, ScheduleConfig
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
        respacing: The official respacing rule, such as "250" or "ddim25"; empty: every level.
        size: Side of what the network sees, in pixels: images, or the latents of a codec. 0: not known.
        label: Class conditioning; None: unconditional.
        clip: Whether the official sampler clips x0 to [-1, 1]; latents are not clipped.
        assumed: Facts that neither the shapes nor the file name tell, by the name of the setting, such as "heads": a usual value stands
            in for them. Facts that only training needs are not listed.
    """

    net: NetworkConfig
    schedule: ScheduleConfig
    denoiser: DenoiserConfig
    objective: ObjectiveConfig = field(default_factory=DenoisingConfig)
    respacing: str = ""
    size: int = 0
    label: LabelConfig | None = None
    clip: bool = True
    assumed: tuple[str, ...] = ()


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


def count(names: Iterable[str], prefix: str) -> int:
    """Number of the blocks ``prefix0.``, ``prefix1.``, ... that a state dict has.

    Example:
        >>> count(["blocks.0.weight", "blocks.1.weight", "blocks.1.bias"], "blocks.")
        2
    """
    return len({name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)})
