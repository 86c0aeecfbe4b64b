"""Where a run's model and page are, and what comes next."""

from pathlib import Path

from rekd_hloc.exports.formats import ExportFormat, list_formats
from rekd_hloc.sfm.result import ReconstructionResult


def name_places(result: ReconstructionResult, page: Path | None = None) -> dict[str, Path | None]:
    """Return where model and page are, for a program; None for what is not there."""
    return {"model": result.model_path, "page": page}


def describe_places(result: ReconstructionResult, page: Path | None = None) -> str:
    """Return where model and page are, and what comes next, in lines for a person.

    Args:
        result: of the run.
        page: that was written, if any.
    """
    model = result.model_path
    if model is None:
        return "next          the diagnosis says what to change; the same command goes on"
    shown = ExportFormat.NERFSTUDIO
    lines = [
        f"model         {model}",
        f"page          {page or 'not written; --page writes one'}",
        f"next          COLMAP opens the model with File > Import model; rekd-hloc export-model "
        f"{result.output} --to {shown} (or {list_formats(without=shown)})",
    ]
    return "\n".join(lines)
