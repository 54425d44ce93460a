"""Inception score: how sure a classifier is of each image, and how many classes there are among all of them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mezzotint.errors import ConfigError, DataError
from mezzotint.metrics.estimate import Estimate

SPLITS = 10


def inception_score(logits: Tensor, *, splits: int = SPLITS, split_size: int | None = None, shuffle: int | None = None) -> Estimate:
    """``exp(mean KL(p(y|x) | p(y)))`` of each part of the images.

    ADM's evaluator takes contiguous parts of 5,000 images as they come (``split_size=5000``, which is ``splits=10`` for 50,000);
    torch-fidelity takes ten parts of the images in the random order of seed 2020 (``shuffle=2020``).

    Args:
        logits: ``[n, classes]``, by convention those of Inception without their bias.
        splits: Number of parts, of equal size but for one image.
        split_size: Images in a part instead of their number; the last may have fewer.
        shuffle: Seed of a random order; None: the order that they have.

    Returns:
        Mean and spread over the parts, each between 1 and the number of classes.

    Raises:
        ConfigError: More parts than images, or parts without images.
        DataError: Not a matrix, or a value that is not finite.

    Example:
        >>> round(inception_score(50 * torch.eye(4), splits=1).value, 6), inception_score(torch.zeros(4, 4), splits=1).value
        (4.0, 1.0)

    Source: Salimans et al. 2016, section 4.
    """
    if logits.ndim != 2:
        raise DataError(f"logits have shape {tuple(logits.shape)}; give a matrix [images, classes]")
    bad = int((~torch.isfinite(logits)).any(dim=1).sum())
    if bad:
        raise DataError(f"the logits of {bad} of {len(logits)} images are not finite; look for NaN or infinite pixels in them")
    n = len(logits)
    if split_size is None and not 1 <= splits <= n:
        raise ConfigError(f"{n} images cannot be split into {splits} parts; use 1 to {n}")
    if split_size is not None and (split_size < 1 or n == 0):
        raise ConfigError(f"parts of {split_size} images out of {n}; give at least 1")
    if shuffle is not None:
        logits = logits[torch.from_numpy(np.random.RandomState(shuffle).permutation(n)).to(logits.device)]
    if split_size is None:
        bounds = [i * n // splits for i in range(splits + 1)]
    else:
        bounds = [*range(0, n, split_size), n]
    return Estimate.of([_score(logits[start:end]) for start, end in pairwise(bounds)])


def _score(logits: Tensor) -> float:
    log_p = (logits.cpu() if logits.device.type == "mps" else logits).double().log_softmax(dim=1)
    log_mean = torch.logsumexp(log_p, dim=0) - np.log(len(log_p))
    return float((log_p.exp() * (log_p - log_mean)).sum(dim=1).mean().exp())
