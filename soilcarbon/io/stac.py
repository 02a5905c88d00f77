"""STAC items and item collections: which raster files they name.

In: a JSON file, local or remote, which is untrusted. Out: the GeoTIFFs among its assets. An item leads only to https and s3
addresses, and to files below its own folder. https://stacspec.org, versions 1.0 and 1.1.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

from soilcarbon.io.files import UserError, must_exist
from soilcarbon.io.limits import LimitError, check_nodes, whole_number
from soilcarbon.io.ranges import RemoteFile, https_address, is_address, shown

_BYTES = 2**24  # of a JSON file
_MOST_ITEMS = 5000
_TIFF = re.compile(r"image/tiff\b|image/x\.geotiff\b", re.IGNORECASE)
_PICTURES = {"thumbnail", "overview", "visual", "metadata", "data-mask"}  # roles of assets that hold no measurement


@dataclass(frozen=True)
class Asset:
    """A raster file that a STAC item names: the asset's key, which names its variable, its place, and the item's id and extent."""

    key: str
    item: str
    place: str | Path  # an https address, or a local path
    # lon_min, lat_min, lon_max, lat_max in degrees; None where the item does not say
    bounds: tuple[float, float, float, float] | None


def is_stac(path: str | Path) -> bool:
    """Return whether a path, perhaps followed by # and keys of assets, is a JSON file.

    >>> is_stac("items.json#B04,B08"), is_stac(Path("https:/example.org/search.geojson")), is_stac("dem.tif")
    (True, True, False)
    """
    return urlsplit(str(path)).path.lower().endswith((".json", ".geojson"))


def read_assets(path: str | Path, cache: Path) -> list[Asset]:
    """Return the GeoTIFFs that a STAC item or item collection, local or remote, names.

    `#key,key` at the end of its path chooses assets, else all GeoTIFFs that are no pictures are taken. Remote files are kept in
    `cache`. UserError if it is not readable, is no item, names none, or leads elsewhere.
    """
    text, _, keys = str(path).partition("#")
    chosen = [each for each in keys.split(",") if each]
    base: str | Path
    read: Callable[[], bytes]
    if is_address(text):
        base = https_address(text)
        remote = RemoteFile(base, cache)
        where, size, read = shown(base), remote.size, remote.read
    else:
        base = Path(text)
        must_exist(base, "STAC item")
        where, size, read = text, base.stat().st_size, base.read_bytes
    if size > _BYTES:
        raise UserError(f"{where}: a JSON file of more than {_BYTES >> 20} MiB; is it an item?")
    items = _items(read(), where)
    assets = [asset for item in items for asset in _assets_of(item, base, where, chosen)]
    if not assets:
        which = f"no assets {', '.join(chosen)}" if chosen else "no GeoTIFF among its assets"
        there = sorted({str(key) for item in items for key in item["assets"]})
        raise UserError(f"{where}: {which}; it has {', '.join(there[:12]) or 'none'}")
    return assets


def _items(content: bytes, where: str) -> list[dict[str, Any]]:
    """Return the items of a JSON document."""
    try:
        value = json.loads(content, parse_int=whole_number)
        check_nodes(value)
    except (ValueError, RecursionError, LimitError) as error:
        raise UserError(f"{where}: not readable as JSON ({' '.join(str(error).split())[:120]})") from error
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("Catalog", "Collection"):
        raise UserError(f"{where}: is a STAC {kind.lower()}; give items of it: one item, or the answer of a search, saved as JSON")
    items = value.get("features") if kind == "FeatureCollection" else [value]
    if not isinstance(items, list) or not items or len(items) > _MOST_ITEMS:
        raise UserError(f"{where}: expected a STAC item or a collection of up to {_MOST_ITEMS:,} items")
    for item in items:
        if not isinstance(item, dict) or item.get("type") != "Feature" or not isinstance(item.get("assets"), dict):
            raise UserError(f"{where}: expected a STAC item (type Feature, with assets), or a FeatureCollection of items")
    return items


def _assets_of(item: Mapping[str, Any], base: str | Path, where: str, chosen: Sequence[str]) -> list[Asset]:
    name, bounds = str(item.get("id", ""))[:200], _bounds(item.get("bbox"))
    found = []
    for key, asset in item["assets"].items():
        href = asset.get("href") if isinstance(asset, dict) else None
        if not isinstance(href, str) or (chosen and key not in chosen):
            continue
        roles = asset.get("roles") or []
        kind, tiff = str(asset.get("type") or ""), urlsplit(href).path.lower().endswith((".tif", ".tiff"))
        if not chosen and (not (_TIFF.match(kind) or (not kind and tiff)) or _PICTURES & set(map(str, roles))):
            continue
        found.append(Asset(str(key), name, _place(href, base, where), bounds))
    return found


def _place(href: str, base: str | Path, where: str) -> str | Path:
    """Return where an asset lies: an address, or a path below the item's folder; UserError if it leads elsewhere."""
    if is_address(href):
        return https_address(href, trusted=str(base) if isinstance(base, str) else "file://item")
    refused = UserError(
        f"{where}: leads to {href[:120]!r}; an item leads to https:// and s3:// addresses and to files below its folder"
    )
    parts = PurePosixPath(unquote(href))
    if urlsplit(href).scheme or parts.is_absolute() or ".." in parts.parts or "\\" in href or href.startswith("//"):
        raise refused
    if isinstance(base, str):
        return https_address(urljoin(base, href), trusted=base)
    path = base.parent / str(parts)
    if not path.resolve().is_relative_to(base.parent.resolve()):  # by a link
        raise refused
    return path


def _bounds(given: Any) -> tuple[float, float, float, float] | None:
    """Return the extent that an item states, None where it is none: files are then looked at."""
    if not isinstance(given, list) or len(given) not in (4, 6):
        return None
    if not all(type(each) in (int, float) and math.isfinite(each) for each in given):
        return None
    half = len(given) // 2
    west, south, east, north = float(given[0]), float(given[1]), float(given[half]), float(given[half + 1])
    return (west, south, east, north) if south <= north else None
