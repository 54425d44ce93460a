"""mezzotint plan and mezzotint doctor."""

from __future__ import annotations

import shutil
import sys

import pytest

from mezzotint.cli import main
from mezzotint.cli.doctor import findings


def test_plan_says_what_a_run_needs_and_takes(capsys) -> None:
    words = ["--data", "digits", "--train.batch", "8", "--net.width", "32", "--steps", "1", "--fit", "auto"]
    assert main(["plan", "small", *words]) == 0
    said = capsys.readouterr().out
    for row in (
        "images:     8x8x1, 10 classes",
        "parameters:",
        "FLOPs:",
        "8 in parts of 8",
        "GiB at the peak",
        "images/s",
        "for the budget",
    ):
        assert row in said


def test_plan_needs_no_data_where_the_size_is_known(capsys) -> None:
    assert main(["plan", "adm-imagenet-64", "--steps", "0"]) == 0
    said = capsys.readouterr().out
    assert "295,904,454" in said and "published:  FID 2.07" in said and "measured" not in said


@pytest.mark.parametrize(
    "words, what",
    [
        ([], "needs a recipe"),
        (["smal"], "did you mean 'small'"),
        (["small"], "--data.size H W"),
        (["small", "--steps", "-1"], "--steps -1"),
    ],
)
def test_mistakes_are_one_line(words, what, capsys) -> None:
    assert main(["plan", *words]) == 2
    said = capsys.readouterr().err
    assert what in said and said.count("\n") == 1


def test_train_fits_the_memory(tmp_path, capsys) -> None:
    small = ["--net.width", "32", "--train.images", "16", "--train.batch", "8", "--train.sample-every", "0"]
    assert main(["train", "digits", "--data", "digits", "--out", str(tmp_path / "run"), "--fit", "auto", *small]) == 0
    assert "micro_batch=8" in capsys.readouterr().out


def test_doctor_says_what_is_and_what_to_mend(tmp_path, capsys, monkeypatch) -> None:
    assert main(["doctor", "--data", "digits", "--out", str(tmp_path / "not/yet")]) == 0
    said = capsys.readouterr().out
    for what in ("python", "torch", "memory", "disk", "1797 images of 8x8x1"):
        assert what in said
    assert main(["doctor", "--data", str(tmp_path / "nothing")]) == 2
    assert "mend  data" in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert [f.what for f in findings(out=tmp_path / "file") if f.state == "mend"] == ["disk"]
    monkeypatch.setattr(sys, "version_info", (3, 9))
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    worse = {f.what: f for f in findings()}
    assert worse["python"].state == "mend" and "needs 3.11" in worse["python"].says
    assert "cannot use it" in worse["device"].says or worse.get("cuda:0")
