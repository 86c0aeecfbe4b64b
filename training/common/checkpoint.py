"""Checkpoints and the output folder of a training run.

Files are written whole or not at all, and a run goes on only from a checkpoint of the same
configuration and the same data.
"""

import json
import subprocess
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import rekd_hloc
from rekd_hloc.features.tensor_files import load_tensors
from rekd_hloc.features.weights import detector_config, learned_tensors, resolve_weights
from rekd_hloc.files import atomic_write, write_json, write_text
from rekd_hloc.renamed_options import translate_config
from rekd_hloc.weight_files import read_weights

LAST = "last.pt"
"""The checkpoint that a run goes on from."""
BEST = "best.pt"
"""The checkpoint of the best validation score."""
RENAMED_OPTIONS = {
    "photos": "images",
    "max_photos": "max_images",
    "validation_photos": "validation_images",
    "changes": "augmentation",
    "shadows": "shadow_share",
    "darkest": "min_shadow_factor",
    "occlusions": "occlusion_share",
    "nearest": "min_occlusion_distance",
    "finer": "size_factors",
}
"""Options by the name that files made before them have, and the name of today."""


class RunFolder:
    """``last.pt``, ``best.pt``, ``config.json`` and ``log.jsonl`` of a run.

    Every checkpoint also holds ``best`` (the best score so far), ``seconds`` (of all sessions of
    the run), ``config`` and ``code_version``.

    Args:
        path: the run's output folder; made by ``begin``.
        config: all options as resolved, as JSON.
    """

    def __init__(self, path: Path, config: str) -> None:
        self.path = path
        self.best = -1.0
        self.seconds = 0.0
        self._config = config
        self._code_version = code_version()
        self._clock = time.perf_counter()

    @property
    def last(self) -> Path:
        """Path of the checkpoint that a run goes on from."""
        return self.path / LAST

    def resume(
        self, identity: Mapping[str, Any], defaults: Mapping[str, Any], without: Collection[str]
    ) -> dict[str, Any] | None:
        """Read the state to go on from; None where the run is new.

        Args:
            identity: of this run, see :func:`make_identity`.
            defaults: the identity of a run with default options: an option that did not exist when
                the checkpoint was written had its default.
            without: options that are not compared, though an older checkpoint may hold them.

        Raises:
            ValueError: ``last.pt`` is damaged, or of another configuration or other data.
        """
        if not self.last.exists():
            return None
        state = load_checkpoint(self.last)
        saved = _completed(with_current_names(state["identity"], identity), defaults)
        require_same(self.last, {k: v for k, v in saved.items() if k not in without}, identity)
        self.best, self.seconds = state["best"], state["seconds"]
        return state

    def begin(self, step: int) -> None:
        """Write the configuration, and drop the lines of the log that lie behind ``step``."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "config.json", self._config + "\n")
        _drop_later_lines(self.path / "log.jsonl", step)
        self._clock = time.perf_counter()

    def record(
        self, step: int, metrics: Mapping[str, Any], score: float, state: Mapping[str, Any]
    ) -> None:
        """Write a line of the log and the checkpoints; ``best.pt`` too if no score was higher."""
        self._count_seconds()
        line = {"step": step, "seconds": round(self.seconds, 1), **metrics}
        with (self.path / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")
        is_best = score > self.best
        self.best = max(self.best, score)
        self.save(state)
        if is_best:
            save_checkpoint(self.path / BEST, self._with_run(state))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write ``last.pt``."""
        self._count_seconds()
        save_checkpoint(self.last, self._with_run(state))

    def _with_run(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **state,
            "best": self.best,
            "seconds": self.seconds,
            "config": json.loads(self._config),
            "code_version": self._code_version,
        }

    def _count_seconds(self) -> None:
        now = time.perf_counter()
        self.seconds, self._clock = self.seconds + now - self._clock, now


def _drop_later_lines(path: Path, step: int) -> None:
    """A kill between log and checkpoint leaves a line that will be written again."""
    if not path.exists():
        return
    lines = path.read_text().splitlines(keepends=True)
    earlier = [line for line in lines if json.loads(line)["step"] <= step]
    if len(earlier) < len(lines):
        write_text(path, "".join(earlier))


