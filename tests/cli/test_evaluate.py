from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import warnings

import numpy as np
import pytest
from PIL import Image
from tests.cli.models import untrained
from tests.data.makers import encoded, folder, pixels
from tests.pipelines.upscalers import saved

from mezzotint.weights.io import read_spec


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("models") / "gray", channels=1, classes=tuple("0123456789"), steps=2)


class Page(html.parser.HTMLParser):
    """What a page shows, and whatever it would fetch."""

    def __init__(self, text: str):
        super().__init__()
        self.words: list[str] = []
        self.pictures: list[Image.Image] = []
        self.fetches: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("src", "href") and value.startswith("data:image/png;base64,"):
                self.pictures.append(Image.open(io.BytesIO(base64.b64decode(value.partition(",")[2]))))
            elif name in ("src", "href"):
                self.fetches.append(value)

    def handle_data(self, data):
        self.words.append(data)


def test_samples_to_figures_and_page(mezzotint, model, tmp_path):
    for name, scale in (("a", 1), ("b", 3)):
        guided = ["--guidance", f"cfg,scale={scale}"] if scale > 1 else []
        assert mezzotint("sample", model, "--num", 30, "--seed", scale, "--out", name, *guided).code == 0
        words = ["--reference", "digits", "--features", "pixels", "--json", f"{name}.json", "--report", f"{name}.html"]
        with pytest.warns(UserWarning, match="30 samples are not more than the 64 features"):
            said = mezzotint("evaluate", name, *words, "--metrics", "fid,precision,recall,kid", "--train", "digits")
        assert said.code == 0, said.err
    assert said.out[0].startswith("fd_pixels_30 ")
    assert any(re.match(r"sampled by ancestral.*, 2 steps, cfg,scale=3, EMA none, seed 3", line) for line in said.out)
    held = json.loads((tmp_path / "b.json").read_text())
    assert set(held["fid"]) == {"value", "spread", "spread_of", "label"}
    assert held["protocol"]["guidance"] == ["cfg,scale=3"]
    assert held["protocol"]["model"]["sha256"] == read_spec(model).weights["model.safetensors"]["sha256"]
    assert "memorisation" in held["checks"]
    page = Page((tmp_path / "b.html").read_text())
    assert page.fetches == []
    assert len(page.pictures) == 4  # samples, reference, nearest neighbours, sketch
    assert [picture.size for picture in page.pictures[:2]] == [(202, 168), (270, 270)]  # 30 samples and 64 real images, enlarged fourfold
    text = " ".join(page.words)
    for words in (
        "fd_pixels_30",
        "± ",
        "Protocol",
        "cfg,scale=3",
        "Nearest neighbours",
        "above the nearest training image",
        "Warning: 30 samples",
    ):
        assert words in text, words
    picture = np.asarray(Image.open(tmp_path / "b.png"))
    assert picture.shape[1] == 1000
    assert picture.std() > 10

    said = mezzotint("compare", "a.json", "b.json", "--report", "c.html", "--json", "c.json")
    assert said.code == 0
    assert said.out[0].split() == ["samples", "guidance", "fd_pixels_30", "precision_pixels_30", "recall_pixels_30", "kid_pixels"]
    assert [line.split()[:2] for line in said.out[1:3]] == [["a", "none"], ["b", "cfg,scale=3"]]
    page = Page((tmp_path / "c.html").read_text())
    assert len(page.pictures) == 2  # the sweep, and precision against recall
    assert "figures against the scale of the guidance" in " ".join(page.words)
    assert json.loads((tmp_path / "c.json").read_text())["rows"][0][0] == "a"


