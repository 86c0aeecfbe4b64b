"""Images are read before their turn and extracted in batches; results keep their order."""

import threading

import cv2
import numpy as np
import pytest
import torch

from rekd_hloc.sfm import read_ahead
from rekd_hloc.sfm.image_work import ImageFile, ImageWork
from rekd_hloc.sfm.read_ahead import Work, work_ahead
from rekd_hloc.types import Features, Keypoints


def make_work(batches, size=lambda item: 1):
    """Items are numbers; their kind is the last digit, and 9 stands alone."""

    def extract(items):
        batches.append(list(items))
        return [-item for item in items]

    return Work(lambda item: item, extract, lambda i: None if i % 10 == 9 else i % 10, size)


def test_alike_items_come_together_and_results_in_order():
    batches = []
    items = [10, 21, 30, 40, 51, 69, 60, 79, 70, 80]
    assert list(work_ahead(make_work(batches), items, 2, 3)) == [-item for item in items]
    assert batches == [[10, 30, 40], [21, 51], [69], [60, 70, 80], [79]]


def test_without_batches_each_item_is_worked_on_alone():
    batches = []
    assert list(work_ahead(make_work(batches), range(10, 16), 2, 1)) == [-i for i in range(10, 16)]
    assert batches == [[i] for i in range(10, 16)]
    assert list(work_ahead(make_work(batches), [], 2, 4)) == []


@pytest.mark.parametrize(("pixels", "most"), [(1, 2 + 2 * 4), (read_ahead.MOST_PIXELS, 4)])
def test_few_items_are_in_memory_and_fewer_large_ones(pixels, most):
    held, largest = set(), []
    lock = threading.Lock()

    class Item:
        def __init__(self):
            with lock:
                held.add(id(self))
                largest.append(len(held))

        def __del__(self):
            with lock:
                held.discard(id(self))

    work = Work(lambda _: Item(), lambda items: [0] * len(items), lambda _: 1, lambda _: pixels)
    assert list(work_ahead(work, range(40), 2, 4)) == [0] * 40
    assert max(largest) <= most + 1
    assert not held


def test_an_error_of_reading_comes_at_its_turn():
    def load(item):
        if item == 12:
            raise OSError("gone")
        return item

    work = Work(load, lambda items: list(items), lambda _: None, lambda _: 1)
    results = work_ahead(work, [10, 11, 12], 1, 1)
    assert [next(results), next(results)] == [10, 11]
    with pytest.raises(OSError, match="gone"):
        next(results)


class BatchingExtractor:
    """One keypoint, whose score is the mean grey; notes what it was given together."""

    provenance = {}
    num_readers = 2
    num_workers = 1
    max_side_px = 0
    needs_color = False
    batch_size = 3

    def __init__(self, short=False):
        self.short = short
        self.together, self.alone = [], []

    def __call__(self, image, mask=None):
        self.alone.append((round(float(image.mean()) * 255), mask is not None))
        one = torch.ones(1)
        keypoints = Keypoints(torch.ones(1, 2), one, one, image.mean().view(1))
        return Features(keypoints, torch.ones(1, 4), (image.shape[1], image.shape[0]))

    def extract_all(self, images):
        if self.short:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
        self.together.append([tuple(image.shape) for image in images])
        return [type(self)()(image) for image in images]


@pytest.fixture
def files(tmp_path):
    sizes = [(20, 30), (30, 20), (20, 30), (20, 30), (30, 20), (20, 30)]
    for number, size in enumerate(sizes):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full(size, 30 * number + 15, np.uint8))
    cv2.imwrite(str(tmp_path / "mask.png"), np.full((20, 30), 255, np.uint8))
    names = [*(f"{number}.png" for number in range(6)), "none.png"]
    images = [ImageFile(name, tmp_path / name) for name in names]
    images[2] = ImageFile("2.png", tmp_path / "2.png", tmp_path / "mask.png")
    return images


def test_images_of_one_size_are_extracted_together(files):
    extractor = BatchingExtractor()
    *results, last = ImageWork(extractor).extract_here(files)
    assert [float(r.score[0]) for r in results] == pytest.approx(
        [(30 * number + 15) / 255 for number in range(6)]
    )
    assert [r.image_size for r in results[:2]] == [(30, 20), (20, 30)]
    assert all(r.stamps is not None for r in results)
    assert "none.png" in last
    assert extractor.together == [[(20, 30)] * 3, [(30, 20)] * 2]
    assert extractor.alone == [(75, True)]


def test_a_batch_beyond_the_memory_is_extracted_one_by_one(files):
    extractor = BatchingExtractor(short=True)
    results = list(ImageWork(extractor).extract_here(files[:6]))
    assert not any(isinstance(result, str) for result in results)
    assert [grey for grey, _ in extractor.alone] == [15, 105, 165, 45, 135, 75]
