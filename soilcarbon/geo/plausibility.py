"""Questions about rasters before they are used: fill values that are not declared, and class codes taken for numbers.

In: layers of GeoTIFFs. Out: nothing, or a UserError that names what was seen and the setting that answers it. Looked at are a
sample of each file's blocks and the values at the profiles; what a sample has missed is refused while a map is computed
(`Layer.refused`).
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import filter as filter_names
from logging import getLogger
from typing import Any

import numpy as np
from rasterio.windows import Window

from soilcarbon.geo.raster import ABSURD, EXACT, Layer, by_file, is_masked, missing_cells, named_errors, open_raster, too_large_code
from soilcarbon.io.files import NODATA, UserError, nearest
from soilcarbon.io.nodata import EVERY

log = getLogger(__name__)

_SAMPLE = 2**21  # cells of all bands of a file that are looked at: a second at most
_LEAST, _MOST = 2**15, 2**19  # cells of a band that are looked at: bounds of its part of these
_WINDOWS = 400  # of a large file's blocks, parts of which are read
_PART = (256, 4096)  # rows and columns of such a part at most
_GOLDEN = (math.sqrt(5) - 1) / 2  # multiples of it, without their integers, cover 0 to 1 evenly however many are taken
FILLS = (
    *(-99.0, -999.0, -9999.0, -99999.0, -999999.0, -9999999.0, 999.0, 9999.0, 99999.0, 999999.0, 9999999.0, -1e4, -1e5, -1e6),
    *(250.0, 251.0, 252.0, 253.0, 254.0, 255.0, -128.0, -32768.0, -32767.0, 32767.0, 32766.0, 65535.0, 65534.0),
    *(-2147483648.0, -2147483647.0, 2147483647.0, 4294967295.0, -28672.0, -3000.0, -1e10, 1e10, -1e15, 1e15),
)
"""Values that are used for missing: of the limits of types, rows of nines, and of satellite products (MODIS)."""
_NINES = (-99.0, -999.0, -9999.0, -99999.0)
"""Codes for missing; where nothing else is negative they need not be as far from the values."""
OF_FILE = "nodata="  # how the setting is written for a single file, such as a reference map
_APART, _LIMIT_APART, _ANY_APART = 1.0, 0.2, 10.0
"""Ranges of all other values by which such a value, the limit of an integer type, and any repeated value stand apart."""
_STEPS, _FEW_STEPS = 20, 5
"""Mean steps between all other values by which the limit of a type, or a code below all values of 0 and more, stands apart."""
_GROUP = 10  # values that may stand apart together: products have several codes of no data
_REPEATED = 10  # cells from which on a value that is not of `FILLS` counts as repeated
_FEW = 60  # more different integers than this are a measurement
_CONSTANT, _JUMPS = 0.5, 0.25
"""Of class codes so many neighbours are alike, and of those that differ so many are not next in the order of codes."""
_IDENTIFIERS = 1000  # times their range, which class codes are larger
_FAR = 8.0  # standard deviations from the mean of the training data beyond which fill values are not read without a question


# --- samples -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sample:
    """Cells of one layer as stored, missing ones left out."""

    values: np.ndarray  # (u,) the different ones in order, of the file's type
    counts: np.ndarray  # (u,) how often each occurs
    # share of horizontal neighbours that are alike; and of those that differ, the share that are not next to each other in the
    # order of `values`
    jumps: tuple[float, float] = (0.0, 0.0)


def _windows(raster: Any, cells: int) -> list[Window]:
    """Return windows of a file spread evenly over it, on its blocks: the whole file if it has no more cells than asked for."""
    height, width = raster.shape
    if height * width <= cells:
        return [Window(0, 0, width, height)]
    down, across = (min(*each) for each in zip(raster.block_shapes[0], _PART, strict=True))
    rows, cols = -(-height // down), -(-width // across)
    count = min(max(16, min(_WINDOWS, cells // (down * across))), rows * cols)
    found = {(k * rows // count, int(k * _GOLDEN % 1 * cols)): None for k in range(count - 1)} | {(rows - 1, cols - 1): None}
    return [Window(c * across, r * down, min(across, width - c * across), min(down, height - r * down)) for r, c in found]


def sample_layers(layers: Sequence[Layer]) -> list[Sample]:
    """Return a sample of the cells of each layer, file by file.

    UserError if a file cannot be read.
    """
    found: dict[Layer, Sample] = {}
    for path, here in by_file(layers).items():
        bands = [layer.band for layer in here]
        with named_errors(path), open_raster(path) as raster:
            masked = any(is_masked(raster, band) for band in bands)
            parts: list[list[np.ma.MaskedArray[Any, Any]]] = [[] for _ in here]
            for window in _windows(raster, max(_LEAST, min(_MOST, _SAMPLE // len(here)))):
                stored = raster.read(bands, window=window)
                hidden = raster.read_masks(bands, window=window) == 0 if masked else None
                for k, layer in enumerate(here):
                    missing = missing_cells(stored[k], (raster.nodatavals[layer.band - 1], NODATA, *(layer.missing or ())))
                    if hidden is not None:
                        missing = hidden[k] if missing is None else missing | hidden[k]
                    parts[k].append(np.ma.MaskedArray(stored[k], np.ma.nomask if missing is None else missing))
        for layer, part in zip(here, parts, strict=True):
            values, counts = _distinct(np.concatenate([each.compressed() for each in part]))
            few = values.size <= _FEW and bool((values == np.rint(values)).all())  # codes that a GIS wrote as floats too
            found[layer] = Sample(values, counts, _jumps(values, part) if few else (0.0, 0.0))
    return [found[layer] for layer in layers]


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the different values in order, and how often each occurs; integers of up to 16 bits are counted without sorting."""
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        return np.unique(values, return_counts=True)
    low = int(np.iinfo(values.dtype).min)
    counts = np.bincount(values.astype(np.int64) - low)
    there = np.flatnonzero(counts)
    return (there + low).astype(values.dtype), counts[there]


