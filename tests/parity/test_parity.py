"""Every reference case, against the figures of the official code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.parity.harness import OWN, Case, Unsupported, discover, load_adapters, problems

load_adapters()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        reference = Path(metafunc.config.getoption("--reference"))
        cases: list[Case | None] = [*discover(OWN), *discover(reference)]
        # Where there is no reference folder, one skipped test says so.
        cases += [] if reference.is_dir() else [None]
        metafunc.parametrize("case", cases, ids=lambda case: repr(case) if case else "reference")


def test_case(case: Case | None, record_property: Callable[[str, object], None], request: pytest.FixtureRequest) -> None:
    if case is None:
        pytest.skip(f"no folder of reference cases at {request.config.getoption('--reference')}; give one with --reference DIR")
    record_property("parity", str(case))
    try:
        wrong = problems(case)
    except Unsupported as lack:
        record_property("parity_unsupported", f"{case.system} {case.kind}")
        pytest.skip(str(lack))
    assert not wrong, f"{case}: " + "; ".join(wrong)


def test_a_reference_folder_has_cases(reference_dir: Path) -> None:
    assert discover(reference_dir), f"no cases.json in the folders of {reference_dir}"
