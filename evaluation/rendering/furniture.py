"""Things that stand in the courtyard."""

import numpy as np

from evaluation.rendering import facade, masonry, nature, prints
from evaluation.rendering.canvas import Canvas, pick_color, scale_color
from evaluation.rendering.facade import Opening
from evaluation.rendering.noise import Field, Image, fractal_noise, to_bytes
from evaluation.rendering.surfaces import (
    Surface,
    Texture,
    make_box,
    make_level,
    make_prism,
    make_wall,
)

PX_PER_METRE = 150.0
Place = tuple[float, float]


def make_advertising_column(centre: Place, rng: np.random.Generator) -> list[Surface]:
    """A thick round column pasted all over with posters."""
    radius, height = 0.62, 2.7
    around = 2 * np.pi * radius
    ground = fractal_noise(
        (round(height * PX_PER_METRE), round(around * PX_PER_METRE)),
        rng,
        coarsest_px=80,
        roughness=0.7,
    )
    canvas = Canvas(
        np.clip(0.62 + 0.05 * ground[..., None] * np.ones(3, np.float32), 0, 1), PX_PER_METRE
    )
    for base in (0.12, 0.95, 1.75):
        x = rng.uniform(-0.2, 0.0)
        while x < around - 0.3:
            width, tall = rng.uniform(0.45, 0.7), rng.uniform(0.7, 0.85)
            poster = prints.print_poster(width, tall, rng)
            canvas.paste(poster, x, base + rng.uniform(-0.06, 0.06), width, tall, rng.normal(0, 2))
            x += width * rng.uniform(0.92, 1.1)
    cap = Texture(_plain(1.5, 0.25, (0.24, 0.30, 0.28), rng))
    return [
        *make_prism(centre, radius, 0.0, height, 20, Texture(canvas.image)),
        *make_prism(centre, radius + 0.10, height, height + 0.22, 20, cap),
        make_level(centre, (1.0, 1.0), height + 0.22, cap),
    ]


def make_fountain(centre: Place, rng: np.random.Generator) -> list[Surface]:
    """An eight-sided stone basin with water, and a pillar with a bowl in it."""
    radius = 1.25
    stones = masonry.lay_courses(
        (round(0.62 * PX_PER_METRE), round(2 * np.pi * radius * PX_PER_METRE)),
        rng,
        course_px=0.31 * PX_PER_METRE,
        length_px=0.6 * PX_PER_METRE,
        joint_px=0.02 * PX_PER_METRE,
        colors=masonry.STONE_COLORS,
    )
    rim = Texture(_age(stones, rng))
    pillar = Texture(_plain(1.2, 1.5, (0.62, 0.58, 0.50), rng))
    bowl = Texture(_plain(2.4, 0.3, (0.58, 0.55, 0.49), rng))
    return [
        *make_prism(centre, radius, 0.0, 0.62, 8, rim),
        make_level(centre, (2 * radius, 2 * radius), 0.55, Texture(_paint_water(radius, rng))),
        *make_prism(centre, 0.2, 0.5, 1.7, 10, pillar),
        *make_prism(centre, 0.55, 1.35, 1.6, 10, bowl),
        *make_prism(centre, 0.26, 1.6, 1.95, 10, bowl),
    ]


def make_kiosk(centre: Place, angle_deg: float, rng: np.random.Generator) -> list[Surface]:
    """A wooden hut that sells papers; every side is different, under a roof that stands out."""
    width, depth, height = 2.2, 1.6, 2.3
    sides = [
        Texture(_paint_hut(side, height, k, rng))
        for k, side in enumerate((width, depth, width, depth))
    ]
    roof = Texture(_paint_planks(2.7, 2.1, rng, tone=(0.42, 0.20, 0.17)))
    rim = Texture(prints.paint_sign(str(rng.choice(prints.WORDS)) + " - PAPERS", 2.7, 0.28, rng))
    return [
        *make_box(centre, (width, depth, height), 0.0, angle_deg, sides, roof),
        *make_box(centre, (2.7, 2.1, 0.28), height, angle_deg, [rim], roof),
    ]


