"""Features that were extracted before are not extracted again, unless anything changed.

One file of hloc's schema for each method and configuration. Its name holds a hash of everything
that features depend on, so another configuration or other weights take another file; an image's
name in it holds a fingerprint of the image. What a killed run had extracted is there for the next.
"""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from evaluation.extractors.registry import NamedExtractor
from rekd_hloc.storage.features import FeatureStore
from rekd_hloc.types import Features


class FeatureCache:
    """Features of one method by name; a context manager, safe to use from several threads.

    Args:
        folder: where cache files lie.
        method: what extracts; stored features are not cached again.
        key: whatever else the features depend on, such as the protocol's frame.
    """

    def __init__(self, folder: Path, method: NamedExtractor, key: Mapping[str, str]) -> None:
        provenance = {**method.provenance, **key}
        text = json.dumps(provenance, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.path = folder / f"{safe_name(method.name)}-{digest}.h5"
        self.num_extracted = 0
        self._lock = threading.Lock()
        self._store: FeatureStore | None = None
        if not method.is_stored:
            folder.mkdir(parents=True, exist_ok=True)
            self._store = FeatureStore.resume(self.path, provenance)

    def get(self, name: str, extract: Callable[[], Features]) -> Features:
        """Features of that name, extracted now if they are not there.

        What is returned was read from the file, so that a resumed run gives the same figures.
        """
        if self._store is None:
            return extract()
        with self._lock:
            is_known = name in self._store
        if not is_known:
            features = extract()
            with self._lock:
                self._store.write(name, features)
                self.num_extracted += 1
        with self._lock:
            return self._store.read(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._store is not None:
            self._store.__exit__(kind, error, _)


def safe_name(name: str) -> str:
    """A method's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)[-60:]


def image_key(path: Path) -> str:
    """Folder and name of an image file with a fingerprint of its content."""
    return f"{path.parent.name}/{path.name}@{file_digest(path)[:12]}"


def file_digest(path: Path) -> str:
    """Sha256 of a file, read once in a process unless its size or date changes."""
    state = path.stat()
    return _digest_of_file(path, state.st_size, state.st_mtime_ns)


@cache
def _digest_of_file(path: Path, _size: int, _time_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