def _jumps(values: np.ndarray, parts: Sequence["np.ma.MaskedArray[Any, Any]"]) -> tuple[float, float]:
    """Return `Sample.jumps` of parts of a raster."""
    steps = []
    for part in parts:
        known = ~np.ma.getmaskarray(part)
        rank = np.searchsorted(values, np.where(known, part.data, values[:1])) if values.size else np.zeros(part.shape, np.int64)
        steps.append(np.abs(np.diff(rank, axis=1))[known[:, 1:] & known[:, :-1]])
    apart = np.concatenate(steps)
    differ = apart > 0
    if not differ.any():
        return float(apart.size > 0), 0.0
    return float(1 - differ.mean()), float((apart[differ] > 1).mean())


def check_names(layers: Iterable[Layer], **settings: Iterable[str]) -> None:
    """Raise UserError if a setting (nodata, classes) names a variable that no layer is; `EVERY` and "none" name none."""
    names = list(dict.fromkeys(layer.name for layer in layers))
    for setting, given in settings.items():
        for name in given:
            if name not in (*names, EVERY, "none") and not filter_names(names, name):
                raise UserError(f"{setting}: no variable {name!r} in the rasters{nearest(name, names)}")


# --- fill values -------------------------------------------------------------------------------------------------------


def fill_values(values: np.ndarray, counts: np.ndarray, dtype: np.dtype[Any] | str) -> dict[float, int]:
    """Return the values at an edge of a distribution that look like missing ones that nobody declared -> how often they occur.

    That is: the limit of the integer type or another of `FILLS`, apart from all other values, perhaps with further ones beside it;
    0 that is repeated below many others; or any other value that is repeated and by far the most distant. A 255 among bytes that
    also hold 254 and 253 is a value. The different values (u,) are in order and as stored in the file, of `dtype`.

    >>> fill_values(np.array([0, 40, 100, 255]), np.array([5, 5, 5, 9]), "uint8")
    {255.0: 9}
    >>> fill_values(np.arange(200, 256), np.ones(56), "uint8")
    {}
    """
    kept = np.asarray(values, np.float64)
    limits = () if np.dtype(dtype).kind not in "iu" else (float(np.iinfo(dtype).min or np.inf), float(np.iinfo(dtype).max))
    found: dict[float, int] = {}
    for side in (1, -1):
        ordered, often = kept[::side], np.asarray(counts)[::side]  # the edge that is looked at comes first
        few = min(_GROUP, ordered.size - 2)
        if few < 1:
            continue
        gaps = np.abs(np.diff(ordered[: few + 1]))
        split = int(gaps.argmax()) + 1
        outer, inner, gap = ordered[:split], ordered[split:], float(gaps[split - 1])
        reach = float(np.ptp(inner))
        beside = gap > max(_LIMIT_APART * reach, _STEPS * reach / (inner.size - 1))
        of_limit = any(value in limits for value in outer) and beside
        of_limit |= side == 1 and split == 1 and outer[0] == 0 and often[0] >= _REPEATED and inner.size > _FEW and beside
        negative = side == 1 and split == 1 and outer[0] in _NINES and inner.min() >= 0 and often[0] >= _REPEATED
        of_limit |= negative and gap > _FEW_STEPS * reach / (inner.size - 1)
        of_fills = any(value in FILLS for value in outer) and gap > _APART * reach and often[:split].sum() > 1
        repeated = split == 1 and often[0] >= _REPEATED and inner.size >= _GROUP and gap > _ANY_APART * reach
        if of_limit or of_fills or repeated:
            found |= {float(value): int(count) for value, count in zip(outer, often[:split], strict=True)}
    return found