def make_crates(centre: Place, rng: np.random.Generator) -> list[Surface]:
    """Wooden boxes with stencilled words, on and beside each other."""
    parts: list[Surface] = []
    spots = [
        (0.0, 0.0, 0.0, 0.85),
        (0.95, 0.12, 0.0, 0.75),
        (0.35, 0.05, 0.85, 0.6),
        (-0.8, -0.3, 0.0, 0.55),
    ]
    for dx, dy, bottom, side in spots:
        faces = [Texture(_paint_crate(side, rng)) for _ in range(5)]
        place = (centre[0] + dx, centre[1] + dy)
        parts += make_box(place, (side, side, side), bottom, rng.uniform(-25, 25), faces, faces[4])
    return parts


def make_planter(centre: Place, angle_deg: float, rng: np.random.Generator) -> list[Surface]:
    """A long wooden trough with flowers."""
    size = (2.4, 0.6, 0.55)
    wood = [Texture(_paint_planks(length, size[2], rng)) for length in (2.4, 0.6, 2.4, 0.6)]
    soil = Texture(_plain(2.4, 0.6, (0.22, 0.16, 0.11), rng))
    box = make_box(centre, size, 0.0, angle_deg, wood, soil)
    front = box[0]
    plants = []
    for share in (0.2, 0.5, 0.8):
        low = front.point_at(0.0, 0.0) + share * (box[2].corner + box[2].edge_u - front.corner)
        high = low + front.edge_u
        texture = Texture(nature.paint_flowerbed(2.4, 0.6, rng))
        plants.append(make_wall((low[0], low[1]), (high[0], high[1]), 0.53, 1.13, texture))
    return [*box, *plants]


def make_tree(centre: Place, rng: np.random.Generator, num_planes: int = 3) -> list[Surface]:
    """A young tree: a trunk and crossed pictures of its crown."""
    bark = fractal_noise((300, 120), rng, coarsest_px=20, roughness=0.8, stretch=6.0)
    color = np.asarray((0.34, 0.27, 0.21), np.float32) * np.exp(0.28 * bark)[..., None]
    trunk = make_prism(centre, 0.10, 0.0, 2.6, 8, Texture(to_bytes(np.clip(color, 0, 1))))
    crown, size, turn = [], rng.uniform(1.7, 2.1), rng.uniform(0, 60)
    for k in range(num_planes):
        t = np.radians(turn + 180 * k / num_planes)
        reach = size / 2 * np.array((np.cos(t), np.sin(t)))
        start, end = np.subtract(centre, reach), np.add(centre, reach)
        texture = Texture(nature.paint_foliage(size, size, rng))
        crown.append(make_wall((start[0], start[1]), (end[0], end[1]), 2.2, 2.2 + size, texture))
    return [*trunk, *crown]


def _paint_hut(width: float, height: float, side: int, rng: np.random.Generator) -> Image:
    tone = pick_color(((0.26, 0.42, 0.40), (0.30, 0.36, 0.50), (0.50, 0.34, 0.22)), rng)
    canvas = Canvas(_planks(width, height, rng, tone), PX_PER_METRE)
    if side == 0:
        facade.draw_shop_window(canvas, Opening(0.25, 0.4, width - 0.5, 1.0), rng)
        canvas.rectangle(0.15, 1.42, width - 0.3, 0.12, scale_color(tone, 1.5))
    elif side == 1:
        facade.draw_door(canvas, Opening(0.4, 0.35, 0.8, 1.95), rng)
    else:
        for k in range(int(width / 0.75)):
            poster = prints.print_poster(0.55, 0.8, rng)
            canvas.paste(
                poster, 0.15 + 0.75 * k, 0.35 + rng.uniform(0, 0.3), 0.55, 0.8, rng.normal(0, 3)
            )
        prints.spray_graffiti(canvas, 0.2, 1.5, 0.7 * width, 0.55, rng)
    return canvas.image


