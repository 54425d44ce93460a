"""Training by two ranks of which each keeps a part of the model."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch
from tests.cli.models import TINY
from tests.train.comparing import log, run_module
from tests.train.toy import Points, TwoPhases, trainer
from torch import distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.testing._internal.distributed.fake_pg import FakeStore

from mezzotint.cli import main
from mezzotint.cli.pictures import read_png
from mezzotint.errors import ConfigError
from mezzotint.train.sharding import LEAST, local, shard
from mezzotint.weights import io

WORDS = ["train", "small", "--data", "digits", *TINY, "--sample.grid", "uniform", "--sample.steps", "4", "--train.images", "256"]
WORDS += ["--train.batch", "32", "--train.micro-batch", "8", "--train.save-every", "64", "--train.sample-every", "128", "--train.keep", "0"]
WORDS += ["--train.log-every", "1", "--train.held-out", "0.05", "--optim.warmup", "0", "--optim.lr", "1e-3", "--optim.clip", "0.5"]
WORDS += ["--optim.eps", "1e-4", "--ema.decays", "0.9", "--ema.stds", "0.1", "--ema.snapshot-every", "128"]


def forget(run: Path, images: int) -> None:
    """Makes a run one that was stopped after so many images."""
    for kind in ("checkpoints", "snapshots"):
        for folder in (run / kind).iterdir():
            if int(folder.name) > images:
                shutil.rmtree(folder)
    shutil.rmtree(run / "model")


def same_files(one: Path, other: Path) -> None:
    files = sorted(p.relative_to(one) for p in one.rglob("*.safetensors"))
    assert files and files == sorted(p.relative_to(other) for p in other.rglob("*.safetensors"))
    for file in files:
        a, b = io.read_tensors(one / file), io.read_tensors(other / file)
        assert a.keys() == b.keys()
        for name in a:
            assert a[name].shape == b[name].shape and a[name].dtype == b[name].dtype
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5, msg=lambda text, at=(file, name): f"{at}: {text}")


class OnePhase(TwoPhases):
    """Trains the model against a critic that stays as it is."""

    @property
    def phases(self):
        return super().phases[1:]


def test_two_ranks_with_parts_do_what_one_whole_does_and_take_turns_with_it(tmp_path):
    whole, parts, again = tmp_path / "whole", tmp_path / "parts", tmp_path / "again"
    assert main([*WORDS, "--out", str(whole)]) == 0
    shutil.copytree(whole, parts)
    forget(parts, 64)
    trainer(tmp_path / "poisoned", objective=OnePhase(), source=Points(poison=(3,)), micro_batch=2).run()
    run_module("tests.train.test_sharding", str(parts), str(tmp_path / "poisoned-parts"), ranks=2)
    for kind in ("checkpoints", "snapshots", "model"):
        same_files(whole / kind, parts / kind)
    for a, b in zip(log(whole), log(parts), strict=True):
        (mine,), (theirs,) = a["phases"].values(), b["phases"].values()
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    held = [[line["loss"] for line in log(run, "held_out")] for run in (whole, parts)]
    assert held[0] == pytest.approx(held[1], rel=1e-4)
    grids = [read_png(run / "samples/000000256.png").astype(int) for run in (whole, parts)]
    assert abs(grids[0] - grids[1]).max() <= 2

    shutil.copytree(parts, again)
    forget(again, 128)
    assert main([*WORDS, "--resume", "--out", str(again)]) == 0
    same_files(whole / "model", again / "model")

    bad = [[(line["step"], line["first_bad"]) for line in log(tmp_path / name, "skipped")] for name in ("poisoned", "poisoned-parts")]
    assert bad[0] == bad[1] and bad[0][0][1] == "the loss of image 3"
    same_files(tmp_path / "poisoned/model", tmp_path / "poisoned-parts/model")


def test_each_rank_keeps_its_part_and_blocks_come_together_by_themselves():
    block = nn.Sequential(nn.Linear(LEAST // 100, 100), nn.SiLU(), nn.Linear(100, 100))
    net = nn.Module()
    net.stem, net.levels = nn.Linear(7, 5), nn.ModuleList([nn.ModuleList([block, nn.Linear(3, 3)])])
    count = sum(p.numel() for p in net.parameters())
    dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
    try:
        shard(net, device=torch.device("cpu"), ranks=4)
    finally:
        dist.destroy_process_group()
    assert [module for module in net.modules() if isinstance(module, FSDPModule)] == [net, block]
    assert sum(local(p).numel() for p in net.parameters()) == pytest.approx(count / 4, abs=100)


def test_what_parts_do_not_go_with(tmp_path):
    with pytest.raises(ConfigError, match=r"shards one phase, and there are 2 \(critic, model\)"):
        trainer(tmp_path / "run", sharding="fsdp")
    with pytest.raises(ConfigError, match="--train.compile; leave out one"):
        trainer(tmp_path / "run", objective=OnePhase(), sharding="fsdp", compile=True)


if __name__ == "__main__":
    run, poisoned = sys.argv[1:]
    assert main([*WORDS, "--train.sharding", "fsdp", "--resume", "--out", run]) == 0
    sharded = trainer(poisoned, objective=OnePhase(), source=Points(poison=(3,)), sharding="fsdp", micro_batch=2)
    assert isinstance(sharded.objective, FSDPModule)
    sharded.run()
