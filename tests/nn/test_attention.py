from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mezzotint.errors import ConfigError
from mezzotint.nn.attention import AttentionPool, Order, SelfAttention, head_count


def attend(qkv: Tensor, heads: int, order: Order) -> Tensor:
    """Attention written out head by head; ``[b, n, 3c]`` -> ``[b, n, c]``."""
    c = qkv.shape[2] // 3
    d = c // heads
    out = []
    for k in range(heads):
        starts = [3 * k * d, 3 * k * d + d, 3 * k * d + 2 * d] if order == "legacy" else [k * d, c + k * d, 2 * c + k * d]
        q, key, v = (qkv[..., s : s + d] for s in starts)
        out.append((q @ key.transpose(1, 2) / d**0.5).softmax(dim=2) @ v)
    return torch.cat(out, dim=2)


def filled(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    g = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return module


@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_by_its_formula(order: Order, heads: int) -> None:
    block = filled(SelfAttention(16, heads, order))
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    tokens = block.norm(x).flatten(2).transpose(1, 2)
    expected = x + block.out(attend(block.qkv(tokens), heads, order)).transpose(1, 2).view(x.shape)
    torch.testing.assert_close(block(x), expected)


def test_orders_are_permutations_of_each_other() -> None:
    heads, d = 4, 4
    legacy, new = filled(SelfAttention(16, heads, "legacy")), SelfAttention(16, heads, "new")
    state = legacy.state_dict()
    for key in ("qkv.weight", "qkv.bias"):
        state[key] = state[key].unflatten(0, (heads, 3, d)).transpose(0, 1).flatten(0, 2)
    new.double().load_state_dict(state)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(new(x), legacy(x))
    assert (SelfAttention(16, heads, "new").double().requires_grad_(False)(x) == x).all()
    new.load_state_dict(legacy.state_dict())
    assert (new(x) - legacy(x)).abs().max() > 1e-3


def test_a_new_block_is_a_no_op() -> None:
    x = torch.randn(2, 8, 3, 3)
    assert torch.equal(SelfAttention(8, 2, "legacy")(x), x)


def test_low_precision_softmax_is_that_of_float32() -> None:
    block = filled(SelfAttention(16, 2, "legacy"))
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    exact = block(x)
    got = block.half()(x.half())
    assert (got.double() - exact).abs().max() < 5e-3 * exact.abs().max()


def test_pooling_is_the_attention_of_the_mean_token() -> None:
    pool = filled(AttentionPool(8, 2, 6))
    x = torch.randn(3, 8, 2, 3, dtype=torch.float64)
    tokens = torch.cat([x.mean(dim=(2, 3))[:, :, None], x.flatten(2)], dim=2) + pool.position
    expected = attend(pool.qkv(tokens.transpose(1, 2)), 2, "new")[:, 0]
    torch.testing.assert_close(pool(x), expected)


def test_pooling_refuses_other_sizes() -> None:
    with pytest.raises(ConfigError, match="made for 6 pixels, got a 3x3 map"):
        AttentionPool(8, 2, 6)(torch.randn(1, 8, 3, 3))


def test_heads() -> None:
    assert head_count(64, 4, None) == 4
    assert head_count(64, 4, 16) == 4
    assert head_count(96, 1, 32) == 3
    for heads, per_head in ((3, None), (0, None), (4, 24), (4, 0)):
        with pytest.raises(ConfigError, match="does not divide 64 channels"):
            head_count(64, heads, per_head)
