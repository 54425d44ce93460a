"""The cards say things that hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from mezzotint.checkpoint import cards as cards_module
from mezzotint.checkpoint.cards import Card, card, card_of_path, cards, fetch_card
from mezzotint.checkpoint.families import FAMILIES
from mezzotint.checkpoint.loading import locate
from mezzotint.checkpoint.official import guided_diffusion, u_vit
from mezzotint.configs import DiscreteConfig
from mezzotint.errors import CheckpointError, ConfigError
from mezzotint.registry import build
from mezzotint.schedules import build_schedule

CITATIONS = Path(__file__).resolve().parents[2] / "docs" / "citations.md"


def test_every_published_model_has_a_card() -> None:
    assert {name for name, entry in cards().items() if entry.family == "guided_diffusion"} == set(guided_diffusion.PUBLISHED)
    assert {name for name, entry in cards().items() if entry.family == "u_vit"} == set(u_vit.PUBLISHED)
    assert len([name for name, entry in cards().items() if "jul-2021" in entry.url]) == 15
    assert len([name for name, entry in cards().items() if "march-2021" in entry.url]) == 8


@pytest.mark.parametrize("name", list(cards()))
def test_a_card_is_complete(name: str) -> None:
    entry = card(name)
    assert entry.family in FAMILIES and entry.what and entry.schedule
    assert entry.url.startswith("https://") != bool(entry.page) and bool(entry.file) == bool(entry.page)
    assert all(f"{{{key}," in CITATIONS.read_text(encoding="utf-8") for key in entry.cite) and entry.cite
    assert (entry.sampling is None) == name.endswith("classifier")
    if entry.sampling is not None:
        build("sampler", entry.sampling.sampler)


def test_schedules_agree_with_the_adapter() -> None:
    for name in guided_diffusion.PUBLISHED:
        entry, model = card(name), guided_diffusion.published(name)
        assert isinstance(model.schedule, DiscreteConfig)
        assert (entry.schedule, entry.steps) == (model.schedule.betas, model.schedule.steps), name
        if entry.sampling is not None:
            plan = build("sampler", entry.sampling.sampler).plan(build_schedule(model.schedule), steps=None, spacing=entry.sampling.grid)
            assert plan.steps in (250, entry.steps), name


def test_cards_are_found_by_file_and_folder(tmp_path: Path) -> None:
    for path in ("lsun_cat.pt", "lsun_cat/x.pt", "lsun_cat/unet/x.bin"):
        entry = card_of_path(tmp_path / path)
        assert entry is not None and entry.name == "lsun_cat"
    assert card_of_path(tmp_path / "lsun_cats.pt") is None
    with pytest.raises(ConfigError, match="no published model 'lsun_cats', did you mean 'lsun_cat'"):
        card("lsun_cats")


def test_a_published_name_is_fetched_into_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    asked = []

    def fetch(url: str, place: str, *, sha256: str | None, size: int | None, progress: object) -> None:
        asked.append((url, sha256, size))
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"weights")

    monkeypatch.setattr(cards_module, "fetch", fetch)
    assert locate("256x256_diffusion_uncond") == tmp_path / "models" / "256x256_diffusion_uncond" / "256x256_diffusion_uncond.pt"
    entry = card("256x256_diffusion_uncond")
    assert asked == [(entry.url, entry.sha256, 2_211_383_297)] and len(entry.sha256 or "") == 64
    folder = fetch_card(card("ddpm-cifar10-32"))
    assert sorted(p.name for p in folder.iterdir()) == sorted(card("ddpm-cifar10-32").files)
    assert asked[-1][0] == "https://huggingface.co/google/ddpm-cifar10-32/resolve/main/diffusion_pytorch_model.bin"


def test_what_no_program_may_fetch_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEZZOTINT_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"take cifar10_uvit_small\.pth from https://drive\.google\.com.* put it into a folder named"):
        locate("cifar10_uvit_small")
    place = card("cifar10_uvit_small").place
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    assert locate("cifar10_uvit_small") == place


def test_unproven_families_say_so() -> None:
    unproven = {entry.family for entry in cards().values() if not entry.proven}
    assert unproven == {"score_sde", "sr3"}
    assert isinstance(card("lsun_cat"), Card) and card("lsun_cat").proven
