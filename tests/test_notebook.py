"""The notebook in examples/: its code runs, by nbmake where that is installed."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

NOTEBOOK = ROOT / "examples" / "rotated_photos.ipynb"


def cells():
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_results():
    for cell in cells():
        compile("".join(cell["source"]), str(NOTEBOOK), "exec")
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive:UserWarning")
def test_the_code_of_the_notebook_runs():
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    values = {}
    for cell in cells():
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), values)
    plt.close("all")
    assert values["result"]["num_registered"] >= 4


@pytest.mark.slow
def test_nbmake_runs_the_notebook():
    pytest.importorskip("nbmake")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    done = subprocess.run(
        [*command, "--rootdir", str(NOTEBOOK.parent), "--nbmake", str(NOTEBOOK)],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
