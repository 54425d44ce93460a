"""The harness itself: it must not agree with what is wrong, nor pass over anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.parity import harness
from tests.parity.harness import OWN, Case, Unsupported, adapter, compare, discover, load_adapters, problems, weight
from tests.parity.own.make import make_all

EXPECTED = {
    "values": np.array([[1.0, 2.0], [np.inf, 4.0]], dtype=np.float32),
    "steps": np.array([0, 5]),
}
AGREES: dict[str, Any] = {"values": torch.tensor([[1.001, 2.0], [torch.nan, 4.09]]), "steps": [0, 5]}


@pytest.fixture
def make_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Case]:
    """Writes a folder with one case whose adapter gives what is asked for."""
    monkeypatch.setattr(harness, "_adapters", {})

    def build(answer: Callable[[Case], Any] | None, draws: int = 0) -> Case:
        folder = tmp_path / "toy"
        folder.mkdir()
        row = {"name": "one", "kind": "shape", "config": {}, "npz": "one.npz", "outputs": dict.fromkeys(EXPECTED)}
        row["tolerance"] = {"rtol": 0.0, "atol": {"values": [0.01, 0.1], "steps": 0.0}}
        (folder / "cases.json").write_text(json.dumps({"system": "toy", "cases": [row]}), encoding="utf-8")
        noise = {f"noise_{i:03}": np.full(2, i, dtype=np.float32) for i in range(draws)}
        np.savez(folder / "one.npz", in_x=np.ones(2), **noise, **{f"out_{name}": value for name, value in EXPECTED.items()})
        if answer:
            adapter("toy", "shape")(answer)
        (case,) = discover(tmp_path)
        return case

    return build


def test_agreement_within_the_limit_of_each_row(make_case: Callable[..., Case]) -> None:
    assert problems(make_case(lambda case: AGREES)) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"values": torch.tensor([[1.02, 2.0], [torch.inf, 4.0]])}, "worst 1.01999998 for 1 at [0, 0]"),
        ({"values": torch.tensor([[1.0, 2.0], [9.0, 4.0]])}, "at [1, 0]"),
        ({"values": torch.tensor([[1.0, torch.nan], [torch.inf, 4.0]])}, "at [0, 1]"),
        ({"values": torch.tensor([1.0, 2.0])}, "shape (2,), expected (2, 2)"),
        ({"steps": [0, 6]}, "1 of 2 whole numbers differ"),
        ({"steps": [0.0, 5.0]}, "expected whole numbers"),
        ({"more": 1}, "output more is not one of the case"),
    ],
)
def test_disagreement(make_case: Callable[..., Case], change: dict[str, Any], says: str) -> None:
    (found,) = problems(make_case(lambda case: {**AGREES, **change}))
    assert says in found


def test_a_missing_output_is_a_failure(make_case: Callable[..., Case]) -> None:
    assert problems(make_case(lambda case: {"steps": [0, 5]})) == ["output values is missing"]


def test_a_kind_without_adapter_is_named(make_case: Callable[..., Case]) -> None:
    with pytest.raises(Unsupported, match="kind shape of system toy is not supported yet"):
        problems(make_case(None))


def test_draws_that_were_not_taken(make_case: Callable[..., Case]) -> None:
    case = make_case(lambda case: AGREES, draws=2)
    assert problems(case) == ["none of the 2 draws was taken"]

    @adapter("toy", "shape")
    def one(case: Case) -> Any:
        noise = case.replay()
        assert noise.normal((2,), name="first").tolist() == [0, 0]
        return AGREES

    assert problems(case) == ["1 of the draws were not taken"]

    @adapter("toy", "shape")
    def last(case: Case) -> Any:
        assert case.replay([1]).normal((2,), name="second").tolist() == [1, 1]
        return AGREES

    assert problems(case) == []


def test_weights_follow_their_rule() -> None:
    plain, ones, variance = weight("a.bias", (4,), 0.05), weight("a.weight", (4,), 0.05), weight("a.running_var", (4,), 0.05)
    assert plain.dtype == torch.float32
    assert plain.abs().max() < 0.5
    assert abs(float(ones.mean()) - 1) < 0.2
    assert bool((variance >= 1).all())
    assert not torch.equal(weight("b.bias", (4,), 0.05), plain)
    torch.testing.assert_close(weight("a.bias", (4,), 0.1), 2 * plain)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"state_dict": [["w", [3], "filled"], ["table", [2], "kept"]]}, "differ in shape: ['w']"),
        ({"state_dict": [["w", [4], "filled"], ["other", [1], "filled"]]}, "'other'"),
        ({"filled_values": 5}, "4 filled values, 5 recorded"),
        ({"sum": 1.0}, "Mismatched elements"),
    ],
)
def test_filling_checks_names_shapes_and_sums(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    value = weight("w", (4,), 0.05).double()
    row = {"tag": "model", "scale": 0.05, "state_dict": [["w", [4], "filled"], ["table", [2], "kept"]], "filled_values": 4}
    row |= {"sum": float(value.sum()), "sum_of_squares": float((value**2).sum())}
    (tmp_path / "one.json").write_text(json.dumps([{**row, **change}]), encoding="utf-8")
    case = Case(tmp_path, "toy", {"name": "one", "kind": "net", "config": {}, "outputs": {}, "weights": {"file": "one.json"}})
    state = {"w": torch.zeros(4), "table": torch.arange(2)}
    if not says:
        filled = case.fill(state)
        assert torch.equal(filled["w"].double(), value)
        assert filled["table"] is state["table"]
        return
    with pytest.raises(AssertionError) as error:
        case.fill(state)
    assert says in str(error.value)


def test_own_cases_are_those_of_their_script(tmp_path: Path) -> None:
    load_adapters()
    make_all(tmp_path)
    made, stored = ({(case.system, case.name): case for case in discover(folder)} for folder in (tmp_path, OWN))
    assert made.keys() == stored.keys()
    for key, case in made.items():
        assert case.config == stored[key].config
        assert case.inputs.keys() == stored[key].inputs.keys()
        assert all(torch.equal(value, stored[key].inputs[name]) for name, value in case.inputs.items())
        assert all(torch.equal(a, b) for a, b in zip(case.draws, stored[key].draws, strict=True))
        assert not [wrong for name, value in case.expected.items() for wrong in compare(stored[key], name, value)]
