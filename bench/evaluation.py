"""Time that ``mezzotint evaluate`` spends outside the feature network: ``python bench/evaluation.py``.

The network is Inception with random weights, the images are random: neither changes the time. What grows with the number of images, what is
done once, and what grows with its square (precision and recall) are told apart; the share is stated for the published protocol, 50,000
samples against 10,000 vectors of the reference.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from clock import CPU, WALL, Stopwatch, now
from mezzotint.metrics.inception import Inception, InceptionNetwork
from mezzotint.metrics.precision_recall import precision_recall
from mezzotint.metrics.statistics import write_statistics
from mezzotint.tasks import evaluate as evaluation
from mezzotint.tasks.evaluate import Reading, evaluate, make_reference

PUBLISHED, REFERENCE = 50_000, 10_000
REDUCED = 10
"""How much smaller the sets are that precision and recall are timed on."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--num", type=int, default=256, help="images of each set")
    parser.add_argument("--side", type=int, default=64, help="their height and width")
    parser.add_argument("--metrics", nargs="+", default=["fid", "sfid", "is", "precision", "recall"])
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--out", type=Path, help="write the figures to this file, as JSON")
    return parser.parse_args()


def random_weights(file: Path) -> Path:
    torch.manual_seed(0)
    state = InceptionNetwork().state_dict()
    torch.save({name: x for name, x in state.items() if not name.endswith("num_batches_tracked")}, file)
    return file


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        features = f"inception,weights={random_weights(place / 'w.pth')}"
        rng = np.random.default_rng(0)
        for name in ("samples", "real"):
            np.savez(place / f"{name}.npz", rng.integers(0, 256, (given.num, given.side, given.side, 3), np.uint8))
        write_statistics(place / "ref.safetensors", make_reference(place / "real.npz", features=features))
        watch = Stopwatch()
        watch.owner = "evaluate"
        places = [("network", Inception, "__call__")]
        places += [(name, evaluation, name) for name in ("measure", "build_features", "read_statistics")]
        with watch.on(*places):
            begin = now()
            evaluate(place / "samples.npz", place / "ref.safetensors", metrics=given.metrics, reading=Reading(batch_size=64))
            total = now() - begin
    network, *others = (watch.seconds["evaluate", name] for name, *_ in places)
    once = np.sum(others, axis=0)
    by_image = (total - network - once) / given.num
    of_network = network / given.num
    samples, real = torch.rand(PUBLISHED // REDUCED, 2048), torch.rand(REFERENCE // REDUCED, 2048)
    precision_recall(real, real)  # warms up
    begin = now()
    precision_recall(samples, real)
    square = (now() - begin) * REDUCED**2
    outside = PUBLISHED * by_image + once + square
    share = outside / (PUBLISHED * of_network + outside)
    out = {
        "images": given.num,
        "side": given.side,
        "metrics": given.metrics,
        **{
            clock: {
                "network_s_an_image": of_network[k],
                "outside_s_an_image": by_image[k],
                "once_s": once[k],
                "precision_recall_s_at_50000": square[k],
                "share_outside_at_50000": share[k],
            }
            for k, clock in ((WALL, "wall"), (CPU, "processor"))
        },
    }
    print(json.dumps(out, indent=2))
    if given.out:
        given.out.write_text(json.dumps(out, indent=2) + "\n")


if __name__ == "__main__":
    main()
