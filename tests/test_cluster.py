"""Extraction and matching through the seam: threads in the place of workers, and real processes."""

import pickle
import shutil
import socket
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from rekd_hloc.cli.main import main
from rekd_hloc.cluster import reachability
from rekd_hloc.cluster.cluster import Cluster, open_cluster
from rekd_hloc.cluster.engine import ClusterError
from rekd_hloc.cluster.local_engine import LocalEngine
from rekd_hloc.cluster.ordered_map import GivenUp, map_in_order
from rekd_hloc.cluster.sent_weights import (
    SentExtractor,
    SentMatcher,
    check_weights,
    send_extractor,
    send_matcher,
)
from rekd_hloc.cluster.slots import SlotPool
from rekd_hloc.cluster.worker import (
    Call,
    Outcome,
    WorkerDiedError,
    WorkerRefusedError,
    describe,
)
from rekd_hloc.config import DescriptorConfig, DetectorConfig, ExtractConfig, MatchConfig
from rekd_hloc.features.extractor import Extractor
from rekd_hloc.matching.match import NearestMatcher, NetworkMatcher
from rekd_hloc.matching.match_images import match_images
from rekd_hloc.sfm.extraction import extract_images
from rekd_hloc.storage.features import FeatureStore, MatchStore
from tests.cluster_workers import (
    DeadOnArrival,
    FailingExtractor,
    KilledExtractor,
    LostEngine,
    ThreadEngine,
)
from tests.helpers import descriptor_weights, detector_weights, random_features
from tests.sift_extractor import SiftExtractor
from tests.worker_inputs import NAMES, ODD_WIDTH, PAIRS, write_features, write_images


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    """All black for one photo, of another size for the next, usable and missing for the others."""
    folder = tmp_path_factory.mktemp("masks")
    half = np.zeros((72, 96), np.uint8)
    half[:, 30:] = 255
    for name, mask in {"a": half * 0, "b": half, "c d": half, "damaged": half}.items():
        assert cv2.imwrite(str(folder / f"{name}.png"), mask)
    return folder


@pytest.fixture(scope="module")
def features_path(tmp_path_factory):
    return write_features(tmp_path_factory.mktemp("features") / "features.h5")


class Reciprocals:
    """A job that fails for zero."""

    def open(self, device):
        return lambda payload: 1 / payload


class Squares:
    """A job: to square a number."""

    def open(self, device):
        return lambda payload: payload**2


def test_results_come_in_order_and_few_calls_are_made_ahead():
    engine = ThreadEngine(num_workers=3)
    pool = engine.open_pool(Squares(), 50)
    made, most = 0, 0

    def calls():
        nonlocal made
        for number in range(50):
            made += 1
            yield Call(str(number), number)

    results = []
    for result in map_in_order(pool, calls()):
        most = max(most, made - len(results))
        results.append(result)
    pool.close()
    assert results == [number**2 for number in range(50)]
    assert 3 <= most <= 2 * 3 + 1


def test_a_result_may_be_there_already():
    pool = ThreadEngine().open_pool(Squares(), 3)
    assert list(map_in_order(pool, [Call("2", 2), "unreadable", Call("3", 3)])) == [
        4,
        "unreadable",
        9,
    ]
    assert list(map_in_order(pool, [])) == []
    pool.close()


def test_a_call_is_done_again_and_given_up_after_three_deaths(caplog):
    engine = ThreadEngine(deaths={"1": 2, "3": 99})
    pool = engine.open_pool(Squares(), 6)
    results = list(map_in_order(pool, [Call(str(n), n) for n in range(6)]))
    pool.close()
    assert results[:3] == [0, 1, 4]
    assert results[3] == GivenUp("3 workers died on it: the test killed it")
    assert results[4:] == [16, 25]
    assert engine.num_started == 2 + 2 + 3
    assert "1: the test killed it; it is done again" in caplog.text


def test_an_engine_may_count_deaths_itself():
    class OfManyDeaths:
        num_workers = 1

        def submit(self, call):
            from concurrent.futures import Future

            future = Future()
            future.set_exception(WorkerDiedError("Dask lost them", 4))
            return future

    assert list(map_in_order(OfManyDeaths(), [Call("a", 0)])) == [
        GivenUp("4 workers died on it: Dask lost them")
    ]


def test_an_error_of_a_call_arrives_in_its_turn():
    pool = ThreadEngine().open_pool(Reciprocals(), 3)
    results = map_in_order(pool, [Call(str(n), n) for n in (1, 0, 2)])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    pool.close()


