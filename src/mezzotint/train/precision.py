"""The device, the ranks and the precision of a run."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from accelerate.utils import InitProcessGroupKwargs

from mezzotint.configs import TrainConfig
from mezzotint.errors import ConfigError, unknown
from mezzotint.train.ranks import leave_at_exit


def build_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """Sets up what ``accelerate launch`` or ``torchrun`` asked for, or a single process; on the CPU where there is no CUDA GPU.

    Args:
        config: Precision, timeout of the ranks, and trackers.
        out: The run folder, for trackers that write files.

    Raises:
        ConfigError: The device cannot do the precision, or a tracker is unknown or not installed.
    """
    for name in config.trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", name, LOGGER_TYPE_TO_CLASS)
        if find_spec(name) is None:
            raise ConfigError(f"tracker '{name}' is not installed; `pip install {name}`, or leave it out of --train.trackers")
    if config.timeout <= 0:
        raise ConfigError(f"--train.timeout is {config.timeout:g}; give a number of seconds above 0")
    cuda = torch.cuda.is_available()
    if config.precision == "fp16" and not cuda:
        raise ConfigError("precision fp16 needs a CUDA GPU and there is none; use --train.precision bf16 or fp32")
    # Accelerate keeps the precision of the first run of a process unless it is told to forget it; ranks stay as they are.
    AcceleratorState._reset_state(reset_partial_state=False)
    mixed = "no" if config.precision == "fp32" else config.precision
    try:
        accelerator = Accelerator(
            mixed_precision=mixed,
            cpu=not cuda,
            log_with=list(config.trackers) or None,
            project_dir=out,
            kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout))],
        )
    except ValueError as error:
        raise ConfigError(f"precision {config.precision} does not work here: {str(error).splitlines()[0]}; use fp32") from error
    leave_at_exit(accelerator)
    return accelerator
