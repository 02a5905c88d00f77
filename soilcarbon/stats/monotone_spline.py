"""Monotone cubic spline: the spline of Forsythe, Malcolm and Moler with Hyman's filter of its slopes, for many curves at once.

SciPy has other monotone interpolants (PCHIP, Akima), not this one, in which published soil organic carbon stocks at equivalent soil
mass are given. Sources: Forsythe, Malcolm and Moler 1977, Computer Methods for Mathematical Computations, chapter 4 (the spline and
its end conditions); Hyman 1983, SIAM J. Sci. Stat. Comput. 4, 645-654, and Dougherty, Edelman and Hyman 1989, Math. Comput. 52,
471-494 (the filter).
"""

import numpy as np


def spline_slopes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the slopes (B, K) at the knots of the cubic spline through each of B curves of K points, x increasing.

    At both ends the third derivative is that of the cubic through the outermost four points; a spline of three points is their
    parabola, and one of two a straight line.

    >>> x = np.array([[0.0, 1.0, 3.0, 4.0, 6.0]])
    >>> spline_slopes(x, x**3 + x).round(6)  # a cubic is its own spline
    array([[  1.,   4.,  28.,  49., 109.]])
    """
    width = np.diff(x, axis=1)
    secant = np.diff(y, axis=1) / width
    count = x.shape[1]
    if count == 2:
        return np.repeat(secant, 2, axis=1)
    # The unknowns are a sixth of the second derivatives at the knots; the matrix is tridiagonal and symmetric.
    diagonal, right = np.empty_like(x), np.empty_like(x)
    diagonal[:, 1:-1] = 2 * (width[:, :-1] + width[:, 1:])
    right[:, 1:-1] = np.diff(secant, axis=1)
    diagonal[:, 0], diagonal[:, -1] = -width[:, 0], -width[:, -1]
    right[:, 0] = right[:, -1] = 0.0
    if count > 3:
        second = right[:, 1:-1] / (x[:, 2:] - x[:, :-2])
        third = np.diff(second, axis=1) / (x[:, 3:] - x[:, :-3])
        right[:, 0], right[:, -1] = width[:, 0] ** 2 * third[:, 0], -(width[:, -1] ** 2) * third[:, -1]
    for k in range(1, count):
        factor = width[:, k - 1] / diagonal[:, k - 1]
        diagonal[:, k] -= factor * width[:, k - 1]
        right[:, k] -= factor * right[:, k - 1]
    curvature = right
    curvature[:, -1] /= diagonal[:, -1]
    for k in range(count - 2, -1, -1):
        curvature[:, k] = (right[:, k] - width[:, k] * curvature[:, k + 1]) / diagonal[:, k]
    first = secant - width * (2 * curvature[:, :-1] + curvature[:, 1:])
    last = secant[:, -1] + width[:, -1] * (curvature[:, -2] + 2 * curvature[:, -1])
    return np.column_stack((first, last))


def hyman_filter(slopes: np.ndarray, secants: np.ndarray) -> np.ndarray:
    """Limit the slopes (B, K) of increasing curves so that a piecewise cubic with these slopes nowhere decreases.

    A slope becomes at least 0 and at most three times the smaller of the secants (B, K-1) beside it; at an end, of the only one.

    >>> hyman_filter(np.array([[-1.0, 9.0, 9.0]]), np.array([[1.0, 2.0]]))
    array([[0., 3., 6.]])
    """
    smaller = np.concatenate((secants[:, :1], np.minimum(secants[:, :-1], secants[:, 1:]), secants[:, -1:]), axis=1)
    return np.asarray(np.minimum(slopes.clip(0.0), 3 * smaller))


def monotone_spline(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Evaluate Hyman's monotone cubic spline through each of B increasing curves of K points, at (B, M) or (M,) places: (B, M).

    Prefer it to linear interpolation where layers are thick and the property changes smoothly within them. Beyond the knots it goes
    on straight, with the slope of its end.

    >>> x, y = np.array([[0.0, 1.0, 2.0, 3.0]]), np.array([[0.0, 0.0, 4.0, 4.0]])
    >>> monotone_spline(x, y, np.array([0.5, 1.5, 2.5]))
    array([[0., 2., 4.]])
    """
    at = np.broadcast_to(at, (len(x), np.shape(at)[-1]))
    secants = np.diff(y, axis=1) / np.diff(x, axis=1)
    slopes = hyman_filter(spline_slopes(x, y), secants)
    inner = x[:, 1:-1]
    piece = (at[:, :, None] >= inner[:, None, :]).sum(axis=2)  # (B, M): the knots are few
    x0, x1, y0, y1, s0, s1 = (
        np.take_along_axis(array, index, axis=1)
        for array, index in ((x, piece), (x, piece + 1), (y, piece), (y, piece + 1), (slopes, piece), (slopes, piece + 1))
    )
    width = x1 - x0
    t = ((at - x0) / width).clip(0.0, 1.0)
    u = 1 - t
    cubic = u**2 * (1 + 2 * t) * y0 + t**2 * (1 + 2 * u) * y1 + width * t * u * (u * s0 - t * s1)
    below, above = np.minimum(at - x0, 0.0), np.maximum(at - x1, 0.0)
    return np.asarray(cubic + below * s0 + above * s1)
