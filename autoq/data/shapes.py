"""Drawn shapes with exact boxes and masks: a data set for detectors that needs no download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autoq.data.objects import Objects, boxes_of_masks
from autoq.errors import DataError
from autoq.validation import did_you_mean

if TYPE_CHECKING:
    from PIL import Image

SPLITS = {"train": 12_000, "calib": 256, "val": 500}
"""Numbers of images of the disjoint parts."""

SIDE = 64
"""Height and width of an image in pixels."""

CLASS_NAMES = ("ellipse", "rectangle", "triangle", "ring")

_MAX_OBJECTS = 6
_RADII = (5.0, 20.0)
_MAX_ASPECT = 1.6
_LEAST_VISIBLE_SHARE = 0.4
_LEAST_VISIBLE_PIXELS = 20
_LEAST_CONTRAST = 60.0
_ATTEMPTS = 12
_SPLIT_SEEDS = {split: number for number, split in enumerate(SPLITS)}

Mask = npt.NDArray[np.bool_]
_Floats = npt.NDArray[np.float64]

_Y, _X = np.mgrid[:SIDE, :SIDE] + 0.5


@dataclass(frozen=True)
class DrawnImage:
    """An image with what is on it.

    Attributes:
        pixels: of shape (height, width, 3), 8 bits.
        labels: the class of each object, an index into :data:`CLASS_NAMES`.
        masks: the visible pixels of each object, of shape (objects, height, width).
    """

    pixels: npt.NDArray[np.uint8]
    labels: tuple[int, ...]
    masks: Mask


def draw_shapes(split: str, index: int) -> DrawnImage:
    """Draw one image: up to six shapes that may hide parts of each other, on a cluttered ground.

    At least 40 % of each shape, and 20 pixels, stay visible. The same numbers give the same image in every process.

    Args:
        split: one of :data:`SPLITS`.
        index: of the image.

    >>> image = draw_shapes("val", 1)
    >>> image.pixels.shape, len(image.labels) == len(image.masks)
    ((64, 64, 3), True)
    """
    random = np.random.default_rng((_SPLIT_SEEDS[split], index))
    canvas = _ground(random)
    labels: list[int] = []
    masks: list[Mask] = []
    whole: list[int] = []
    for _ in range(int(random.integers(0, _MAX_OBJECTS + 1))):
        for _ in range(_ATTEMPTS):
            label = int(random.integers(len(CLASS_NAMES)))
            distance = _signed_distance(random, label)
            mask = distance < 0
            seen = [other & ~mask for other in masks]
            enough = [max(_LEAST_VISIBLE_PIXELS, _LEAST_VISIBLE_SHARE * area) for area in whole]
            if mask.sum() >= _LEAST_VISIBLE_PIXELS and all(
                each.sum() >= least for each, least in zip(seen, enough, strict=True)
            ):
                _paint_(canvas, distance, _contrasting(random, canvas[mask].mean(0)))
                labels, masks, whole = [*labels, label], [*seen, mask], [*whole, int(mask.sum())]
                break
    canvas += random.normal(0, random.uniform(1, 8), canvas.shape)
    pixels = np.clip(np.round(canvas), 0, 255).astype(np.uint8)
    return DrawnImage(pixels, tuple(labels), np.array(masks, dtype=bool).reshape(-1, SIDE, SIDE))


def _ground(random: np.random.Generator) -> _Floats:
    """Draw a gradient with waves, strokes and spots."""
    angle, waves = random.uniform(0, 2 * np.pi), random.uniform(0.05, 0.5, 2)
    ramp = (np.cos(angle) * (_X - SIDE / 2) + np.sin(angle) * (_Y - SIDE / 2)) / SIDE + 0.5
    low, high = random.uniform(30, 225, (2, 3))
    canvas: _Floats = low + (high - low) * ramp[..., None]
    canvas += random.uniform(0, 20) * np.sin(_X * waves[0] + _Y * waves[1])[..., None]
    for _ in range(int(random.integers(2, 9))):
        start, end = random.uniform(0, SIDE, (2, 2))
        along = end - start
        share = ((_X - start[0]) * along[0] + (_Y - start[1]) * along[1]) / max(float(along @ along), 1e-9)
        share = np.clip(share, 0, 1)
        distance = np.hypot(_X - start[0] - share * along[0], _Y - start[1] - share * along[1])
        _paint_(canvas, distance - random.uniform(0.4, 1.2), random.uniform(0, 255, 3))
    for _ in range(int(random.integers(0, 7))):
        x, y, radius = random.uniform(0, SIDE), random.uniform(0, SIDE), random.uniform(0.7, 2)
        _paint_(canvas, np.hypot(_X - x, _Y - y) - radius, random.uniform(0, 255, 3))
    return canvas


def _signed_distance(random: np.random.Generator, label: int) -> _Floats:
    """Return how far each pixel's centre lies outside of a shape of random place, size and angle, in pixels."""
    radius = float(np.exp(random.uniform(*np.log(_RADII))))
    aspect = float(np.exp(random.uniform(-1, 1) * np.log(_MAX_ASPECT) / 2))
    width, height = radius * aspect, radius / aspect
    x, y = (
        _X - random.uniform(0.5 * radius, SIDE - 0.5 * radius),
        _Y - random.uniform(0.5 * radius, SIDE - 0.5 * radius),
    )
    angle = random.uniform(0, 2 * np.pi)
    u = (np.cos(angle) * x + np.sin(angle) * y) / width
    v = (np.cos(angle) * y - np.sin(angle) * x) / height
    if CLASS_NAMES[label] == "rectangle":
        outside = np.maximum(np.abs(u), np.abs(v)) - 0.85
    elif CLASS_NAMES[label] == "triangle":
        outside = np.maximum(np.maximum(u * np.sqrt(3) / 2 + v / 2, v / 2 - u * np.sqrt(3) / 2), -v) - 0.55
    elif CLASS_NAMES[label] == "ring":
        outside = np.abs(np.hypot(u, v) - 0.75) - 0.25
    else:
        outside = np.hypot(u, v) - 1
    return np.asarray(outside * min(width, height))


