"""How near we are to the common implementation of SR3, and that telling its networks gamma rather than its root is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.parity.adapters import sr3
from tests.parity.harness import Case, discover, load_adapters, problems, run

from mezzotint.configs import DenoiserConfig
from mezzotint.denoise import NetworkDenoiser

load_adapters()


def cases(folder: Path, *kinds: str) -> list[Case]:
    found = [case for case in discover(folder) if case.system == sr3.SR3 and case.kind in kinds]
    assert {case.kind for case in found} == set(kinds)
    return found


def test_forward_passes_to_1e_5_and_sampling_to_1e_6(reference_dir: Path) -> None:
    for kind, least in (("unet_forward", 1e-5), ("p_mean_variance", 1e-6), ("sample", 1e-6)):
        for case in cases(reference_dir, kind):
            got, expected = run(case), case.expected
            for name in expected.keys() - {key for key in expected if key.startswith("log_variance")}:
                assert np.abs(got[name].detach().numpy() - expected[name]).max() < least, (case, name)


def test_gamma_in_place_of_its_root_fails(reference_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = [case for case in cases(reference_dir, "unet_forward") if case.config.get("module") != "ddpm"]
    chains = cases(reference_dir, "p_mean_variance", "sample", "losses")
    assert networks and not any(problems(case) for case in networks + chains)
    for case in networks:
        monkeypatch.setitem(case.inputs, "time", case.inputs["time"] ** 2)
        assert problems(case), case

    def told_gamma(case: Case) -> NetworkDenoiser:
        network = sr3.StandIn(case.inputs["A"], conditional=case.config["conditional"])
        return NetworkDenoiser(network, sr3.schedule_of(case), DenoiserConfig(variance="fixed_small", time_input="alpha_bar"))

    monkeypatch.setattr(sr3, "denoiser_of", told_gamma)
    for case in chains:
        assert problems(case), case
