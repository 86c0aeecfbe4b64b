"""The built wheel in an environment of its own, away from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile

import pytest

from rekd_hloc.viz.explorer.assets import SCRIPTS
from tests.helpers import ROOT

PROBE = """
import importlib.util, json
from pathlib import Path
import rekd_hloc
from rekd_hloc.demo import DEMO_IMAGES
features = rekd_hloc.Extractor.from_pretrained("rekd-fast", device="cpu")(
    sorted(DEMO_IMAGES.iterdir())[0]
)
packages = ("training", "evaluation", "pipelines", "tests")
print(json.dumps({
    "where": str(Path(rekd_hloc.__file__).parent),
    "num_keypoints": len(features),
    "others": [name for name in packages if importlib.util.find_spec(name)],
}))
"""


def run(*command, **options):
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, **options
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    copy = tmp_path_factory.mktemp("source") / "checkout"
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:  # building writes into the folder it builds from
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", "-q", *options, "-w", out, copy)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_the_product_and_nothing_of_the_laboratory(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    roots = {name.split("/")[0] for name in names}
    assert roots == {"rekd_hloc", wheel.name.split("-py3")[0] + ".dist-info"}
    assert "rekd_hloc/py.typed" in names
    for template in ("base", "macros", "template"):
        assert f"rekd_hloc/viz/{template}.html" in names
    for file in (*SCRIPTS, "explorer.css", "explorer.html"):
        assert f"rekd_hloc/viz/explorer/{file}" in names
    assert any(name.endswith(".safetensors") for name in names)
    assert sum(name.startswith("rekd_hloc/demo_data/images/") for name in names) == 12
    assert not any("rendering" in name for name in names)
    assert wheel.stat().st_size < 20_000_000  # 5 MB of it the descriptor of the version before


def test_the_installed_wheel_extracts_and_brings_no_other_package(wheel, tmp_path):
    """Third parties come from this environment by a path; this project's checkout does not."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare")
    python = tmp_path / "bare" / ("Scripts" if os.name == "nt" else "bin") / "python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
    run(*install, "--disable-pip-version-check", "--target", site, wheel)
    with open(os.path.join(site, "third_parties.pth"), "w") as file:  # noqa: PTH118, PTH123
        file.write(sysconfig.get_path("purelib") + "\n")
    found = json.loads(run(python, "-c", PROBE, cwd=tmp_path))
    assert found["where"] == os.path.join(site, "rekd_hloc")  # noqa: PTH118
    assert found["num_keypoints"] > 500
    assert found["others"] == []
    script = run(python, "-m", "rekd_hloc.cli.main", "info", "--json", cwd=tmp_path)
    assert json.loads(script)["presets"]
