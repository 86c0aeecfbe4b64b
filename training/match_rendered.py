"""Rendered scenes to learn matches from: courtyards whose geometry is exact everywhere.

They are those of :mod:`evaluation.rendering`, with other seeds than the demo and the evaluation
have. Each view has its own roll, light and exposure.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from evaluation.rendering.courtyard import build_courtyard
from evaluation.rendering.raycast import render, see_surfaces
from evaluation.rendering.scene import plan_views
from evaluation.rendering.sensor import expose
from training.planar_views import PlanarView

FIRST_SEED = 1000
"""Seeds below are those of scenes that are evaluated on."""


@dataclass(frozen=True)
class RenderedConfig:
    """Which scenes are rendered."""

    scenes: int = 0
    """Number of courtyards; none by default."""
    views: int = 5
    """Views of each; each two of them are a pair."""
    size: tuple[int, int] = (640, 480)
    """Width and height of a view in pixels."""

    def __post_init__(self) -> None:
        if self.scenes < 0 or self.views < 2 or min(self.size) < 64:
            raise ValueError(
                "scenes must be 0 or more, views 2 or more, and each side of size 64 or more, got "
                f"{self.scenes}, {self.views} and {self.size}"
            )


def render_views(seed: int, config: RenderedConfig) -> list[PlanarView]:
    """Render the views of one scene; the same seed gives the same views.

    Args:
        seed: of the scene.
        config: number and size of the views.
    """
    world = build_courtyard(np.random.default_rng((seed, 0)))
    views = []
    for number, plan in enumerate(plan_views(config.views, config.size, seed)):
        radiance = render(world, plan.camera, sun=plan.light.sun, ambient=plan.light.ambient)
        image = expose(radiance, plan.light, np.random.default_rng((seed, 2, number)))
        grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
        label, maps = see_surfaces(world, plan.camera)
        views.append(PlanarView(grey, label, maps))
    return views