def ask_about_fill_values(
    layers: Sequence[Layer], at_points: Mapping[str, np.ndarray] | None = None, setting: str = "--nodata "
) -> list[Sample]:
    """Raise a question about values of layers that look like missing ones that nobody declared; return the samples looked at.

    Layers for which the setting `nodata` says something are not asked about. `at_points` are further values by variable (any shape,
    NaN: missing), scale and offset applied: those that are to be used. The UserError names file, variable, counts and the setting
    that answers it: `OF_FILE` where it is of a single file.
    """
    samples = sample_layers(layers)
    asked: list[tuple[Layer, dict[float, int], str]] = []
    for layer, sample in zip(layers, samples, strict=True):
        if layer.missing is not None:
            continue
        values, counts, dtype = sample.values, sample.counts, sample.values.dtype
        found, where = fill_values(values, counts, dtype), f"the {int(counts.sum())} cells looked at"
        if at_points is not None and layer.name in at_points:
            stored = _as_stored(layer, at_points[layer.name])
            joined, at = np.unique(np.concatenate([values.astype(np.float64), stored]), return_inverse=True)
            often = np.bincount(at, np.concatenate([counts, np.ones(stored.size)])).astype(np.int64)
            if more := fill_values(joined, often, dtype):
                found, where = more, f"{where} and the {stored.size} at profiles"
        if found:
            asked.append((layer, found, where))
    if asked:
        raise UserError(_question(asked, layers, samples, setting))
    return samples


def _as_stored(layer: Layer, values: np.ndarray) -> np.ndarray:
    """Return values that are not missing (n,) as the file stores them."""
    with named_errors(layer.path), open_raster(layer.path) as raster:
        scale, offset = raster.scales[layer.band - 1], raster.offsets[layer.band - 1]
        whole = np.dtype(raster.dtypes[layer.band - 1]).kind in "iu"
    flat = np.asarray(values, np.float64).ravel()
    stored = (flat[np.isfinite(flat)] - offset) / (scale or 1.0)
    return np.round(stored) if whole else stored


def _question(
    asked: Sequence[tuple[Layer, dict[float, int], str]], layers: Sequence[Layer], samples: Sequence[Sample], setting: str
) -> str:
    """Return the question; its answer names variables, unless the values occur in no other one."""
    layer, found, where = asked[0]
    seen = ", ".join(f"{value:.10g}" for value in found)
    more = f" (and such values in {len(asked) - 1} more variables)" if len(asked) > 1 else ""
    names = [each.name for each, _, _ in asked]
    everywhere = sorted({value for _, values, _ in asked for value in values})
    others = [sample for each, sample in zip(layers, samples, strict=True) if each.name not in names]
    if setting == OF_FILE:
        answer = "|".join(f"{value:.10g}" for value in everywhere)
    elif len(asked) > 1 and not any(np.isin(everywhere, sample.values).any() for sample in others):
        answer = " ".join(f"{value:.10g}" for value in everywhere)
    else:
        answer = " ".join(f"{each.name}={','.join(f'{value:.10g}' for value in values)}" for each, values, _ in asked)
    return (
        f"{layer.path}: {sum(found.values())} of {where} are {seen} in {layer.name}{more}, far from all other values: missing "
        f"values that the file does not declare? {setting}{answer} takes them as missing, {setting}none as values"
    )


def ask_about_fills_of_array(path: Any, name: str, values: np.ndarray, dtype: np.dtype[Any] | str = "float64") -> None:
    """Raise a question about values of an array (missing = NaN), as of NetCDF, that look like missing ones; see `fill_values`.

    Values are as stored: whole numbers where `dtype` is an integer type.
    """
    different, counts = np.unique(values[np.isfinite(values)], return_counts=True)
    if found := fill_values(different, counts, dtype):
        seen = [f"{value:.10g}" for value in found]
        many = f"{sum(found.values())} of {int(counts.sum())} values of {name} are {', '.join(seen)}, far from all others"
        raise UserError(
            f"{path}: {many}: missing values that the file does not declare? nodata={'|'.join(seen)} takes them as missing, "
            "nodata=none as values"
        )