def test_workers_that_die_as_they_start_end_the_run(images, tmp_path):
    engine = DeadOnArrival()
    with (
        Cluster(engine) as cluster,
        pytest.raises(ClusterError, match="workers die as they start: no memory"),
    ):
        extract_images(SiftExtractor(), images, tmp_path / "f.h5", map_images=cluster.map_images)
    assert engine.num_started == 3


def test_what_is_done_is_kept_when_the_engine_is_lost(images, tmp_path):
    out = tmp_path / "f.h5"
    with Cluster(LostEngine()) as cluster, pytest.raises(ClusterError, match="lost the cluster"):
        extract_images(SiftExtractor(), images, out, map_images=cluster.map_images)
    summary = extract_images(SiftExtractor(), images, out)
    assert summary.num_resumed == 2
    assert summary.names == NAMES


def extract_both(images, tmp_path, extractor=None, engine=None, **options):
    """Return summaries of one process and of workers, which must leave the same file."""
    extractor = extractor or SiftExtractor()
    one = extract_images(extractor, images, tmp_path / "one.h5", **options)
    with Cluster(engine or ThreadEngine()) as cluster:
        many = extract_images(
            extractor, images, tmp_path / "many.h5", map_images=cluster.map_images, **options
        )
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()
    return one, many


def test_photos_are_sent_and_give_the_file_of_one_process(images, tmp_path):
    one, many = extract_both(images, tmp_path)
    assert many.names == one.names == NAMES
    assert many.skipped == one.skipped
    assert str(images / "damaged.png") in many.skipped["damaged.png"]
    again = extract_images(SiftExtractor(), images, tmp_path / "many.h5")
    assert again.num_resumed == 4
    assert not again.changed


def test_masks_are_sent_too(images, masks, tmp_path):
    one, many = extract_both(images, tmp_path, mask_dir=masks)
    assert many.skipped == one.skipped
    assert set(many.skipped) == {"a.png", "b.png", "damaged.png", "sub/e.png"}
    assert many.num_keypoints == one.num_keypoints
    assert many.num_keypoints["c d.png"] > 0


def test_weights_that_are_files_are_sent(images, tmp_path):
    config = ExtractConfig(
        weights=str(detector_weights()),
        detector=DetectorConfig(max_keypoints=40, levels_up=0, levels_down=1, border_px=4),
        descriptor=DescriptorConfig(weights=str(descriptor_weights())),
    )
    copies = tmp_path / "weights"
    copies.mkdir()
    detector = shutil.copy(config.weights, copies / "detector.safetensors")
    config = replace(config, weights=str(detector))
    extractor = Extractor.from_pretrained("rekd", device="cpu", config=config)
    extract_both(images, tmp_path, extractor)
    sent = pickle.loads(pickle.dumps(send_extractor(extractor)))
    assert isinstance(sent, SentExtractor)
    (copies / "detector.safetensors").unlink()
    assert (
        sent.load("cpu").provenance["detector_weights"] == extractor.provenance["detector_weights"]
    )
    spoilt = replace(sent, provenance={**sent.provenance, "detector_weights": "0123"})
    with pytest.raises(WorkerRefusedError, match="detector_weights .* this machine has 0123"):
        spoilt.load("cpu")


def test_shipped_weights_go_by_name():
    assert isinstance(send_matcher(NearestMatcher(MatchConfig())), NearestMatcher)
    sent = send_matcher(NetworkMatcher(MatchConfig(filter="network")))
    assert isinstance(sent, SentMatcher)
    assert not sent.files
    assert sent.load().provenance == sent.provenance
    with pytest.raises(WorkerRefusedError, match="has match_network"):
        check_weights({"match_network": "a"}, sent.provenance)


def test_a_photo_that_kills_workers_is_reported_and_the_rest_goes_on(images, tmp_path):
    out = tmp_path / "many.h5"
    with Cluster(ThreadEngine(deaths={"b.png": 99})) as cluster:
        summary = extract_images(SiftExtractor(), images, out, map_images=cluster.map_images)
    assert summary.names == [name for name in NAMES if name != "b.png"]
    assert summary.skipped["b.png"].startswith("3 workers died on it")


