from __future__ import annotations

import dataclasses
import subprocess
import sys
import typing

import pytest

from mezzotint import configs, registry
from mezzotint.errors import ConfigError


def test_names_are_listed_without_torch() -> None:
    code = (
        "import sys; from mezzotint import registry, configs, recipes; from mezzotint.registry import names\n"
        "assert {'ancestral', 'ddim'} <= set(names('sampler')), names('sampler')\n"
        "assert 'cfg' in names('guidance') and 'unet' in names('network') and 'adm' in names('recipe')\n"
        "[registry.get('recipe', n)() for n in names('recipe')]\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", list(registry.PACKAGES))
def test_every_name_that_is_found_in_the_source_can_be_had(kind) -> None:
    names = registry.names(kind)
    assert names == sorted(set(names))
    assert len({id(registry.get(kind, name)) for name in names}) == len(names)


def test_every_config_names_a_piece_that_exists() -> None:
    kinds = [cls.kind for cls in vars(configs).values() if dataclasses.is_dataclass(cls) and hasattr(cls, "kind")]
    assert len(kinds) == len(set(kinds)) >= 9
    for kind, name in kinds:
        assert name in registry.names(kind)


def test_entries_are_checked() -> None:
    with pytest.raises(ValueError, match="no kind 'colour'"):
        registry.register("colour", "red")
    registry.get("sampler", "ddim")
    with pytest.raises(ValueError, match="sampler 'ddim' is registered twice"):
        registry.register("sampler", "ddim")(int)


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="unknown sampler 'dimm'; did you mean 'ddim'"):
        registry.get("sampler", "dimm")


@pytest.mark.parametrize("text", ["ddim,eta", "ddim,=3", "ddim,,"])
def test_settings_must_be_pairs(text) -> None:
    with pytest.raises(ConfigError, match="is not key=value"):
        registry.parse(text)


def test_parse_takes_spaces_and_equals_signs_in_values() -> None:
    assert registry.parse(" classifier , model=a=b , scale=4 ") == ("classifier", {"model": "a=b", "scale": "4"})


def take(one: str, *, number: int, share: float | None = None, flag: bool = False, name: str = "x", from_: float = 0.0) -> tuple:
    return one, number, share, flag, name, from_


def test_texts_are_cast_to_the_types_of_the_arguments() -> None:
    given = {"number": "3", "share": "1e-2", "flag": "yes", "name": "7", "from": "0.5"}
    assert registry.call_with(take, given, "p", what="it") == ("p", 3, 0.01, True, "7", 0.5)
    assert registry.call_with(take, {"number": "-1", "flag": "0"}, "p", what="it")[3] is False


@pytest.mark.parametrize(
    "settings, message",
    [
        ({}, "it needs 'number'; write it,number=..."),
        ({"number": "1", "flagg": "1"}, "unknown setting of it 'flagg'; did you mean 'flag'"),
        ({"number": "1", "one": "1"}, "unknown setting of it 'one'"),
        ({"number": "1.5"}, "it: number=1.5: expected int"),
        ({"number": "1", "share": "much"}, "it: share=much: expected float"),
        ({"number": "1", "flag": "perhaps"}, "it: flag=perhaps: expected true or false"),
    ],
)
def test_settings_that_cannot_be_used(settings, message) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.call_with(take, settings, "p", what="it")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("kind", ["sampler", "guidance"])
def test_settings_on_the_command_line_have_types_that_a_text_can_be_cast_to(kind) -> None:
    for name in registry.names(kind):
        cls = registry.get(kind, name)
        function = cls.attach if kind == "guidance" else cls.__init__
        hints = {k: v for k, v in typing.get_type_hints(function).items() if k not in ("return", "inner", "site")}
        for hint in hints.values():
            assert set(typing.get_args(hint) or (hint,)) <= {int, float, bool, str, type(None)}, (name, hint)


def test_build() -> None:
    assert registry.build("sampler", "ddim,eta=0.5,recompute_eps=no").eta == 0.5
    with pytest.raises(ConfigError, match="unknown setting of ddim 'etta'; did you mean 'eta'"):
        registry.build("sampler", "ddim,etta=1")
