import argparse
from pathlib import Path

import cv2
import h5py
import numpy as np
import torch

from . import extractors
from .utils.base_model import dynamic_load
from .utils.io import list_h5_names

confs = {
    "none": {
        "output": "feats-none",
        "model": {"name": "none"},
        "preprocessing": {"grayscale": True},
    },
}


def read(path, options):
    """An image as a tensor of (channel, height, width) in 0..1, and its (width, height) on disk."""
    grey = options.get("grayscale", False)
    mode = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    image = cv2.imread(str(path), mode | cv2.IMREAD_IGNORE_ORIENTATION).astype(np.float32)
    size = np.array(image.shape[1::-1])
    longest = options.get("resize_max")
    if longest and (options.get("resize_force") or size.max() > longest):
        small = tuple(int(round(side * longest / size.max())) for side in size.tolist())
        shrinks = small[0] <= size[0] and small[1] <= size[1]
        image = cv2.resize(
            image, small, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        )
    channels = image[None] if grey else image[..., ::-1].transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels)) / 255, size


@torch.no_grad()
def main(
    conf,
    image_dir,
    export_dir=None,
    as_half=True,
    image_list=None,
    feature_path=None,
    overwrite=False,
):
    path = feature_path or Path(export_dir) / f"{conf['output']}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = image_list or sorted(
        file.relative_to(image_dir).as_posix()
        for file in Path(image_dir).rglob("*")
        if file.suffix in (".jpg", ".png", ".jpeg", ".JPG", ".PNG")
    )
    known = set(list_h5_names(path)) if path.exists() and not overwrite else set()
    model = dynamic_load(extractors, conf["model"]["name"])(conf["model"]).eval()
    for name in names:
        if name in known:
            continue
        image, size = read(Path(image_dir) / name, conf["preprocessing"])
        features = {key: value[0].numpy() for key, value in model({"image": image[None]}).items()}
        factor = (size / np.array(tuple(image.shape)[:0:-1])).astype(np.float32)
        features["keypoints"] = (features["keypoints"] + 0.5) * factor - 0.5
        if "scales" in features:
            features["scales"] = features["scales"] * factor.mean()
        features["image_size"] = size
        with h5py.File(path, "a") as file:
            if name in file:
                del file[name]
            group = file.create_group(name)
            for key, value in features.items():
                halve = as_half and value.dtype == np.float32
                group[key] = value.astype(np.float16) if halve else value
            noise = getattr(model, "detection_noise", 1) * factor.mean()
            group["keypoints"].attrs["uncertainty"] = noise
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--image_dir", type=Path, required=True)
    parser.add_argument("--export_dir", type=Path, required=True)
    parser.add_argument("--conf", default="none", choices=list(confs))
    parser.add_argument("--as_half", action="store_true")
    args = parser.parse_args()
    main(confs[args.conf], args.image_dir, args.export_dir, args.as_half)
