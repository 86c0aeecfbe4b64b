"""Work on several things at once gives the same as one after the other, and leaves no trace."""

import threading
import time

import pytest
import torch

from rekd_hloc.worker_threads import WAITING, map_in_threads, num_shares


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_whatever_takes_longest():
    def work(number):
        time.sleep(0.02 if number == 0 else 0)
        return number

    assert list(map_in_threads(work, range(20), 3)) == list(range(20))


def test_each_worker_has_its_share_of_the_cores():
    seen = list(map_in_threads(lambda _: torch.get_num_threads(), range(8), 2))
    assert set(seen) == {2}
    assert torch.get_num_threads() == 4
    assert list(map_in_threads(lambda _: torch.get_num_threads(), range(2), 1)) == [4, 4]


def test_workers_work_at_once():
    barrier = threading.Barrier(3, timeout=10)  # broken unless three are inside together
    assert len(list(map_in_threads(lambda _: barrier.wait(), range(6), 3))) == 6


def test_items_are_taken_little_before_their_turn():
    taken = []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    results = map_in_threads(lambda number: number, items(), 2)
    next(results)
    assert len(taken) <= WAITING * 2
    results.close()
    assert torch.get_num_threads() == 4


def test_an_exception_stands_where_its_result_would():
    done = []

    def work(number):
        if number == 3:
            raise ValueError("three")
        done.append(number)
        return number

    results = map_in_threads(work, range(100), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert len(done) < 20
    assert torch.get_num_threads() == 4


def test_shares_are_no_more_than_threads():
    assert num_shares(8) <= 4
    torch.set_num_threads(1)
    assert num_shares(8) == 1