def _contrasting(random: np.random.Generator, ground: _Floats) -> _Floats:
    """Return a random colour that differs from the ground in one channel at least by so much that it is seen."""
    while True:
        colour: _Floats = random.uniform(0, 255, 3)
        if np.abs(colour - ground).max() >= _LEAST_CONTRAST:
            return colour


def _paint_(canvas: _Floats, distance: _Floats, colour: _Floats) -> None:
    """Paint what lies inside, its border one pixel soft."""
    share = np.clip(0.5 - distance, 0, 1)[..., None]
    canvas += share * (colour - canvas)


@dataclass(frozen=True)
class ShapesSource:
    """One split of the shapes: RGB images of 64×64 pixels.

    Attributes:
        name: the string that opens this source again.
        split: one of :data:`SPLITS`.
        class_names: of the objects.
        has_objects: whether there is an object on any image.
        has_masks: whether all objects have masks.
    """

    name: str
    split: str
    class_names: tuple[str, ...] = CLASS_NAMES
    has_objects: bool = True
    has_masks: bool = True

    @classmethod
    def open(cls, name: str, split: str) -> ShapesSource:
        """Take one of ``SPLITS``.

        Raises:
            DataError: there is no such split.
        """
        if split not in SPLITS:
            names = [f"shapes/{known}" for known in SPLITS]
            raise DataError(f"unknown split {name!r}: choose from {', '.join(names)}.{did_you_mean(name, names)}")
        return cls(name, split)

    def __len__(self) -> int:
        """Return the number of images."""
        return SPLITS[self.split]

    def load(self, index: int) -> Image.Image:
        """Return one image, in mode ``RGB``."""
        from PIL import Image

        return Image.fromarray(draw_shapes(self.split, index).pixels)

    def label(self, index: int) -> int | None:
        """Return None: images as a whole have no class."""
        del index
        return None

    def objects(self, index: int) -> Objects:
        """Return the objects on one image, with masks."""
        drawn = draw_shapes(self.split, index)
        return Objects(
            size=(SIDE, SIDE),
            labels=np.array(drawn.labels, dtype=np.int64),
            boxes=boxes_of_masks(drawn.masks),
            masks=drawn.masks,
            crowd=np.zeros(len(drawn.labels), dtype=bool),
        )
