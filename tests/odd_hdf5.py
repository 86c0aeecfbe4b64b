"""HDF5 files of features and matches as strangers, and damage, make them; and what reads them.

The readers run in a second process (:mod:`tests.isolated`), so they take paths and return plain
values: what is wrong with what was read, empty where nothing is.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

NAMES = ("a.jpg", "sub/b.jpg")
SIZE = (64, 48)
COUNT = 30
SECRET = "secret.bin"
"""Beside the file: bytes that no reader may take for keypoints."""
MOST_IMAGES = 9
"""Those of a file are two, and one or two more that a change adds."""
Change = Callable[[h5py.File], object]


def write_features(path: Path, change: Change | None = None) -> Path:
    """Sound features of two images, then the change."""
    rng = np.random.default_rng(0)
    (path.parent / SECRET).write_bytes(rng.uniform(1, 40, COUNT * 2).astype("<f4").tobytes())
    with h5py.File(path, "w") as file:
        for name in NAMES:
            group = file.create_group(name)
            descriptors = rng.normal(size=(128, COUNT)).astype(np.float32)
            group["keypoints"] = rng.uniform(1, 40, (COUNT, 2)).astype(np.float32)
            group["descriptors"] = descriptors / np.linalg.norm(descriptors, axis=0)
            group["scores"] = rng.uniform(0.1, 1, COUNT).astype(np.float32)
            group["scales"] = np.ones(COUNT, np.float32)
            group["oris"] = rng.uniform(0, 360, COUNT).astype(np.float32)
            group["image_size"] = np.array(SIZE)
        if change is not None:
            change(file)
    return path


def write_matches(path: Path, change: Change | None = None) -> Path:
    """Sound matches of one pair, then the change."""
    with h5py.File(path, "w") as file:
        group = file.create_group(PAIR)
        group["matches0"] = np.arange(COUNT, dtype=np.int16)
        group["matching_scores0"] = np.full(COUNT, 0.9, np.float32)
        if change is not None:
            change(file)
    return path


def put(name: str, value: object, group: str = NAMES[0], **options: object) -> Change:
    """Replace a dataset."""

    def change(file: h5py.File) -> None:
        place = file[group]
        if name in place:
            del place[name]
        if options.get("shape") is not None:
            place.create_dataset(name, **options)
        else:
            place.create_dataset(name, data=value, **options)

    return change


def shaped(name: str, shape: tuple[int, ...], dtype: object = "f4", **options: object) -> Change:
    """Replace a dataset by one that has a shape and no value."""
    return put(name, None, shape=shape, dtype=dtype, **options)


def _nest(file: h5py.File, depth: int, name: str = "n") -> None:
    group = file
    for _ in range(depth):
        group = group.create_group(name)
    group["keypoints"] = np.zeros((1, 2), np.float32)


def _virtual(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["data"] = np.full((COUNT, 2), 5, np.float32)
    layout = h5py.VirtualLayout((COUNT, 2), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "data", (COUNT, 2))
    del file[NAMES[0]]["keypoints"]
    file[NAMES[0]].create_virtual_dataset("keypoints", layout)


def _external_group(file: h5py.File) -> None:
    other = write_features(Path(file.filename).with_name("other.h5"))
    file["c.jpg"] = h5py.ExternalLink(other.name, NAMES[0])


def _attribute(key: str, value: object, group: str = "/") -> Change:
    return lambda file: file[group].attrs.create(key, value)


def _link(name: str, target: object, group: str = NAMES[0]) -> Change:
    def change(file: h5py.File) -> None:
        if name in file[group]:
            del file[group][name]
        file[group][name] = target(file) if callable(target) else target

    return change


def _spoiled(name: str, value: float) -> Change:
    def change(file: h5py.File) -> None:
        file[NAMES[0]][name][..., 0] = value

    return change


def _stored_outside(name: str, shape: tuple[int, ...], dtype: str, group: str = NAMES[0]) -> Change:
    def change(file: h5py.File) -> None:
        secret = str(Path(file.filename).with_name(SECRET).resolve())
        shaped(name, shape, dtype, external=[(secret, 0, h5py.h5f.UNLIMITED)], group=group)(file)

    return change


def _references(name: str, group: str = "/") -> Change:
    return lambda file: file[group].attrs.create(name, file.ref, dtype=h5py.ref_dtype)


PAIR = "a.jpg/sub-b.jpg"
LOOPS: dict[str, Change] = {
    "a thousand groups in one another": lambda file: _nest(file, 1_100),
    "hard link to the root": _link("loop", lambda file: file["/"], "/"),
    "hard link to its own group": _link("loop", lambda file: file["sub"], "sub"),
    "two hard links to the root": lambda file: [
        _link(name, lambda file: file["/"], "/")(file) for name in ("l", "r")
    ],
    "soft link to the root": _link("loop", h5py.SoftLink("/"), "/"),
}
"""Files that have no end, or a far one."""


def _doubled(file: h5py.File) -> None:
    """Each group has two links to the next: as many paths as grains on a chessboard."""
    group = file
    for _ in range(40):
        below = group.create_group("l")
        group["r"] = below
        group = below
    group["keypoints"] = np.zeros((1, 2), np.float32)


def _pipe(file: h5py.File) -> Path:
    path = Path(file.filename).with_name("pipe.h5")
    if not path.exists():
        os.mkfifo(path)
    return path


WITHOUT_END: dict[str, Change] = {
    "two ways into each group": _doubled,
    "external link to a pipe": lambda file: _link(
        "c.jpg", h5py.ExternalLink(_pipe(file).name, "/"), "/"
    )(file),
    "scores in a pipe": lambda file: _link("scores", h5py.ExternalLink(_pipe(file).name, "/x"))(
        file
    ),
    "keypoints by a soft link to a pipe": lambda file: [
        _link("zzz", h5py.ExternalLink(_pipe(file).name, "/"), "/")(file),
        _link("keypoints", h5py.SoftLink("/zzz/x"))(file),
    ],
}
"""Files that would be read for ever."""
LINKS_TO_THEMSELVES: dict[str, Change] = {
    "a group": _link("self", h5py.SoftLink("/self"), "/"),
    "a dataset": _link("scores", h5py.SoftLink("/a.jpg/scores")),
    "two groups": lambda file: [
        _link("one", h5py.SoftLink("/two"), "/")(file),
        _link("two", h5py.SoftLink("/one"), "/")(file),
    ],
    "an image of an image": _link("inside", h5py.SoftLink("/a.jpg")),
}
"""Links that lead nowhere but to themselves, or to what they are in."""
SMUGGLED: dict[str, Change] = {
    "external link to a group": _external_group,
    "external link to a dataset": lambda file: [
        _external_group(file),
        _link("keypoints", h5py.ExternalLink("other.h5", "a.jpg/keypoints"))(file),
    ],
    "external raw storage": _stored_outside("keypoints", (COUNT, 2), "f4"),
    "external raw scores": _stored_outside("scores", (COUNT,), "f4"),
    "virtual dataset": _virtual,
}
"""What is read comes from another file."""
WRONG_FEATURES: dict[str, Change] = {
    "a size with half pixels": put("image_size", np.array([64.5, 48.0])),
    "a size beyond 32 bits": put("image_size", np.array([2**40, 48])),
    "a size of truths": put("image_size", np.array([True, True])),
    "scales below zero": _spoiled("scales", -1.0),
    "scores that are NaN": _spoiled("scores", np.nan),
    "keypoints beyond single precision": put("keypoints", np.full((COUNT, 2), 1e300)),
    "keypoints of truths": put("keypoints", np.ones((COUNT, 2), bool)),
    "huge and empty keypoints": shaped("keypoints", (2**44, 2), chunks=(1024, 2)),
    "huge descriptors": shaped("descriptors", (2**22, 2**22), chunks=(64, 64)),
    "keypoints without a value": put("keypoints", h5py.Empty("f4")),
    "one number": put("keypoints", 5.0),
    "three dimensions": put("keypoints", np.zeros((2, 2, 2))),
    "keypoints of text": put("keypoints", [["a", "b"]] * COUNT, dtype=h5py.string_dtype()),
    "keypoints of bytes": put("keypoints", np.full((COUNT, 2), b"5", "S4")),
    "keypoints of complex numbers": put("keypoints", np.ones((COUNT, 2), np.complex64)),
    "keypoints of records": put("keypoints", np.zeros((COUNT, 2), [("x", "f4"), ("y", "f4")])),
    "keypoints of references": shaped("keypoints", (COUNT, 2), h5py.ref_dtype),
    "keypoints of lists": shaped("keypoints", (COUNT, 2), h5py.vlen_dtype("f4")),
    "scores of references": shaped("scores", (COUNT,), h5py.regionref_dtype),
    "size of text": put("image_size", ["64", "48"], dtype=h5py.string_dtype()),
    "size of references": shaped("image_size", (2,), h5py.ref_dtype),
    "size that is not finite": put("image_size", np.array([np.nan, 48.0])),
    "size that is infinite": put("image_size", np.array([np.inf, 48.0])),
    "size that is negative": put("image_size", np.array([-5, 0])),
    "size of three": put("image_size", np.array([64, 48, 3])),
    "size of two rows": put("image_size", np.array([[64, 48]])),
    "keypoints that are NaN": _spoiled("keypoints", np.nan),
    "keypoints that are infinite": _spoiled("keypoints", np.inf),
    "descriptors that are NaN": _spoiled("descriptors", np.nan),
    "scales that are NaN": _spoiled("scales", np.nan),
    "angles that are NaN": _spoiled("oris", np.nan),
    "more scores than keypoints": put("scores", np.ones(COUNT + 1, np.float32)),
    "fewer descriptors": put("descriptors", np.ones((128, COUNT - 1), np.float32)),
}
"""An image that nothing can be done with."""
HARMLESS: dict[str, Change] = {
    "no descriptors": lambda file: file[NAMES[0]].pop("descriptors"),
    "a type for keypoints": _link("keypoints", lambda _: np.dtype("f4")),
    "a group for keypoints": _link("keypoints", lambda file: file.create_group("x")),
    "dangling keypoints": _link("keypoints", h5py.SoftLink("/nothing")),
    "a long name": lambda file: _nest(file, 1, "n" * 5_000),
    "a name that is no Unicode": lambda file: file.create_group(b"\xff\xfe.jpg"),
    "a name of dots": lambda file: _nest(file, 1, "..."),
    "a configuration that is a number": _attribute("config", 5),
    "a configuration of deep lists": _attribute("config", "[" * 3_000),
    "a configuration that is a list": _attribute("config", '[{"descriptor": 1}]'),
    "a configuration of wrong kinds": _attribute("config", '{"descriptor": [1]}'),
    "a patch size of text": _attribute("config", '{"descriptor": {"patch_size_px": "wide"}}'),
    "an attribute of references": _references("config"),
    "an attribute of records": _attribute("preset", np.zeros(2, [("a", "f4")])),
    "an attribute without a value": _attribute("preset", h5py.Empty("f4")),
    "an attribute of a thousand letters": _attribute("preset", "x" * 60_000),
    "an attribute of bytes": _attribute("preset", np.bytes_(b"\xff\xfe")),
    "no image": lambda file: [file.pop(name) for name in ("a.jpg", "sub")],
    "other datasets": shaped("extra", (3,), h5py.ref_dtype),
    "compressed": lambda file: put(
        "keypoints", np.ones((COUNT, 2), np.float32), compression="gzip", chunks=(5, 2)
    )(file),
    "big-endian": put("keypoints", np.ones((COUNT, 2), ">f8")),
}
"""A right value or a refusal: both will do."""
WRONG_MATCHES: dict[str, Change] = {
    "unsigned": put("matches0", np.full(COUNT, 2**64 - 1, np.uint64), PAIR),
    "truths": put("matches0", np.ones(COUNT, bool), PAIR),
    "infinite scores": put("matching_scores0", np.full(COUNT, np.inf), PAIR),
    "a name that is a number": _attribute("name0", 5, PAIR),
    "names of other images": lambda file: [
        _attribute(key, "../../etc/passwd", PAIR)(file) for key in ("name0", "name1")
    ],
    "float matches": put("matches0", np.full(COUNT, 0.5), PAIR),
    "NaN matches": put("matches0", np.full(COUNT, np.nan), PAIR),
    "text matches": put("matches0", ["a"] * COUNT, PAIR, dtype=h5py.string_dtype()),
    "references": put("matches0", None, PAIR, shape=(COUNT,), dtype=h5py.ref_dtype),
    "no value": put("matches0", h5py.Empty("i4"), PAIR),
    "two columns": put("matches0", np.zeros((COUNT, 2), int), PAIR),
    "one number": put("matches0", 5, PAIR),
    "below minus one": put("matches0", np.full(COUNT, -7), PAIR),
    "huge": put("matches0", None, PAIR, shape=(2**44,), dtype="i4", chunks=(64,)),
    "NaN scores": put("matching_scores0", np.full(COUNT, np.nan), PAIR),
    "text scores": put("matching_scores0", ["a"] * COUNT, PAIR, dtype=h5py.string_dtype()),
    "fewer scores": put("matching_scores0", np.ones(3), PAIR),
    "external": _stored_outside("matches0", (COUNT,), "i2", PAIR),
}
ODD_MATCHES: dict[str, Change] = {
    "one pair in two groups": lambda file: file.copy(PAIR, "sub-b.jpg/a.jpg"),
    "names that are lists": lambda file: [
        _attribute(key, np.arange(3), PAIR)(file) for key in ("name0", "name1")
    ],
    "names that are references": lambda file: [
        _references(key, PAIR)(file) for key in ("name0", "name1")
    ],
    "indices beyond the keypoints": put("matches0", np.full(COUNT, 99), PAIR),
    "indices beyond 32 bits": put("matches0", np.full(COUNT, 2**40), PAIR),
    "a group that cannot be split": lambda file: file.copy(PAIR, "ab"),
    "a pair of one image": lambda file: file.copy(PAIR, "a.jpg/a.jpg"),
}


def read_features(path: Path) -> list[str]:
    """What is wrong with the features that a store returns."""
    from rekd_hloc.storage.features import FeatureStore

    found = []
    with FeatureStore(path) as store:
        if len(store.names()) > MOST_IMAGES:
            return [f"{len(store.names())} images"]
        for name in store.names():
            features = store.read(name)
            points = features.keypoints
            parts = (points.xy, points.scale, points.angle, points.score, features.descriptors)
            if not all(bool(np.isfinite(part.numpy()).all()) for part in parts):
                found.append(f"{name}: not finite")
            if min(features.image_size) <= 0:
                found.append(f"{name}: size {features.image_size}")
    return found


def read_matches(path: Path) -> list[str]:
    """What is wrong with the matches that a store returns."""
    from rekd_hloc.storage.features import MatchStore

    found = []
    with MatchStore(path) as store:
        for pair in store.pairs(NAMES):
            matches = store.read(*pair)
            if len(matches) and int(matches.index.min()) < 0:
                found.append(f"{pair}: index")
            if not bool(np.isfinite(matches.score.numpy()).all()):
                found.append(f"{pair}: not finite")
    return found


def check(features: Path, matches: Path | None = None) -> list[str]:
    """Levels that ``rekd-hloc check`` gives, without repetition."""
    from rekd_hloc.storage.validate import check_files

    issues = check_files(features, matches)
    counts = [re.match(r"(\d+) images", issue.message) for issue in issues]
    many = {"many images" for count in counts if count and int(count[1]) > MOST_IMAGES}
    return sorted({issue.level for issue in issues} | many)


def match(path: Path) -> list[str]:
    """Match all pairs of a features file; a list of what is wrong with the matches."""
    from rekd_hloc.matching.match_images import match_images
    from rekd_hloc.matching.pairs import exhaustive_pairs
    from rekd_hloc.storage.features import FeatureStore

    with FeatureStore(path) as store:
        names = store.names()
    out = path.with_name("new matches.h5")
    out.unlink(missing_ok=True)
    if len(names) > MOST_IMAGES:
        return [f"{len(names)} images"]
    match_images(path, out, exhaustive_pairs(names))
    return read_matches(out)


def export(path: Path, matches: Path | None = None) -> list[str]:
    """Write a COLMAP database; a list of what is wrong with its keypoints."""
    from rekd_hloc.sfm.database import export_database, stored_patch_size_px
    from rekd_hloc.sfm.pycolmap_compat import pycolmap
    from rekd_hloc.storage.features import FeatureStore, MatchStore

    out = path.with_name("database.db")
    with FeatureStore(path) as store:
        found = MatchStore(matches) if matches is not None else None
        pairs = found.pairs(store.names()) if found is not None else []
        ids = export_database(
            out, None, store, found, pairs, patch_size_px=stored_patch_size_px(store)
        )
    if len(ids) > MOST_IMAGES:
        return [f"{len(ids)} images"]
    with pycolmap.Database.open(str(out)) as database:
        rows = {name: np.asarray(database.read_keypoints(ids[name])) for name in ids}
    return [f"{name}: not finite" for name, row in rows.items() if not np.isfinite(row).all()]


def plot(path: Path) -> list[str]:
    """Draw the keypoints of a features file on grey images."""
    from rekd_hloc.images import write_image
    from rekd_hloc.viz.draw import plot_files

    for name in NAMES:
        picture = np.full((*SIZE[::-1], 3), 128, np.uint8)
        write_image(path.parent / "images" / name, picture)
    written = plot_files(path, path.parent / "images", path.parent / "plots")
    return [] if written else ["no picture"]


def page(path: Path) -> list[str]:
    """Read keypoints as the page of a run does."""
    from rekd_hloc.viz.run_files import read_keypoints

    found = read_keypoints(path, list(NAMES)).values()
    return [] if all(bool(points.xy.isfinite().all()) for points in found) else ["not finite"]


def reconstruct(path: Path) -> list[str]:
    """Reconstruct from a features file and sound matches."""
    from rekd_hloc.sfm.reconstruct import reconstruct_from_files

    matches = write_matches(path.with_name("sound matches.h5"))
    report = reconstruct_from_files(path, matches, None, path.parent, path.parent / "out")
    return [] if report["num_images"] <= MOST_IMAGES else [f"{report['num_images']} images"]
