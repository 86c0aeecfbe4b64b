"""A courtyard between two houses: the world of the demo scene.

Two fronts, one of brick and one of plaster, meet at an obtuse angle. Before them stand an arcade,
an advertising column, a fountain, a kiosk, crates, a planter and a tree, on paved ground, so that
every view has structure at many depths and no plane holds all of it.
"""

from dataclasses import dataclass

import numpy as np

from evaluation.rendering import facade, masonry, nature, prints
from evaluation.rendering.canvas import Canvas, pick_color
from evaluation.rendering.facade import Opening
from evaluation.rendering.furniture import (
    make_advertising_column,
    make_crates,
    make_fountain,
    make_kiosk,
    make_planter,
    make_tree,
)
from evaluation.rendering.ground import make_ground
from evaluation.rendering.noise import Image
from evaluation.rendering.raycast import World, light_world
from evaluation.rendering.surfaces import (
    Surface,
    Texture,
    Vector,
    make_box,
    make_prism,
    make_wall,
)

CENTRE: Vector = np.array((0.0, 1.6, 1.9))
"""What cameras look at."""
CORNER = (0.0, 6.5)
WALL_LENGTH_M = 11.0
WALL_HEIGHT_M = 7.4
WALL_TURN_DEG = 35.0
PX_PER_METRE = 120.0


@dataclass(frozen=True)
class Front:
    """The ground line of a house front, from its left to its right as seen from the court."""

    left: tuple[float, float]
    right: tuple[float, float]

    @property
    def angle_deg(self) -> float:
        """Direction of the line about the vertical."""
        return float(
            np.degrees(np.arctan2(self.right[1] - self.left[1], self.right[0] - self.left[0]))
        )

    def place(self, along: float, out: float) -> tuple[float, float]:
        """Ground position so far along the line and so far before it, metres."""
        line = np.subtract(self.right, self.left)
        line = line / np.linalg.norm(line)
        x, y = np.asarray(self.left) + along * line + out * np.array((line[1], -line[0]))
        return float(x), float(y)


def build_courtyard(rng: np.random.Generator) -> World:
    """The whole scene; another generator gives other bricks, windows, posters and places."""
    turn = np.radians(WALL_TURN_DEG)
    reach = WALL_LENGTH_M * np.array((np.cos(turn), np.sin(turn)))
    left = Front((CORNER[0] - reach[0], CORNER[1] - reach[1]), CORNER)
    right = Front(CORNER, (CORNER[0] + reach[0], CORNER[1] - reach[1]))
    surfaces = [
        *make_ground(rng),
        *_make_brick_house(left, rng),
        *_make_plaster_house(right, rng),
        *_make_surroundings(left, right, rng),
        *make_advertising_column((-2.0, 1.3), rng),
        *make_fountain((1.2, 0.3), rng),
        *make_kiosk((2.6, 3.0), -32.0, rng),
        *make_crates((-0.6, 3.4), rng),
        *make_planter((-3.6, 3.0), 30.0, rng),
        *make_tree((-0.4, -1.2), rng),
    ]
    return light_world(surfaces, nature.paint_sky(rng))


