"""Commands that write networks: export-weights, export-onnx."""

from pathlib import Path
from typing import Annotated

import typer

from rekd_hloc.cli.options import (
    Conf,
    Config,
    Json,
    Quiet,
    Replace,
    Settings,
    print_result,
    resolve_conf,
)
from rekd_hloc.names import counted


def export_weights(
    checkpoint: Annotated[Path, typer.Argument(help="Training checkpoint, or REKD's release.")],
    output: Annotated[Path, typer.Argument(help="Safetensors file to write.")],
    group_order: Annotated[
        int | None,
        typer.Option(help="Group order of REKD's release; by default the weights' shapes tell it."),
    ] = None,
    pixel_range: Annotated[
        float, typer.Option(help="Value of white in the images that the release was trained on.")
    ] = 1.0,
    overwrite: Replace = False,
    json_output: Json = False,
) -> None:
    """Convert a training checkpoint into weights to run.

    The checkpoint is one of this project, or best_model.pt of REKD's release.
    """
    from rekd_hloc.features.convert import convert_checkpoint

    convert_checkpoint(
        checkpoint, output, group_order=group_order, pixel_range=pixel_range, overwrite=overwrite
    )
    print_result(json_output, {"output": str(output)}, f"wrote {output}")


def export_onnx(
    output: Annotated[Path, typer.Argument(help="Folder to write; three files come into it.")],
    conf: Conf = None,
    config: Config = None,
    settings: Settings = None,
    overwrite: Replace = False,
    json_output: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the networks of a preset as ONNX graphs. Needs the extra onnx.

    They are score.onnx, orientation.onnx and descriptor.onnx, each compared with torch.
    """
    from rekd_hloc.features.onnx_graphs import export_onnx as run

    _, resolved = resolve_conf(conf, config, settings, None, "cpu")
    differences = run(resolved, output, overwrite=overwrite, progress=not quiet)
    text = (
        f"{counted(len(differences), 'graph')} in {output}, "
        f"within {max(differences.values()):.0e} of torch"
    )
    print_result(json_output, {"files": differences}, text)
