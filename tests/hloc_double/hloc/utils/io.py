import h5py
import numpy as np


def list_h5_names(path):
    """Every group that holds a dataset, at any depth."""
    names = set()
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda key, item: (
                names.add(key.rpartition("/")[0]) if isinstance(item, h5py.Dataset) else None
            )
        )
    return sorted(names)


def pair_key(a, b):
    return "/".join(name.replace("/", "-") for name in (a, b))


def get_keypoints(path, name):
    with h5py.File(path, "r") as file:
        return file[name]["keypoints"][()]


def get_matches(path, a, b):
    with h5py.File(path, "r") as file:
        backwards = pair_key(a, b) not in file
        group = file[pair_key(b, a) if backwards else pair_key(a, b)]
        partner, scores = group["matches0"][()], group["matching_scores0"][()]
    index = np.flatnonzero(partner != -1)
    matches = np.column_stack([index, partner[index]])
    return (matches[:, ::-1] if backwards else matches), scores[index]
