import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.train.comparing import close, log, run_module, same_bits, weights
from tests.train.toy import Points, TwoPhases, trainer

from mezzotint.configs import EMAConfig, OptimConfig
from mezzotint.errors import CheckpointError, ConfigError, DataError, TrainingError
from mezzotint.train import trainer as trainer_module
from mezzotint.weights import io


class Stopping(Points):
    """Asks the process that made it to stop, in the middle of an epoch, of a step and of a log interval."""

    def __init__(self) -> None:
        super().__init__()
        self.trainer = os.getpid()

    def batch(self, ids, *, noise):
        if noise.step == 6 and "critic/3" in noise.stage:
            os.kill(self.trainer, signal.SIGTERM)
        return super().batch(ids, noise=noise)


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("reference") / "run"
    trainer(out).run()
    return out


def test_training_lowers_the_loss_and_leaves_a_model(tmp_path, capfd):
    out = tmp_path / "run"
    folder = trainer(out, images=1200, save_every=400, keep=2, ema=EMAConfig(decays=(0.9,))).run()
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == f"run folder: {out.resolve()}"
    figures = [line["phases"]["model"] for line in log(out)]
    assert figures[-1]["loss"] < 0.7 * figures[0]["loss"]
    # Denoising the noisiest quarter of these points is the hardest.
    assert figures[-1]["loss_by_level"][3] > figures[-1]["loss_by_level"][0]
    spec = io.read_spec(folder)
    assert spec.weights["ema-0.9.safetensors"]["images"] == 1200
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000000800", "000001200"]
    assert io.find_model(out) == folder
    assert (out / "latest").read_text() == "checkpoints/000001200\n"


def test_phases_train_their_own_modules_as_often_as_they_say(tmp_path):
    source, made = Points(), {"critic": 0, "model": 0}
    objective = TwoPhases(critic_every=2)
    update = objective.update
    grads = []

    def count(t, per_sample, *, phase):
        made[phase] += 1
        update(t, per_sample, phase=phase)

    def check(batch, **kwargs):
        grads.append((kwargs["phase"], {n for n, p in objective.named_parameters() if p.requires_grad}))
        return TwoPhases.forward(objective, batch, **kwargs)

    objective.update, objective.forward = count, check
    trainer(tmp_path / "run", source=source, objective=objective).run()
    assert made == {"critic": 6 * 5, "model": 12}
    assert len(source.seen) == 6 * 5 + 12
    allowed = {"critic": ("critic", "trunk"), "model": ("model", "trunk")}
    assert all(name.startswith(allowed[phase]) for phase, names in grads for name in names)
    assert all(any(name.startswith(phase) for name in names) for phase, names in grads)


def test_phases_may_share_the_batch_of_a_step(tmp_path):
    source = Points()
    trainer(tmp_path / "run", source=source, objective=TwoPhases(fresh=False)).run()
    assert len(source.seen) == 12


def test_a_batch_in_pieces_gives_the_gradients_of_the_whole(tmp_path):
    for name, micro in (("whole", None), ("pieces", 3)):
        objective = TwoPhases()
        objective.model[1].p = 0.0  # dropout draws anew for each piece
        trainer(tmp_path / name, objective=objective, micro_batch=micro).run()
    close(tmp_path / "whole/model", tmp_path / "pieces/model")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, reference, capsys, workers):
    out = tmp_path / "run"
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        trainer(out, source=Stopping(), workers=workers).run()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before
    assert "go on with --resume" in capsys.readouterr().out
    assert not (out / "model").exists()
    stopped_at = json.loads((io.find_model(out) / "state.json").read_text())["state"]["step"]
    assert stopped_at == 7 if workers == 0 else 0 < stopped_at < 12
    trainer(out, resume=True).run()
    same_bits(out / "model", reference / "model")
    assert log(out) == log(reference)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, reference):
    out = tmp_path / "run"
    # Before the first checkpoint, while one is written, as it gets its name, between two, and while the model is written.
    run_module("tests.train.kills", str(out), "step:2", "file:3", "folder:1", "step:10", "file:9")
    same_bits(out / "model", reference / "model")
    same_bits(out / "checkpoints/000000064", reference / "checkpoints/000000064")
    assert log(out) == log(reference)
    left = [p for p in out.rglob("*") if ".new-" in p.name or ".old-" in p.name]
    assert left == []


