import argparse
from pathlib import Path

import h5py
import torch

from . import matchers
from .utils.base_model import dynamic_load
from .utils.io import pair_key

confs = {
    "NN-mutual": {
        "output": "matches-NN-mutual",
        "model": {"name": "nearest_neighbor", "do_mutual_check": True},
    },
}


def read_side(file, name, side):
    data = {f"{key}{side}": torch.from_numpy(item[()]).float() for key, item in file[name].items()}
    width, height = file[name]["image_size"][()].tolist()
    return {key: value[None] for key, value in data.items()} | {
        f"image{side}": torch.empty(1, 1, height, width)
    }


@torch.no_grad()
def main(conf, pairs, features, export_dir=None, matches=None, features_ref=None, overwrite=False):
    if not isinstance(features, Path):
        matches = matches or Path(export_dir, f"{features}_{conf['output']}_{pairs.stem}.h5")
        features = Path(export_dir, f"{features}.h5")
    model = dynamic_load(matchers, conf["model"]["name"])(conf["model"]).eval()
    done = set()
    with (
        h5py.File(features, "r") as queries,
        h5py.File(features_ref or features, "r") as references,
        h5py.File(matches, "w" if overwrite else "a") as out,
    ):
        for line in pairs.read_text().splitlines():
            a, b = line.split()
            if frozenset((a, b)) in done or pair_key(a, b) in out or pair_key(b, a) in out:
                continue
            done.add(frozenset((a, b)))
            prediction = model(read_side(queries, a, 0) | read_side(references, b, 1))
            group = out.create_group(pair_key(a, b))
            group["matches0"] = prediction["matches0"][0].short().numpy()
            group["matching_scores0"] = prediction["matching_scores0"][0].half().numpy()
    return matches


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path)
    parser.add_argument("--features", default="feats-none")
    parser.add_argument("--conf", default="NN-mutual", choices=list(confs))
    args = parser.parse_args()
    main(confs[args.conf], args.pairs, args.features, args.export_dir)
