"""Procedural fundus photographs and chest films: no eye and no lung, but their kind of task.

Signs of disease are small (fundus) or faint (chest), their number and size grow with the grade, and
everything else varies without regard to it. A picture is made of sums of round Gaussian spots, and such a
sum is one matrix product, so that an image takes milliseconds.
"""

from dataclasses import dataclass

import numpy as np

SIDE_PX = 256
# Of the coordinates −1 … 1 of both axes.
_AXIS = np.linspace(-1, 1, SIDE_PX, dtype=np.float32)
_Y, _X = _AXIS[:, None], _AXIS[None, :]
_RADIUS2 = _X**2 + _Y**2
# What is added to red, green and blue, or the share taken from them.
_DISC = np.array([0.25, 0.4, 0.3], np.float32)
_BLOOD = np.array([0.35, 0.6, 0.5], np.float32)
_DARK_SIGN = np.array([0.45, 0.8, 0.7], np.float32)
_BRIGHT_SIGN = np.array([0.3, 0.45, 0.2], np.float32)


@dataclass(frozen=True)
class View:
    """One visit of one patient.

    Attributes:
        patient: draws what all images of a patient share; the same for each of them.
        visit: draws what differs between them.
        severity: 0 (healthy) … 1 (worst grade).
        contrast: of the signs of disease; 0 leaves none.
    """

    patient: np.random.Generator
    visit: np.random.Generator
    severity: float
    contrast: float


def fundus(view: View) -> np.ndarray:
    """Return (256, 256, 3) uint8: disc, macula, vessels; dark red dots and bright exudates with disease."""
    signs = view.patient.spawn(1)[0]
    side = view.patient.choice([-1.0, 1.0])  # of the disc: a right or a left eye
    tint = view.patient.uniform([0.68, 0.32, 0.12], [0.85, 0.45, 0.22])
    disc = np.array([side * view.patient.uniform(0.45, 0.55), view.patient.uniform(-0.06, 0.06)])
    vessels = _vessels(view.patient, disc)
    move = _movement(view.visit)
    light = 1 - 0.35 * _RADIUS2 + view.visit.uniform(-0.12, 0.12) * _X + view.visit.uniform(-0.12, 0.12) * _Y

    picture = light[..., None] * tint.astype(np.float32)
    picture += _spots(move.apply(disc[None]), 0.13, 1.0)[..., None] * _DISC
    picture *= 1 - 0.35 * _spots(move.apply(disc[None] * [-0.2, 1.0]), 0.17, 1.0)[..., None]
    blood = np.minimum(_spots(move.apply(vessels[:, :2]), vessels[:, 2], 0.9), 1)
    picture *= 1 - blood[..., None] * _BLOOD
    dark, bright = _retinal_signs(signs, view.severity, move)
    picture *= 1 - np.minimum(view.contrast * dark, 1)[..., None] * _DARK_SIGN
    picture += (view.contrast * bright)[..., None] * _BRIGHT_SIGN
    picture += view.visit.standard_normal((SIDE_PX, SIDE_PX, 1), np.float32) * 0.012
    picture *= view.visit.uniform(0.85, 1.1)
    picture[_RADIUS2 > 0.96**2] = 0
    return _to_uint8(picture)


def chest(view: View) -> np.ndarray:
    """Return (256, 256) uint8: lungs between ribs, heart and spine; white opacities with disease."""
    signs = view.patient.spawn(1)[0]
    width, height = view.patient.uniform([0.27, 0.6], [0.33, 0.72])
    apart = view.patient.uniform(0.38, 0.46)
    n_ribs, slant = view.patient.uniform(7, 9), view.patient.uniform(0.25, 0.5)
    heart = view.patient.uniform(0.2, 0.27)
    shift = view.visit.uniform(-0.05, 0.05, 2)
    x, y = _X - np.float32(shift[0]), _Y - np.float32(shift[1])

    lungs = sum(_edge(1 - ((x - s * apart) / width) ** 2 - (y / height) ** 2) for s in (-1, 1))
    ribs = 0.5 + 0.5 * np.sin(np.float32(np.pi * n_ribs) * (y - np.float32(slant) * (np.abs(x) - apart) ** 2))
    body = _edge(1 - (x / 0.95) ** 2 - ((y - 0.5) / 1.6) ** 2)
    picture = 0.08 + body * (0.55 + 0.12 * np.exp(-((x / 0.1) ** 2)))
    picture -= lungs * (0.36 - 0.1 * ribs**4)
    picture += 0.25 * _spots(shift[None] + [0.12, 0.28], heart, 1.0) * (1 - 0.3 * lungs)
    picture += view.contrast * _opacities(signs, view.severity, apart=apart, shift=shift) * lungs
    picture += view.visit.standard_normal((SIDE_PX, SIDE_PX), np.float32) * 0.015
    return _to_uint8(view.visit.uniform(0.85, 1.15) * picture + view.visit.uniform(-0.04, 0.04))