def test_two_ranks_do_what_one_does(tmp_path):
    one, poisoned = tmp_path / "one", tmp_path / "poisoned"
    trainer(one, micro_batch=2).run()
    trainer(poisoned, micro_batch=2, source=Points(poison=(3,))).run()
    halfway = tmp_path / "halfway"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer_module.Trainer, "_loop", lambda self, log: None)
        trainer(halfway, micro_batch=2).run()  # makes the folder only
    (halfway / "model").rename(tmp_path / "untrained")
    (halfway / "checkpoints").mkdir()
    os.symlink(one / "checkpoints/000000032", halfway / "checkpoints/000000032")
    two, two_poisoned = tmp_path / "two", tmp_path / "two-poisoned"
    run_module("tests.train.toy", str(two), f"{halfway}:resume", f"{two_poisoned}:poison", ranks=2)
    close(one / "model", two / "model")
    close(one / "model", halfway / "model")
    close(poisoned / "model", two_poisoned / "model")
    skipped = [{k: line[k] for k in ("step", "phase")} for line in log(poisoned, "skipped")]
    assert skipped == [{k: line[k] for k in ("step", "phase")} for line in log(two_poisoned, "skipped")]
    for a, b in zip(log(one), log(two), strict=True):
        assert a["phases"]["model"]["loss"] == pytest.approx(b["phases"]["model"]["loss"], rel=1e-4)


def test_a_poisoned_batch_is_skipped_counted_and_logged(tmp_path, capfd):
    out, source = tmp_path / "run", Points(poison=(3,))
    folder = trainer(out, source=source).run()
    expected = sum(3 in ids for ids in source.seen)
    lines = log(out, "skipped")
    assert len(lines) == expected > 3
    assert all(0 <= line["t"][0] < 1 and len(line["t"]) == 1 for line in lines)
    last = log(out)[-1]["phases"]
    assert last["critic"]["skipped"] + last["model"]["skipped"] == expected
    assert all(value.isfinite().all() for value in weights(folder).values())
    assert "step skipped" in capfd.readouterr().out


def test_a_finite_loss_with_a_gradient_that_is_not_is_skipped(tmp_path):
    objective = TwoPhases()

    def forward(batch, **kwargs):
        loss = TwoPhases.forward(objective, batch, **kwargs)
        if kwargs["step"] == 4:
            next(iter(objective.trunk.parameters())).register_hook(lambda grad: grad * float("inf"))
        return loss

    objective.forward = forward
    with pytest.raises(TrainingError, match="25 steps in a row of phase 'critic'.* the last good checkpoint is .*000000032"):
        trainer(tmp_path / "run", objective=objective).run()
    assert all(value.isfinite().all() for value in weights(tmp_path / "run/checkpoints/000000032").values())


def test_poison_all_over_stops_the_run(tmp_path):
    with pytest.raises(
        TrainingError, match="25 steps in a row of phase 'critic' were not finite, up to step 5: the loss of image .*no checkpoint yet"
    ):
        trainer(tmp_path / "run", source=Points(poison=tuple(range(40))), save_every=96).run()


def test_samples_use_the_average_and_do_not_disturb_training(tmp_path, reference):
    seen = []

    def draw(models, images, path):
        assert not any(module.training for module in models["model"].modules())
        torch.randn(3)
        seen.append((images, models["model"][2].weight.detach().clone()))
        path.write_bytes(b"grid")

    out = tmp_path / "run"
    trainer(out, on_sample=draw, sample_every=32).run()
    assert [images for images, _ in seen] == [32, 64, 96]
    assert sorted(p.name for p in (out / "samples").iterdir()) == ["000000032.png", "000000064.png", "000000096.png"]
    average = io.read_tensors(out / "checkpoints/000000064/ema-0.9.safetensors")["2.weight"]
    assert torch.equal(seen[1][1], average)
    same_bits(out / "model", reference / "model")


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_can_go_on(tmp_path, reference, monkeypatch):
    out, written = tmp_path / "run", []

    def save_file(tensors, path, metadata):
        written.append(path)
        if len(written) > 9:  # within the second checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        original(tensors, path, metadata)

    original = io.save_file
    monkeypatch.setattr(io, "save_file", save_file)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        trainer(out).run()
    assert "\n" not in str(caught.value)
    assert [p.name for p in (out / "checkpoints").iterdir()] == ["000000032"]
    monkeypatch.undo()
    trainer(out, resume=True).run()
    same_bits(out / "model", reference / "model")


@pytest.mark.parametrize("file", ["model.safetensors", "ema-0.5.safetensors", "state.safetensors", "state.json", "spec.json"])
def test_a_damaged_checkpoint_is_set_aside(tmp_path, reference, capsys, file):
    out = tmp_path / "run"
    trainer(out).run()
    damaged = out / "checkpoints/000000096" / file
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    trainer(out, resume=True).run()
    assert "damaged-000000096" in capsys.readouterr().out
    same_bits(out / "model", reference / "model")
    same_bits(out / "checkpoints/000000096", reference / "checkpoints/000000096")


