"""Vector files checked before GDAL reads them: a GeoPackage is a database, whose layers may be programs.

A layer that is a view may run for ever, and a column may be computed; a damaged tree of pages may lead in a circle. All formats
state how many features they hold, for which pyogrio takes memory at once.
"""

import sqlite3
import time
from pathlib import Path
from urllib.parse import quote

from soilcarbon.io.limits import BLOCK_BYTES, LimitError

_SECONDS = 60.0  # for looking through all pages of a GeoPackage: a gigabyte takes some seconds
_APPLICATIONS = (b"GPKG", b"GP10", b"GP11")


def _database(path: Path) -> sqlite3.Connection:
    """Open a database for reading; a query ends after some seconds, a value is no longer than a block."""
    database = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
    end = time.monotonic() + _SECONDS
    database.set_progress_handler(lambda: int(time.monotonic() > end), 1_000_000)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, BLOCK_BYTES)
    database.execute("PRAGMA trusted_schema=OFF")
    return database


def check_layer(path: Path, layer: str) -> None:
    """Check that a layer of a vector file can be read by GDAL and pyogrio without end or bound.

    LimitError if it is no plain table, is damaged, or claims more features than the file has bytes.
    """
    import pyogrio  # type: ignore[import-untyped]

    tables = plain_tables(path)
    if tables is not None and layer not in tables:
        raise LimitError(f"layer {layer!r} is a view or computed, and may have no end; export it as a table (ogr2ogr)")
    check_features(pyogrio.read_info(path, layer=layer)["features"], path)


def plain_tables(path: Path) -> set[str] | None:
    """Return the names of a GeoPackage's plain tables, whose pages are whole; None for a file of another format.

    LimitError if it is damaged, another kind of database, or claims more features than it has bytes.
    """
    if path.is_dir():
        return None
    with path.open("rb") as file:
        head = file.read(100)
    if not head.startswith(b"SQLite format 3\0"):
        return None
    if head[68:72] not in _APPLICATIONS and path.suffix.lower() != ".gpkg":
        raise LimitError("it is a database, but no GeoPackage")
    database = None
    try:
        database = _database(path)
        kinds = {name: str(sql) for name, sql in database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'")}
        plain = {name for name in kinds if _plain_table(database, kinds, name)}
        if "gpkg_contents" not in plain:
            raise LimitError("it is a database, but no GeoPackage")
        if "gpkg_ogr_contents" in plain:
            check_features(database.execute("SELECT max(feature_count) FROM gpkg_ogr_contents").fetchone()[0], path)
        if (fault := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise LimitError(f"it is damaged: {' '.join(str(fault).split())[:80]}")
        return plain
    except sqlite3.Error as error:
        raise LimitError(f"it is damaged, or its tables have no end ({error})") from error
    finally:
        if database is not None:
            database.close()


def _plain_table(database: sqlite3.Connection, kinds: dict[str, str], name: str) -> bool:
    """Return whether a table is neither a view nor virtual, and has no computed columns."""
    if not kinds.get(name, "").upper().lstrip().startswith("CREATE TABLE"):
        return False
    columns = database.execute("SELECT hidden FROM pragma_table_xinfo(?)", (name,)).fetchall()
    return all(hidden == 0 for (hidden,) in columns)


def check_features(claimed: object, path: Path) -> None:
    """Raise LimitError if a file claims more features than it, or the files beside it of its name, have bytes."""
    size = sum(each.stat().st_size for each in path.parent.glob("*") if each.stem == path.stem and each.is_file())
    size = sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else size
    if isinstance(claimed, int) and claimed > size:
        raise LimitError(f"it claims {claimed:,} features, and has {size:,} bytes")