def refusing(layers: Sequence[Layer], trained: Mapping[str, tuple[float, float]]) -> list[Layer]:
    """Return layers that refuse fill values far from what a model was trained on, for reading tile by tile.

    Refused are only the limits of integer types and the largest of `FILLS`: others could be values that are rare. `trained` has the
    mean and standard deviation of the training data by variable.
    """
    found = []
    for layer in layers:
        if layer.missing is None and not layer.classes and layer.name in trained:
            with named_errors(layer.path), open_raster(layer.path) as raster:
                dtype, nodata, scale, offset = (
                    each[layer.band - 1] for each in (raster.dtypes, raster.nodatavals, raster.scales, raster.offsets)
                )
            far = far_fills(dtype, trained[layer.name], scale, offset)
            layer = replace(layer, refused=tuple(value for value in far if value != nodata))
        found.append(layer)
    return found


def far_fills(dtype: str, trained: tuple[float, float], scale: float = 1.0, offset: float = 0.0) -> list[float]:
    """Return stored fill values far from a variable's training data, of this mean and standard deviation; see `refusing`."""
    mean, std = trained
    fills = {value for value in FILLS if abs(value) >= 2**15 - 2}
    if np.dtype(dtype).kind in "iu":
        low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        fills = {value for value in fills if low <= value <= high} | {low or high, high}
    return [value for value in sorted(fills) if abs(value * scale + offset - mean) > _FAR * std]


# --- class codes -------------------------------------------------------------------------------------------------------


def looks_coded(sample: Sample) -> bool:
    """Return whether a sample of integers, of any type, looks like class codes: few different ones, alike in patches, that jump.

    Neighbours of a measurement that differ mostly have the next value; those of classes have any. Or they differ by little only,
    as map unit keys do.
    """
    if not 3 <= sample.values.size <= _FEW or sample.jumps[0] < _CONSTANT:
        return False
    first, last = (abs(float(value)) for value in sample.values[[0, -1]])
    return sample.jumps[1] >= _JUMPS or min(first, last) > _IDENTIFIERS * abs(last - first)


def hidden_classes(layers: Sequence[Layer], samples: Sequence[Sample]) -> list[str]:
    """Return the variables that look like class codes but are used as numbers."""
    return [layer.name for layer, sample in zip(layers, samples, strict=True) if not layer.classes and looks_coded(sample)]


def check_codes(layers: Iterable[Layer], samples: Iterable[Sample]) -> None:
    """Raise UserError if class codes in a sample cannot be told apart in float32; see `geo.raster.EXACT`."""
    for layer, sample in zip(layers, samples, strict=True):
        coded = sample.values.size and (layer.classes or looks_coded(sample))
        ends = sample.values[[0, -1]].astype(np.float64) if coded else np.zeros(2)
        if np.abs(ends).max() > EXACT and np.abs(ends).max() < ABSURD:
            raise too_large_code(layer, sample.values[0 if abs(ends[0]) > EXACT else -1])


def with_classes(layers: Sequence[Layer], classes: Collection[str]) -> list[Layer]:
    """Return layers of which exactly the named ones are class codes."""
    return [replace(layer, classes=layer.name in classes) for layer in layers]


def choose_classes(layers: Sequence[Layer], given: Sequence[str]) -> list[str]:
    """Return the variables that are class codes: those of a setting ("none": none), else those with a colour table or names."""
    if given:
        return [name for name in given if name != "none"]
    coded = list(dict.fromkeys(layer.name for layer in layers if layer.classes))
    if coded:
        log.info("classes, as their files have a colour table or category names: %s (see --classes)", ", ".join(coded))
    return coded


def check_layers(layers: Sequence[Layer], at_points: Mapping[str, np.ndarray] | None = None) -> None:
    """Ask about fill values, refuse class codes that float32 cannot hold, and hint at variables that look like class codes.

    UserError as of `ask_about_fill_values` and `check_codes`.
    """
    samples = ask_about_fill_values(layers, at_points)
    check_codes(layers, samples)
    if hidden := hidden_classes(layers, samples):
        log.info("hint: class codes? %s; --classes says so, then they are never interpolated", ", ".join(hidden))
