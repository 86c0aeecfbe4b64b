"""The seam: ``map_images`` and ``map_pairs`` on many workers, whichever engine runs them."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from rekd_hloc.cluster.engine import ClusterError, Engine, Pool
from rekd_hloc.cluster.jobs import ImageJob, PairJob
from rekd_hloc.cluster.local_engine import LocalEngine
from rekd_hloc.cluster.ordered_map import MAX_DEATHS, GivenUp, map_in_order
from rekd_hloc.cluster.sent_images import pack_image
from rekd_hloc.cluster.sent_weights import send_extractor, send_matcher
from rekd_hloc.cluster.worker import Call, Job
from rekd_hloc.matching.pair_work import CACHE_BYTES, MatchArrays, PairWork
from rekd_hloc.names import counted
from rekd_hloc.sfm.image_work import FeatureArrays, ImageFile, ImageWork
from rekd_hloc.types import Pair

logger = logging.getLogger(__name__)

CHUNK_PAIRS = 64
"""Pairs that a call matches: a square of eight by eight images, each of which is sent once."""
CALLS_PER_WORKER = 4
"""Of few pairs, so that all workers have as much to do."""


def _open_ray(address: str, num_workers: int | None, device: str) -> Engine:
    from rekd_hloc.cluster.ray_engine import RayEngine

    return RayEngine(address or None, num_workers, device)


def _open_dask(address: str, num_workers: int | None, device: str) -> Engine:
    try:
        from rekd_hloc.cluster.dask_engine import DaskEngine
    except ImportError as error:
        raise ClusterError("Dask is not installed; pip install 'rekd-hloc[cluster]'") from error
    return DaskEngine(address, num_workers, device)


def _open_local(address: str, num_workers: int | None, device: str) -> Engine:
    if address:
        raise ClusterError(f"cluster local takes no address, got {address!r}; give --workers N")
    return LocalEngine(num_workers, device)


ENGINES: dict[str, Callable[[str, int | None, str], Engine]] = {
    "local": _open_local,
    "ray": _open_ray,
    "dask": _open_dask,
}
"""What opens an engine at an address, with a number of workers and a device."""


def open_cluster(text: str, *, num_workers: int | None = None, device: str = "auto") -> "Cluster":
    """Open a cluster that ``--cluster`` names.

    Args:
        text: ``local``, ``ray``, ``ray:ADDRESS`` or ``dask:ADDRESS``.
        num_workers: how many to use; the engine decides when None.
        device: of the workers; ``auto`` takes their GPUs where they have some.

    Raises:
        ClusterError: no such engine, it is not installed, or there is none at the address.
        ValueError: a number of workers below 1, or no such device.
    """
    kind, _, address = text.partition(":")
    if kind not in ENGINES:
        raise ClusterError(f"cluster must be local, ray[:ADDRESS] or dask:ADDRESS, got {text!r}")
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"workers must be at least 1, got {num_workers}")
    return Cluster(ENGINES[kind](address, num_workers, device))


class Cluster:
    """Workers of an engine, as the ``map`` that extraction and matching take.

    Example:
        >>> with open_cluster("local") as cluster:  # doctest: +SKIP
        ...     extract_images(extractor, photos, out, map_images=cluster.map_images)
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pools: list[Pool] = []

    @property
    def description(self) -> str:
        """Return how many workers there are, in words."""
        return counted(self._engine.num_workers, "worker")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and let go of the engine."""
        for pool in self._pools:
            pool.close()
        self._pools.clear()
        self._engine.close()

    def map_images(
        self, work: Callable[[ImageFile], FeatureArrays | str], images: Iterable[ImageFile]
    ) -> Iterator[FeatureArrays | str]:
        """Extract images on the workers; see :data:`rekd_hloc.sfm.extraction.MapImages`.

        Raises:
            ClusterError: there are no workers, or all are lost.
            WorkerRefusedError: a worker has another version or other weights.
        """
        assert isinstance(work, ImageWork)
        waiting = list(images)
        if not waiting:
            return
        pool = self._open_pool(ImageJob(send_extractor(work.extractor)), len(waiting))

        def make_calls() -> Iterator[Call | str]:
            for image in waiting:
                sent = image if self._engine.shares_files else pack_image(work, image)
                yield sent if isinstance(sent, str) else Call(image.name, sent)

        try:
            for result in map_in_order(pool, make_calls()):
                yield result.reason if isinstance(result, GivenUp) else result
        finally:
            self._close_pool(pool)

    def map_pairs(
        self, work: Callable[[Pair], MatchArrays], pairs: Iterable[Pair]
    ) -> Iterator[MatchArrays | str]:
        """Match pairs on the workers; see :data:`rekd_hloc.matching.match_images.MapPairs`.

        Neighbours in ``pairs`` go together, with the features of their images.

        Raises:
            ClusterError, WorkerRefusedError: as :meth:`map_images`.
            ValueError: features cannot be compared; the message names the images.
        """
        assert isinstance(work, PairWork)
        waiting = list(pairs)
        if not waiting:
            return
        pool = self._open_pool(PairJob(send_matcher(work.matcher)), len(waiting))
        per_call = len(waiting) // (CALLS_PER_WORKER * pool.num_workers)
        size = max(1, min(CHUNK_PAIRS, per_call))
        chunks = [waiting[first : first + size] for first in range(0, len(waiting), size)]
        features = _SharedFeatures(self._engine, work)
        calls = (_pair_call(chunk, features) for chunk in chunks)
        try:
            results = map_in_order(pool, calls, max_deaths=1 if size > 1 else MAX_DEATHS)
            for chunk, result in zip(chunks, results, strict=True):
                if not isinstance(result, GivenUp):
                    yield from result
                elif len(chunk) == 1:
                    yield result.reason
                else:  # which of the pairs was it?
                    logger.warning("%s: its pairs are matched one by one", result.reason)
                    single = [_pair_call([pair], features) for pair in chunk]
                    for one in map_in_order(pool, single):
                        yield one.reason if isinstance(one, GivenUp) else one[0]
        finally:
            self._close_pool(pool)

    def _open_pool(self, job: Job, num_calls: int) -> Pool:
        pool = self._engine.open_pool(job, num_calls)
        self._pools.append(pool)
        logger.info("%s started", counted(pool.num_workers, "worker"))
        return pool

    def _close_pool(self, pool: Pool) -> None:
        pool.close()
        if pool in self._pools:
            self._pools.remove(pool)


class _SharedFeatures:
    """Features of images as the engine shares them, each sent once while it is in use."""

    def __init__(self, engine: Engine, work: PairWork) -> None:
        self._engine = engine
        self._work = work
        self._shared: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._num_bytes = 0

    def __getitem__(self, name: str) -> Any:
        if name not in self._shared:
            arrays = self._work.features(name).numpy()
            size = sum(array.nbytes for array in arrays.values())
            self._shared[name] = self._engine.share((name, arrays)), size
            self._num_bytes += size
            while self._num_bytes > CACHE_BYTES and len(self._shared) > 1:
                _, (_, dropped) = self._shared.popitem(last=False)
                self._num_bytes -= dropped
        self._shared.move_to_end(name)
        return self._shared[name][0]


def _pair_call(pairs: Sequence[Pair], features: _SharedFeatures) -> Call:
    names = dict.fromkeys(name for pair in pairs for name in pair)
    label = f"{pairs[0][0]} and {pairs[0][1]}"
    if len(pairs) > 1:
        label += f", and {counted(len(pairs) - 1, 'pair')} beside"
    return Call(label, list(pairs), tuple(features[name] for name in names))
