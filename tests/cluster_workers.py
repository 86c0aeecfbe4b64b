"""Engines and extractors for tests of many workers; processes import them by name."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path

from rekd_hloc.cluster.engine import ClusterError
from rekd_hloc.cluster.slots import SlotPool
from rekd_hloc.cluster.worker import Setup, WorkerDiedError, describe, start
from tests.sift_extractor import SiftExtractor


class ThreadEngine:
    """Workers that are threads of this process; all that goes to them or comes back is pickled.

    Args:
        num_workers: of a pool.
        deaths: for a label of a call, how many workers die on it.
    """

    shares_files = False

    def __init__(self, num_workers=2, deaths=None, identity=None):
        self.num_workers = num_workers
        self.deaths = dict(deaths or {})
        self.identity = identity or describe()
        self.num_started = 0
        self.num_shared = 0
        self.lock = threading.Lock()

    def open_pool(self, job, num_calls):
        setup = pickle.dumps(Setup(job, self.identity, "cpu"))
        return SlotPool(lambda number: ThreadWorker(self, setup), min(self.num_workers, num_calls))

    def share(self, value):
        self.num_shared += 1
        return value

    def close(self):
        pass


class ThreadWorker:
    def __init__(self, engine, setup):
        self.engine = engine
        with engine.lock:
            engine.num_started += 1
        self.function = start(pickle.loads(setup))

    def run(self, call):
        with self.engine.lock:
            if self.engine.deaths.get(call.label, 0) > 0:
                self.engine.deaths[call.label] -= 1
                raise WorkerDiedError("the test killed it")
        arguments = pickle.loads(pickle.dumps((call.payload, *call.shared)))
        return pickle.loads(pickle.dumps(self.function(*arguments)))

    def close(self):
        pass


class DeadOnArrival(ThreadEngine):
    """Workers that die before they are ready."""

    def open_pool(self, job, num_calls):
        def die(number):
            self.num_started += 1
            raise WorkerDiedError("no memory")

        return SlotPool(die, 1)


class LostEngine(ThreadEngine):
    """An engine whose workers are all lost in the midst of a run."""

    def open_pool(self, job, num_calls):
        pool = super().open_pool(job, num_calls)
        run = ThreadWorker.run

        def lose(worker, call):
            if call.label.startswith("c"):
                raise ClusterError("lost the cluster; give the command again")
            return run(worker, call)

        class Losing(ThreadWorker):
            pass

        Losing.run = lose
        setup = pickle.dumps(Setup(job, self.identity, "cpu"))
        pool.close()
        return SlotPool(lambda number: Losing(self, setup), 1)


class SlowExtractor(SiftExtractor):
    """Takes its time, so that a worker can be killed at work."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def __call__(self, image, mask=None):
        time.sleep(self.seconds)
        return super().__call__(image, mask)


class KilledExtractor(SiftExtractor):
    """Kills its own process on photos of some width, once if a file is to be made for that."""

    def __init__(self, width, flag=None):
        super().__init__()
        self.width = width
        self.flag = flag

    def __call__(self, image, mask=None):
        if image.shape[1] == self.width and not (self.flag and Path(self.flag).exists()):
            if self.flag:
                Path(self.flag).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image, mask)


class FailingExtractor(SiftExtractor):
    """Meets a bug in photos of some width."""

    def __init__(self, width):
        super().__init__()
        self.width = width

    def __call__(self, image, mask=None):
        if image.shape[1] == self.width:
            raise KeyError("a bug")
        return super().__call__(image, mask)
