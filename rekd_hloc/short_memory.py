"""Errors that mean that memory was short, whichever library raised them."""

import errno

import cv2
import torch

OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "bad_alloc",
    "cannot allocate memory",
)
"""What plain errors of torch, CUDA, MPS, oneDNN and C++ say in lower case when memory is short."""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory was short, whichever library raised it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, cv2.error):
        return error.code == cv2.Error.StsNoMem
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(
        words in str(error).lower() for words in OUT_OF_MEMORY
    )
