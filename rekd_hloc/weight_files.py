"""Files of weights of any kind: safetensors with metadata, some of which ship with the package."""

import hashlib
import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from rekd_hloc.files import write_bytes
from rekd_hloc.ownership import SAFETENSORS, refuse_kind

PRETRAINED = Path(__file__).parent / "pretrained"
"""Folder of the weights that ship with the package."""


def shipped_path(name: str) -> Path:
    """Return where weights of that name ship, of whatever kind, whether or not there are any."""
    return PRETRAINED / f"{name}.safetensors"


def shipped_names(kind: str) -> list[str]:
    """Return the names of the shipped weights of a format."""
    paths = sorted(PRETRAINED.glob("*.safetensors"))
    return [path.stem for path in paths if read_weights(path)[1].get("format") == kind]


def shipped_with_hash(digest: str) -> str | None:
    """Return the name of the shipped weights of that hash, or None."""
    paths = sorted(PRETRAINED.glob("*.safetensors"))
    return next((path.stem for path in paths if weights_hash(path) == digest), None)


def weights_hash(path: Path) -> str:
    """First twelve hexadecimal digits of the file's sha256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no safetensors file, or a damaged one.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error


def write_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file whole or not at all; equal content gives equal bytes.

    Raises:
        FileExistsError: what is there can be no weights file.
        OSError: the file cannot be written, or the disk is full.
    """
    refuse_kind(path, SAFETENSORS)
    data = save({name: t.contiguous() for name, t in tensors.items()}, metadata)
    # the library's order of the metadata is random; sorted, a file's hash says what is in it
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    write_bytes(path, len(header).to_bytes(8, "little") + header + data[8 + size :])