def test_results_of_other_protocols_are_compared_with_a_warning(mezzotint, tmp_path):
    for num in (40, 50):
        words = ["evaluate", "digits", "--reference", "digits", "--split", "test", "--features", "pixels", "--num", num]
        with pytest.warns(UserWarning, match="rank-deficient"):
            assert mezzotint(*words, "--json", f"{num}.json").code == 0
    with pytest.warns(UserWarning, match="50 is not comparable with 40: images is 50, not 40"):
        said = mezzotint("compare", "40.json", "50.json")
    assert said.code == 0
    assert "(fd_pixels_40)" in said.out[1]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_reference_in_one_command(mezzotint, refused, tmp_path, suffix):
    ref = f"ref.{suffix}"
    said = mezzotint("reference", "digits", "--split", "test", "--features", "pixels", "--out", ref)
    kept = 539 if suffix == "safetensors" else 0
    assert said.out == [f"539 images, pixels features (pool), vectors of {kept} images: {ref}"]
    assert "already exists" in refused("reference", "digits", "--features", "pixels", "--out", ref)
    for name, reference in (("held", [ref]), ("images", ["digits", "--split", "test", "--features", "pixels"])):
        assert mezzotint("evaluate", "digits", "--reference", *reference, "--metrics", "fid", "--json", f"{name}.json").code == 0
    held, images = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("held", "images"))
    assert held["fid"] == pytest.approx(images["fid"])
    assert held["protocol"]["reference"]["hash"] == images["protocol"]["reference"]["hash"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mezzotint("compare", "held.json", "images.json").code == 0


def test_features_of_a_classifier(mezzotint, refused, classifier_run, digits_run, tmp_path):
    words = ["evaluate", "digits", "--num", 200, "--reference", "digits", "--split", "test"]
    said = mezzotint(*words, "--features", classifier_run, "--metrics", "fid,is,recall", "--json", "x.json")
    assert said.code == 0, said.err
    held = json.loads((tmp_path / "x.json").read_text())
    assert held["fid"]["label"] == "fd_classifier_200"
    assert 1 <= held["is"]["value"] <= 10
    spec = read_spec(classifier_run / "model")
    assert held["protocol"]["features"] == {"name": "classifier", "sha256": spec.weights["model.safetensors"]["sha256"]}
    assert "is a generator" in refused(*words, "--features", digits_run)
    assert mezzotint("reference", "digits", "--features", classifier_run, "--out", "ref.safetensors").code == 0
    assert "was made with the features 'classifier'" in refused(
        "evaluate", "digits", "--reference", "ref.safetensors", "--features", "pixels"
    )


@pytest.mark.filterwarnings("ignore:8 ")  # images are not more than the pixels
def test_enlarged_pictures_without_the_page_beside_them(mezzotint, refused, tmp_path):
    """A folder of mezzotint upscale also holds a picture of before and after."""
    model = saved(tmp_path / "model", channels=1)
    folder(
        tmp_path / "small",
        {f"{part}/{k}.png": encoded(pixels(4, 4, 1, seed=k)) for part in "ab" for k in (2 * ord(part), 2 * ord(part) + 1)},
    )
    assert mezzotint("upscale", "small", "--model", model, "--out", "large", "--steps", 2, "--num", 2).code == 0
    folder(tmp_path / "real", {f"{k}.png": encoded(pixels(16, 16, 1, seed=k)) for k in range(8)})
    words = ("evaluate", "large", "--reference", "real", "--features", "pixels", "--metrics", "fid", "--json", "x.json")
    said = mezzotint(*words)
    assert said.code == 0 and any(line.startswith("8 samples against real") for line in said.out), said
    held = json.loads((tmp_path / "x.json").read_text())["protocol"]
    assert held["sampler"] == "ancestral" and held["steps"] == 2 and held["model"]["sha256"]
    (tmp_path / "large" / "a" / "194.0.png").unlink()
    assert "type the same `mezzotint upscale` command again" in refused(*words)
    manifest = json.loads((tmp_path / "large" / "manifest.json").read_text())
    (tmp_path / "large" / "manifest.json").write_text(json.dumps({**manifest, "pictures": [{}]}))
    assert "is damaged" in refused(*words)


def test_accuracy_score_of_a_sample_folder(mezzotint, model):
    assert mezzotint("sample", model, "--num", 40, "--out", "s").code == 0
    words = ["--metrics", "cas", "--cas-recipe", "digits-classifier", "--cas-images", 128]
    said = mezzotint("evaluate", "s", "--reference", "digits", "--split", "test", *words)
    assert said.code == 0, said.err
    assert re.match(r"cas  0\.\d+ ± 0\.0\d+ \(standard error of a share of 539 test images\)", said.out[0])


def test_mistakes(refused, tmp_path):
    digits = ["evaluate", "digits", "--reference", "digits", "--features", "pixels"]
    np.savez(tmp_path / "float.npz", np.full((4, 8, 8, 1), np.nan, np.float32))
    (tmp_path / "empty").mkdir()
    for words, expected in (
        (["evaluate", "nowhere", "--reference", "digits"], "nowhere does not exist"),
        (["evaluate", "digits"], "missing: --reference"),
        ([*digits, "--metrics", "fix"], "unknown metric 'fix'; did you mean 'fid'?"),
        ([*digits, "--report", "x.pdf"], "ends in .html"),
        ([*digits, "--json", "no/x.json"], "no does not exist"),
        ([*digits, "--batch-size", "0"], "a batch of 0"),
        ([*digits, "--num", "1"], "--num 1"),
        ([*digits, "--cas-seeds", "0", "--metrics", "cas"], "--cas-seeds 0"),
        ([*digits, "--k", "0"], "neighbour 0"),
        (["evaluate", "float.npz", *digits[2:]], "float.npz is float32"),
        (["evaluate", "empty", *digits[2:]], "empty holds no images"),
        (["reference", "digits", "--out", "x.pkl"], "ends in .safetensors or .npz"),
        (["reference", "digits", "--out", "x.npz", "--protocol", "amd"], "--protocol 'amd'"),
        (["compare"], "no results"),
        (["compare", "x.json"], "x.json cannot be read"),
    ):
        assert expected in refused(*words), words
