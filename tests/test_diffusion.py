"""Walks along the links between images that look alike."""

import numpy as np

from rekd_hloc.retrieval import diffusion
from rekd_hloc.retrieval.diffusion import NeighbourGraph
from rekd_hloc.retrieval.index import nearest_images
from rekd_hloc.retrieval.signatures import Signature


def graph_of(num_images, links):
    """A graph from ``(image, linked, score)``."""
    width = max((sum(begin == i for begin, _, _ in links) for i in range(num_images)), default=0)
    linked = np.zeros((num_images, width), np.int64)
    scores = np.zeros((num_images, width), np.float32)
    used = [0] * num_images
    for begin, end, score in links:
        linked[begin, used[begin]], scores[begin, used[begin]] = end, score
        used[begin] += 1
    return NeighbourGraph(linked, scores)


def order_from(graph, image):
    reached, visits = graph.walk_from(image)
    return [int(i) for i in reached[np.argsort(-visits, kind="stable")] if i != image]


def test_a_walk_reaches_neighbours_of_neighbours_and_no_one_else():
    graph = graph_of(5, [(0, 1, 1.0), (1, 2, 1.0), (3, 4, 1.0)])
    assert order_from(graph, 0) == [1, 2]
    assert order_from(graph, 2) == [1, 0]  # links lead both ways
    assert order_from(graph, 4) == [3]


def test_a_strong_link_counts_for_more_than_a_weak_one():
    graph = graph_of(4, [(0, 1, 0.2), (0, 2, 1.0), (1, 3, 0.2), (2, 3, 0.2)])
    assert order_from(graph, 0)[0] == 2


def test_an_image_that_is_linked_with_all_is_not_nearest_to_all():
    """Image 8 looks like all of two groups a little more than they look like one another."""
    groups = [range(4), range(4, 8)]
    links = [(a, b, 1.0) for group in groups for a in group for b in group if a != b]
    graph = graph_of(9, links + [(8, other, 1.05) for other in range(8)])
    for image in range(8):
        own = set(groups[image // 4]) - {image}
        assert set(order_from(graph, image)[:3]) == own


def test_visits_do_not_depend_on_the_direction_or_the_order_of_links():
    links = [(0, 1, 0.9), (1, 2, 0.5), (0, 2, 0.1), (2, 3, 0.7)]
    one = graph_of(4, links)
    other = graph_of(4, [(end, begin, score) for begin, end, score in reversed(links)])
    for image in range(4):
        np.testing.assert_allclose(one.walk_from(image)[1], other.walk_from(image)[1])


def test_an_image_without_links_reaches_itself_only():
    graph = graph_of(3, [(0, 1, 1.0)])
    assert order_from(graph, 2) == []
    assert order_from(graph_of(1, []), 0) == []
    assert graph_of(0, [])._rows.tolist() == [0]


def test_a_walk_goes_on_from_a_limited_number_of_images(monkeypatch):
    """Beyond the limit those that it reached least are left out; the nearest stay the same."""
    rng = np.random.default_rng(0)
    near = [(i, (i + step) % 60, 1.0 / step) for i in range(60) for step in (1, 2, 3)]
    far = [(i, int(rng.integers(60)), 0.05) for i in range(60)]
    graph = graph_of(60, near + far)
    steps = []
    step = NeighbourGraph._step

    def count(self, images, mass):
        steps.append(len(images))
        return step(self, images, mass)

    monkeypatch.setattr(NeighbourGraph, "_step", count)
    all_of_them = set(order_from(graph, 0)[:4])
    assert max(steps) == 60
    steps.clear()
    monkeypatch.setattr(diffusion, "MAX_REACHED", 12)
    assert set(order_from(graph, 0)[:4]) == all_of_them
    assert max(steps) == 12


def test_what_all_images_share_is_no_link(monkeypatch):
    """All score 0.3 with all, as chance has it; two groups of three stand out."""
    scores = np.full((12, 12), 0.3, np.float32)
    for group in ([0, 1, 2], [3, 4, 5]):
        scores[np.ix_(group, group)] = 0.5
    np.fill_diagonal(scores, 0)
    alike = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, alike, axis=1)
    assert len(order_from(NeighbourGraph(alike, scores), 0)) > 2
    monkeypatch.setattr(diffusion, "BACKGROUND_RANK", 8)
    graph = NeighbourGraph(alike, scores)
    assert sorted(order_from(graph, 0)) == [1, 2]
    assert sorted(order_from(graph, 4)) == [3, 5]
    assert order_from(graph, 9) == []


def signature(words):
    words = np.array(words, np.int32)
    return Signature(words, np.full((len(words), 16), 5, np.uint8), np.zeros(len(words), np.uint8))


def test_views_that_share_nothing_are_neighbours_by_one_between_them():
    signatures = {
        "front": signature(range(20)),
        "corner": signature(range(10, 30)),
        "side": signature(range(20, 40)),
        "other": signature(range(50, 70)),
    }
    found = nearest_images(signatures, 3)
    assert found["front"] == ["corner", "side"]
    assert found["side"] == ["corner", "front"]
    assert found["other"] == []
    assert nearest_images(signatures, 1)["front"] == ["corner"]


def test_images_near_in_a_sequence_are_not_loops_by_a_walk_either():
    sequence = [signature(range(5 * i, 5 * i + 12)) for i in range(8)] + [signature(range(12))]
    found = nearest_images({str(i): s for i, s in enumerate(sequence)}, 4, min_gap=2)
    for name, others in found.items():
        assert all(abs(int(name) - int(other)) > 2 for other in others)
    assert found["0"][0] == "8"
