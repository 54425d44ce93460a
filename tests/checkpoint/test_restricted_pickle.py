from __future__ import annotations

import collections
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint.pickles import Harm, weights
from torch import nn

from mezzotint.checkpoint import restricted_pickle
from mezzotint.checkpoint.restricted_pickle import Name, Record, read
from mezzotint.errors import CheckpointError


def dumped(tmp_path: Path, value: Any, protocol: int = 4) -> Path:
    path = tmp_path / "file.pkl"
    path.write_bytes(value if isinstance(value, bytes) else pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_back(tmp_path: Path, protocol: int) -> None:
    value = {
        "numbers": (1, -(2**80), 2.5, True, None),
        "text": ["é", b"\x00\xff", b"long" * 2000],
        "sets": ({1, 2}, frozenset("ab")),
        "ordered": collections.OrderedDict(b=1, a=2),
        3: {"deep": [[[]], {}]},
    }
    got = read(dumped(tmp_path, value, protocol))
    assert got["numbers"] == value["numbers"] and got["sets"] == value["sets"] and got[3] == value[3]
    assert list(got["ordered"].items()) == [("b", 1), ("a", 2)]
    assert got["text"][:2] == value["text"][:2]  # type: ignore[index]


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_come_back(tmp_path: Path, protocol: int) -> None:
    value = [np.arange(12.0).reshape(3, 4), np.asfortranarray(np.ones((2, 3), np.float32)), np.array([True, False]), np.array([1], ">i4")]
    value += [np.zeros((0, 3)), np.arange(5000)]
    got = read(dumped(tmp_path, [*value, np.float64(0.5), np.int32(7)], protocol))
    for ours, theirs in zip(got, value, strict=False):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.flags.writeable
    assert got[-2:] == [0.5, 7] and type(got[-1]) is int


@pytest.mark.parametrize("protocol", range(6))
def test_tensors_come_back_with_their_types_and_strides(tmp_path: Path, protocol: int) -> None:
    base = torch.arange(6000.0).view(60, 100)
    value = [base, base.t(), base[3:9, ::2], nn.Parameter(torch.ones(3)), torch.empty(0, 4), torch.tensor(2.0)]
    types = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    value += [torch.tensor([0, 1, 1, 0]).to(dtype) for dtype in types]
    got = read(dumped(tmp_path, value, protocol))
    for ours, theirs in zip(got, value, strict=True):
        assert ours.dtype == theirs.dtype and ours.stride() == theirs.stride()
        assert torch.equal(ours, theirs.detach())
        ours.zero_() if ours.dtype == torch.float32 else None


def test_modules_become_records_of_their_name_and_state(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    got = read(dumped(tmp_path, {"net": net, "type": torch.float32, "class": collections.ChainMap}))
    assert isinstance(got["net"], Record) and got["net"].name == "torch.nn.modules.container.Sequential"
    linear = got["net"].state["_modules"]["0"]
    assert torch.equal(linear.state["_parameters"]["weight"], net[0].weight.detach())
    assert got["type"] == Name("torch.float32") and got["class"] == Name("collections.ChainMap")


def test_subclasses_of_containers_become_records_of_their_entries(tmp_path: Path) -> None:
    got = read(dumped(tmp_path, [collections.defaultdict(list, a=1), collections.deque([1, 2]), collections.Counter("aab")]))
    assert [record.name.rpartition(".")[2] for record in got] == ["defaultdict", "deque", "Counter"]
    assert got[0].items == {"a": 1} and got[1].members == [1, 2]


class Stateful:
    def __setstate__(self, state: Any) -> None:
        raise AssertionError("a method of a pickled object was called")

    def __getstate__(self) -> Any:
        return {"a": 1}


def test_nothing_is_executed(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    calls = [
        Harm(os.system, f"touch {witness}"),
        Harm(exec, f"open({str(witness)!r}, 'w')"),
        Harm(eval, f"open({str(witness)!r}, 'w')"),
        Harm(open, str(witness), "w"),
        Harm(__import__, "os"),
        Harm(torch.load, str(witness)),
        Stateful(),
    ]
    for protocol in range(2, 6):
        for call in calls:
            got = read(dumped(tmp_path, {"ema": call}, protocol))
            assert isinstance(got["ema"], Record)
    for code in (
        b"cos\nsystem\n(S'touch %s'\ntR." % bytes(witness),
        b"(S'touch %s'\nios\nsystem\n." % bytes(witness),
        b"(cos\nsystem\nS'touch %s'\no." % bytes(witness),
    ):
        assert read(dumped(tmp_path, code)).name == "os.system"
    assert not witness.exists()


def test_nested_pickles_of_storages_are_read_by_the_same_rules(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    inner = pickle.dumps(Harm(os.system, f"touch {witness}"))
    with pytest.raises(CheckpointError, match="old format"):
        read(dumped(tmp_path, Harm(torch.storage._load_from_bytes, inner)))
    assert not witness.exists()


def storage(count: int = 4) -> Harm:
    return Harm(torch.storage._load_from_bytes, pickle_of(torch.ones(count)))


def pickle_of(tensor: torch.Tensor) -> bytes:
    return tensor.storage().__reduce__()[1][0]


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (5,), (1,)),
        (1, (4,), (1,)),
        (0, (2, 2), (3, 1)),
        (0, (1000,), (0,)),
        (-1, (1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (2**40,), (1,)),
    ],
    ids=str,
)
def test_tensors_stay_inside_their_numbers(tmp_path: Path, offset: int, size: Any, stride: Any) -> None:
    made = Harm(torch._utils._rebuild_tensor_v2, storage(), 0, (2, 2), (2, 1), False, collections.OrderedDict())
    assert torch.equal(read(dumped(tmp_path, made)), torch.ones(2, 2))
    made = Harm(torch._utils._rebuild_tensor_v2, storage(), offset, size, stride, False, collections.OrderedDict())
    with pytest.raises(CheckpointError, match="no pickle of weights"):
        read(dumped(tmp_path, made))


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_storages_must_be_as_long_as_they_say(tmp_path: Path) -> None:
    data = pickle_of(torch.ones(4))
    for wrong in (data[:-1], data + b"\0", data[:-24] + struct.pack("<q", 9) + data[-16:]):
        with pytest.raises(CheckpointError, match="storage"):
            read(dumped(tmp_path, Harm(torch.storage._load_from_bytes, wrong)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04 a zip", "no pickle of weights"),
        (b"\x80\x04]", "no pickle of weights"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "no pickle of weights"),
        (b"\x8a\xff" + b"\xff" * 10 + b".", "no pickle of weights"),
        (b"0.", "finds no value"),
        (b"e.", "finds no mark"),
        (b"h\x07.", "never made"),
        (b"I1\nI2\na.", "no list"),
        (b"]]K\x01s.", "no dictionary"),
        (b"}]K\x01s.", "container"),
        (b"K\x01K\x02b.", "a state for something that has none"),
        (b"K\x01)R.", "no class or function"),
        (b"Pabc\n.", "outside of it"),
        (b"\x82\x01.", "instruction EXT1"),
        (b"\x97.", "instruction NEXT_BUFFER"),
        (b"K\x01K\x02\x93.", "a name that is no text"),
        (b"cbuiltins\nlist\nK\x05\x85R.", "arguments"),
        (b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", "NumPy's type"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_damage_is_one_line(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(dumped(tmp_path, data))
    assert "\n" not in str(caught.value)


def test_missing_and_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        read(tmp_path / "none.pkl")
    path = dumped(tmp_path, weights())
    monkeypatch.setattr(restricted_pickle, "MAX_STEPS", 3)
    with pytest.raises(CheckpointError, match="more than 3 instructions"):
        read(path)
    monkeypatch.setattr(restricted_pickle, "MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="more than"):
        read(path)


@pytest.fixture(scope="module")
def sound() -> bytes:
    return pickle.dumps({"ema": nn.Linear(2, 2), "array": np.arange(3), "list": [1, "a", (2.0,)]}, protocol=4)


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_files_raise_nothing_else(sound: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    changed = bytearray(sound[: data.draw(st.integers(1, len(sound)))])
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(bytes(changed))
    message = ""
    try:
        read(path)
    except CheckpointError as error:
        message = str(error)
    assert "\n" not in message
