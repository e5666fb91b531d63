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


def ball_simplex_moments(simplices: FloatArray, center: FloatArray, radius: float) -> FloatArray:
    """Return ∫ (x − center) over the intersection of each simplex with a ball.

    (|x − c|² − R²)/2 has the gradient x − c and vanishes on the sphere. By the divergence theorem
    the integral is that of this function times the outward normal over the parts of the facets in
    the ball: there it is (ρ² − r²)/2, ρ the distance from the foot of the centre's perpendicular
    and r the radius of the disc that the ball cuts out. In 2D this is a polynomial on an interval;
    in 3D it is integrated over signed fan triangles from the foot as the volumes are.

    Parameters
    ----------
    simplices
        Vertices (n, d+1, d), d = 2 or 3.
    center, radius
        The ball.

    Returns
    -------
    numpy.ndarray
        First moments (n, d), to about 1e-15 of the radius times the ball's volume.
    """
    dimension = simplices.shape[2]
    vertices = np.asarray((simplices - center) / radius, dtype=np.float64)
    middle = vertices.mean(axis=1)
    total = np.zeros((len(vertices), dimension))
    for opposite in range(dimension + 1):
        corners = [vertices[:, i] for i in range(dimension + 1) if i != opposite]
        edge = corners[1] - corners[0]
        across: FloatArray = np.stack([edge[:, 1], -edge[:, 0]], axis=1)
        if dimension == 3:
            across = np.cross(edge, corners[2] - corners[0]).astype(np.float64)
        outwards = np.sign(np.einsum("nj,nj->n", across, corners[0] - middle))
        normal = (outwards / np.linalg.norm(across, axis=1))[:, None] * across
        height = np.einsum("nj,nj->n", normal, corners[0])
        disc = np.sqrt(np.maximum(1.0 - height**2, 0.0))
        compute = _segment_in_disc if dimension == 2 else _triangle_in_disc
        facet = compute([corner - height[:, None] * normal for corner in corners], normal, disc)
        total += facet[:, None] * normal
    return total * radius ** (dimension + 1)


def _segment_in_disc(corners: list[FloatArray], normal: FloatArray, disc: FloatArray) -> FloatArray:
    """Return ∫ (t² − r²)/2 over the part |t| ≤ r of segments on lines through the origin."""
    tangent = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    ends = [np.clip(np.einsum("nj,nj->n", corner, tangent), -disc, disc) for corner in corners]
    start, end = np.minimum(*ends), np.maximum(*ends)
    return (end**3 - start**3) / 6.0 - 0.5 * disc**2 * (end - start)


def _triangle_in_disc(
    corners: list[FloatArray], normal: FloatArray, disc: FloatArray
) -> FloatArray:
    """Return ∫ (ρ² − r²)/2 over the part ρ ≤ r of triangles in the plane of the origin."""
    total = np.zeros(len(disc))
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        tangent = end - start
        tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
        side = np.einsum("nj,nj->n", np.cross(start, tangent), normal)
        distance = np.abs(side)
        half_chord = np.sqrt(np.maximum(disc**2 - distance**2, 0.0))
        part = np.zeros(len(disc))
        for sign, point in ((1.0, end), (-1.0, start)):
            t = np.einsum("nj,nj->n", point, tangent)
            near = np.clip(t, -half_chord, half_chord)
            angle = np.arctan2(t, distance) - np.arctan2(near, distance)
            chord = (distance**2 * near + near**3 / 3.0) / 8.0 - disc**2 * near / 4.0
            part += sign * (distance * chord - disc**4 / 8.0 * angle)
        total += np.sign(side) * part
    # The sense in which the corners go round the normal.
    turn = np.einsum("nj,nj->n", np.cross(corners[1] - corners[0], corners[2] - corners[0]), normal)
    return np.sign(turn) * total


def ball_volume(dimension: int, radius: float) -> float:
    """Return the volume of a ball."""
    return math.pi ** (dimension / 2) / math.gamma(dimension / 2 + 1) * radius**dimension