def _vessels(rng: np.random.Generator, disc: np.ndarray) -> np.ndarray:
    """Return (n, 3): points along eight vessels that leave the disc, and their half width."""
    n_points = 72
    along = np.linspace(0, 1, n_points)
    found = []
    for turn in (-1.0, 1.0):
        for _ in range(4):
            bend = rng.uniform(0.35, 0.75) * turn
            end = np.array([-np.sign(disc[0]) * rng.uniform(-0.5, 0.9), turn * rng.uniform(0.4, 0.95)])
            middle = np.array([disc[0] * rng.uniform(0.3, 0.9), bend])
            # A quadratic Bézier curve.
            weights = np.stack([(1 - along) ** 2, 2 * along * (1 - along), along**2], axis=1)
            path = weights @ np.stack([disc, middle, end])
            half_width = rng.uniform(0.012, 0.02) * (1 - 0.5 * along)
            found.append(np.column_stack([path, half_width]))
    return np.concatenate(found)


@dataclass(frozen=True)
class _Movement:
    """How the eye looks on one visit: turned a little, and not quite at the camera."""

    turn: np.ndarray
    shift: np.ndarray

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Move (n, 2) points."""
        return points @ self.turn + self.shift


def _movement(rng: np.random.Generator) -> _Movement:
    angle = rng.uniform(-0.12, 0.12)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return _Movement(turn, rng.uniform(-0.05, 0.05, 2))


def _retinal_signs(
    rng: np.random.Generator, severity: float, move: _Movement
) -> tuple[np.ndarray, np.ndarray]:
    """Return (side, side) strength of microaneurysms and bleedings, and of exudates."""
    n_dark = 1 + rng.poisson(20 * severity)
    n_bright = rng.poisson(12 * severity**2)
    dark, bright = (_places(rng, n, radius=0.75) for n in (n_dark, n_bright))
    sizes = rng.uniform(0.014, 0.018 + 0.022 * severity, n_dark + n_bright)
    height = 0.0 if severity == 0 else 1.0
    return _spots(move.apply(dark), sizes[:n_dark], height), _spots(
        move.apply(bright), sizes[n_dark:], height
    )


def _opacities(rng: np.random.Generator, severity: float, *, apart: float, shift: np.ndarray) -> np.ndarray:
    """Return (side, side) brightness of infiltrates around the middle of one lung, or of both."""
    n = 1 + rng.poisson(4 * severity)
    lung = rng.choice([-1.0, 1.0], n)
    places = _places(rng, n, radius=0.5) * [0.4, 1.0] + np.column_stack([lung * apart, np.zeros(n)])
    sizes = rng.uniform(0.06, 0.08 + 0.12 * severity, n)
    return _spots(places + shift, sizes, 0.0 if severity == 0 else 0.12 + 0.13 * severity)


def _places(rng: np.random.Generator, n: int, *, radius: float) -> np.ndarray:
    """Return (n, 2) points, evenly spread over a disc."""
    angle, away = rng.uniform(0, 2 * np.pi, n), radius * np.sqrt(rng.uniform(0, 1, n))
    return np.column_stack([away * np.cos(angle), away * np.sin(angle)])


def _spots(places: np.ndarray, sizes: np.ndarray | float, height: float) -> np.ndarray:
    """Return (side, side) float32: the sum of Gaussians at (n, 2) places x, y."""
    width = np.broadcast_to(np.asarray(sizes, np.float32), len(places))[:, None]
    columns, rows = (
        np.exp(-0.5 * ((_AXIS - places[:, axis, None].astype(np.float32)) / width) ** 2) for axis in (0, 1)
    )
    return np.float32(height) * (rows.T @ columns)


def _edge(inside: np.ndarray) -> np.ndarray:
    """Return 1 where a shape's equation is positive and 0 elsewhere, with a soft border."""
    return np.clip(0.5 + 6 * inside, 0, 1)


def _to_uint8(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
