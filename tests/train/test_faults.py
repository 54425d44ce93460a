"""What goes wrong: numbers that are not finite, a full disk, ranks that do not come."""

import errno
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from tests.train.comparing import contents, log, run_module, same_bits, same_run
from tests.train.toy import Points, TwoPhases, draw, trainer
from torch import nn

from mezzotint.configs import EMAConfig, OptimConfig
from mezzotint.errors import CheckpointError, TrainingError
from mezzotint.objectives.base import Objective
from mezzotint.train.faults import find_bad
from mezzotint.train.history import read_history
from mezzotint.types import Loss, Phase
from mezzotint.weights import io


class Cliff(Objective):
    """|w - 0.9|, and no number beyond 1: too fast a step falls off."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)

    @property
    def phases(self):
        return (Phase("down", (self.net,)),)

    @property
    def models(self):
        return {"model": self.net}

    def forward(self, batch, *, phase, step, noise):
        n = len(batch.images)
        w = self.net.weight.sum()
        each = ((w - 0.9).abs() + 0 * torch.log(1 - w)).expand(n)
        return Loss(each.mean(), each.detach(), torch.linspace(0, 1, n))


def cliff(out: Path, **settings):
    given = {"images": 800, "save_every": 40, "keep": 2, "ema": EMAConfig(decays=(0.9,)), "optim": OptimConfig(lr=0.2), **settings}
    return trainer(out, objective=Cliff(), on_nan="rollback", **given)


def test_too_high_a_rate_is_mended_by_going_back(tmp_path, capfd):
    out = tmp_path / "run"
    cliff(out).run()
    back = log(out, "rollback")
    assert len(back) >= 1
    assert [line["rate"] for line in back] == [0.5**k for k in range(1, len(back) + 1)]
    assert all(line["failed"] > line["step"] and "the loss of image" in line["reason"] for line in back)
    assert log(out)[-1]["phases"]["down"]["lr"] == pytest.approx(0.2 * 0.5 ** len(back))
    assert 0.5 < float(io.read_tensors(out / "model/model.safetensors")["weight"]) < 1
    steps = [line["step"] for line in log(out)]
    assert steps == sorted(set(steps))
    assert "with 0.5 of the learning rate" in capfd.readouterr().out
    # It is the same each time, and when the run is stopped on the way.
    again = tmp_path / "again"
    cliff(again).run()
    same_run(again, out)
    assert log(again, "rollback") == back


def test_a_run_that_went_back_resumes_to_the_same_bits(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    cliff(whole).run()
    failed = log(whole, "rollback")[0]["failed"]

    class Cut(Points):
        """Cuts the run off soon after it went back."""

        def batch(self, ids, *, noise):
            if log_has(out, "rollback") and noise.step == failed - 3:
                raise KeyboardInterrupt
            return super().batch(ids, noise=noise)

    with pytest.raises(KeyboardInterrupt):
        cliff(out, source=Cut()).run()
    assert read_history(out).state == "stopped"
    cliff(out, resume=True).run()
    same_run(out, whole)
    assert log(out, "rollback") == log(whole, "rollback")


def log_has(run: Path, event: str) -> bool:
    return (run / "log.jsonl").exists() and bool(log(run, event))


def test_going_back_without_end_ends(tmp_path):
    with pytest.raises(TrainingError, match="25 steps in a row of phase 'critic' .*after going back 8 times; use a lower --optim.lr"):
        trainer(tmp_path / "run", source=Points(poison=tuple(range(40))), on_nan="rollback").run()
    assert len(log(tmp_path / "run", "rollback")) == 8
    assert [p.name for p in (tmp_path / "run/checkpoints").iterdir()] == ["000000000"]


def test_the_first_bad_tensor_is_named():
    net = nn.Linear(2, 1)
    parameters = dict(net.named_parameters())
    loss, t = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.1, 0.5, 0.9])

    def find(losses=loss, total=2.0):
        return find_bad(parameters, losses, t, total, [7, 8, 9])

    for p in parameters.values():
        p.grad = torch.zeros_like(p)
    net.bias.grad[0] = math.inf
    assert find().what == "the gradient of 'bias'" and find().levels == pytest.approx([0.1, 0.5, 0.9])
    assert find(total=math.nan).what == "the total loss"
    bad = find(torch.tensor([1.0, math.nan, math.inf]))
    assert bad.what == "the loss of image 8 and 1 more" and bad.between == "t from 0.5 to 0.9"
    net.weight.data[0, 1] = math.nan
    assert find(torch.tensor([math.nan] * 3)).what == "parameter 'weight'"


def test_the_log_names_the_first_bad_tensor(tmp_path):
    source = Points(poison=(3,))
    trainer(tmp_path / "loss", source=source).run()
    assert {line["first_bad"] for line in log(tmp_path / "loss", "skipped")} == {"the loss of image 3"}
    objective = TwoPhases()

    def forward(batch, **kwargs):
        loss = TwoPhases.forward(objective, batch, **kwargs)
        if kwargs["step"] == 4 and kwargs["phase"] == "model":
            objective.model[2].bias.register_hook(lambda grad: grad / 0)
        return loss

    objective.forward = forward
    trainer(tmp_path / "gradient", objective=objective).run()
    assert log(tmp_path / "gradient", "skipped")[0]["first_bad"] == "the gradient of 'model.2.bias'"


# --- a full disk ---------------------------------------------------------------------------------------------------------


class FullDisk:
    """Refuses tensor files while ``full``, after the first bytes of them."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.full = False
        self.original = io.save_file
        patch.setattr(io, "save_file", self.save_file)

    def save_file(self, tensors, path, metadata):
        if self.full:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.original(tensors, path, metadata=metadata)


