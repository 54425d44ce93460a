import pytest
import torch
from tests.train.toy import Points

from mezzotint.errors import DataError
from mezzotint.train.loader import batches
from mezzotint.types import Phase

PHASES = (Phase("a", (), repeats=2), Phase("b", (), fresh_batch=False))


def load(source=None, **kwargs):
    given = {"seed": 5, "batch": 6, "first_step": 0, "last_step": 4, "cursor": 0, **kwargs}
    return list(batches(source or Points(), PHASES, **given))


def same(one, other):
    return all(torch.equal(a.images, b.images) and torch.equal(a.ids, b.ids) for a, b in zip(one, other, strict=True))


def test_ranks_share_the_batches_of_one_rank():
    whole = load()
    left, right = load(rank=0, ranks=2), load(rank=1, ranks=2)
    assert len(whole) == 8
    for a, b, c in zip(whole, left, right, strict=True):
        assert torch.equal(a.ids, torch.cat([b.ids, c.ids]))
        assert torch.equal(a.images, torch.cat([b.images, c.images]))


def test_starting_later_gives_the_same_batches():
    assert same(load()[4:], load(first_step=2, cursor=4 * 6))


def test_workers_give_the_same_batches():
    assert same(load(), load(workers=1))


class Broken(Points):
    def batch(self, ids, *, noise):
        raise DataError("cat.png is cut short; remove it")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line(workers):
    with pytest.raises(DataError) as caught:
        load(Broken(), workers=workers)
    assert str(caught.value) == "cat.png is cut short; remove it"
