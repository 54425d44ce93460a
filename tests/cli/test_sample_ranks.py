"""``mezzotint sample`` by several processes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.cli.ranks import ENVIRONMENT, contents, free_port, torchrun
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from mezzotint.checkpoint import load
from mezzotint.cli import once
from mezzotint.cli.folder import SampleFolder
from mezzotint.pipelines.generate import Model


def test_two_ranks_give_the_bytes_of_one(mezzotint, plain_model):
    words = ["sample", plain_model, "--num", 21, "--exact", "--every", 3]
    assert mezzotint(*words, "--out", "one", "--npz", "one.npz").code == 0
    done = torchrun(*words, "--out", "two", "--npz", "two.npz")
    assert done.returncode == 0, done.stderr
    assert contents(Path("two")) == contents(Path("one")) and len(contents(Path("two"))) == 2 * 21 + 2
    assert Path("two.npz").read_bytes() == Path("one.npz").read_bytes()
    assert done.stdout.count("21 images by ancestral") == done.stdout.count("21 images, grid.png and manifest.json: two") == 1
    assert "13/13 images of the first of 2 ranks" in done.stderr and "8/8 images" not in done.stderr


def test_a_job_killed_on_two_ranks_goes_on_with_one(mezzotint, plain_model, tmp_path):
    words = ["sample", plain_model, "--num", 14, "--batch-size", 1, "--steps", 40, "--out"]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    program = [sys.executable, "-m", "mezzotint", *map(str, words), "killed"]
    places = [ENVIRONMENT | place | {"RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    quiet = subprocess.DEVNULL
    ranks = [subprocess.Popen(program, cwd=tmp_path, env=place, stdout=quiet, stderr=quiet) for place in places]
    limit = time.monotonic() + 120

    def made(rank: int) -> list[Path]:
        return [p for k in range(rank, 14, 2) if (p := tmp_path / f"killed/{k:06d}.png").exists()]

    while not (made(0) and made(1)) and all(r.poll() is None for r in ranks) and time.monotonic() < limit:
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
        rank.wait()
    kept = {p: p.stat().st_mtime_ns for p in made(0) + made(1)}
    assert made(0) and made(1) and len(kept) < 14
    assert not json.loads(Path("killed/manifest.json").read_text())["complete"]
    said = mezzotint(*words, "killed")
    assert said.code == 0 and f"{len(kept)} of them are in killed already" in said.out
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert mezzotint(*words, "whole").code == 0
    assert contents(Path("killed")) == contents(Path("whole"))


def test_an_error_comes_out_once(mezzotint, plain_model):
    assert mezzotint("sample", plain_model, "--num", 2, "--steps", 1, "--out", "s").code == 0
    before = contents(Path("s"))
    done = torchrun("sample", plain_model, "--num", 2, "--steps", 1, "--seed", 1, "--batch-size", 5, "--exact", "--out", "s")
    lines = [line for line in done.stderr.splitlines() if line.startswith("mezzotint: ")]
    assert len(lines) == 2 and "warning: a batch of 5" in lines[0] and "another job" in lines[1], done.stderr
    assert done.returncode != 0 and "exitcode  : 2 " in done.stderr and not done.stdout
    assert contents(Path("s")) == before


@pytest.mark.parametrize("exact", [False, True])
def test_ranks_share_whole_batches_and_nothing_twice(plain_model, tmp_path, exact):
    model = load(plain_model)
    assert isinstance(model, Model)
    ids = [*range(30), 77, 50, 99]
    folder = SampleFolder(tmp_path / "s", model, model.job(ids=ids, batch_size=None if exact else 4, exact=exact))
    missing = [k for k in ids if k % 7 not in (2, 3)]
    whole = folder.passes(missing)
    for ranks in (2, 3, 40):
        parts = [folder.passes(missing, rank=rank, ranks=ranks).ids for rank in range(ranks)]
        assert sorted(k for part in parts for k in part) == sorted(whole.ids)
        batches = [{k // 8 if exact else ids.index(k) // 4 for k in part} for part in parts]
        assert sum(map(len, batches)) == len(set[int]().union(*batches))  # no batch is made twice
        assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_the_process_that_fails_first_speaks_before_the_others_end(monkeypatch):
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port)}.items():
        monkeypatch.setenv(name, value)
    heard: list[bool] = []

    def second() -> None:
        with once.first_to_fail() as speaks:
            heard.append(speaks)

    with once.first_to_fail() as speaks:
        assert speaks
        other = threading.Thread(target=second)
        other.start()
        other.join(0.2)
        assert other.is_alive() and not heard
    other.join(10)
    assert heard == [False]


def test_without_a_store_every_process_speaks(monkeypatch):
    monkeypatch.setattr(once, "SECONDS", 0.2)
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}.items():
        monkeypatch.setenv(name, value)
    with once.first_to_fail() as speaks:
        assert speaks