@pytest.fixture
def disk(monkeypatch) -> FullDisk:
    return FullDisk(monkeypatch)


class Filling(Points):
    """Fills the disk at one step and empties it at another."""

    def __init__(self, disk: FullDisk, full: int, free: int):
        super().__init__()
        self.disk, self.full, self.free = disk, full, free

    def batch(self, ids, *, noise):
        self.disk.full = self.full <= noise.step < self.free
        return super().batch(ids, noise=noise)


def test_the_run_goes_on_while_the_disk_is_full(tmp_path, disk, capfd):
    plain, out = tmp_path / "plain", tmp_path / "run"
    trainer(plain).run()
    trainer(out, source=Filling(disk, full=5, free=9)).run()
    same_bits(out / "model", plain / "model")
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000000032", "000000096"]
    failed = log(out, "save_failed")
    assert len(failed) == 1 and failed[0]["images"] == 64 and "No space left on device" in failed[0]["reason"]
    lines = [line for line in capfd.readouterr().out.splitlines() if "No space left" in line]
    assert len(lines) == 1 and "the run goes on" in lines[0] and "the last good checkpoint is" in lines[0]


def test_a_full_disk_at_the_end_stops_cleanly(tmp_path, disk):
    whole, out = tmp_path / "whole", tmp_path / "run"
    trainer(whole).run()
    with pytest.raises(CheckpointError, match="No space left on device.*the last good checkpoint is .*000000064, and --resume") as caught:
        trainer(out, source=Filling(disk, full=9, free=99)).run()
    assert "\n" not in str(caught.value)
    assert read_history(out).state == "failed"
    assert not (out / "model").exists()
    disk.full = False
    trainer(out, resume=True).run()
    same_run(out, whole)


def test_a_full_disk_costs_lines_of_the_log_and_grids_but_not_the_run(tmp_path, monkeypatch, capfd):
    out, opened = tmp_path / "run", Path.open
    full = [False]

    def refuse(self, mode="r", *args, **kwargs):
        if full[0] and "a" in mode and self.name == "log.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, mode, *args, **kwargs)

    def grid(models, images, path):
        full[0] = images == 48
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        draw(models, images, path)

    monkeypatch.setattr(Path, "open", refuse)
    trainer(out, on_sample=grid, sample_every=24, log_every=1).run()
    monkeypatch.undo()
    assert sorted(int(p.stem) for p in (out / "samples").iterdir()) == [24, 72, 96]
    assert [line["images"] for line in log(out)] == [8, 16, 24, 32, 40, 48, 80, 88, 96]
    said = capfd.readouterr().out
    assert said.count("cannot write") == 1


# --- ranks ---------------------------------------------------------------------------------------------------------------


def test_a_rank_that_does_not_come_is_named_with_its_place(tmp_path):
    said = run_module("tests.train.toy", f"{tmp_path / 'run'}:stall", ranks=2, code=2)
    lines = [line for line in said.splitlines() if "waited" in line]
    assert any(
        "rank 0 waited" in line and "rank 1 was reading the images of step 4" in line and "--train.timeout 3" in line for line in lines
    ), said


def test_a_run_of_two_ranks_goes_on_with_one(tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "run"
    run_module("tests.train.toy", str(whole), ranks=2)
    shutil.copytree(whole, out)
    for later in (out / "model", out / "checkpoints/000000096", out / "checkpoints/000000064"):
        shutil.rmtree(later)
    source = Points()
    trainer(out, resume=True, source=source, micro_batch=2).run()
    for name, value in contents(whole).items():
        if name.startswith("model/") and name.endswith(".safetensors"):
            mine, theirs = io.read_tensors(out / name), io.read_tensors(whole / name)
            assert value
            for key in theirs:
                torch.testing.assert_close(mine[key], theirs[key], rtol=2e-4, atol=2e-5)
    # The same images in the same order as an uninterrupted run of one rank sees after its first four steps.
    other = Points()
    trainer(tmp_path / "one", source=other, micro_batch=2).run()
    assert source.seen == other.seen[4 * 6 :]


def test_timeouts_must_be_possible(tmp_path):
    from mezzotint.errors import ConfigError

    with pytest.raises(ConfigError, match="--train.timeout is 0"):
        trainer(tmp_path / "run", timeout=0)
    assert not os.path.exists(tmp_path / "run")