def _make_brick_house(front: Front, rng: np.random.Generator) -> list[Surface]:
    shape = (round(WALL_HEIGHT_M * PX_PER_METRE), round(WALL_LENGTH_M * PX_PER_METRE))
    wall = masonry.lay_courses(
        shape,
        rng,
        course_px=0.082 * PX_PER_METRE,
        length_px=0.26 * PX_PER_METRE,
        joint_px=0.016 * PX_PER_METRE,
        colors=masonry.BRICK_COLORS,
    )
    canvas = Canvas(masonry.weather(wall, rng, px_per_metre=PX_PER_METRE, age=0.8), PX_PER_METRE)
    for k in range(4):
        x, width = 0.9 + 2.6 * k + rng.uniform(-0.2, 0.2), rng.uniform(0.95, 1.25)
        facade.draw_window(canvas, Opening(x, 1.3 + rng.uniform(-0.1, 0.1), width, 1.6), rng)
    shop = Opening(1.0, WALL_HEIGHT_M - 2.9, 2.4, 2.0)
    facade.draw_shop_window(canvas, shop, rng)
    facade.draw_door(canvas, Opening(4.3, WALL_HEIGHT_M - 2.6, 1.2, 2.6), rng)
    facade.draw_window(canvas, Opening(7.0, WALL_HEIGHT_M - 2.5, 1.4, 1.4), rng)
    sign = prints.paint_sign("CAFE " + str(rng.choice(prints.WORDS)), 3.0, 0.5, rng)
    canvas.paste(sign, 0.8, WALL_HEIGHT_M - 3.7, 3.0, 0.5)
    _hang_posters(canvas, [(5.9, 4.9), (9.2, 4.8), (10.0, 5.1)], rng)
    facade.draw_ivy(canvas, Opening(8.6, 5.6, 2.2, 1.9), rng)
    board = Texture(prints.paint_sign(str(rng.choice(prints.WORDS)), 0.9, 0.6, rng))
    stone = Texture(_stone(3.0, 0.4, rng))
    return [
        make_wall(front.left, front.right, 0.0, WALL_HEIGHT_M, Texture(canvas.image)),
        *_make_cornice(front, stone, 3.55),
        *_make_awning(front, 0.7, 3.2, rng),
        *make_box(front.place(6.1, 0.5), (0.06, 1.0, 0.6), 3.0, front.angle_deg, [board], board),
    ]


def _make_plaster_house(front: Front, rng: np.random.Generator) -> list[Surface]:
    shape = (round(WALL_HEIGHT_M * PX_PER_METRE), round(WALL_LENGTH_M * PX_PER_METRE))
    color = pick_color(((0.82, 0.72, 0.54), (0.78, 0.62, 0.50), (0.74, 0.74, 0.66)), rng)
    wall = masonry.spread_plaster(shape, rng, color, px_per_metre=PX_PER_METRE)
    canvas = Canvas(masonry.weather(wall, rng, px_per_metre=PX_PER_METRE, age=0.9), PX_PER_METRE)
    for k in range(4):
        x, width = 0.8 + 2.6 * k + rng.uniform(-0.2, 0.2), rng.uniform(0.9, 1.5)
        facade.draw_window(canvas, Opening(x, 1.1 + rng.uniform(-0.15, 0.15), width, 1.5), rng)
    facade.draw_door(canvas, Opening(1.3, WALL_HEIGHT_M - 2.7, 1.3, 2.7), rng)
    facade.draw_shop_window(canvas, Opening(4.2, WALL_HEIGHT_M - 2.6, 1.8, 1.7), rng)
    facade.draw_window(canvas, Opening(8.4, WALL_HEIGHT_M - 2.7, 1.1, 1.5), rng)
    _hang_posters(canvas, [(3.1, 4.7), (6.6, 4.6), (7.3, 5.0), (9.9, 4.8)], rng)
    prints.spray_graffiti(canvas, 6.3, WALL_HEIGHT_M - 1.3, 1.9, 0.9, rng)
    facade.draw_ivy(canvas, Opening(9.6, 1.0, 1.6, 3.4), rng)
    stone = Texture(_stone(3.0, 0.4, rng))
    return [
        make_wall(front.left, front.right, 0.0, WALL_HEIGHT_M, Texture(canvas.image)),
        *_make_cornice(front, stone, 3.35),
        *_make_arcade(front, rng),
    ]


def _make_arcade(front: Front, rng: np.random.Generator) -> list[Surface]:
    """Round columns before a front, with a beam on them."""
    parts = []
    for along in (3.3, 5.6, 7.9, 10.2):
        centre, radius = front.place(along, 1.5), 0.24
        shaft = Texture(_stone(2 * np.pi * radius, 2.5, rng, stone_m=0.5))
        parts += make_prism(centre, radius, 0.0, 2.5, 12, shaft)
        slab = Texture(_stone(0.7, 0.2, rng))
        parts += make_box(centre, (0.7, 0.7, 0.2), 2.5, front.angle_deg, [slab], slab)
    beam = [Texture(_stone(7.6, 0.4, rng)), Texture(_stone(0.6, 0.4, rng))]
    middle = front.place(6.75, 1.5)
    return [*parts, *make_box(middle, (7.6, 0.6, 0.4), 2.7, front.angle_deg, beam, beam[0])]