def test_a_photo_that_meets_a_bug_is_reported_and_the_rest_goes_on(images, tmp_path):
    with Cluster(ThreadEngine()) as cluster:
        summary = extract_images(
            FailingExtractor(ODD_WIDTH), images, tmp_path / "f.h5", map_images=cluster.map_images
        )
    assert summary.names == [name for name in NAMES if name != "b.png"]
    assert "extraction failed on worker" in summary.skipped["b.png"]
    assert "KeyError: 'a bug'" in summary.skipped["b.png"]


def test_a_photo_that_is_gone_is_reported(images, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(images, folder)
    engine = ThreadEngine()

    def map_images(work, files):
        (folder / "c d.png").unlink()
        return Cluster(engine).map_images(work, files)

    summary = extract_images(SiftExtractor(), folder, tmp_path / "f.h5", map_images=map_images)
    assert "no image file" in summary.skipped["c d.png"]
    assert len(summary.names) == 3


@pytest.mark.parametrize("field", ["version", "source"])
def test_workers_of_another_version_are_refused(images, tmp_path, field):
    other = replace(describe(), **{field: "0.0.1"})
    with (
        Cluster(ThreadEngine(identity=other)) as cluster,
        pytest.raises(WorkerRefusedError, match=r"has rekd_hloc .* this machine has .*0\.0\.1"),
    ):
        extract_images(SiftExtractor(), images, tmp_path / "f.h5", map_images=cluster.map_images)


@pytest.mark.parametrize("deaths", [{}, {"a.png and b.png, and 1 pair beside": 1}])
def test_pairs_give_the_file_of_one_process(features_path, tmp_path, deaths):
    pairs = [*PAIRS, *((b, a) for a, b in PAIRS)]
    one = match_images(features_path, tmp_path / "one.h5", pairs)
    engine = ThreadEngine(num_workers=1, deaths=deaths)
    with Cluster(engine) as cluster:
        many = match_images(features_path, tmp_path / "many.h5", pairs, map_pairs=cluster.map_pairs)
    assert one.num_matches == many.num_matches
    assert min(one.num_matches.values()) > 5
    assert not many.failed
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()
    assert engine.num_shared == len(NAMES)


def test_a_pair_that_kills_workers_is_reported_and_the_rest_goes_on(features_path, tmp_path):
    out = tmp_path / "many.h5"
    with Cluster(ThreadEngine(deaths={"a.png and b.png": 99})) as cluster:
        summary = match_images(features_path, out, PAIRS, map_pairs=cluster.map_pairs)
    assert summary.failed.keys() == {("a.png", "b.png")}
    assert summary.failed["a.png", "b.png"].startswith("3 workers died on it")
    assert summary.notes["failed_pairs"] == [["a.png", "b.png", summary.failed["a.png", "b.png"]]]
    assert list(summary.num_matches) == PAIRS[1:]
    with MatchStore(out) as store:
        assert len(store.pairs(NAMES)) == 5
    resumed = match_images(features_path, out, PAIRS)
    assert resumed.num_resumed == 5


def test_a_workers_error_names_the_pair(tmp_path):
    path = tmp_path / "features.h5"
    with FeatureStore.resume(path, {}) as store:
        store.write("a.png", random_features(5))
        long = random_features(5)
        store.write("b.png", replace(long, descriptors=long.descriptors * 3))
    with (
        Cluster(ThreadEngine()) as cluster,
        pytest.raises(ValueError, match=r"images 'a.png' and 'b.png': .*rows of length 1"),
    ):
        match_images(path, tmp_path / "m.h5", [("a.png", "b.png")], map_pairs=cluster.map_pairs)


def test_processes_of_this_machine_match(features_path, tmp_path):
    one = match_images(features_path, tmp_path / "one.h5", PAIRS)
    with open_cluster("local", num_workers=1, device="cpu") as cluster:
        many = match_images(features_path, tmp_path / "many.h5", PAIRS, map_pairs=cluster.map_pairs)
    assert many.num_matches == one.num_matches
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


@pytest.mark.slow
def test_processes_of_this_machine_are_replaced(images, tmp_path):
    """One kills itself on a photo, and another one extracts it."""
    flag = tmp_path / "killed"
    with Cluster(LocalEngine(1)) as cluster:
        many = extract_images(
            KilledExtractor(ODD_WIDTH, str(flag)),
            images,
            tmp_path / "many.h5",
            map_images=cluster.map_images,
        )
    assert flag.exists()
    one = extract_images(SiftExtractor(), images, tmp_path / "one.h5")
    assert many.names == one.names
    assert many.skipped == one.skipped
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "many.h5").read_bytes()