def make_identity(
    config: Mapping[str, Any], without: Collection[str], **hashes: object
) -> dict[str, Any]:
    """What must be the same for a run, or for generated files, to go on, as JSON would hold it.

    Args:
        config: all options, as ``dataclasses.asdict`` gives them.
        without: options that do not change what is computed.
        **hashes: of the data and weights that it is computed from.
    """
    options = {name: value for name, value in config.items() if name not in without}
    identity: dict[str, Any] = json.loads(json.dumps({**options, **hashes}))
    return identity


def with_current_names(saved: Mapping[str, Any], current: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved options under the names that they have today."""
    renamed = {}
    for name, value in translate_config(saved).items():
        today = RENAMED_OPTIONS.get(name, name)
        key = today if name not in current and today in current else name
        inner = current.get(key)
        is_section = isinstance(value, Mapping) and isinstance(inner, Mapping)
        renamed[key] = with_current_names(value, inner) if is_section else value  # type: ignore[arg-type]
    return renamed


def _completed(saved: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the saved options, and the defaults of those that they lack."""
    merged = {**defaults, **saved}
    for name, value in defaults.items():
        if isinstance(value, dict):
            merged[name] = _completed(saved.get(name, {}), value)
    return merged


def require_same(path: Path, saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Refuse to go on with another configuration or other data.

    Names of options that have changed since the file was written make no difference.

    Raises:
        ValueError: naming the options that differ and both values.
    """
    saved = with_current_names(saved, current)
    odd = sorted(key for key in saved.keys() | current.keys() if saved.get(key) != current.get(key))
    if odd:
        detail = "; ".join(f"{k}: {saved.get(k)!r} then, {current.get(k)!r} now" for k in odd[:5])
        raise ValueError(
            f"{path} was made with another configuration ({detail}); use these values, or another "
            "output folder"
        )


def claim_folder(stated: Path, identity: Mapping[str, Any]) -> None:
    """Write the identity of a folder's files into it, or refuse a folder of another identity.

    Raises:
        ValueError: naming the options that differ and both values.
    """
    if stated.is_file():
        require_same(stated, json.loads(stated.read_text()), identity)
    else:
        write_json(stated, identity)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write whole or not at all: a kill leaves the old checkpoint or the new one."""
    with atomic_write(path, durable=True) as scratch, scratch.open("wb") as file:
        torch.save(dict(state), file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read the state that :func:`save_checkpoint` wrote: tensors and plain values only, no code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    state = load_tensors(path, "a training checkpoint")
    if not isinstance(state, dict) or "step" not in state:
        raise ValueError(f"{path} is not a training checkpoint: it holds no step")
    return state


def load_start(name: str) -> dict[str, Any]:
    """Read where a new training begins: a checkpoint, or weights as they ship, by name or file.

    Returns:
        ``backbone``, ``head``, ``network``, ``step`` and ``identity`` (options and data hash of
        the training), as in a checkpoint.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: the file is damaged, or no detector.
    """
    path = start_path(name)
    if path.suffix != ".safetensors":
        return load_checkpoint(path)
    provenance = json.loads(read_weights(path)[1].get("provenance", "{}"))
    trained_with = provenance.get("config") or {}
    return {
        "step": 0,
        "network": asdict(detector_config(path)),
        "identity": {**trained_with, "data_hash": provenance.get("data_hash")},
        **learned_tensors(path),
    }


def start_path(name: str) -> Path:
    """Find the file behind the name of a start.

    Raises:
        FileNotFoundError: there is none.
    """
    try:
        return resolve_weights(name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"no checkpoint {name} to start from: {error}") from error


def code_version() -> str:
    """The package's version and, in a git checkout, the commit and whether files were changed."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    root = Path(__file__).parent
    try:
        run = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return rekd_hloc.__version__
    return f"{rekd_hloc.__version__}+{run.stdout.strip()}"
