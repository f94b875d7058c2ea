"""Draw the scenes of the lab's world as images, and write them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from sdpet.lab.world import SHAPES, SIZE, Scenes

OUTLINE = (250, 250, 250)  # colour of outlines


def _polygon(shape: str) -> np.ndarray:
    """Corners of a shape in the unit circle, (corners, 2), y down."""
    if shape == "square":
        return np.array([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])
    if shape == "triangle":
        angles = np.deg2rad([-90, 30, 150])
        return np.stack([np.cos(angles), np.sin(angles) + 0.12], axis=1)
    if shape == "star":
        angles = np.deg2rad(-90 + 36 * np.arange(10))
        radii = np.where(np.arange(10) % 2 == 0, 1.08, 0.45)
        return np.stack([radii * np.cos(angles), radii * np.sin(angles) + 0.06], axis=1)
    a, b = 0.34, 0.98  # cross
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )


def polygon_distance(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Signed distance of points to a polygon: that of the nearest edge, with its sign from even-odd crossings.

    Parameters
    ----------
    points : ndarray of float, (..., 2)
        The points.
    corners : ndarray of float, (corners, 2)
        The polygon, in the same units.

    Returns
    -------
    ndarray of float, (...)
        Negative inside.
    """
    best, inside = np.full(points.shape[:-1], np.inf), np.zeros(points.shape[:-1], bool)
    for a, b in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        edge, offset = b - a, points - a
        along = np.clip(offset @ edge / (edge @ edge), 0, 1)
        best = np.minimum(best, np.sum((offset - along[..., None] * edge) ** 2, axis=-1))
        crosses = (a[1] > points[..., 1]) != (b[1] > points[..., 1])
        at = a[0] + edge[0] * (points[..., 1] - a[1]) / (edge[1] if edge[1] != 0 else 1.0)
        inside ^= crosses & (points[..., 0] < at)
    return np.where(inside, -1, 1) * np.sqrt(best)


def _distance(points: np.ndarray, shape: str) -> np.ndarray:
    """Signed distance in units of the object's radius, (...)."""
    if shape == "circle":
        return np.linalg.norm(points, axis=-1) - 0.95
    if shape == "ring":
        return np.abs(np.linalg.norm(points, axis=-1) - 0.73) - 0.27
    return polygon_distance(points, _polygon(shape))


DISTANCES = tuple(partial(_distance, shape=shape) for shape in SHAPES)


def render(scenes: Scenes, shapes: Sequence[Callable[[np.ndarray], np.ndarray]] = DISTANCES) -> np.ndarray:
    """Draw scenes with antialiased edges.

    Parameters
    ----------
    scenes : Scenes
        N scenes.
    shapes : sequence of callable
        What the codes of `scenes.shape` stand for: the signed distance of points (..., 2) to the shape, negative
        inside, in units of the object's radius. The default is the shapes of the lab's world.

    Returns
    -------
    ndarray of uint8, (N, 32, 32, 3)
    """
    n = len(scenes)
    grid = np.stack(np.meshgrid(np.arange(SIZE) + 0.5, np.arange(SIZE) + 0.5, indexing="xy"), axis=-1)  # (H, W, 2)
    out = np.empty((n, SIZE, SIZE, 3))
    cos, sin = np.cos(scenes.angle)[:, None, None], np.sin(scenes.angle)[:, None, None]
    for code, shape in enumerate(shapes):
        rows = np.flatnonzero(scenes.shape == code)
        if not len(rows):
            continue
        s = scenes[rows]
        dx, dy = grid[None, :, :, 0] - s.x[:, None, None], grid[None, :, :, 1] - s.y[:, None, None]
        turned = np.stack([cos[rows] * dx + sin[rows] * dy, cos[rows] * dy - sin[rows] * dx], axis=-1)
        radius = s.radius[:, None, None]
        distance = shape(turned / radius[..., None]) * radius  # pixels, (n, H, W)
        right = np.clip(turned[..., 0] + 0.5, 0, 1)[..., None]
        body = s.rgb[:, None, None] * (1 - right) + s.rgb2[:, None, None] * right
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        edge = np.clip(0.5 - (distance - 1.8), 0, 1)[..., None] * s.outlined[:, None, None, None]
        picture = s.rgb_background[:, None, None] * (1 - edge) + np.array(OUTLINE, float) * edge
        out[rows] = picture * (1 - cover) + body * cover
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def write_images(folder: Path, images: np.ndarray) -> None:
    """Write images as 00000.png and so on.

    Parameters
    ----------
    folder : Path
        Its earlier content is deleted.
    images : ndarray of uint8, (N, H, W, 3)
        The images.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:05d}.png", optimize=True)
