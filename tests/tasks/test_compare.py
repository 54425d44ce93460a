from __future__ import annotations

import copy
import json

import pytest

from mezzotint.errors import DataError
from mezzotint.tasks.compare import differences, lines, read_result, result_of, sweep, tabulate

PROTOCOL = {
    "images": 5000,
    "image_size": [64, 64],
    "channels": 3,
    "pixels": "files of 8 bits",
    "resize": "tf1-bilinear 299",
    "features": {"name": "inception", "sha256": "67" * 32},
    "reference": {"path": "ref.npz", "hash": "abc", "images": 50_000, "vectors": 10_000},
    "settings": {"fid": {}, "recall": {"k": 3}},
    "model": {"sha256": "cd" * 32},
    "ema": "0.9999",
    "sampler": "ddim",
    "steps": 25,
    "grid": "uniform",
    "guidance": [],
    "clip": True,
    "seeds": {"samples": 0, "metrics": 2020},
}


def result(name, fid=10.0, **changes):
    held = {
        "fid": {"value": fid, "spread": 0.1, "spread_of": "?", "label": changes.pop("label", "fid5k")},
        "recall": {"value": 0.5, "spread": None, "spread_of": "?", "label": "recall5k"},
        "protocol": copy.deepcopy(PROTOCOL) | changes,
        "checks": {"warnings": []},
    }
    return result_of(held, name, name)


def test_results_that_were_measured_alike_stand_in_one_table():
    table = tabulate([result("a"), result("b", 9.0, sampler="heun", model={"sha256": "ef" * 32})])
    assert table.warnings == ()
    assert table.columns == ("samples", "sampler", "fid5k", "recall5k")
    assert table.rows == (("a", "ddim", "10 ± 0.1", "0.5"), ("b", "heun", "9 ± 0.1", "0.5"))
    assert lines(table) == ["samples  sampler  fid5k     recall5k", "a        ddim     10 ± 0.1  0.5", "b        heun     9 ± 0.1   0.5"]


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"images": 50_000, "label": "fid"}, "images is 50000, not 5000"),
        ({"resize": "pil-bicubic 299"}, "resize is pil-bicubic 299, not tf1-bilinear 299"),
        ({"features": {"name": "inception", "sha256": "aa" * 32}}, "features is inception (aaaaaaaa), not inception (67676767)"),
        ({"reference": PROTOCOL["reference"] | {"hash": "def"}}, "reference is def, not abc"),
        ({"reference": PROTOCOL["reference"] | {"vectors": 500}}, "reference images with vectors is 500, not 10000"),
        ({"settings": {"fid": {}, "recall": {"k": 5}}}, 'settings of recall is {"k": 5}, not {"k": 3}'),
        ({"image_size": [32, 32]}, "image_size is [32, 32], not [64, 64]"),
    ],
)
def test_results_that_were_measured_in_other_ways_are_warned_of(changes, words):
    found = tabulate([result("a"), result("b", **changes)])
    assert found.warnings == (f"b is not comparable with a: {words}",)
    if "label" in changes:
        assert found.columns == ("samples", "fid", "recall5k")
        assert found.rows[1][1] == "10 ± 0.1 (fid)"


def test_path_and_seed_of_the_reference_are_no_difference():
    other = result("b", reference=PROTOCOL["reference"] | {"path": "copy.npz"}, seeds={"samples": 3, "metrics": 2020})
    assert differences([result("a"), other]) == ()


def test_seeds_are_averaged():
    runs = [result(f"s{k}", 10.0 + k, seeds={"samples": k}) for k in range(3)]
    table = tabulate([*runs, result("other", 5.0, steps=50, seeds={"samples": 0})])
    assert table.rows[-1] == ("mean of 3 seeds", "25", "11 ± 1", "0.5 ± 0")
    assert len(tabulate([runs[0], runs[0]]).rows) == 2  # one seed twice is no spread


def test_sweep_of_the_guidance():
    runs = [result(f"g{k}", guidance=[f"cfg,scale={k}"] if k > 1 else []) for k in (3, 1, 2)]
    assert [scale for scale, _ in sweep(runs)] == [1, 2, 3]
    assert sweep(runs[:1]) == []
    assert sweep([runs[0], result("x", guidance=["classifier,model=m,scale=2"])]) == []
    classifier = [result("a", guidance=[]), result("b", guidance=["classifier,model=m,scale=4"])]
    assert [scale for scale, _ in sweep(classifier)] == [0, 4]


def test_files_that_are_no_results(tmp_path):
    file = tmp_path / "x.json"
    for text, words in (("{", "x.json cannot be read"), ("[]", "has no protocol"), ('{"protocol": {}}', "holds no figure")):
        file.write_text(text)
        with pytest.raises(DataError, match=words):
            read_result(file)
    with pytest.raises(DataError, match=r"y\.json cannot be read"):
        read_result(tmp_path / "y.json")
    file.write_text(json.dumps({"fid": {"value": 3}, "protocol": {}}))
    assert tabulate([read_result(file)]).rows == (("x", "3"),)
