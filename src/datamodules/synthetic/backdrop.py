"""Rooms out of focus behind the head."""

import itertools

import numpy as np
from jaxtyping import Float, Float32, Float64
from PIL import Image
from scipy.ndimage import gaussian_filter

from src.datamodules.synthetic.brushes import noise
from src.datamodules.synthetic.identity import Identity
from src.datamodules.synthetic.mesh import smoothstep

_SIZE = 96  # painted small: the background is blurred anyway

Plane = Float64[np.ndarray, "h w"]
Picture = Float[np.ndarray, "h w 3"]
Colours = tuple[Float32[np.ndarray, " 3"], Float32[np.ndarray, " 3"], Float32[np.ndarray, " 3"]]


def paint_backdrop(identity: Identity, size: int) -> Float32[np.ndarray, "h w 3"]:
    """Linear colours of this person's room, `size` x `size`."""
    rng = np.random.default_rng([identity.seed, 10])
    ticks = (np.arange(_SIZE) + 0.5) / _SIZE
    x, y = np.meshgrid(ticks, ticks)
    first, second, third = (np.asarray(c, np.float32) for c in identity.background_colours)
    painters = {"wall": _wall, "studio": _studio, "window": _window, "shelf": _shelf, "outdoors": _outdoors}
    picture, blur = painters[identity.background](rng, x, y, (first, second, third))
    picture = np.stack([gaussian_filter(picture[..., c], blur, mode="nearest") for c in range(3)], axis=-1)
    picture *= 1 + 0.02 * noise(rng, (12, 12), (_SIZE, _SIZE))[..., None]
    planes = [
        Image.fromarray(picture[..., c].astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC)
        for c in range(3)
    ]
    return np.clip(np.stack([np.asarray(p, np.float32) for p in planes], axis=-1), 0.002, 1.0)


# Each painter gives a picture and by how much (standard deviation, cells) it is blurred.


def _wall(rng: np.random.Generator, x: Plane, y: Plane, colours: Colours) -> tuple[Picture, float]:
    """A plain wall, lit from one side."""
    across = x if rng.random() < 0.5 else 1 - x
    light = 0.55 + 0.5 * across - 0.2 * y
    return colours[0] * light[..., None], 3.0


def _studio(rng: np.random.Generator, x: Plane, y: Plane, colours: Colours) -> tuple[Picture, float]:
    """A backdrop with a pool of light behind the head."""
    away = np.hypot(x - rng.uniform(0.35, 0.65), y - rng.uniform(0.3, 0.5))
    return (colours[0] * (0.25 + 0.95 * np.exp(-0.5 * (away / 0.38) ** 2))[..., None]).astype(np.float32), 2.0


def _window(rng: np.random.Generator, x: Plane, y: Plane, colours: Colours) -> tuple[Picture, float]:
    """A wall with a bright window at one side."""
    picture = np.broadcast_to(colours[0] * 0.6, (*x.shape, 3)).copy()
    left = rng.choice([-0.15, 0.72])
    inside = (x > left) & (x < left + 0.42) & (y > 0.05) & (y < 0.75)
    bars = (np.abs(x - left - 0.21) < 0.012) | (np.abs(y - 0.4) < 0.012)
    picture[inside] = np.array([0.85, 0.9, 0.98])
    picture[inside & bars] = colours[1] * 0.7
    picture[y > 0.86] = colours[2] * 0.5
    return picture.astype(np.float32), 2.2


def _shelf(rng: np.random.Generator, x: Plane, y: Plane, colours: Colours) -> tuple[Picture, float]:
    """Rows of books."""
    picture = np.broadcast_to(colours[1] * 0.35, (*x.shape, 3)).copy()
    edges = np.linspace(-0.05, 1.1, 5) + rng.uniform(-0.05, 0.05)
    for top, bottom in itertools.pairwise(edges):
        left = 0.0
        while left < 1:
            width, height = rng.uniform(0.02, 0.055), rng.uniform(0.6, 0.92)
            book = (x >= left) & (x < left + width) & (y > bottom - height * (bottom - top)) & (y < bottom - 0.025)
            shade = rng.uniform(0.55, 1.15, 3) * rng.uniform(0.3, 1.2)
            picture[book] = np.clip(colours[rng.integers(3)] * shade, 0, 0.8)
            left += width
    return picture.astype(np.float32), 1.7


def _outdoors(rng: np.random.Generator, x: Plane, y: Plane, colours: Colours) -> tuple[Picture, float]:
    """Sky, trees, and discs of light between the leaves."""
    sky, green = np.array([0.55, 0.68, 0.85]), np.array([0.12, 0.2, 0.06]) * rng.uniform(0.6, 1.3)
    horizon = 0.42 + 0.08 * np.sin(7 * x + rng.uniform(0, 6)) + 0.05 * np.sin(17 * x)
    trees = smoothstep(y - horizon, -0.08, 0.08)[..., None]
    picture = sky * (1 - trees) + green * trees
    picture = picture * (1 + 0.25 * noise(rng, (14, 14), x.shape))[..., None]
    for _ in range(40):
        cx, cy, radius = rng.uniform(0, 1), rng.uniform(0.2, 0.9), rng.uniform(0.015, 0.05)
        disc = smoothstep(np.hypot(x - cx, y - cy), radius * 1.1, radius * 0.9) * rng.uniform(0.05, 0.3)
        picture = picture + disc[..., None] * np.array([0.9, 0.95, 0.6])
    return np.clip(picture, 0.01, 1).astype(np.float32), 1.6
