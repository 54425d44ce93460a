import copy

import pytest
import torch
from torch import nn

from mezzotint.configs import EMAConfig
from mezzotint.errors import CheckpointError
from mezzotint.train.ema import EMA, decay_at
from mezzotint.types import Phase


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)
        self.tied = self.a
        self.norm = nn.BatchNorm1d(3)


def moved(net: nn.Module, step: int) -> None:
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(float(step))


def build(net: nn.Module, **config) -> EMA:
    return EMA({"model": net}, (Phase("main", (net,)),), EMAConfig(**config))


@pytest.mark.parametrize("warmup", [False, True])
def test_closed_form(warmup):
    net, n = Net().double(), 30
    ema = build(net, decays=(0.9, 0.99), warmup=warmup)
    start = net.a.weight.detach().clone()
    for k in range(n):
        moved(net, k)
        ema.update("main")
    for decay in (0.9, 0.99):
        d = [min(decay, (1 + k) / (10 + k)) if warmup else decay for k in range(n)]
        later = [torch.tensor(d[k + 1 :], dtype=torch.float64).prod().item() for k in range(n)]
        expected = start * d[0] * later[0] + sum((1 - d[k]) * later[k] * k for k in range(n))
        torch.testing.assert_close(ema.tensors(decay)["a.weight"], expected)


def test_warmup_begins_at_a_tenth_and_ends_at_the_decay():
    assert decay_at(0.9999, 0, warmup=True) == 0.1
    assert decay_at(0.9999, 90, warmup=True) == 0.91
    assert decay_at(0.9999, 10**6, warmup=True) == 0.9999
    assert decay_at(0.9999, 0, warmup=False) == 0.9999


def test_one_update_has_the_bits_of_the_published_formula():
    net = Net()
    ema = build(net, decays=(0.9999,), warmup=False)
    before = net.a.weight.detach().clone()
    with torch.no_grad():
        net.a.weight.normal_()
    ema.update("main")
    assert torch.equal(ema.tensors(0.9999)["a.weight"], before.mul_(0.9999).add_(net.a.weight.detach(), alpha=1 - 0.9999))


def test_ties_are_averaged_once_and_buffers_are_those_of_training():
    net = Net()
    ema = build(net, decays=(0.5,), warmup=False)
    moved(net, 8)
    net.norm(torch.randn(4, 3))
    ema.update("main")
    tensors = ema.tensors(0.5)
    assert tensors["tied.weight"] is tensors["a.weight"]
    assert torch.equal(tensors["norm.running_mean"], net.norm.running_mean)
    assert set(tensors) == set(net.state_dict())


def test_swapping_leaves_training_as_it_was_even_after_an_error():
    net = Net()
    ema = build(net, decays=(0.5,), warmup=False)
    average = {name: value.clone() for name, value in ema.tensors(0.5).items()}
    moved(net, 3)
    before = copy.deepcopy(net.state_dict())

    def evaluate():
        assert all(torch.equal(value, average[name]) for name, value in net.state_dict().items())
        net.norm(torch.randn(4, 3))  # changes the buffers
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), ema.swapped():
        evaluate()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    moved(net, 4)
    assert torch.equal(ema.tensors(0.5)["a.weight"], average["a.weight"])


def test_a_phase_may_be_left_out_and_frozen_parameters_are_not_averaged():
    net, critic = Net(), nn.Linear(2, 2)
    net.a.bias.requires_grad_(False)
    phases = (Phase("net", (net,)), Phase("critic", (critic,), ema=False))
    ema = EMA({"model": net, "critic": critic}, phases, EMAConfig(decays=(0.5,)))
    ema.update("critic")
    assert ema.counts == {"net": 0}
    assert ema.averages_of("model") and not ema.averages_of("critic")
    assert ema.tensors(0.5)["a.bias"] is net.a.bias


def test_load_gives_back_the_averages_and_refuses_others():
    net = Net()
    ema = build(net, decays=(0.5,))
    moved(net, 2)
    ema.update("main")
    held = {name: value.clone() for name, value in ema.tensors(0.5).items()}
    again = build(net, decays=(0.5,))
    again.load(0.5, "model", held)
    assert torch.equal(again.tensors(0.5)["a.weight"], held["a.weight"])
    held.pop("a.weight")
    with pytest.raises(CheckpointError, match="'a.weight'"):
        again.load(0.5, "model", held)
