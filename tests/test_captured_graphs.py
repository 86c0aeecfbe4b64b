"""When a step is captured, and what happens where it cannot be; on a GPU see test_gpu.py."""

import logging
import pickle

import pytest
import torch

from evaluation.speed.pretended_gpu import pretended_gpu
from rekd_hloc.features import captured_graphs
from rekd_hloc.features.captured_graphs import CapturedStep, capturing, is_capturing


def double(values):
    return 2 * values


class Recorder:
    """Stands for a capture: its graphs note that they ran."""

    def __init__(self):
        self.captured, self.replayed = [], []

    def __call__(self, step, example, pool):
        shape = tuple(example.shape)
        self.captured.append(shape)

        def replay(values):
            assert tuple(values.shape) == shape
            self.replayed.append(shape)
            return step(values)

        return replay


@pytest.fixture
def recorder(monkeypatch):
    with pretended_gpu():
        recorder = Recorder()
        monkeypatch.setattr(captured_graphs, "capture", recorder)
        yield recorder


def test_a_shape_that_comes_back_is_captured(recorder):
    step = CapturedStep(double)
    values = torch.arange(3.0, device="cuda")
    for _ in range(4):
        assert torch.equal(step(values).cpu(), torch.tensor([0.0, 2.0, 4.0]))
    assert recorder.captured == [(3,)]
    assert recorder.replayed == [(3,)] * 3  # the first use runs as it is
    step(values[:2])
    assert recorder.captured == [(3,)]


def test_the_shape_that_was_not_used_for_longest_is_dropped(recorder, monkeypatch):
    monkeypatch.setattr(captured_graphs, "MOST_GRAPHS", 2)
    monkeypatch.setattr(captured_graphs, "CAPTURE_AT", 1)
    step = CapturedStep(double)
    for length in (1, 2, 1, 3, 1, 2):
        step(torch.ones(length, device="cuda"))
    assert recorder.captured == [(1,), (2,), (3,), (2,)]


def test_a_cpu_captures_nothing(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(captured_graphs, "capture", recorder)
    step = CapturedStep(double)
    for _ in range(3):
        step(torch.ones(2))
    assert recorder.captured == []


def test_one_warning_says_that_no_graph_can_be_captured(monkeypatch, caplog):
    def refuse(step, example, pool):
        raise RuntimeError("operation not permitted when stream is capturing\nCompile with ...")

    with pretended_gpu(), caplog.at_level(logging.WARNING):
        monkeypatch.setattr(captured_graphs, "capture", refuse)
        step = CapturedStep(double)
        values = torch.ones(2, device="cuda")
        results = [step(values).cpu().tolist() for _ in range(4)]
        results.append(step(values[:1]).cpu().tolist() * 2)
    assert results == [[2.0, 2.0]] * 5
    assert [record.message for record in caplog.records] == [
        "CUDA graphs are not used, as one cannot be captured: "
        "operation not permitted when stream is capturing"
    ]


def test_graphs_stay_in_their_process(recorder):
    step = CapturedStep(double)
    for _ in range(2):
        step(torch.ones(2, device="cuda"))
    again = pickle.loads(pickle.dumps(step))
    for _ in range(2):
        again(torch.ones(2, device="cuda"))
    assert recorder.captured == [(2,)] * 2


def test_a_capture_is_known_while_it_lasts():
    assert not is_capturing()
    with capturing():
        assert is_capturing()
    assert not is_capturing()
    with pytest.raises(KeyError), capturing():
        raise KeyError
    assert not is_capturing()
