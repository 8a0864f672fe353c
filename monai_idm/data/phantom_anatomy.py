r"""The shape of a synthetic head: which tissue fills which point of space.

Every structure is a smooth function of the position in mm, positive inside and roughly the distance to its
surface, so a head looks the same on any grid. A ramp of fixed width turns it into an opacity
:math:`o \in [0, 1]`, and the structures are painted over each other in a fixed order:

.. math:: w_t = o_t \prod_{u \text{ after } t} (1 - o_u), \qquad \sum_t w_t = 1

Head coordinates: x to the left, y to the back, z up, origin at the centre of the cerebrum. Lengths in mm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Anatomy", "Field", "Points", "Waves", "build_anatomy"]

Field = npt.NDArray[np.floating]  # float32 throughout
Points = tuple[Field, Field, Field]


@dataclass(frozen=True)
class Anatomy:
    """The tissues at the points inside the head.

    Attributes:
        inside: Which of the given points lie in the head, ``(N,)`` bool; M of them are true.
        points: Head coordinates of these M points in mm, three arrays ``(M,)``, including the warp of this head.
        weights: Maps each tissue to its share of each point, ``(M,)``; the shares of a point sum to one.
        core: Which points are in the tumour's core, ``(M,)`` bool.
        rim: Which points are in its enhancing rim, ``(M,)`` bool; never in the core.
        oedema: Which points are mostly oedema, ``(M,)`` bool; never in core or rim.
        ventricle_mm: Distance to the ventricles, ``(M,)``, 0 inside.
    """

    inside: npt.NDArray[np.bool_]
    points: Points
    weights: dict[str, Field]
    core: npt.NDArray[np.bool_]
    rim: npt.NDArray[np.bool_]
    oedema: npt.NDArray[np.bool_]
    ventricle_mm: Field


class Waves:
    r"""A smooth random field of mean 0 and variance 1: a sum of plane waves.

    .. math:: \sqrt{2 / n} \sum_i \cos(k_i \cdot p + \varphi_i)

    It is defined at every point, so it is the same on any grid and needs no convolution.

    Args:
        rng: Source of the directions and phases.
        count: Number of waves n.
        wavelength_mm: Mean wavelength; single waves differ from it by up to a quarter.
    """

    def __init__(self, rng: np.random.Generator, count: int, wavelength_mm: float) -> None:
        k = rng.standard_normal((count, 3))
        k *= 2 * np.pi / wavelength_mm * rng.uniform(0.75, 1.25, (count, 1)) / np.linalg.norm(k, axis=1, keepdims=True)
        k *= np.where(k[:, 1:2] < 0, -1, 1)  # all to the back: the sine is then about the cosine's slope along y
        self.waves = np.concatenate([k, rng.uniform(0, 2 * np.pi, (count, 1))], axis=1).tolist()
        self.amplitude = math.sqrt(2 / count)

    def __call__(self, points: Points) -> Field:
        """The field at the points."""
        field = np.zeros_like(points[0])
        for angle in self._angles(points):
            field += np.cos(angle)
        return self.amplitude * field

    def quadrature(self, points: Points) -> tuple[Field, Field]:
        """The field and its copy shifted by a quarter wave.

        At a single point neither determines the other, but the slope of one nearly does, so a neighbourhood is needed.
        """
        cosine, sine = np.zeros_like(points[0]), np.zeros_like(points[0])
        for angle in self._angles(points):
            cosine += np.cos(angle)
            sine += np.sin(angle)
        return self.amplitude * cosine, self.amplitude * sine

    def _angles(self, points: Points) -> Iterator[Field]:
        x, y, z = points
        return (a * x + b * y + c * z + phase for a, b, c, phase in self.waves)


def build_anatomy(rng: np.random.Generator, points: Points) -> Anatomy:
    """Draw one head and find its tissues at the given points.

    The draws never depend on the points: the same ``rng`` gives the same head on any grid.

    Args:
        rng: Source of all random numbers of the head.
        points: Head coordinates in mm, three arrays ``(N,)``.
    """
    warps = [Waves(rng, 8, 100.0) for _ in range(3)]
    x, y, z = (q + 2.5 * warp(points) for q, warp in zip(points, warps, strict=True))
    cerebrum, cerebellum, stem = _outer_parts((x, y, z))
    csf_layer = rng.uniform(-0.3, 0.5)
    inside = np.maximum(np.maximum(cerebrum, cerebellum), stem) + csf_layer > 0
    x, y, z, cerebrum, cerebellum, stem = (q[inside] for q in (x, y, z, cerebrum, cerebellum, stem))
    p = (x, y, z)

    grey, white = _cerebral_cortex(rng, p, cerebrum)
    folia, arbor = _cerebellar_cortex(rng, p, cerebellum)
    ventricles = _ventricles(rng, p)
    thalamus, striatum = _nuclei(rng, p)
    tumour, core, oedema = _tumour(rng, p)
    opacity = {  # painted in this order
        "csf": np.ones_like(x),
        "cortex": _ramp(grey),
        "white": _ramp(white),
        "cerebellar cortex": _ramp(folia),
        "cerebellar white": _ramp(arbor),
        "stem": _ramp(stem),
        "thalamus": _ramp(thalamus),
        "striatum": _ramp(striatum),
        # oedema spreads along white matter, thins out in the cortex and spares the sulci
        "oedema": _ramp(oedema, 4.0) * (0.2 + 0.8 * _ramp(white)) * _ramp(grey),
        "ventricle": _ramp(ventricles),
        "rim": _ramp(tumour),
        "core": _ramp(core),
    }
    weights = _paint(opacity)
    in_core, in_tumour = core > 0, tumour > 0
    return Anatomy(
        inside=inside,
        points=p,
        weights=weights,
        core=in_core,
        rim=in_tumour & ~in_core,
        oedema=(weights["oedema"] > 0.5) & ~in_tumour,
        ventricle_mm=np.maximum(-ventricles, 0),
    )


def _outer_parts(p: Points) -> tuple[Field, Field, Field]:
    """Cerebrum, cerebellum and brain stem."""
    x, y, z = p
    mirrored = (np.abs(x), y, z)
    upright = (z - 10) * np.where(z > 10, np.float32(0.78), np.float32(1.1))  # flat below, domed above
    hemispheres = _ellipsoid((x / (1 + 0.07 * np.tanh(y / 40)), y, upright), (0, 0, 0), (66, 85, 40), 2.2)
    temporal = _ellipsoid(mirrored, (39, -8, -20), (25, 42, 21), 2.2)
    cerebellum = _ellipsoid(mirrored, (20, 48, -35), (31, 29, 23), 2.2)
    stem = _tube(mirrored, [(0, 6, -6, 14), (0, 14, -32, 14), (0, 28, -72, 9)])
    return np.maximum(hemispheres, temporal), cerebellum, stem


def _cerebral_cortex(rng: np.random.Generator, p: Points, cerebrum: Field) -> tuple[Field, Field]:
    """Distances to the pial surface and to the surface of the white matter.

    Sulci run along the zero lines of a random field: winding curves about half a wavelength apart.
    """
    x, y, z = p
    lateral = np.abs(x)
    atrophy = rng.uniform(0.6, 1.3)  # widens every fissure of one head
    fold = np.square(Waves(rng, 20, rng.uniform(32, 42))(p))
    bridge = np.maximum(_ellipsoid(p, (0, 2, 2), (60, 44, 27)) + 3, 0)  # where the hemispheres are joined
    depth = np.minimum(cerebrum, lateral - 1.2 * atrophy + 4 * bridge)
    sylvian = np.square(z + 14 - 0.45 * (y + 40))
    sylvian_depth = 22 * _ramp(y + 50, 10) * _ramp(22 - y, 14) * _ramp(lateral - 26, 10)
    sulcus_depth = 14 * _ramp(9 - bridge, 18)

    def buried(fold_width: float, sylvian_width: float) -> Field:
        sulci = sulcus_depth * np.exp(fold / -(fold_width**2))
        return np.maximum(sulci, sylvian_depth * np.exp(sylvian / -(sylvian_width**2)))

    pial = depth - buried(0.1 * atrophy, atrophy)
    white = depth - 5.0 - buried(0.45, 4.0)
    return pial, white


def _cerebellar_cortex(rng: np.random.Generator, p: Points, cerebellum: Field) -> tuple[Field, Field]:
    """Distances to the surface of the folia and to that of the white matter within."""
    _, y, z = p
    folds = np.cos((z + 0.35 * y + 2 * Waves(rng, 6, 60.0)(p)) * (2 * math.pi / 13))
    return cerebellum - 5 * np.exp(np.square(folds) / -0.15), cerebellum - 10 - 5 * folds


def _ventricles(rng: np.random.Generator, p: Points) -> Field:
    """Lateral ventricles with their horns, third and fourth ventricle."""
    x, y, z = p
    mirrored = (np.abs(x), y, z)
    wide = math.exp(rng.normal(0.22, 0.25))

    def tube(*nodes: tuple[float, float, float, float]) -> Field:
        return _tube(mirrored, [(a, b, c, r * wide) for a, b, c, r in nodes])

    body = tube((9, -34, 8, 4.5), (11, -12, 19, 5.5), (15, 14, 21, 6), (23, 36, 12, 7.5), (25, 54, 6, 4))
    temporal_horn = tube((23, 36, 12, 7), (32, 18, -10, 4), (29, -4, -17, 3))
    third = tube((0, -8, -2, 1.8), (0, 14, 4, 2.0))
    fourth = tube((0, 29, -20, 1.5), (0, 33, -36, 3.5))
    return np.maximum(np.maximum(body, temporal_horn), np.maximum(third, fourth))


def _nuclei(rng: np.random.Generator, p: Points) -> tuple[Field, Field]:
    """Thalamus, and striatum (caudate and putamen together)."""
    x, y, z = p
    lateral = np.abs(x)
    jitter = rng.normal(0, 1.2, (3, 3))
    thalamus = _ellipsoid((lateral, y, z), jitter[0] + (12, 11, 5), (10, 15, 10))
    caudate = _ellipsoid((lateral, y, z), jitter[1] + (19, -20, 12), (7, 14, 10))
    putamen = _ellipsoid((lateral - 0.25 * y, y, z), jitter[2] + (30, -3, 3), (7, 18, 12))
    return thalamus, np.maximum(caudate, putamen)


def _tumour(rng: np.random.Generator, p: Points) -> tuple[Field, Field, Field]:
    """Tumour, its core and the surrounding oedema, in one hemisphere and away from the surface."""
    centre = rng.uniform((20, -52, -4), (48, 58, 44))
    while np.sum(np.square(centre / (66, 85, 60))) > 0.5:
        centre = rng.uniform((20, -52, -4), (48, 58, 44))
    centre[0] *= rng.choice((-1, 1))
    radius = math.exp(rng.uniform(math.log(9), math.log(22)))
    stretch = rng.uniform(0.85, 1.2, 3)
    squares = (((q - c) / s) ** 2 for q, c, s in zip(p, centre.tolist(), stretch.tolist(), strict=True))
    distance = np.sqrt(sum(squares))
    tumour = radius * (1 + 0.15 * Waves(rng, 10, 1.6 * radius)(p)) - distance
    rim_mm = rng.uniform(2.5, 5.0) * min(1.0, radius / 12)
    reach = radius + rng.uniform(7, 16)
    oedema = reach * (1 + 0.22 * Waves(rng, 10, 35.0)(p)) - distance
    return tumour, tumour - rim_mm, oedema


def _paint(opacity: dict[str, Field]) -> dict[str, Field]:
    weights: dict[str, Field] = {}
    uncovered = np.ones_like(opacity["csf"])
    for name in reversed(opacity):
        weights[name] = opacity[name] * uncovered
        uncovered = uncovered * (1 - opacity[name])
    return weights


def _ellipsoid(p: Points, centre: Sequence[float], semi_axes: Sequence[float], power: float = 2.0) -> Field:
    terms = (np.abs((q - float(c)) / float(a)) ** power for q, c, a in zip(p, centre, semi_axes, strict=True))
    return (1 - sum(terms) ** (1 / power)) * float(min(semi_axes))


def _tube(p: Points, nodes: Sequence[tuple[float, float, float, float]]) -> Field:
    """A chain of segments from node to node; each node is x, y, z and its radius."""
    parts = []
    for (*start, r0), (*end, r1) in itertools.pairwise(nodes):
        along = [b - a for a, b in zip(start, end, strict=True)]
        from_start = [q - a for q, a in zip(p, start, strict=True)]
        length2 = sum(v * v for v in along)
        t = np.clip(sum(q * v for q, v in zip(from_start, along, strict=True)) / length2, 0, 1)
        distance = np.sqrt(sum((q - t * v) ** 2 for q, v in zip(from_start, along, strict=True)))
        parts.append(r0 + t * (r1 - r0) - distance)
    return np.maximum.reduce(parts)


def _ramp(distance: Field, width_mm: float = 2.0) -> Field:
    """Opacity of a surface blurred over ``width_mm``: 0 outside, 1 inside."""
    return np.clip(0.5 + distance / width_mm, 0, 1)
