"""``mezzotint upscale`` by several processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.ranks import ENVIRONMENT, contents, free_port, torchrun
from tests.data.makers import encoded, folder, pixels
from tests.pipelines.upscalers import model_of, saved

from mezzotint.cli.upscale_folder import UpscaleFolder, open_pictures
from mezzotint.pipelines.upscale import Upscaler


@pytest.fixture(scope="module")
def enlarger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "enlarger")


def pictures(root: Path) -> Path:
    sizes = [(4, 4), (9, 7), (5, 12), (3, 3)]
    return folder(root, {f"{k}.png": encoded(pixels(*size, 3, seed=k)) for k, size in enumerate(sizes)})


def test_two_ranks_give_the_bytes_of_one(mezzotint, enlarger, tmp_path):
    root = pictures(tmp_path / "in")
    late = bytearray(encoded(pixels(200, 300, 3)))
    late[40000:40200] = bytes(200)  # damage that shows only when all of it is read, by one of the ranks
    (root / "late.png").write_bytes(late)
    words = ["upscale", "in", "--model", enlarger, "--num", "5", "--steps", "2", "--batch-size", "2", "--tile", "16"]
    said = mezzotint(*words, "--out", "one")
    done = torchrun(*words, "--out", "two")
    assert said.code == 2 and "exitcode  : 2 " in done.stderr, done.stderr
    assert contents(Path("two")) == contents(Path("one")) and len(contents(Path("one"))) == 4 * 5 + 3
    for text in ("left out: in/late.png", "mezzotint: 1 of 5 pictures could not be read"):
        assert done.stderr.count(text) == sum(text in line for line in said.err) == 1, (text, done.stderr)
    assert done.stdout.count("5 pictures, 4 times larger, by ancestral, 2 steps") == done.stdout.count("4 pictures, compare.html") == 1


def test_a_job_killed_on_two_ranks_goes_on_with_one(mezzotint, enlarger, tmp_path):
    pictures(tmp_path / "in")
    words = ["upscale", "in", "--model", enlarger, "--num", "6", "--steps", "30", "--batch-size", "2", "--out"]
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    program = [sys.executable, "-m", "mezzotint", *map(str, words), "killed"]
    quiet = subprocess.DEVNULL
    ranks = [
        subprocess.Popen(program, cwd=tmp_path, env=ENVIRONMENT | place | {"RANK": k, "LOCAL_RANK": k}, stdout=quiet, stderr=quiet)
        for k in "01"
    ]
    limit = time.monotonic() + 120

    def made() -> list[Path]:
        return list((tmp_path / "killed").glob("[0-9].*.png"))

    while len(made()) < 4 and all(r.poll() is None for r in ranks) and time.monotonic() < limit:
        time.sleep(0.002)
    for rank in ranks:
        rank.kill()
        rank.wait()
    kept = {p: p.stat().st_mtime_ns for p in made()}
    assert 4 <= len(kept) < 24
    assert mezzotint(*words, "killed").code == 0
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert mezzotint(*words, "whole").code == 0
    assert contents(Path("killed")) == contents(Path("whole"))


def test_ranks_share_the_work_evenly_and_nothing_twice(tmp_path):
    root = pictures(tmp_path / "in")
    store, names = open_pictures(root, tmp_path / "out")
    job = UpscaleFolder(tmp_path / "out", Upscaler(model_of(), batch_size=2), store, names, num=7)
    assert not job.survey()
    pieces = job.missing()
    assert sorted((p.name, k) for p in pieces for k in p.missing) == [(name, k) for name in names for k in range(7)]
    for ranks in (1, 2, 3, 40):
        parts = [job.share(pieces, rank, ranks) for rank in range(ranks)]
        assert sorted((p.name, p.samples) for part in parts for p in part) == sorted((p.name, p.samples) for p in pieces)
        if ranks < 4:
            loads = [sum(job.good[p.name].size[0] * job.good[p.name].size[1] * len(p.samples) for p in part) for part in parts]
            assert max(loads) - min(loads) <= 126  # the largest piece
