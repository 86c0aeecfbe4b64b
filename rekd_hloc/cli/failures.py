"""Which errors are the user's or the machine's: they are told in one line, others are bugs."""

import errno

MISTAKES = (ValueError, OSError, ImportError)
"""What this package raises where the user has to change something; the message says what."""
SHOW_TRACEBACK = "REKD_HLOC_TRACEBACK"
"""Environment variable: with any value, the place of an error is shown too."""
ADVICE = f"{SHOW_TRACEBACK}=1 shows where"
OF_THE_MACHINE = (
    "cuda",
    "cudnn",
    "cublas",
    "mps backend",
    "xpu",
    "can't start new thread",
    "disk i/o error",
    "database is locked",
    "database or disk is full",
    "no space left",
)
"""What libraries say, in lower case, where a device, a disk or a limit is at fault."""


def describe_failure(error: Exception) -> str | None:
    """Return the line to show for an error; None for a bug, whose traceback is needed."""
    if _lacks_memory(error):
        return (
            "not enough memory; close other programs, or take smaller images "
            f"(--set max_side_px=1600) or fewer keypoints (--max-keypoints); {ADVICE}"
        )
    if isinstance(error, MISTAKES):
        return str(error) or f"{type(error).__name__}; {ADVICE}"
    text = str(error).strip()
    is_bug = not isinstance(error, RuntimeError) or isinstance(
        error, NotImplementedError | RecursionError
    )
    if is_bug or not any(words in text.lower() for words in OF_THE_MACHINE):
        return None
    return f"{text.splitlines()[0]}; {ADVICE}"


def _lacks_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError):
        return False
    from rekd_hloc.short_memory import is_out_of_memory  # loads torch, which takes a second

    return is_out_of_memory(error)
