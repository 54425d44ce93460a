"""What a training run will need: parameters, FLOPs, memory and time, predicted without training, and measured on a few steps."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from mezzotint.configs import EncoderConfig, Recipe
from mezzotint.errors import CapabilityError, ConfigError
from mezzotint.noise import Noise
from mezzotint.pipelines.build import build_classifier, build_codec, build_network, build_objective, build_stage
from mezzotint.train.ema import EMA
from mezzotint.train.logging import peak_memory
from mezzotint.train.optim import build_optimizer
from mezzotint.types import Batch, Cond

MANY = 256
"""Images of a step whose memory is that of its activations, for any network."""
COPIES = 4
"""Copies of the largest tensor that a kernel makes: its operands and their gradients, in a layout of its own."""
PROCESS = 64 * 2**20
"""Bytes by which a process grows for kernels and threads when it first trains."""
MARGIN = 0.9
"""Share of the free memory that ``fit`` uses."""
FEW = 8
"""A micro-batch below this many images makes ``fit`` recompute activations, where the whole batch has more."""


@dataclass(frozen=True)
class Needs:
    """What training needs on one device.

    Attributes:
        parameters: Trained numbers.
        flops: Floating-point operations of a training step, for each image (a multiplication and an addition are two).
        state: Bytes that are always there: weights, optimiser, averages.
        least: Bytes that a step needs beside them with a single image: mostly gradients.
        fixed: Bytes that a step of many images needs beside them, without those of its images.
        per_image: Bytes for each image of a micro-batch: mostly activations.
    """

    parameters: int
    flops: int
    state: int
    least: int
    fixed: int
    per_image: int

    def memory(self, micro_batch: int) -> int:
        """Bytes at the peak, beside what the process itself takes."""
        return self.state + max(self.least, self.fixed + micro_batch * self.per_image)


@dataclass(frozen=True)
class Measured:
    """What a few steps took.

    Attributes:
        images_per_second: Images that were trained on in a second.
        memory: Bytes at the peak: of the device's allocator on a GPU, else what the process grew by.
    """

    images_per_second: float
    memory: int


def needs(recipe: Recipe) -> Needs:
    """Predicts what training needs, by a training step of the network on tensors that have shapes alone.

    With half precision, activations count half, and the weights are held a second time in that precision.

    Args:
        recipe: A resolved recipe.
    """
    with torch.device("meta"):
        network = build_network(recipe).train()
    parameters = sum(p.numel() for p in network.parameters())
    half = recipe.train.precision != "fp32"
    state = PROCESS + parameters * (4 * (3 + len(recipe.ema.decays)) + (2 if half else 0))
    with FlopCounterMode(display=False) as counter:
        _step(recipe, network, 1)
    flops = counter.get_total_flops()
    least, some, more = (_peak(recipe, network, n) for n in (1, MANY, 2 * MANY))
    per_image = (more - some) / MANY
    # With few images the peak is at the end, when all gradients are there; with many it is where the backward pass begins.
    return Needs(parameters, flops, state, least, round(some - MANY * per_image), round(per_image / (2 if half else 1)))


def _step(recipe: Recipe, network: nn.Module, num: int) -> None:
    network(*_inputs(recipe, num)).square().mean().backward()
    for p in network.parameters():
        p.grad = None


def _peak(recipe: Recipe, network: nn.Module, num: int) -> int:
    """Most bytes that live at once in a step of ``num`` images."""
    with _Living() as living, _fused_attention():
        _step(recipe, network, num)
    # Kernels hold their operands once more in layouts of their own.
    return living.peak + COPIES * living.largest


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Runs attention as the fused kernels of CPU and GPU do, which keep no table of weights, as the plain one does."""

    def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]

    # A torch function mode would not do: it is off while activations are recomputed.
    with mock.patch.object(nn.functional, "scaled_dot_product_attention", fused):
        yield


