"""Occlusions of a face: masks, sunglasses, hands, blurred discs. Pure functions of a seeded rng.

Shapes are drawn in the face's own frame: the origin between the eyes, one unit to the right the
distance of the eyes, one unit down that from the eyes to the middle of the mouth. Each function
returns how much of a pixel the occlusion covers, float32 (H, W) in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces import TEMPLATE, TEMPLATE_SIDE, Picture

Cover = NDArray[np.float32]
Points = NDArray[np.float64]

# Half of an outline, from the bridge of the nose down the cheek to the chin; x is mirrored.
OVER_NOSE = [(0.0, 0.30), (0.35, 0.36), (0.98, 0.48), (0.98, 0.95), (0.68, 1.50), (0.28, 1.78)]
FROM_EYES = [(0.0, 0.02), (0.50, 0.06), (1.06, 0.02), (1.02, 0.90), (0.70, 1.52), (0.28, 1.80)]
GLASS = [(0.12, -0.22), (0.86, -0.26), (0.92, 0.12), (0.62, 0.40), (0.30, 0.38), (0.12, 0.10)]


def occlusion_case(picture: Picture, rng: np.random.Generator) -> tuple[Picture, NDArray[np.bool_]]:
    """The damage of the protocol `occlusion-256` on an aligned face, uint8 (H, W, 3) RGB.

    The landmarks are those of the alignment's template. In this order are drawn: u = rng.random().
    Where u < 0.8, a mask: v = rng.random(), from the eyes down (FROM_EYES) where v < 1/3, else over
    nose and mouth (OVER_NOSE); its outline, `mask`; its colour, rng.integers(0, 256, 3); its shade,
    `painted`. Else a disc whose inside is blurred, `disc`. Returns the picture and which pixels
    were changed, bool (H, W): those that the occlusion covers by 1/255 or more.
    """
    points = TEMPLATE * (picture.shape[0] / TEMPLATE_SIDE)
    if rng.random() < 0.8:
        outline = FROM_EYES if rng.random() < 1 / 3 else OVER_NOSE
        cover = mask(picture.shape[:2], points, rng, outline)
        occluded = painted(picture, cover, rng.integers(0, 256, 3), rng)
    else:
        occluded, cover = disc(picture, points, rng)
    return occluded, cover >= 1 / 255


def occlude(
    picture: Picture, landmarks: Points, rng: np.random.Generator
) -> tuple[Picture, NDArray[np.bool_]]:
    """One of all occlusions, for training: masks of both kinds half of the time, each other kind an
    eighth, and an eighth of the pictures as they are. landmarks: (5, 2) pixels."""
    kind = rng.random()
    nothing = np.zeros(picture.shape[:2], bool)
    if kind < 0.125:
        return picture, nothing
    if kind < 0.625:
        outline = FROM_EYES if rng.random() < 0.4 else OVER_NOSE
        cover = mask(picture.shape[:2], landmarks, rng, outline)
        colour = rng.integers(0, 256, 3)
    elif kind < 0.75:
        cover = sunglasses(picture.shape[:2], landmarks, rng)
        colour = rng.integers(0, 60, 3)
    elif kind < 0.875:
        cover = hand(picture.shape[:2], landmarks, rng)
        tone = rng.uniform(60, 235)  # skin, from dark to light: red over green over blue
        colour = np.array([tone, tone * rng.uniform(0.68, 0.85), tone * rng.uniform(0.5, 0.75)])
    else:
        occluded, cover = disc(picture, landmarks, rng)
        return occluded, cover >= 1 / 255
    return painted(picture, cover, colour, rng), cover >= 1 / 255


def mask(
    shape: tuple[int, ...],
    landmarks: Points,
    rng: np.random.Generator,
    outline: list[tuple[float, float]] = OVER_NOSE,
) -> Cover:
    """A face mask. The outline's points are moved by rng.normal(0, 0.04, (n, 2)), mirrored, and
    their corners cut."""
    half = np.array(outline) + rng.normal(0, 0.04, (len(outline), 2))
    return polygon(shape, landmarks, np.concatenate([half, (half * [-1, 1])[:0:-1]]))


def sunglasses(shape: tuple[int, ...], landmarks: Points, rng: np.random.Generator) -> Cover:
    """Two glasses and the bridge between them."""
    glass = (np.array(GLASS) + rng.normal(0, 0.03, (len(GLASS), 2))) * rng.uniform(0.9, 1.15, 2)
    bridge = np.array([(-0.3, -0.16), (0.3, -0.16), (0.3, -0.06), (-0.3, -0.06)])
    parts = (glass, glass * [-1, 1], bridge)
    cover: Cover = np.max([polygon(shape, landmarks, part) for part in parts], 0)
    return cover


def hand(shape: tuple[int, ...], landmarks: Points, rng: np.random.Generator) -> Cover:
    """A palm and two to four fingers that reach into the face from a side or from below."""
    angle = rng.uniform(-0.2, np.pi + 0.2)  # from the right, through below, to the left
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    tip = rng.uniform([-0.5, 0.0], [0.5, 1.3])
    cover = np.zeros(shape[:2], np.float32)
    width = rng.uniform(0.14, 0.22)
    fingers = int(rng.integers(2, 5))
    for finger in range(fingers):
        start = tip + across * (finger - (fingers - 1) / 2) * width * 2.1 + rng.normal(0, 0.05, 2)
        end = start + along * rng.uniform(0.9, 1.2)
        corners = [start - across * width, start - along * width, start + across * width]
        outline = np.array([*corners, end + across * width, end - across * width])
        cover = np.maximum(cover, polygon(shape, landmarks, outline))
    near, far = tip + along * 0.8, tip + along * 2.5
    side = across * width * fingers * 1.05
    palm = np.array([near - side, near + side, far + side, far - side])
    cover = np.maximum(cover, polygon(shape, landmarks, palm))
    return cover


def disc(picture: Picture, landmarks: Points, rng: np.random.Generator) -> tuple[Picture, Cover]:
    """A disc inside which the picture is blurred. Drawn: centre, rng.uniform([-0.7, -0.3],
    [0.7, 1.5]); radius in eye distances, rng.uniform(0.35, 0.8); the blur's sigma in eye distances,
    rng.uniform(0.08, 0.25). The edge of the disc fades over a tenth of its radius."""
    matrix = frame(landmarks)
    centre = matrix[:, :2] @ rng.uniform([-0.7, -0.3], [0.7, 1.5]) + matrix[:, 2]
    unit = float(np.linalg.norm(matrix[:, 0]))
    radius, sigma = unit * rng.uniform(0.35, 0.8), unit * rng.uniform(0.08, 0.25)
    rows, columns = np.indices(picture.shape[:2], np.float32)
    away = np.hypot(columns - centre[0], rows - centre[1])
    cover = np.clip((radius - away) / (0.1 * radius), 0, 1).astype(np.float32)
    blurred = cv2.GaussianBlur(picture, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return blend(picture, blurred.astype(np.float32), cover), cover


def painted(
    picture: Picture, cover: Cover, colour: NDArray[np.number], rng: np.random.Generator
) -> Picture:
    """The cover in a colour, uint8 RGB, as cloth: a slope of light, rng.uniform(-0.15, 0.15, 2)
    over the picture, two to four folds of 4 %, and noise of 2 levels."""
    height, width = cover.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = rng.uniform(-0.15, 0.15, 2)
    folds = 0.04 * np.sin(np.pi * (rng.integers(4, 9) * y + rng.uniform(0, 2)))
    light = 1 + slope[0] * x + slope[1] * y + folds
    cloth = light[..., None] * colour + rng.normal(0, 2, (height, width, 1))
    return blend(picture, cloth.astype(np.float32), cover)


def blend(picture: Picture, over: NDArray[np.float32], cover: Cover) -> Picture:
    mixed = picture + (over - picture) * cover[..., None]
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8)


def polygon(shape: tuple[int, ...], landmarks: Points, outline: Points) -> Cover:
    """The inside of a closed outline (n, 2) in the face's frame, its corners cut twice (Chaikin
    1974), its edge antialiased by drawing at four times the size."""
    for _ in range(2):
        following = np.roll(outline, -1, 0)
        cut = [0.75 * outline + 0.25 * following, 0.25 * outline + 0.75 * following]
        outline = np.stack(cut, 1).reshape(-1, 2)
    matrix = frame(landmarks)
    pixels = outline @ matrix[:, :2].T + matrix[:, 2]
    height, width = shape[:2]
    large = np.zeros((4 * height, 4 * width), np.uint8)
    cv2.fillPoly(large, [np.round(pixels * 4 + 1.5).astype(np.int32)], 255)
    small: Picture = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / np.float32(255)


def frame(landmarks: Points) -> NDArray[np.float64]:
    """(2, 3): the face's frame to pixels. Down is towards the mouth, across the eyes' line."""
    left, right, _, *corners = np.asarray(landmarks, np.float64)
    middle = (left + right) / 2
    return np.stack([right - left, np.mean(corners, 0) - middle, middle], 1)