@pytest.mark.slow
def test_a_photo_that_kills_processes_is_given_up(images, tmp_path):
    with open_cluster("local", num_workers=2, device="cpu") as cluster:
        summary = extract_images(
            KilledExtractor(ODD_WIDTH), images, tmp_path / "f.h5", map_images=cluster.map_images
        )
    assert summary.names == [name for name in NAMES if name != "b.png"]
    assert "3 workers died on it: its process was killed" in summary.skipped["b.png"]


def test_a_pool_can_be_closed_while_a_worker_works():
    class Hanging:
        closed = False

        def run(self, call):
            while not self.closed:
                pass
            raise WorkerDiedError("closed")

        def close(self):
            self.closed = True

    pool = SlotPool(lambda number: Hanging(), 1)
    future = pool.submit(Call("a", 0))
    while not future.running() and not pool._workers:
        pass
    pool.close()
    with pytest.raises(WorkerDiedError):
        future.result(timeout=5)


def test_outcomes_raise_what_happened():
    assert Outcome(3).unwrap() == 3
    with pytest.raises(KeyError):
        Outcome(error=KeyError("a")).unwrap()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("spark", "cluster must be local, ray[:ADDRESS] or dask:ADDRESS, got 'spark'"),
        ("local:4", "cluster local takes no address, got '4'; give --workers N"),
        ("ray", "Ray is not installed; pip install 'rekd-hloc[cluster]'"),
        ("dask:a:1", "Dask is not installed; pip install 'rekd-hloc[cluster]'"),
    ],
)
def test_a_cluster_that_is_not_there_is_told_in_one_line(
    features_path, tmp_path, capsys, monkeypatch, name, message
):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setitem(sys.modules, "rekd_hloc.cluster.dask_engine", None)
    arguments = ["match", str(features_path), str(tmp_path / "m.h5"), "--cluster", name]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"rekd-hloc: error: {message}\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers 2 is of --cluster"),
        (["--workers", "0", "--cluster", "local"], "workers must be at least 1, got 0"),
    ],
)
def test_workers_without_sense_are_refused(features_path, tmp_path, capsys, options, message):
    assert main(["match", str(features_path), str(tmp_path / "m.h5"), *options]) == 2
    assert message in capsys.readouterr().err


def test_nothing_at_an_address_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        reachability.check_reachable("Ray", f"127.0.0.1:{port}", "start it")
    with pytest.raises(ClusterError, match=rf"no Ray at 127.0.0.1:{port} \(.*\); start it"):
        reachability.check_reachable("Ray", f"127.0.0.1:{port}", "start it")
    with pytest.raises(ClusterError, match="must be like HOST:6379, got 'here'"):
        reachability.check_reachable("Ray", "here", "start it")


class StandInRay:
    """Ray as the engine meets it, where joining fails as often as there are errors."""

    def __init__(self, *errors):
        self.errors = list(errors)
        self.asked = []

    def init(self, address, **options):
        self.asked.append(address)
        if self.errors:
            raise self.errors.pop(0)

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": 2.0, "memory": 8.0 * 2**30}}]


GONE = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")


def open_ray(monkeypatch, ray, address=None):
    from rekd_hloc.cluster.ray_engine import RayEngine

    monkeypatch.setitem(sys.modules, "ray", ray)
    return RayEngine(address)


def test_a_ray_that_is_gone_is_replaced_by_one_for_the_run(monkeypatch, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = StandInRay(GONE)
    assert open_ray(monkeypatch, ray).num_workers == 2
    assert ray.asked == [None, "local"]
    assert "is gone; one is started" in caplog.text
    with pytest.raises(ClusterError, match="cannot join Ray at local: no memory"):
        open_ray(monkeypatch, StandInRay(GONE, Exception("no memory")))  # as Ray does


def test_a_ray_that_the_user_names_is_not_replaced(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    ray = StandInRay(GONE)
    with pytest.raises(ClusterError, match="cannot join Ray on this machine: Failed to connect"):
        open_ray(monkeypatch, ray)
    assert ray.asked == [None]
    monkeypatch.delenv("RAY_ADDRESS")
    ray = StandInRay(GONE)
    with pytest.raises(ClusterError, match="cannot join Ray at auto: Failed to connect"):
        open_ray(monkeypatch, ray, "auto")
    assert ray.asked == ["auto"]