def _paint_crate(side: float, rng: np.random.Generator) -> Image:
    canvas = Canvas(_planks(side, side, rng, None), PX_PER_METRE)
    bar = 0.09
    for x, y, width, height in (
        (0, 0, side, bar),
        (0, side - bar, side, bar),
        (0, 0, bar, side),
        (side - bar, 0, bar, side),
    ):
        canvas.rectangle(x, y, width, height, pick_color(masonry.WOOD_COLORS, rng))
        canvas.shade(
            [
                (x, y + height),
                (x + width, y + height),
                (x + width, y + height + 0.02),
                (x, y + height + 0.02),
            ],
            0.5,
        )
    for x in (0.045, side - 0.045):
        for y in (0.045, side / 2, side - 0.045):
            canvas.ellipse(x, y, 0.012, 0.012, (0.15, 0.13, 0.12))
    word, ink = str(rng.choice(prints.WORDS)), (0.16, 0.10, 0.08)
    canvas.write(word, 0.15 * side, rng.uniform(0.2, 0.35) * side, 0.7 * side, 0.2 * side, ink)
    canvas.write(str(rng.integers(10, 999)), 0.3 * side, 0.62 * side, 0.4 * side, 0.17 * side, ink)
    return canvas.image


def _paint_planks(
    width: float, height: float, rng: np.random.Generator, tone: masonry.Color | None = None
) -> Image:
    return to_bytes(_planks(width, height, rng, tone))


def _planks(
    width: float, height: float, rng: np.random.Generator, tone: masonry.Color | None
) -> Field:
    shape = (round(height * PX_PER_METRE), round(width * PX_PER_METRE))
    planks = masonry.lay_courses(
        shape,
        rng,
        course_px=0.13 * PX_PER_METRE,
        length_px=1.1 * PX_PER_METRE,
        joint_px=0.014 * PX_PER_METRE,
        colors=masonry.WOOD_COLORS if tone is None else (tone, scale_color(tone, 1.15)),
        joint_color=(0.13, 0.10, 0.08),
        grain_px=0.3 * PX_PER_METRE,
        grain_stretch=0.12,
        roughness=0.1,
    )
    return masonry.weather(planks, rng, px_per_metre=PX_PER_METRE, age=0.5)


def _plain(width: float, height: float, color: masonry.Color, rng: np.random.Generator) -> Image:
    """Cast stone, soil or sheet metal: one colour with grain, pits and stains."""
    shape = (round(height * PX_PER_METRE), round(width * PX_PER_METRE))
    tone = 0.11 * fractal_noise(shape, rng, coarsest_px=40, roughness=0.8)
    pits = np.clip(fractal_noise(shape, rng, coarsest_px=7, roughness=0.8) - 1.4, 0, 1)
    return _age(np.asarray(color, np.float32) * np.exp(tone - 0.5 * pits)[..., None], rng)


def _age(texture: Field, rng: np.random.Generator) -> Image:
    return to_bytes(masonry.weather(texture, rng, px_per_metre=PX_PER_METRE, age=0.35))


def _paint_water(radius: float, rng: np.random.Generator) -> Image:
    """Dark water with leaves on it, cut to eight sides, RGBA."""
    side = round(2 * radius * PX_PER_METRE)
    ripple = fractal_noise((side, side), rng, coarsest_px=50, roughness=0.6)
    color = np.asarray((0.20, 0.28, 0.28), np.float32) * np.exp(0.18 * ripple)[..., None]
    canvas = Canvas(np.clip(color, 0, 1), PX_PER_METRE)
    nature.scatter_leaves(canvas, 40, rng)
    cover = Canvas(np.zeros((side, side, 3), np.float32), PX_PER_METRE)
    t = 2 * np.pi * np.arange(8) / 8
    cover.fill(np.stack([radius + radius * np.cos(t), radius + radius * np.sin(t)], 1), (1, 1, 1))
    return np.dstack([canvas.image, cover.image[..., 0]])
