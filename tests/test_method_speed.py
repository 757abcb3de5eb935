"""What is counted of a method is what its operations do."""

import pytest
import torch

from dogerm.merge import METHODS
from dogerm.method_speed import PASSES, Used, measure_methods

SHAPE = (640, 1024)  # more than a cache holds
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows():
    return {r.method: r for r in measure_methods(SHAPE, torch.float32, CPU, 1)}


def test_bytes_moved_and_alive_are_counted():
    a, b, out = torch.ones(100), torch.ones(100), torch.empty(100)
    with Used() as used:
        torch.add(a, b, out=out)
    assert (used.moved, used.most) == (1200, 0)
    with Used() as used:
        c = a + b
        d = c.view(10, 10)[:5]
        del c
        e = d * 2
        del d
        f = e + 1
        del e, f
    # c, then e (200 bytes) beside it, which its view keeps; then f beside e alone.
    assert used.most == 400 + 200
    assert used.moved == 1200 + 2 * 200 + 2 * 200
    with Used() as used:
        out.copy_(a)
        out.add_(b)
    assert used.moved == 800 + 1200 and used.most == 0


def test_what_stays_in_the_cache_is_not_counted():
    big = torch.ones(1000)
    with Used(cache=1000) as used:
        for part in big.split(100):
            double = part * 2  # reads 400 bytes
            part.add_(double)  # of which it reads none again, and writes none twice
        big * 2
    assert used.moved == 10 * 400 + 8000


def test_every_method_has_a_row(rows):
    assert set(rows) == set(METHODS) == set(PASSES)
    for row in rows.values():
        assert row.seconds > 0 and row.passes in (1, 2, 3)
    assert rows["linear"].ratio == 1


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_method_moves_no_more_bytes_than_its_passes_need(rows, method):
    row = rows[method]
    needed = {"linear": 4, "task_arithmetic": 5, "slerp": 7, "ties": 13}
    assert row.needed == needed.get(method, row.needed)
    # Linear's blocks are larger than the cache: it reads the mix of its LMs again.
    assert row.moved <= row.needed + (method == "linear")


def test_nothing_as_large_as_the_parameter_is_held(rows):
    assert rows["linear"].extra == 0
    assert rows["task_arithmetic"].extra < 0.5
