"""What reads text and journals of strangers, called in a second process or in this one."""

import json
import shutil
from pathlib import Path

from tests.odd_hdf5 import NAMES, write_features, write_matches


def read_config(path: Path) -> str:
    """The configuration as text, of a kind that each of its options has."""
    from rekd_hloc.config import config_json, get_preset, load_config

    config = load_config(get_preset("rekd-fast"), path)
    return str(config_json(config))


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The pairs of a file among ``NAMES``."""
    from rekd_hloc.matching.pairs import read_pairs

    return read_pairs(path, NAMES)


def resume_store(path: Path) -> list[str]:
    """Open to write beside whatever journal is there, read all, close; names of the images."""
    from rekd_hloc.storage.features import FeatureStore
    from tests.helpers import random_features

    with FeatureStore.resume(path, {"made": "here"}) as store:
        names = store.names()
        for name in names:
            store.read(name)
        store.write("new.jpg", random_features(3))
    with FeatureStore(path) as store:
        for name in store.names():
            store.read(name)
        return sorted({*names, *store.names()})


def open_store(path: Path) -> list[str]:
    """Open to read beside whatever journal is there."""
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(path) as store:
        for name in store.names():
            store.read(name)
        return store.names()


def write_page(folder: Path) -> list[str]:
    """The page of a run's output folder."""
    from rekd_hloc.viz.page import write_html_report

    path = write_html_report(folder, folder / "images", title="a run")
    return [] if "<html" in path.read_text(encoding="utf-8") else ["no page"]


def make_database(folder: Path) -> list[str]:
    """Go on beside whatever ``database.json`` is there; images in the database."""
    from rekd_hloc.sfm.reconstruct import reconstruct_from_files
    from rekd_hloc.sfm.stages import MappingOptions

    features = write_features(folder / "features.h5")
    matches = write_matches(folder / "matches.h5")
    out = folder / "out"
    for path in out.glob("database.db*"):
        path.unlink()
    report = reconstruct_from_files(
        features, matches, None, folder, out, options=MappingOptions(camera_mode="single")
    )
    assert json.loads((out / "database.json").read_text(encoding="utf-8"))["camera_model"]
    shutil.rmtree(out / "sparse", ignore_errors=True)
    return [] if report["num_images"] == len(NAMES) else [f"{report['num_images']} images"]
