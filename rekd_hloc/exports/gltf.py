"""A model as binary glTF, which web viewers and Blender open: points, cameras and their frusta.

glTF has y up and cameras that look along -z; a node above all turns COLMAP's world to it.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rekd_hloc.exports.scene_arrays import (
    FLIP,
    camera_parameters,
    read_images,
    read_points,
    world_from_cam,
)
from rekd_hloc.files import write_bytes

MODEL = "model.glb"
POINTS, LINES = 0, 1
"""Kinds of primitives in glTF."""
FLOAT32, UINT8 = 5126, 5121
"""Kinds of numbers in glTF."""
JSON_CHUNK, BINARY_CHUNK = b"JSON", b"BIN\0"
FRUSTUM_SHARE = 0.04
"""Depth of a drawn frustum, as a share of the distance between the outermost cameras."""
FRUSTUM_RGB = (230, 90, 40)
EDGES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
"""Of a frustum: its tip is 0, and its corners go round."""


def write_gltf(model: Any, folder: Path, images: Path | None) -> None:
    """Write the model as one file."""
    shown = read_images(model)
    buffer = _Buffer()
    xyz, rgb = read_points(model)
    centres = np.array([world_from_cam(image)[:3, 3] for image in shown]).reshape(-1, 3)
    extent = float(np.linalg.norm(np.ptp(centres, axis=0))) if len(centres) else 1.0
    frusta = _draw_frusta(model, shown, FRUSTUM_SHARE * (extent or 1.0))
    orange = np.tile(np.array(FRUSTUM_RGB, dtype=np.uint8), (len(frusta), 1))
    made = [
        buffer.add_mesh("points", POINTS, xyz, rgb),
        buffer.add_mesh("frusta", LINES, frusta, orange),
    ]
    meshes = [mesh for mesh in made if mesh is not None]
    nodes: list[dict[str, Any]] = [
        {"mesh": row, "name": mesh["name"]} for row, mesh in enumerate(meshes)
    ]
    nodes += [
        {
            "camera": row,
            "name": image.name,
            "matrix": (world_from_cam(image) @ FLIP).T.ravel().tolist(),  # column by column
        }
        for row, image in enumerate(shown)
    ]
    root = {"name": "COLMAP", "children": list(range(len(nodes))), "matrix": FLIP.ravel().tolist()}
    document = {
        "asset": {"version": "2.0", "generator": "rekd-hloc"},
        "scene": 0,
        "scenes": [{"nodes": [len(nodes)]}],
        "nodes": [*nodes, root],
        "meshes": meshes,
        "cameras": [_describe_camera(model.cameras[image.camera_id]) for image in shown],
        **buffer.describe(),
    }
    used = {key: value for key, value in document.items() if value != []}  # glTF has no empty list
    write_bytes(folder / MODEL, _encode(used, bytes(buffer.data)))


class _Buffer:
    """Collects arrays, each in a view of its own, with an accessor that says what it holds."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def add_mesh(
        self, name: str, mode: int, xyz: NDArray[np.float64], rgb: NDArray[np.uint8]
    ) -> dict[str, Any] | None:
        """Add coloured points, or ends of lines; None where there are none."""
        if not len(xyz):
            return None
        rgba = np.column_stack([rgb, np.full(len(rgb), 255, np.uint8)])
        attributes = {
            "POSITION": self._add(xyz.astype("<f4"), FLOAT32, "VEC3"),
            "COLOR_0": self._add(rgba, UINT8, "VEC4"),
        }
        return {"name": name, "primitives": [{"attributes": attributes, "mode": mode}]}

    def describe(self) -> dict[str, Any]:
        """Return the entries of the document that say what the bytes are."""
        buffers = [{"byteLength": len(self.data)}] if self.data else []
        return {"buffers": buffers, "bufferViews": self.views, "accessors": self.accessors}

    def _add(self, rows: NDArray[Any], number: int, shape: str) -> int:
        self.views.append({"buffer": 0, "byteOffset": len(self.data), "byteLength": rows.nbytes})
        self.data += rows.tobytes()  # rows of 12 and 4 bytes keep all aligned to 4
        accessor = {
            "bufferView": len(self.views) - 1,
            "componentType": number,
            "count": len(rows),
            "type": shape,
        }
        if number == FLOAT32:
            accessor |= {"min": rows.min(axis=0).tolist(), "max": rows.max(axis=0).tolist()}
        else:
            accessor["normalized"] = True
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def _draw_frusta(model: Any, images: list[Any], depth: float) -> NDArray[np.float64]:
    """Return the ends of lines, two rows each."""
    ends: list[NDArray[np.float64]] = []
    for image in images:
        camera = model.cameras[image.camera_id]
        values = camera_parameters(camera)
        x, y = camera.width / values["fx"] / 2, camera.height / values["fy"] / 2
        corners = np.array([(0, 0, 0), (-x, -y, 1), (x, -y, 1), (x, y, 1), (-x, y, 1)]) * depth
        pose = world_from_cam(image)
        placed = corners @ pose[:3, :3].T + pose[:3, 3]
        ends += [placed[list(edge)] for edge in EDGES]
    return np.concatenate(ends) if ends else np.zeros((0, 3))


def _describe_camera(camera: Any) -> dict[str, Any]:
    focal = camera_parameters(camera)["fy"]
    return {
        "type": "perspective",
        "perspective": {
            "yfov": 2 * math.atan(camera.height / focal / 2),
            "aspectRatio": camera.width / camera.height,
            "znear": 0.01,
        },
    }


def _encode(document: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(document).encode()
    chunks = _chunk(JSON_CHUNK, text, b" ") + (_chunk(BINARY_CHUNK, data, b"\0") if data else b"")
    return b"glTF" + _number(2) + _number(12 + len(chunks)) + chunks


def _chunk(kind: bytes, data: bytes, filler: bytes) -> bytes:
    padded = data + filler * (-len(data) % 4)
    return _number(len(padded)) + kind + padded


def _number(value: int) -> bytes:
    return value.to_bytes(4, "little")
