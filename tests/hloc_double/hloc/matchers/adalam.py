from kornia.utils.helpers import get_cuda_device_if_available  # gone since kornia 0.8.3

from .nearest_neighbor import NearestNeighbor


class AdaLAM(NearestNeighbor):
    """As hloc's: same inputs and import, but plain nearest neighbours instead of the method."""

    default_conf = {**NearestNeighbor.default_conf, "device": get_cuda_device_if_available()}
    required_inputs = [
        f"{name}{side}"
        for name in ("image", "descriptors", "keypoints", "scales", "oris")
        for side in (0, 1)
    ]
