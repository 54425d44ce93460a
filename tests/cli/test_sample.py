"""``mezzotint sample`` and ``mezzotint redo``, as a newcomer types them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.cli.models import untrained

import mezzotint as package
from mezzotint.cli.pictures import read_png, read_recipe, write_png
from mezzotint.pipelines.generate import Model


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def manifest(folder: Path | str) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))


def test_one_png_an_image_a_grid_and_a_manifest(mezzotint, plain_model):
    said = mezzotint("sample", plain_model, "--num", 5, "--out", "s")
    assert said.code == 0, said
    assert sorted(contents(Path("s"))) == [*(f"00000{k}.png" for k in range(5)), "grid.png", "manifest.json"]
    held = manifest("s")
    assert held["complete"] and held["num"] == 5 and held["ids"] == "0-4"
    assert held["model"]["sha256"] == hashlib.sha256((plain_model / "model.safetensors").read_bytes()).hexdigest()
    assert [(e["id"], e["label"], e["class"]) for e in held["images"]] == [(k, k % 3, ("ant", "bee", "7")[k % 3]) for k in range(5)]
    for entry in held["images"]:
        pixels = np.asarray(Image.open(Path("s") / entry["file"]))
        assert pixels.shape == (8, 8, 3)
        assert entry["sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    job = held["job"]
    assert (job["sampler"], job["steps"], job["grid"], job["seed"], job["guidance"]) == ("ancestral", 6, "uniform", 0, [])
    assert any("6/6" in line and "5/5 images" in line for line in "\n".join(said.err).replace("\r", "\n").splitlines())
    assert said.out[-1] == "5 images, grid.png and manifest.json: s"


def test_python_gives_the_same_images(mezzotint, plain_model):
    how = ["--seed", 3, "--sampler", "ddim,eta=0.5", "--steps", 4]
    assert mezzotint("sample", plain_model, "--classes", "7=2,ant=1", *how, "--out", "s").code == 0
    model = package.load(plain_model)
    assert isinstance(model, Model)
    images = model.pixels(model.sample(classes={"7": 2, "ant": 1}, seed=3, sampler="ddim,eta=0.5", steps=4))
    assert [e["class"] for e in manifest("s")["images"]] == ["7", "7", "ant"]
    for k in range(3):
        assert np.array_equal(read_png(Path(f"s/00000{k}.png")), images[k])


def test_ids_are_the_same_images_as_in_the_whole_set(mezzotint, plain_model):
    mezzotint("sample", plain_model, "--num", 8, "--out", "all", "--exact")
    mezzotint("sample", plain_model, "--ids", "5,1-2", "--out", "some", "--exact")
    assert [e["id"] for e in manifest("some")["images"]] == [5, 1, 2]
    for k in (1, 2, 5):
        assert Path(f"some/00000{k}.png").read_bytes() == Path(f"all/00000{k}.png").read_bytes()


def test_the_default_number_is_64(mezzotint, plain_model):
    assert mezzotint("sample", plain_model, "--out", "s", "--steps", 1).code == 0
    assert manifest("s")["num"] == 64


def test_guidance_composes_in_any_order(mezzotint, digits_run, classifier_run):
    classifier = f"classifier,model={classifier_run},scale=3"
    free = "cfg,scale=2,from=0.1,to=0.9"
    for name, first, second in (("a", classifier, free), ("b", free, classifier)):
        said = mezzotint("sample", digits_run, "--classes", "3=2,8=2", "--guidance", first, "--guidance", second, "--out", name)
        assert said.code == 0, said
        assert manifest(name)["job"]["guidance"] == [first, second]
    held = manifest("a")
    file = classifier_run / "model" / "model.safetensors"
    assert held["guidance_models"] == {str(classifier_run): hashlib.sha256(file.read_bytes()).hexdigest()}
    plain = mezzotint("sample", digits_run, "--classes", "3=2,8=2", "--out", "c")
    assert plain.code == 0
    plain_pixels = read_png(Path("c/000003.png"))
    assert not np.array_equal(read_png(Path("a/000003.png")), plain_pixels)
    assert not np.array_equal(read_png(Path("b/000003.png")), plain_pixels)


def test_choice_of_weights(mezzotint, refused, digits_run):
    for name, ema, file in (("a", "on", "ema-0.999"), ("b", "0.999", "ema-0.999"), ("c", "off", "model")):
        assert mezzotint("sample", digits_run, "--num", 1, "--ema", ema, "--out", name).code == 0
        assert manifest(name)["model"]["weights"] == f"{file}.safetensors"
    assert "ema-0.999.safetensors" in refused("sample", digits_run, "--num", 1, "--ema", "0.5", "--out", "d")


def test_npz_holds_the_pixels_of_the_pngs(mezzotint, refused, plain_model):
    words = ["sample", plain_model, "--ids", "4,0-2", "--out", "s", "--npz", "all/samples.npz"]
    assert mezzotint(*words).code == 0
    with np.load("all/samples.npz") as held:
        assert held["arr_0"].dtype == np.uint8 and held["arr_0"].shape == (4, 8, 8, 3)
        assert held["arr_1"].tolist() == [1, 0, 1, 2]
        for row, k in enumerate((4, 0, 1, 2)):
            assert np.array_equal(held["arr_0"][row], read_png(Path(f"s/00000{k}.png")))
    before = Path("all/samples.npz").read_bytes()
    assert mezzotint(*words).code == 0  # nothing is missing, and the file is as it would be
    Path("all/samples.npz").write_bytes(b"mine")
    assert "already exists" in refused(*words)
    assert "already exists" in refused(*words[:-3], "t", *words[-2:])
    assert Path("all/samples.npz").read_bytes() == b"mine" and not Path("t").exists()
    Path("all/samples.npz").unlink()
    assert mezzotint(*words).code == 0
    assert Path("all/samples.npz").read_bytes() == before


def test_npz_of_an_unconditional_model_has_no_labels(mezzotint, tmp_path):
    model = untrained(tmp_path / "m")
    assert mezzotint("sample", model, "--num", 2, "--out", "s", "--npz", "s.npz").code == 0
    with np.load("s.npz") as held:
        assert held.files == ["arr_0"]
    assert manifest("s")["images"][0]["label"] is None


def test_trajectories(mezzotint, refused, plain_model, tmp_path):
    words = ["sample", plain_model, "--num", 2, "--every", 2, "--out", "s"]
    assert mezzotint(*words).code == 0
    strip = read_png(Path("s/trajectory/000001.png"))
    assert strip.shape == (2 * 34 - 2, 3 * 34 - 2, 3)  # 6 steps: states above, estimates of x0 below
    final = read_png(Path("s/000001.png")).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(strip[:32, -32:], final)
    assert np.array_equal(strip[-32:, -32:], final)
    before = contents(Path("s"))
    Path("s/trajectory/000000.png").unlink()
    assert mezzotint(*words).code == 0
    assert contents(Path("s")) == before
    wide = untrained(tmp_path / "wide", channels=5)
    assert "--every" in refused("sample", wide, "--num", 1, "--every", 1, "--out", "w")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_any_number_of_channels_and_both_depths(mezzotint, tmp_path, channels, bits):
    path = untrained(tmp_path / "m", channels=channels, size=(8, 12), bits=bits, steps=2)
    said = mezzotint("sample", path, "--num", 2, "--out", "s", "--npz", "s.npz")
    assert said.code == 0, said
    model = package.load(path)
    assert isinstance(model, Model)
    wanted = model.pixels(model.sample(num=2))
    assert wanted.shape == (2, 8, 12, channels) and wanted.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert len(np.unique(wanted)) > 20
    for k in range(2):
        found = read_png(Path(f"s/00000{k}.png")) if channels < 5 else np.load(f"s/00000{k}.npy")
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted[k])
    assert np.array_equal(np.load("s.npz")["arr_0"], wanted)
    assert sum(".npy" in line for line in said.out) == (channels > 4)
    assert read_png(Path("s/grid.png")).shape == (24, 2 * 36 + 2, channels if channels < 5 else 3)
    if channels < 5:
        assert mezzotint("redo", "s/000001.png").code == 0
        assert mezzotint("info", "s/000001.png").out[0].endswith(f"8x12 pixels, {channels} channels, {bits} bits")


def test_the_grid_may_be_looked_at_first(mezzotint, plain_model, tmp_path):
    said = mezzotint("sample", plain_model, "--print-grid", "--steps", 3, "--sampler", "ddim")
    assert said.code == 0 and not said.err and not list(tmp_path.iterdir())
    assert said.out[0] == "ddim, grid uniform: 3 steps" and said.out[1].split() == ["step", "t", "alpha", "sigma", "log-SNR", "index"]
    assert [line.split()[0] for line in said.out[2:]] == ["1", "2", "3", "end"]
    assert said.out[2].split()[1:] == ["1", "0.00635282", "0.99998", "-10.1177", "999"]
    assert said.out[4].split()[1:] == ["0.001", "0.99995", "0.01", "9.2102", "0"]
    assert said.out[5].split()[1:] == ["0", "1", "0", "inf", "-"]
    inside = mezzotint("sample", plain_model, "--print-grid", "--sampler", "dpm_solver,order=3,method=singlestep_fixed", "--steps", 4)
    assert [line.split()[0] for line in inside.out[2:]] == ["1", "inside", "inside", "2", "end"]
    adaptive = mezzotint("sample", plain_model, "--print-grid", "--sampler", "dpm_solver_adaptive", "--end", "0.3")
    assert "chooses its own times" in adaptive.out[0] and adaptive.out[-1].split()[1] == "0.3"


def test_ends_and_bounds_are_kept_with_the_images_and_heard_again(mezzotint, refused, plain_model):
    how = ["--num", 2, "--steps", 4, "--exact"]
    ways = {"a": [], "b": ["--end", "last"], "c": ["--end", "0.4"], "d": ["--clip", "0.8"], "e": ["--clip", "off"], "f": ["--clip", "on"]}
    for name, words in ways.items():
        assert mezzotint("sample", plain_model, *how, *words, "--out", name).code == 0
        assert mezzotint("redo", f"{name}/000001.png").code == 0
    jobs = {name: manifest(name)["job"] for name in ways}
    assert "end" not in jobs["a"] and (jobs["b"]["end"], jobs["c"]["end"]) == ("last", 0.4)
    assert [jobs[name]["clip"] for name in "adef"] == [True, 0.8, False, True]
    images = {name: Path(name, "000001.png").read_bytes() for name in ways}
    assert images["a"] == images["f"] and len(set(images.values())) == 5
    assert "another job (end is null there" in refused("sample", plain_model, *how, "--end", "last", "--out", "a")
    assert "another job (clip is true there" in refused("sample", plain_model, *how, "--clip", "0.8", "--out", "a")


def test_a_weaker_model_guides(mezzotint, refused, plain_model, tmp_path):
    torch.manual_seed(7)
    untrained(tmp_path / "weak", classes=("ant", "bee", "7"), width=4)
    words = ["--num", 2, "--guidance", "auto,model=weak,scale=2", "--guidance", f"auto,model={plain_model},ema=off,scale=1.5,rescale=0.5"]
    assert mezzotint("sample", plain_model, *words, "--out", "s").code == 0
    held = manifest("s")["guidance_models"]
    assert held["weak"] == hashlib.sha256(Path("weak/model.safetensors").read_bytes()).hexdigest()
    assert held[f"{plain_model},ema=off"] == manifest("s")["model"]["sha256"]
    assert mezzotint("redo", "s/000001.png").code == 0
    shutil.rmtree("weak")
    torch.manual_seed(8)
    untrained(tmp_path / "weak", classes=("ant", "bee", "7"), width=4)
    assert "weak is not the model that guided" in refused("redo", "s/000001.png")


# --- going on ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [[], ["--exact"]], ids=["plain", "exact"])
def test_only_missing_images_are_made(mezzotint, plain_model, monkeypatch, how):
    words = ["sample", plain_model, "--num", 7, "--batch-size", 3, "--out", "s", *how]
    assert mezzotint(*words).code == 0
    whole = contents(Path("s"))
    Path("s/000004.png").unlink()
    Path("s/000006.png").write_bytes(whole["000006.png"][:-40])
    Path("s/grid.png").unlink()
    Path("s/.000004.png.new-123").write_bytes(b"half")
    kept = Path("s/000000.png").stat().st_mtime_ns
    said = mezzotint(*words)
    assert said.code == 0 and "5 of them are in s already" in said.out
    assert contents(Path("s")) == whole
    assert Path("s/000000.png").stat().st_mtime_ns == kept


def test_a_killed_job_goes_on_to_the_same_folder(mezzotint, plain_model, tmp_path):
    words = ["sample", plain_model, "--num", "12", "--batch-size", "1", "--steps", "20", "--out"]
    program = [sys.executable, "-m", "mezzotint", *map(str, words), "killed"]
    job = subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not list(tmp_path.glob("killed/0*.png")) and job.poll() is None and time.monotonic() < limit:
        time.sleep(0.002)
    job.send_signal(signal.SIGKILL)
    job.wait()
    made = len(list(tmp_path.glob("killed/0*.png")))
    assert 0 < made < 12
    assert not manifest("killed")["complete"]
    assert any("not complete" in line for line in mezzotint("info", "killed").out)
    assert mezzotint(*words, "killed").code == 0
    assert mezzotint(*words, "whole").code == 0
    assert contents(Path("killed")) == contents(Path("whole"))


def test_another_batch_size_may_finish_a_job(mezzotint, plain_model):
    assert mezzotint("sample", plain_model, "--num", 4, "--out", "s").code == 0
    Path("s/000001.png").unlink()
    assert mezzotint("sample", plain_model, "--num", 4, "--batch-size", 1, "--out", "s").code == 0


@pytest.mark.parametrize(
    "change",
    [
        ["--seed", 1],
        ["--num", 5],
        ["--classes", "ant=4"],
        ["--ids", "0,1,2,4"],
        ["--steps", 3],
        ["--sampler", "ddim"],
        ["--grid", "quadratic", "--steps", 6],
        ["--guidance", "cfg,scale=2"],
        ["--every", 2],
        ["--exact"],
    ],
    ids=str,
)
def test_another_job_overwrites_nothing(mezzotint, refused, plain_model, change):
    assert mezzotint("sample", plain_model, "--num", 4, "--out", "s").code == 0
    before = contents(Path("s"))
    number = [] if change[0] in ("--num", "--classes", "--ids") else ["--num", 4]
    line = refused("sample", plain_model, *number, *change, "--out", "s")
    assert "another job" in line and "--out" in line
    assert contents(Path("s")) == before


def test_another_model_overwrites_nothing(mezzotint, refused, plain_model, tmp_path):
    assert mezzotint("sample", plain_model, "--num", 2, "--out", "s").code == 0
    moved = shutil.copytree(plain_model, tmp_path / "moved")
    assert mezzotint("sample", moved, "--num", 2, "--out", "s").code == 0  # the same weights elsewhere are the same model
    torch.manual_seed(5)
    other = untrained(tmp_path / "other", classes=("ant", "bee", "7"))
    assert "another job (model is" in refused("sample", other, "--num", 2, "--out", "s")


def test_a_folder_with_other_things_is_left_alone(refused, plain_model, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"mine")
    assert "is not empty" in refused("sample", plain_model, "--num", 1, "--out", "mine")
    (tmp_path / "mine" / "manifest.json").write_text("{")
    assert "manifest.json" in refused("sample", plain_model, "--num", 1, "--out", "mine")
    assert sorted(contents(tmp_path / "mine")) == ["manifest.json", "photo.png"]


# --- bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--classes", "ant=2", "--num", "3"], ["2", "3"]),
        (["--classes", "ant=2,bee"], ["'bee'", "class=number"]),
        (["--classes", "aunt=2"], ["'aunt'", "'ant'"]),
        (["--classes", "8=2"], ["'8'", "ant, bee"]),
        (["--ids", "5-"], ["'5-'", "5,17-20"]),
        (["--ids", "1,1"], ["ids must be different"]),
        (["--num", "0"], ["0 images"]),
        (["--sampler", "dim"], ["'dim'", "'ddim'"]),
        (["--sampler", "ddim,etta=1"], ["'etta'", "'eta'"]),
        (["--steps", "0"], ["0 steps"]),
        (["--grid", "unifrom"], ["'unifrom'", "'uniform'"]),
        (["--grid", "250", "--steps", "10"], ["250", "10"]),
        (["--guidance", "cgf,scale=2"], ["'cgf'", "'cfg'"]),
        (["--guidance", "cfg,scale=big"], ["scale=big", "float"]),
        (["--guidance", "classifier,scale=2"], ["needs 'model'"]),
        (["--guidance", "classifier,model=nowhere"], ["nowhere", "does not exist"]),
        (["--batch-size", "0"], ["batch of 0"]),
        (["--end", "first"], ["--end first", "0, last or a time"]),
        (["--end", "1"], ["smaller time", "starts at 1"]),
        (["--clip", "some"], ["--clip some", "0.995"]),
        (["--clip", "1.2"], ["1.2", "quantile"]),
        (["--guidance", "auto,scale=2"], ["needs 'model'"]),
        (["--guidance", "cfg,rescale=7"], ["rescale=7", "[0, 1]"]),
    ],
    ids=str,
)
def test_bad_wishes_are_one_line(refused, plain_model, tmp_path, words, expected):
    line = refused("sample", plain_model, *words, "--out", "s")
    for part in expected:
        assert part in line
    assert not (tmp_path / "s").exists()


def test_classes_of_a_model_without_any(refused, tmp_path):
    model = untrained(tmp_path / "m")
    assert "knows no classes" in refused("sample", model, "--classes", "3=2", "--out", "s")
    assert "dropped labels" in refused("sample", model, "--guidance", "cfg,scale=2", "--out", "s")


def test_models_of_the_wrong_kind(refused, digits_run, classifier_run, plain_model):
    assert "is a classifier" in refused("sample", classifier_run, "--out", "s")
    assert "not a classifier" in refused("sample", digits_run, "--guidance", f"classifier,model={digits_run}", "--out", "s")
    line = refused("sample", plain_model, "--guidance", f"classifier,model={classifier_run}", "--out", "s")
    assert "8x8x1" in line and "8x8x3" in line


def test_a_checkpoint_cut_in_half(refused, plain_model, tmp_path):
    broken = shutil.copytree(plain_model, tmp_path / "broken")
    file = broken / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "cut short or damaged" in refused("sample", broken, "--out", "s")
    assert "cut short" in refused("info", broken)
    spec = broken / "spec.json"
    spec.write_text(spec.read_text()[:300])
    assert "spec.json" in refused("sample", broken, "--out", "s")
    assert not (tmp_path / "s").exists()


def test_an_output_folder_that_cannot_be_made(refused, plain_model, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused("sample", plain_model, "--out", "file")
    assert "cannot make file/s" in refused("sample", plain_model, "--num", 1, "--out", "file/s")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for the root user")
def test_a_read_only_output_folder(refused, plain_model, tmp_path):
    for name, out in (("locked", "locked"), ("above", "above/s")):
        (tmp_path / name).mkdir(mode=0o555)
        assert "Permission denied" in refused("sample", plain_model, "--num", 1, "--out", out)


def test_a_full_disk_is_one_line_and_leaves_whole_files(refused, mezzotint, plain_model, monkeypatch):
    words = ["sample", plain_model, "--num", 4, "--batch-size", 1, "--out", "s"]
    real = Path.write_bytes
    left = [2]

    def full(path: Path, data: bytes) -> int:
        if left[0] == 0:
            real(path, data[:10])
            raise OSError(28, "No space left on device", str(path))
        left[0] -= 1
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        said = mezzotint(*words)
        assert said.code == 2 and said.err[-1].startswith("mezzotint: ") and "No space left on device" in said.err[-1]
        assert not any("Traceback" in line for line in said.err)
    assert sorted(contents(Path("s"))) == ["000000.png", "000001.png", "manifest.json"]
    assert mezzotint(*words).code == 0


# --- redo ----------------------------------------------------------------------------------------------------------------


def test_redo_makes_the_same_image(mezzotint, refused, digits_run, classifier_run):
    how = ["--guidance", "cfg,scale=2", "--guidance", f"classifier,model={classifier_run},scale=2"]
    how += ["--seed", 9, "--exact", "--ema", "off"]
    assert mezzotint("sample", digits_run, "--classes", "3=2,8=3", *how, "--out", "s").code == 0
    said = mezzotint("redo", "s/000003.png", "--out", "again.png")
    assert said.code == 0
    assert said.out == ["s/000003.png: image 3 made again, equal in all pixels; written to again.png"]
    assert Path("again.png").read_bytes() == Path("s/000003.png").read_bytes()
    assert "already exists" in refused("redo", "s/000003.png", "--out", "again.png")


def test_redo_tells_a_changed_image(mezzotint, plain_model):
    assert mezzotint("sample", plain_model, "--num", 1, "--out", "s").code == 0
    file = Path("s/000000.png")
    pixels, recipe = read_png(file).copy(), read_recipe(file)
    pixels[2, 3, 1] = pixels[2, 3, 1] + 40 if pixels[2, 3, 1] < 128 else pixels[2, 3, 1] - 40
    write_png(file, pixels, {"mezzotint": json.dumps(recipe)})
    said = mezzotint("redo", file)
    assert said.code == 1
    assert "differs by at most 40 of 255 levels" in said.out[0]


def test_redo_finds_a_model_that_has_moved(mezzotint, refused, plain_model, tmp_path):
    first = shutil.copytree(plain_model, tmp_path / "first")
    assert mezzotint("sample", "first", "--num", 1, "--out", "s").code == 0
    first.rename(tmp_path / "second")
    assert "--model" in refused("redo", "s/000000.png")
    assert mezzotint("redo", "s/000000.png", "--model", "second").code == 0
    torch.manual_seed(6)
    untrained(tmp_path / "third", classes=("ant", "bee", "7"))
    assert "not the model that made" in refused("redo", "s/000000.png", "--model", "third")


def test_redo_finds_relative_models_above_the_picture(mezzotint, plain_model, tmp_path, monkeypatch):
    shutil.copytree(plain_model, tmp_path / "work" / "first")
    monkeypatch.chdir(tmp_path / "work")
    assert mezzotint("sample", "first", "--num", 1, "--out", "all/s").code == 0
    monkeypatch.chdir(tmp_path)
    assert mezzotint("redo", "work/all/s/000000.png").code == 0


def test_redo_wants_the_same_classifier(mezzotint, refused, digits_run, classifier_run, tmp_path):
    shutil.copytree(classifier_run / "model", tmp_path / "judge")
    assert mezzotint("sample", digits_run, "--num", 1, "--guidance", "classifier,model=judge", "--out", "s").code == 0
    spec = json.loads((tmp_path / "judge" / "spec.json").read_text())
    spec["weights"]["model.safetensors"]["sha256"] = "0" * 64
    (tmp_path / "judge" / "spec.json").write_text(json.dumps(spec))
    assert "not the model that guided" in refused("redo", "s/000000.png")


def test_redo_of_other_pictures(refused, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    assert "carries no recipe" in refused("redo", "photo.png")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    assert "is no PNG" in refused("redo", "photo.jpg")
    write_png(tmp_path / "other.png", np.zeros((4, 4, 3), np.uint8), {"mezzotint": "{"})
    assert "damaged" in refused("redo", "other.png")
    write_png(tmp_path / "other.png", np.zeros((4, 4, 3), np.uint8), {"mezzotint": "{}"})
    assert "lacks 'model'" in refused("redo", "other.png")


def test_names_in_other_alphabets_survive(mezzotint, tmp_path):
    model = untrained(tmp_path / "m", classes=("кошка", "狗"))
    assert mezzotint("sample", model, "--classes", "狗=1", "--out", "s").code == 0
    recipe = read_recipe(Path("s/000000.png"))
    assert recipe is not None and recipe["class"] == "狗"
    assert Image.open("s/000000.png").text["mezzotint"].count("狗") == 1  # pyright: ignore
    assert manifest("s")["images"][0]["class"] == "狗"
    assert any("狗=1" in line for line in mezzotint("info", "s").out)
