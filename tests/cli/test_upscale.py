"""mezzotint upscale: any picture, hostile files, jobs that go on, the page."""

from __future__ import annotations

import errno
import io
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps
from tests.data.makers import encoded, folder, pixels, wide_png, zipped
from tests.pipelines.tiny import generator_spec
from tests.pipelines.tiny import saved as saved_generator
from tests.pipelines.upscalers import UNET, saved

from mezzotint.cli import upscale_folder
from mezzotint.cli.pictures import read_png
from mezzotint.configs import DenoiserConfig, DiscreteConfig, LowResConfig, SampleConfig

QUICK = ["--steps", "2"]


@pytest.fixture(scope="session")
def enlarger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model that enlarges 4 times, in tiles of 16."""
    return saved(tmp_path_factory.mktemp("models") / "enlarger")


def bomb() -> bytes:
    """A small PNG that claims 60000x60000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def animation() -> bytes:
    frames = [Image.fromarray(pixels(8, 8, 3, seed=k)) for k in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def palette() -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels(6, 5, 3)).quantize(8).save(out, "PNG", transparency=3)
    return out.getvalue()


KINDS = {
    "colour.png": (encoded(pixels(9, 7, 3)), 3, np.uint8),
    "gray.png": (encoded(pixels(5, 8, 1)), 1, np.uint8),
    "alpha.png": (encoded(pixels(3, 6, 4)), 4, np.uint8),
    "gray_alpha.png": (encoded(pixels(3, 6, 2)), 2, np.uint8),
    "wide.png": (wide_png(pixels(4, 3, 3, dtype=np.uint16)), 3, np.uint16),
    "wide_gray.png": (wide_png(pixels(4, 3, 1, dtype=np.uint16)), 1, np.uint16),
    "one.png": (encoded(pixels(1, 1, 3)), 3, np.uint8),
    "line.png": (encoded(pixels(1, 11, 3)), 3, np.uint8),
    "bits.png": (encoded(pixels(4, 4, 1), mode="1"), 1, np.uint8),
    "print.jpg": (encoded(pixels(8, 8, 3), "JPEG", mode="CMYK"), 3, np.uint8),
    "palette.png": (palette(), 4, np.uint8),
    "photo.webp": (encoded(pixels(8, 6, 3), "WEBP"), 3, np.uint8),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_picture(mezzotint, enlarger, tmp_path, name):
    data, channels, dtype = KINDS[name]
    (tmp_path / name).write_bytes(data)
    said = mezzotint("upscale", name, "--model", enlarger, "--out", "large", *QUICK)
    assert said.code == 0, said
    made = read_png(tmp_path / "large" / Path(name).with_suffix(".png"))
    with Image.open(io.BytesIO(data)) as image:
        assert made.shape == (4 * image.height, 4 * image.width, channels) and made.dtype == dtype
    assert {"compare.html", "before-after.png", "manifest.json"} <= {p.name for p in (tmp_path / "large").iterdir()}


HOSTILE = {
    "animation.gif": (animation(), "3 frames"),
    "bomb.png": (bomb(), "million pixels"),
    "empty.png": (b"", "is empty"),
    "text.png": (b"not a picture at all", "no image that can be read"),
    "cut.jpg": (encoded(pixels(64, 64, 3), "JPEG")[:900], "damaged"),
    "broken.png": (encoded(pixels(32, 32, 3)).replace(b"IDAT", b"IDAQ"), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_line(refused, enlarger, tmp_path, name):
    data, words = HOSTILE[name]
    (tmp_path / name).write_bytes(data)
    line = refused("upscale", name, "--model", enlarger, "--out", "large", *QUICK)
    assert words in line and name in line


def test_a_folder_goes_on_without_the_pictures_that_cannot_be_read(mezzotint, enlarger, tmp_path):
    good = {"a.png": encoded(pixels(4, 4, 3)), "below/a.png": encoded(pixels(5, 4, 1)), "a.jpg": encoded(pixels(6, 4, 3), "JPEG")}
    # The end of this one is whole, so that its damage shows only when it is decoded.
    late = bytearray(encoded(pixels(200, 300, 3)))
    late[40000:40200] = bytes(200)
    folder(tmp_path / "in", {**good, **{name: data for name, (data, _) in HOSTILE.items()}, "late.png": bytes(late), "notes.txt": b"?"})
    said = mezzotint("upscale", "in", "--model", enlarger, "--out", "large", *QUICK)
    assert said.code == 2 and "7 of 10 pictures could not be read" in said.err[-1]
    assert all(sum(name in line for line in said.err) == 1 for name in [*HOSTILE, "late.png"])
    made = {p.relative_to(tmp_path / "large").as_posix() for p in (tmp_path / "large").rglob("*.png")}
    assert made == {"a.png.png", "a.jpg.png", "below/a.png", "before-after.png"}
    held = json.loads((tmp_path / "large" / "manifest.json").read_text())
    assert held["complete"] and {p["source"] for p in held["pictures"]} == set(good)


def test_a_killed_job_goes_on_and_makes_nothing_twice(mezzotint, enlarger, tmp_path, monkeypatch):
    folder(tmp_path / "in", {f"{k}.png": encoded(pixels(4, 4, 3, seed=k)) for k in range(4)})
    order = ["upscale", "in", "--model", enlarger, "--out", "large", "--num", "2", *QUICK]
    assert mezzotint(*[w if w != "large" else "whole" for w in order]).code == 0
    make = upscale_folder.UpscaleFolder.make

    def die(self, piece, *, on_work):
        make(self, piece, on_work=on_work)
        if piece.name == "1.png":
            (self.path / "2.0.png").write_bytes(b"cut off")
            (self.path / ".2.0.png.new-1").write_bytes(b"cut off")
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upscale_folder.UpscaleFolder, "make", die)
        assert mezzotint(*order).code == 130
    large = tmp_path / "large"
    assert not json.loads((large / "manifest.json").read_text())["complete"]
    before = {name: (large / name).stat().st_mtime_ns for name in ("0.0.png", "0.1.png", "1.0.png", "1.1.png")}
    (large / "1.1.png").unlink()
    said = mezzotint(*order)
    assert said.code == 0 and "1 of them are in large already" in said.out
    assert not list(large.glob(".*"))
    for name in sorted(before):
        same = (large / name).stat().st_mtime_ns == before[name]
        assert same == (name != "1.1.png")
    for file in (tmp_path / "whole").glob("*.png"):
        assert (large / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_changed_picture_is_made_again(mezzotint, enlarger, tmp_path):
    folder(tmp_path / "in", {"a.png": encoded(pixels(4, 4, 3)), "b.png": encoded(pixels(4, 4, 3, seed=1))})
    order = ["upscale", "in", "--model", enlarger, "--out", "large", *QUICK]
    assert mezzotint(*order).code == 0
    old = {name: (tmp_path / "large" / name).read_bytes() for name in ("a.png", "b.png")}
    (tmp_path / "in" / "a.png").write_bytes(encoded(pixels(4, 4, 3, seed=2)))
    assert mezzotint(*order).code == 0
    assert [(tmp_path / "large" / name).read_bytes() == old[name] for name in old] == [False, True]


def test_the_result_depends_on_the_picture_and_not_on_its_name_or_company(mezzotint, enlarger, tmp_path):
    data = encoded(pixels(6, 5, 3))
    folder(tmp_path / "in", {"x.png": encoded(pixels(8, 8, 3, seed=1)), "y.png": data})
    (tmp_path / "alone.png").write_bytes(data)
    zipped(tmp_path / "in.zip", {"z.png": data})
    for path, out in (("in", "a"), ("alone.png", "b"), ("in.zip", "c")):
        assert mezzotint("upscale", path, "--model", enlarger, "--out", out, *QUICK).code == 0
    made = [read_png(tmp_path / file) for file in ("a/y.png", "b/alone.png", "c/z.png")]
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_the_profile_is_kept_and_the_picture_turned(mezzotint, enlarger, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.linspace(40, 215, 6 * 9 * 3).reshape(6, 9, 3).astype(np.uint8))
    image.save(tmp_path / "turned.jpg", icc_profile=profile, exif=exif, quality=95)
    said = mezzotint("upscale", "turned.jpg", "--model", enlarger, "--out", "large", "--consistent", *QUICK)
    assert said.code == 0
    with Image.open(tmp_path / "large" / "turned.png") as made, Image.open(tmp_path / "turned.jpg") as before:
        assert made.info["icc_profile"] == profile and made.getexif().get(0x0112, 1) == 1
        upright = ImageOps.exif_transpose(before)
        assert made.size == (4 * 6, 4 * 9) == tuple(4 * side for side in upright.size)
        small = np.asarray(made.resize(upright.size, Image.Resampling.BICUBIC)).astype(float)
        assert np.abs(small - np.asarray(upright)).max() <= 2


def test_a_profile_for_other_pixels_is_left_out(mezzotint, enlarger, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels(4, 4, 1)[..., 0]).save(tmp_path / "gray.png", icc_profile=profile)
    assert mezzotint("upscale", "gray.png", "--model", enlarger, "--out", "large", *QUICK).code == 0
    with Image.open(tmp_path / "large" / "gray.png") as made:
        assert made.mode == "L" and "icc_profile" not in made.info


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_profile_that_nobody_can_read_is_left_out(mezzotint, enlarger, tmp_path, mode):
    whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, profile in (("cut", whole[:100]), ("junk", b"junk" * 10)):
        Image.fromarray(pixels(4, 4, 3)).convert(mode).save(tmp_path / f"{name}.jpg", icc_profile=profile)
        assert mezzotint("upscale", f"{name}.jpg", "--model", enlarger, "--out", name, *QUICK).code == 0
        with Image.open(tmp_path / name / f"{name}.png") as made:
            assert made.mode == "RGB" and "icc_profile" not in made.info


def test_memory_that_runs_out_and_disks_that_are_full_are_one_line(mezzotint, enlarger, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    order = ["upscale", "a.png", "--model", enlarger, "--out", "large", *QUICK]

    def memory(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    def disk(path, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    for place, action, words in (("UpscaleFolder.make", memory, "smaller --batch-size or --tile"), ("write_png", disk, "No space left")):
        with monkeypatch.context() as patch:
            patch.setattr(f"mezzotint.cli.upscale_folder.{place}", action)
            said = mezzotint(*order)
        assert said.code == 2 and said.err[-1].startswith("mezzotint: ") and words in said.err[-1]
    assert not json.loads((tmp_path / "large" / "manifest.json").read_text())["complete"]


def test_info_says_how_pictures_were_enlarged(mezzotint, enlarger, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    assert mezzotint("upscale", "a.png", "--model", enlarger, "--out", "large", "--num", "2", *QUICK).code == 0
    said = mezzotint("info", "large")
    assert said.out[0] == "large: 1 enlarged pictures, 2 samples of each, complete" and "scale 4" in said.out[2]
    said = mezzotint("info", "large/a.1.png")
    assert said.out[0].startswith("large/a.1.png: sample 1 of a.png (sha256 ") and "16x16 pixels" in said.out[0]


def test_the_page_needs_nothing_else(mezzotint, enlarger, tmp_path):
    folder(tmp_path / "in", {"<b>&.png": encoded(pixels(4, 6, 3)), "c.png": wide_png(pixels(3, 3, 1, dtype=np.uint16))})
    assert mezzotint("upscale", "in", "--model", enlarger, "--out", "large", "--num", "2", *QUICK).code == 0
    page = (tmp_path / "large" / "compare.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert len(sources) == 2 * 3 and all(source.startswith("data:image/png;base64,") for source in sources)
    assert "http" not in page and "<b>&.png" not in page and "&lt;b&gt;&amp;.png" in page and page.count("sample 1") == 2


def test_settings_that_go_together_with_a_folder(mezzotint, refused, enlarger, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    order = ["upscale", "a.png", "--model", enlarger, "--out", "large", *QUICK]
    assert mezzotint(*order).code == 0
    assert "seed is 0 there, 1 now" in refused(*order, "--seed", "1")
    assert "consistent is false there, true now" in refused(*order, "--consistent")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "holds no manifest.json" in refused("upscale", "a.png", "--model", enlarger, "--out", "full")


@pytest.mark.parametrize(
    "words, line",
    [
        (["nothing.png"], "nothing.png does not exist"),
        (["hollow"], "holds no pictures"),
        (["a.png", "--num", "0"], "at least 1 sample"),
        (["a.png", "--scale", "8"], "give 4, 16, 64"),
        (["a.png", "--tile", "18"], "multiples of 4"),
        (["a.png", "--tile", "100000"], "more than 256 million pixels; give a smaller tile"),
        (["a.png", "--level", "0.5"], "without noise"),
        (["a.png", "--class", "cat"], "knows no classes"),
    ],
)
def test_mistakes(refused, enlarger, tmp_path, words, line):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    (tmp_path / "hollow").mkdir()
    assert line in refused("upscale", *words, "--model", enlarger, "--out", "large", *QUICK)


def test_a_picture_too_large_to_enlarge(refused, enlarger, tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(encoded(pixels(10, 10, 3)))
    monkeypatch.setattr("mezzotint.pipelines.upscale.LARGEST", 1000)
    assert "a.png: 10x10 pixels enlarged 4 times are 40x40" in refused("upscale", "a.png", "--model", enlarger, "--out", "large")


def test_models_that_enlarge_nothing(refused, plain_model, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    assert "begins from no low-resolution image" in refused("upscale", "a.png", "--model", plain_model, "--out", "large")


def test_the_folder_that_is_written_to_is_no_input(mezzotint, enlarger, tmp_path):
    folder(tmp_path / "in", {"a.png": encoded(pixels(4, 4, 3))})
    order = ["upscale", "in", "--model", enlarger, "--out", "in/large", *QUICK]
    assert mezzotint(*order).code == 0 and mezzotint(*order).code == 0
    assert sorted(p.name for p in (tmp_path / "in" / "large").glob("*.png")) == ["a.png", "before-after.png"]


# --- cascades --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Models that make 4x4 images, enlarge them to 16x16, and these to 32x32."""
    root = tmp_path_factory.mktemp("stages")
    own = {"net": UNET, "denoiser": DenoiserConfig(), "sample": SampleConfig(steps=2), "schedule": DiscreteConfig(steps=1000)}
    base = saved_generator(root / "base", generator_spec(size=(4, 4), label=None, classes=(), sample=SampleConfig(steps=2)))
    return base, saved(root / "middle", **own), saved(root / "last", side=32, low_res=LowResConfig(scale=2), **own)


def test_a_cascade_of_enlargers_enlarges(mezzotint, refused, stages, tmp_path):
    said = mezzotint("cascade", *stages[1:], "--out", "both")
    assert said.code == 0 and "8 times" in said.out[-1] and "`mezzotint upscale PICTURES --model both --out DIR`" in said.out[-1]
    (tmp_path / "a.png").write_bytes(encoded(pixels(9, 5, 3)))
    words = ["upscale", "a.png", "--model", "both", "--out", "large"]
    said = mezzotint(*words, "--stage", "2.sampler=ddim", "--num", "2")
    assert said.code == 0, said.err
    assert "8 times larger, by to 16x16: ancestral, 2 steps; to 32x32: ddim, 2 steps; seed 0" in said.out[0]
    assert read_png(tmp_path / "large" / "a.0.png").shape == (72, 40, 3)
    again = mezzotint(*words, "--stage", "2.sampler=ddim", "--num", "2")
    assert again.code == 0 and "1 of them are in large already" in again.out
    assert 'pass 1 sampler is "ancestral" there, "ddim" now' in refused(*words, "--sampler", "ddim", "--num", "2")
    assert "stages are 1 to 2" in refused(*words, "--stage", "3.steps=2")


def test_a_cascade_that_makes_its_images_enlarges_with_the_other_stages(mezzotint, stages, tmp_path):
    assert mezzotint("cascade", *stages, "--out", "three").code == 0
    assert mezzotint("cascade", *stages[1:], "--out", "two").code == 0
    (tmp_path / "a.png").write_bytes(encoded(pixels(6, 4, 3)))
    assert mezzotint("upscale", "a.png", "--model", "three", "--out", "a", "--stage", "2.steps=3").code == 0
    assert mezzotint("upscale", "a.png", "--model", "two", "--out", "b", "--stage", "1.steps=3").code == 0
    assert np.array_equal(read_png(tmp_path / "a" / "a.png"), read_png(tmp_path / "b" / "a.png"))


def test_a_model_of_one_stage_has_no_stage_settings(refused, enlarger, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(pixels(4, 4, 3)))
    assert "has a single stage" in refused("upscale", "a.png", "--model", enlarger, "--out", "large", "--stage", "1.steps=2")


def test_a_folder_without_any_picture_that_can_be_read(refused, mezzotint, enlarger, tmp_path):
    folder(tmp_path / "in", {name: data for name, (data, _) in HOSTILE.items()})
    said = mezzotint("upscale", "in", "--model", enlarger, "--out", "large", *QUICK)
    assert said.code == 2 and said.err[-1] == "mezzotint: none of the 6 pictures in in could be read; give others"
    assert not (tmp_path / "large").exists()
