"""The device, the ranks and the precision of a run."""

from __future__ import annotations

import atexit

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from mezzotint.configs import TrainConfig
from mezzotint.errors import ConfigError


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Sets up what ``accelerate launch`` or ``torchrun`` asked for, or a single process; on the CPU where there is no CUDA GPU.

    Raises:
        ConfigError: The device cannot do the precision.
    """
    cuda = torch.cuda.is_available()
    if config.precision == "fp16" and not cuda:
        raise ConfigError("precision fp16 needs a CUDA GPU and there is none; use --train.precision bf16 or fp32")
    # Accelerate keeps the precision of the first run of a process unless it is told to forget it; ranks stay as they are.
    AcceleratorState._reset_state(reset_partial_state=False)
    mixed = "no" if config.precision == "fp32" else config.precision
    try:
        accelerator = Accelerator(mixed_precision=mixed, cpu=not cuda)
    except ValueError as error:
        raise ConfigError(f"precision {config.precision} does not work here: {str(error).splitlines()[0]}; use fp32") from error
    if accelerator.num_processes > 1:
        # Threads of a process group that is still open when the interpreter ends abort the process.
        atexit.unregister(_leave)
        atexit.register(_leave)
    return accelerator


def _leave() -> None:
    PartialState().destroy_process_group()
