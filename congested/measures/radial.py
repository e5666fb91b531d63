r"""Exact volumes of the parts of triangles and tetrahedra that lie in a ball.

A simplex is a sum of signed simplices with their apex at the ball's centre, one over each facet.
The part of such a cone in the ball of radius R is ∫ h/d · min(1, (R/ρ)^d) over its facet, where h
is the centre's distance from the facet's plane and ρ that of the point. In 2D this is elementary
along the edge. In 3D the facet is again a signed sum, of triangles with apex at the foot of the
centre's perpendicular on the plane; in polar coordinates about it the inner integral is
elementary and the outer one, along an edge at distance k from the foot, too: its antiderivative in
the coordinate t along the edge uses only t, atan(t/k) and atan(h t / (k ρ)).
"""

from __future__ import annotations

import math

import numpy as np

from congested.geometry import FloatArray, simplex_volumes

# What is left of a cell outside the ball after cancellation, relative to the cell and the ball.
_ROUNDING = 1e-14


def ball_simplex_volumes(simplices: FloatArray, center: FloatArray, radius: float) -> FloatArray:
    """Return the volume of the intersection of each simplex with a ball.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d), d = 2 or 3.
    center, radius
        The ball.

    Returns
    -------
    numpy.ndarray
        Volumes (n,), to about 1e-15 of the ball's volume.
    """
    dimension = simplices.shape[2]
    vertices = np.asarray((simplices - center) / radius, dtype=np.float64)
    volumes = simplex_volumes(vertices)
    result = np.zeros(len(vertices))
    inside = (np.einsum("nij,nij->ni", vertices, vertices) <= 1.0).all(axis=1)
    result[inside] = volumes[inside]
    # The box around a cell tells most of the cells outside, and all that are far away.
    nearest = np.maximum(np.maximum(vertices.min(axis=1), -vertices.max(axis=1)), 0.0)
    cut = np.flatnonzero(~inside & ((nearest**2).sum(axis=1) < 1.0))
    compute = _triangles_in_unit_disc if dimension == 2 else _tetrahedra_in_unit_ball
    parts = np.clip(compute(vertices[cut]), 0.0, volumes[cut])
    parts[parts <= _ROUNDING * np.minimum(volumes[cut], 1.0)] = 0.0
    result[cut] = parts
    return result * radius**dimension


def _triangles_in_unit_disc(vertices: FloatArray) -> FloatArray:
    total = np.zeros(len(vertices))
    for i in range(3):
        start, end = vertices[:, i], vertices[:, (i + 1) % 3]
        tangent = end - start
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        height = _cross(start, tangent)
        distance = np.abs(height)
        half_chord = np.sqrt(np.maximum(1.0 - distance**2, 0.0))
        part = np.zeros(len(vertices))
        for sign, point in ((1.0, end), (-1.0, start)):
            t = np.einsum("nj,nj->n", point, tangent)
            near = np.clip(t, -half_chord, half_chord)
            part += sign * (distance * near + np.arctan2(t, distance) - np.arctan2(near, distance))
        total += 0.5 * np.sign(height) * part
    return np.abs(total)


def _cross(first: FloatArray, second: FloatArray) -> FloatArray:
    return first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0]


def _tetrahedra_in_unit_ball(vertices: FloatArray) -> FloatArray:
    total = np.zeros(len(vertices))
    # Faces in an order that turns all normals out of, or all into, the tetrahedron.
    for face in ((1, 2, 3), (0, 3, 2), (0, 1, 3), (0, 2, 1)):
        total += _cones_in_unit_ball(*(vertices[:, i] for i in face))
    return np.abs(total)


def _cones_in_unit_ball(first: FloatArray, second: FloatArray, third: FloatArray) -> FloatArray:
    """Return signed volumes of the parts in the unit ball of cones from 0 over triangles."""
    normal = np.cross(second - first, third - first)
    normal = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    signed_height = np.einsum("nj,nj->n", normal, first)
    height = np.abs(signed_height)
    foot = signed_height[:, None] * normal
    disc = np.sqrt(np.maximum(1.0 - height**2, 0.0))
    total = np.zeros(len(first))
    for start, end in ((first, second), (second, third), (third, first)):
        tangent = end - start
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        side = np.einsum("nj,nj->n", np.cross(start - foot, tangent), normal)
        distance = np.abs(side)
        half_chord = np.sqrt(np.maximum(disc**2 - distance**2, 0.0))
        part = np.zeros(len(first))
        for sign, point in ((1.0, end), (-1.0, start)):
            t = np.einsum("nj,nj->n", point - foot, tangent)
            part += sign * _sector(t, height, distance, disc, half_chord)
        total += np.sign(side) * part
    return np.sign(signed_height) * total


def _sector(
    t: FloatArray,
    height: FloatArray,
    distance: FloatArray,
    disc: FloatArray,
    half_chord: FloatArray,
) -> FloatArray:
    """Return the cone's volume in the unit ball over the fan triangle (foot, t = 0, t)."""
    near = np.clip(t, -half_chord, half_chord)
    angle = np.arctan2(t, distance) - np.arctan2(near, distance)
    # Solid angle of what the fan triangle leaves outside the ball.
    solid = _solid(t, height, distance) - _solid(near, height, distance)
    cut = height * (0.5 * distance * near + (0.5 * disc**2 + 1.0) * angle) - solid
    # A plane outside the ball sees it through the whole cone.
    missed = np.arctan2(t, distance) - _solid(t, height, distance)
    return np.where(height < 1.0, cut, missed) / 3.0


def _solid(t: FloatArray, height: FloatArray, distance: FloatArray) -> FloatArray:
    rho = np.sqrt(height**2 + distance**2 + t**2)
    return np.arctan2(height * t, distance * rho)


def ball_volume(dimension: int, radius: float) -> float:
    """Return the volume of a ball."""
    return math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1) * radius**dimension