def _make_cornice(front: Front, stone: Texture, height: float) -> list[Surface]:
    """Two ledges that stand out of a front: below the upper windows, and at the top."""
    middle = front.place(WALL_LENGTH_M / 2, 0.0)
    return [
        part
        for level, depth in ((height, 0.3), (WALL_HEIGHT_M - 0.25, 0.6))
        for part in make_box(
            middle, (WALL_LENGTH_M, depth, 0.22), level, front.angle_deg, [stone], stone
        )
    ]


def _make_awning(
    front: Front, start: float, length: float, rng: np.random.Generator
) -> list[Surface]:
    """Slanted cloth with stripes of uneven widths and colours above a shop."""
    canvas = Canvas(np.ones((150, 400, 3), np.float32) * 0.9, 400 / length)
    x = 0.0
    while x < length:
        width = rng.uniform(0.12, 0.35)
        canvas.rectangle(x, 0, width, 2, pick_color(prints.BRIGHT, rng))
        x += width + rng.uniform(0.1, 0.3)
    name = str(rng.choice(prints.WORDS))
    canvas.write(name, 0.3, 0.72, length - 0.6, 0.35, (0.1, 0.1, 0.1))
    left, right = np.array((*front.place(start, 0.0), 0)), front.place(start + length, 0.0)
    out = np.array((*front.place(start, 1.1), 0)) - left
    corner = left + (0.0, 0.0, 3.0)
    along = np.array((*right, 0.0)) - left
    return [Surface(corner, along, out - np.array((0, 0, 0.6)), Texture(canvas.image))]


def _make_surroundings(left: Front, right: Front, rng: np.random.Generator) -> list[Surface]:
    """Garden walls at both ends of the court, and houses far behind."""
    walls = []
    for start, end in (((-14.5, -7.5), left.left), (right.right, (14.5, -7.5))):
        texture = Texture(_stone(9.0, 2.0, rng, stone_m=0.4))
        walls.append(make_wall(start, end, 0.0, 2.0, texture))
    far = [
        ((-34.0, -6.0), (-16.0, 22.0)),
        ((16.0, 22.0), (34.0, -6.0)),
        ((-18.0, 26.0), (18.0, 26.0)),
    ]
    for start, end in far:
        length = float(np.hypot(end[0] - start[0], end[1] - start[1]))
        texture = Texture(nature.paint_skyline(length, 11.0, rng))
        walls.append(make_wall(start, end, -0.5, 10.5, texture))
    for x, y in ((-12.5, -1.0), (12.8, -1.5), (-11.0, 3.5)):
        walls += make_tree((x, y), rng, num_planes=2)
    return walls


def _stone(
    width_m: float, height_m: float, rng: np.random.Generator, *, stone_m: float = 0.8
) -> Image:
    shape = (round(height_m * PX_PER_METRE), round(width_m * PX_PER_METRE))
    stone = masonry.lay_courses(
        shape,
        rng,
        course_px=min(0.5 * stone_m, height_m) * PX_PER_METRE,
        length_px=stone_m * PX_PER_METRE,
        joint_px=0.02 * PX_PER_METRE,
        colors=masonry.STONE_COLORS,
        joint_color=(0.40, 0.38, 0.34),
    )
    aged = masonry.weather(stone, rng, px_per_metre=PX_PER_METRE, age=0.35)
    return Canvas(aged, PX_PER_METRE).image


def _hang_posters(
    canvas: Canvas, places: list[tuple[float, float]], rng: np.random.Generator
) -> None:
    for x, y in places:
        width, height = rng.uniform(0.5, 0.75), rng.uniform(0.8, 1.1)
        poster = prints.print_poster(width, height, rng)
        canvas.paste(poster, x, y, width, height, rng.normal(0, 2.5))