class _Living(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = self.largest = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._enter, out)
        return out

    def _enter(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            self.largest = max(self.largest, storage.nbytes())
            weakref.finalize(storage, self._leave, key, storage.nbytes())

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _inputs(recipe: Recipe, num: int = 1) -> tuple[Tensor, Tensor, Cond]:
    """Examples of what the network takes, without data."""
    net: Any = recipe.net
    size = getattr(net, "image_size", (0, 0))
    if size == (0, 0):
        if recipe.data.size is None:
            raise ConfigError(f"recipe '{recipe.name}' takes the size from the data; give --data, or --data.size H W")
        _, *size = build_codec(recipe).shape((3, *recipe.data.size))
    height, width = size
    x = torch.empty(num, net.in_channels, height, width, device="meta")
    cond: Cond = {}
    if getattr(net, "num_classes", None) is not None:
        cond["label"] = torch.zeros(num, dtype=torch.long, device="meta")
    if low := getattr(net, "low_res_channels", 0):
        cond["low_res"] = torch.empty(num, low, height, width, device="meta")
    if getattr(net, "text_tokens", 0):
        raise CapabilityError(f"recipe '{recipe.name}' is conditioned on text, which cannot be trained here")
    return x, torch.zeros(num, device="meta"), cond


def measure(recipe: Recipe, *, device: torch.device, steps: int = 3) -> Measured:
    """Runs a few training steps on random images.

    Args:
        recipe: A resolved recipe.
        device: Where.
        steps: Steps that are timed; one more comes before them.

    Raises:
        CapabilityError: Memory ran out.
    """
    batch, micro = recipe.train.batch, recipe.train.micro_batch or recipe.train.batch
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    before = 0 if cuda else peak_memory(device)
    try:
        classify = recipe.task == "classify"
        objective = build_objective(recipe, build_classifier(recipe) if classify else build_stage(recipe)).to(device).train()
        (phase, *_) = objective.phases
        parameters = [p for module in phase.modules for p in module.parameters()]
        optimizer = build_optimizer(phase.optim or recipe.optim, parameters)
        ema = EMA(objective.models, objective.phases, recipe.ema)
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(recipe.train.precision)
        start = 0.0
        for step in range(steps + 1):
            if step == 1:
                _wait(device)
                start = time.perf_counter()
            for first in range(0, batch, micro):
                ids = range(first, min(first + micro, batch))
                with torch.autocast(device.type, dtype, enabled=dtype is not None):
                    loss = objective(
                        _images(recipe, ids, device), phase=phase.name, step=step, noise=Noise(0, ids, stage="plan", step=step)
                    )
                loss.total.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            ema.update(phase.name)
        _wait(device)
        rate = steps * batch / (time.perf_counter() - start)
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise CapabilityError(f"a micro-batch of {micro} does not fit the memory; lower --train.micro-batch or use --fit auto") from error
    return Measured(rate, torch.cuda.max_memory_allocated(device) if cuda else peak_memory(device) - before)


def _images(recipe: Recipe, ids: range, device: torch.device) -> Batch:
    net: Any = recipe.net
    x, *_ = _inputs(recipe)
    n = len(ids)
    classes = net.out_channels if isinstance(net, EncoderConfig) else recipe.label.num_classes if recipe.label is not None else 0
    label = torch.arange(n, device=device) % classes if classes else None
    return Batch(torch.rand(n, *x.shape[1:], device=device) * 2 - 1, torch.tensor(ids, device=device), label)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory(device: torch.device) -> int:
    """Bytes that a run could take on a device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def fit(recipe: Recipe, *, free: int, ranks: int = 1) -> Recipe:
    """Chooses the micro-batch, and whether activations are recomputed, so that a run fits the memory; the result of training stays.

    The largest divisor of a rank's share of the batch is taken that fits; where fewer than 8 images would fit, activations are recomputed.

    Args:
        recipe: A resolved recipe.
        free: Bytes that there are.
        ranks: Processes that share the batch.

    Raises:
        CapabilityError: Not even a single image fits.
    """
    share = recipe.train.batch // ranks
    sizes = [n for n in range(share, 0, -1) if share % n == 0]

    def largest(candidate: Recipe) -> int:
        what = needs(candidate)
        return next((n for n in sizes if what.memory(n) <= MARGIN * free), 0)

    choices = [recipe]
    if getattr(recipe.net, "checkpointing", None) is False:
        choices.append(replace(recipe, net=replace(recipe.net, checkpointing=True)))  # pyright: ignore[reportCallIssue]
    for candidate in choices:
        micro = largest(candidate)
        if micro >= min(FEW, share) or (micro and candidate is choices[-1]):
            return replace(candidate, train=replace(candidate.train, micro_batch=micro))
    raise CapabilityError(
        f"recipe '{recipe.name}' needs {needs(choices[-1]).memory(1) / 2**30:.1f} GiB for a single image, of {free / 2**30:.1f} GiB free; "
        "use a smaller --net.width or smaller images"
    )
