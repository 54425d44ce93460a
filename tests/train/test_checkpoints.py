"""Checkpoints: kills at any moment, damage, which are kept, budgets that grow."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from tests.train.comparing import contents, log, run_module, same_bits, same_run
from tests.train.toy import Points, trainer

from mezzotint.configs import OptimConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.train.folder import RunFolder
from mezzotint.train.history import read_history

CONSTANT = OptimConfig(lr=1e-2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    trainer(out).run()
    return out


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("seed, kills", [(1, 5), pytest.param(2, 50, marks=pytest.mark.slow)])
@pytest.mark.timeout(2600)
def test_runs_that_are_killed_at_random_go_on_to_the_same_bits(tmp_path, seed, kills):
    out = tmp_path / "runs"
    run_module("tests.train.kills", str(out), "random", str(seed), str(kills), timeout=2500)
    runs = [path for path in out.iterdir() if path.name.isdigit()]
    resumed = sum(len(log(run, "resume")) > 0 for run in runs)
    assert resumed >= min(len(runs), 1)
    for run in runs:
        same_run(run, out / "whole")
        assert [p for p in run.rglob("*") if ".new-" in p.name or ".old-" in p.name] == []
    kept = contents(out / "whole")
    assert sorted(name for name in kept if name.startswith("samples")) == [f"samples/{n:09d}.png" for n in (24, 48, 72, 96)]
    assert sum(name.startswith("snapshots") and name.endswith("0.1.safetensors") for name in kept) == 3


@pytest.mark.parametrize("seed", range(12))
def test_damage_at_a_random_place_is_found_named_and_mended(tmp_path, whole, capsys, seed):
    chance, out = random.Random(seed), tmp_path / "run"
    shutil.copytree(whole, out)
    last = out / "checkpoints/000000096"
    # The run was cut off before its model was written; of the checkpoint or what points to it something is damaged.
    shutil.rmtree(out / "model")
    victims = [*sorted(p for p in last.rglob("*") if p.is_file()), out / "latest", out / "log.jsonl", out / "status.json"]
    victim = chance.choice(victims)
    content = bytearray(victim.read_bytes())
    if chance.random() < 0.5:
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    else:
        content = content[: chance.randrange(len(content))]
    victim.write_bytes(bytes(content))
    trainer(out, resume=True).run()
    said = capsys.readouterr().out
    if victim.parent == last:
        assert f"{victim}" in said and "set aside as damaged-000000096" in said
        assert (out / "checkpoints/damaged-000000096").is_dir()
    same_bits(out / "model", whole / "model")
    assert {k: v for k, v in contents(out).items() if "damaged" not in k} == contents(whole)


def test_a_model_is_found_though_the_pointer_is_damaged(tmp_path, whole):
    from mezzotint.weights.io import find_model

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    shutil.rmtree(out / "model")
    (out / "latest").write_bytes(b"\xff\xfe/nowhere\x00")
    assert find_model(out) == out / "checkpoints/000000096"


def test_all_checkpoints_damaged_is_one_line(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for file in (out / "checkpoints").glob("*/state.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="no checkpoint of .* is whole; begin again with another --out"):
        trainer(out, resume=True).run()


@pytest.mark.parametrize(
    "keep, every, left",
    [(2, 0, [80, 96]), (0, 0, [16, 32, 48, 64, 80, 96]), (1, 32, [32, 64, 96]), (2, 40, [40, 80, 96]), (1, 1000, [96])],
)
def test_the_newest_and_every_so_many_are_kept(tmp_path, keep, every, left):
    trainer(tmp_path / "run", save_every=16, keep=keep, keep_every=every).run()
    assert sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()) == left


def test_a_checkpoint_is_written_for_each_that_is_to_be_kept(tmp_path):
    trainer(tmp_path / "run", save_every=96, keep=1, keep_every=32).run()
    assert sorted(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir()) == [32, 64, 96]


def test_the_budget_of_a_finished_run_can_be_raised(tmp_path, capsys):
    direct, out = tmp_path / "direct", tmp_path / "run"
    trainer(direct, images=160, optim=CONSTANT).run()
    trainer(out, images=96, optim=CONSTANT).run()
    trainer(out, resume=True, images=160, optim=CONSTANT).run()
    same_bits(out / "model", direct / "model")
    assert "budget: 160 images, 96 before" in capsys.readouterr().out
    # The finished model stays under another name, and the settings are the new ones.
    assert (out / "model-000000096/spec.json").is_file()
    assert json.loads((out / "run.json").read_text())["train"]["images"] == 160
    with pytest.raises(ConfigError, match="train.images = 96: it began with 160; give at least as many, to go on"):
        trainer(out, resume=True, images=96, optim=CONSTANT).run()


def test_what_changes_no_weight_may_change(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    for later in (out / "model", out / "checkpoints/000000096"):
        shutil.rmtree(later)
    trainer(out, resume=True, save_every=8, keep=1, log_every=2, on_nan="rollback", timeout=60).run()
    same_bits(out / "model", whole / "model")


def test_settings_that_an_older_version_did_not_have_are_taken_as_given(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    settings = json.loads((out / "run.json").read_text())
    del settings["train"]["held_out"], settings["label"]
    (out / "run.json").write_text(json.dumps(settings))
    assert trainer(out, resume=True).run() == out / "model"
    del settings["facts"]
    (out / "run.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="facts.channels"):
        trainer(out, resume=True).run()


def test_a_run_says_what_it_is_doing_and_how_it_ended(tmp_path, whole):
    assert read_history(whole).state == "finished"
    seen = []

    class Watching(Points):
        def batch(self, ids, *, noise):
            seen.append(read_history(tmp_path / "run").state)
            if len(seen) == 30:
                raise ValueError("the disk\nfell out")
            return super().batch(ids, noise=noise)

    with pytest.raises(ValueError):
        trainer(tmp_path / "run", source=Watching()).run()
    found = read_history(tmp_path / "run")
    assert set(seen) == {"running"}
    assert (found.state, found.reason) == ("failed", "the disk")
    # A mistake in resuming does not make a finished run a failed one.
    with pytest.raises(ConfigError):
        trainer(whole, resume=True, batch=16).run()
    assert read_history(whole).state == "finished"


def test_a_run_whose_process_is_gone_is_not_running(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    status = json.loads((out / "status.json").read_text())
    running = {**status, "state": "running"}
    (out / "status.json").write_text(json.dumps(running))
    assert read_history(out).state == "running"
    # Another process may have been given the number meanwhile.
    (out / "status.json").write_text(json.dumps({**running, "began": status["began"] - 1000}))
    assert (read_history(out).state, read_history(out).reason) == ("stopped", "its process was killed")
    (out / "status.json").write_text("{")
    assert read_history(out).state == "finished"


def test_names_that_are_no_numbers_are_no_checkpoints(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    (out / "checkpoints/mine").mkdir()
    (out / "checkpoints/mine/notes.txt").write_text("keep me")
    assert RunFolder(out).newest() == out / "checkpoints/000000096"
    trainer(out, resume=True, images=104, keep=1).run()
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["000000104", "mine"]
    assert (out / "checkpoints/mine/notes.txt").read_text() == "keep me"