def test_a_finished_run_is_left_as_it_is(tmp_path, reference):
    out = tmp_path / "run"
    trainer(out).run()
    assert trainer(out, resume=True).run() == out / "model"
    same_bits(out / "model", reference / "model")


def test_nothing_is_overwritten(reference):
    before = (reference / "run.json").read_text()
    with pytest.raises(ConfigError, match="already holds a run .*--resume"):
        trainer(reference).run()
    assert (reference / "run.json").read_text() == before


def test_resuming_needs_the_same_settings_and_data(tmp_path, reference):
    with pytest.raises(ConfigError, match="optim.betas = .*0.95.*it began with .*0.999"):
        trainer(reference, resume=True, optim=OptimConfig(lr=1e-2, betas=(0.9, 0.95), warmup=16, decay="linear")).run()
    with pytest.raises(ConfigError, match="train.batch = 16: it began with 8"):
        trainer(reference, resume=True, batch=16).run()
    with pytest.raises(ConfigError, match="fingerprint"):
        trainer(reference, resume=True, source=Points(41)).run()
    with pytest.raises(ConfigError, match="no run in .*leave out --resume"):
        trainer(tmp_path / "other", resume=True).run()


def test_bad_settings_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="40 images, fewer than a batch of 64; use --train.batch 40"):
        trainer(tmp_path / "run", batch=64)
    with pytest.raises(ConfigError, match="--train.micro-batch is -1"):
        trainer(tmp_path / "run", micro_batch=-1)
    objective = TwoPhases()
    objective.critic.requires_grad_(False)
    with pytest.raises(ConfigError, match="phase 'critic' has no parameters"):
        trainer(tmp_path / "run", objective=objective)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot make the run folder .*Not a directory"):
        trainer(tmp_path / "file" / "run").run()

    def refuse(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ConfigError, match="Read-only file system"):
        trainer(tmp_path / "run").run()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do fp16")
def test_fp16_needs_a_gpu(tmp_path):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA GPU"):
        trainer(tmp_path / "run", precision="fp16")


def test_bf16_trains_and_keeps_weights_in_fp32(tmp_path, reference):
    folder = trainer(tmp_path / "run", precision="bf16").run()
    ours, exact = weights(folder), weights(reference / "model")
    assert all(value.dtype == torch.float32 for value in ours.values())
    assert not torch.equal(ours["model.safetensors/2.weight"], exact["model.safetensors/2.weight"])
    torch.testing.assert_close(ours["model.safetensors/2.weight"], exact["model.safetensors/2.weight"], rtol=0.2, atol=0.05)


def test_running_out_of_memory_names_remedies(tmp_path):
    objective = TwoPhases()

    def forward(batch, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    objective.forward = forward
    with pytest.raises(
        TrainingError,
        match="out of memory; the three cheapest remedies: .*--train.micro-batch.*--net.checkpointing.*--train.precision bf16",
    ):
        trainer(tmp_path / "run", objective=objective).run()


def test_the_loss_scale_is_lowered_when_it_overflows_and_goes_on_after_a_stop(tmp_path, monkeypatch):
    """GradScaler works on the CPU too, where Accelerate does not offer fp16."""
    build = trainer_module.build_accelerator

    def scaled(config, out):
        accelerator = build(config, out)
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=7)
        return accelerator

    monkeypatch.setattr(trainer_module, "build_accelerator", scaled)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(whole).run()
    with pytest.raises(SystemExit):
        trainer(parts, source=Stopping()).run()
    trainer(parts, resume=True).run()
    same_bits(parts / "model", whole / "model")
    assert log(parts) == log(whole)
    assert 0 < len(log(whole, "skipped")) < 20


@pytest.mark.slow
def test_compiled_networks_train_as_plain_ones_do(tmp_path, reference):
    class Net(torch.nn.Module):  # PyTorch does not compile a bare Sequential in place
        def __init__(self, body):
            super().__init__()
            self.body = body

        def forward(self, x):
            return self.body(x).clone()

    for name, compiled in (("plain", False), ("compiled", True)):
        objective = TwoPhases()
        objective.model, objective.critic = Net(objective.model), Net(objective.critic)
        objective._phases = tuple(replace(p, modules=(getattr(objective, p.name),)) for p in objective.phases)
        objective.model.body[1].p = 0.0
        trainer(tmp_path / name, objective=objective, compile=compiled).run()
    close(tmp_path / "plain/model", tmp_path / "compiled/model")
