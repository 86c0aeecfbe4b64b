"""Reading files that torch saved, which are programs in part: tensors come out, nothing is run."""

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch

REFUSED = re.compile(r"(?:GLOBAL|global|class):? (\w+(?:\.\w+)+)")
"""What torch says of a part that is neither a tensor nor a plain value."""


def load_tensors(path: Path, kind: str) -> Any:  # noqa: ANN401  (whatever the file holds)
    """Return the tensors and plain values of a file, on the CPU.

    Args:
        path: made by ``torch.save``.
        kind: what it should be, for the error's text: ``a checkpoint``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds more than tensors and plain values, which is not run; or it is damaged,
            or no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}, which should be {kind}")
    try:
        with warnings.catch_warnings(action="ignore"):  # they advise to run the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        part = REFUSED.search(" ".join(str(error).split()))
        if part is None:
            raise ValueError(
                f"{path} is not {kind}, or a damaged one, or holds more than tensors"
            ) from error
        raise ValueError(
            f"{path} holds more than tensors ({part[1]}), and a file "
            f"from elsewhere is not run; save its tensors alone, or get {kind} as safetensors"
        ) from error
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        shown = "" if "weights_only" in reason else f": {reason}"
        raise ValueError(f"{path} is not {kind}, or a damaged one{shown}") from error
