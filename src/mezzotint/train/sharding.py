"""Networks of which each rank keeps a part, by PyTorch's FSDP2. Checkpoints are the same whole files as without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

LEAST = 10_000
"""Parameters of a block from which on it is brought together by itself."""


def shard(root: nn.Module, *, device: torch.device, ranks: int) -> None:
    """Leaves each rank its part of all parameters; a block's are brought together while it runs. All ranks must have equal parameters.

    Args:
        root: What is called for the loss; blocks are the items of its innermost lists of modules.
        device: Where it is.
        ranks: Number of ranks.
    """
    mesh = init_device_mesh(device.type, (ranks,))
    for block in _blocks(root):
        fully_shard(block, mesh=mesh)
    fully_shard(root, mesh=mesh)


def _blocks(root: nn.Module) -> list[nn.Module]:
    items = dict.fromkeys(item for each in root.modules() if isinstance(each, nn.ModuleList) for item in each)
    inner = [item for item in items if not any(isinstance(module, nn.ModuleList | nn.ModuleDict) for module in item.modules())]
    return [item for item in inner if sum(p.numel() for p in item.parameters()) >= LEAST]


def whole(value: Tensor, *, keep: bool = True) -> Tensor:
    """A tensor with the parts of all ranks, which must all ask for it; one that is not in parts is given back as it is.

    Args:
        value: The tensor.
        keep: Whether this rank wants it; others get an empty one. What is kept is moved to the CPU, since all of a model may be too much.
    """
    if not isinstance(value, DTensor):
        return value
    full = value.full_tensor().detach()
    return full.cpu() if keep else full.new_empty(0)


def local(value: Tensor) -> Tensor:
    """The part of a tensor that this rank has; shares its memory."""
    return (value.to_local() if isinstance(value, DTensor) else value).detach()


def like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, cut into parts as another one is."""
    if not isinstance(other, DTensor):
        return value
    return distribute_tensor(value.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


@contextmanager
def together(root: nn.Module) -> Iterator[None]:
    """All parameters whole on every rank while the block runs, so that a rank may use the networks by itself, without gradients."""
    parts = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for module in parts:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in parts:
            module.reshard()
            module.set_reshard_after_forward(module is not root, recurse=False)
