"""Remote files read in parts over https, with a checksummed cache on disk.

In: an address, https://... or s3://bucket/key of a public bucket. Out: a file object that fetches only the parts that are read, and
keeps them. A part that was fetched once is never fetched again: an interrupted run goes on where it was, and a second run needs no
network. Servers are asked politely: one request at a time, at most `TRIES` times, with growing pauses, longer where they ask so.
"""

import copy
import hashlib
import http.client
import io
import ipaddress
import json
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import quote, urlsplit, urlunsplit

from soilcarbon.io.files import UserError, atomic_write, write_json

CHUNK = 2**18  # bytes of the parts in which a file is kept: a tile of a Cloud Optimized GeoTIFF lies in one or two
TRIES, FIRST_PAUSE, LONGEST_PAUSE = 5, 1.0, 60.0
"""Requests for one part; seconds between the first two, doubled each time; and at most."""
_AT_ONCE = 64  # chunks in one request: 16 MiB
_WHOLE = 2**26  # bytes of a file that is taken whole where a server knows no ranges
_TIMEOUT = 60.0
_REDIRECTS = 5
_PASSING = {408, 425, 429, 500, 502, 503, 504}  # statuses after which another try is sensible
_REASONS = {
    401: "the server wants a login; use a presigned address, or download the file by hand",
    403: "the server does not allow it, or there is no such file",
    404: "there is no such file",
    410: "the file was removed",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_REMOTE = re.compile(r"(https?|s3):/+(?=[^/])", re.IGNORECASE)
_CHUNK_NAME = re.compile(r"(\d{8})\.([0-9a-f]{32})")


def is_address(path: str | PurePath) -> bool:
    """Return whether a path is an address of a remote file.

    >>> is_address("https://example.org/dem.tif"), is_address(Path("s3://bucket/dem.tif")), is_address("folder/dem.tif")
    (True, True, False)
    """
    return bool(_REMOTE.match(str(path)))


def https_address(path: str | PurePath, trusted: str = "") -> str:
    """Return the address to fetch a remote file from; as a path one of its two slashes is lost, and comes back.

    `trusted` is the address of what named it, such as a STAC item or a server that redirects: only that one's own machine may be
    local. UserError if it is neither https nor s3 (http is for servers on this machine), holds a password, or an untrusted file
    names a host of a local network.

    >>> https_address("s3://copernicus-dem-90m/a/b.tif")
    'https://copernicus-dem-90m.s3.amazonaws.com/a/b.tif'
    >>> https_address(Path("https://example.org/dem.tif"))
    'https://example.org/dem.tif'
    """
    text = _REMOTE.sub(lambda match: f"{match[1].lower()}://", str(path), count=1)
    parts = urlsplit(text)
    if parts.scheme == "s3":
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", parts.netloc):
            raise UserError(
                f"{text}: {parts.netloc!r} is no bucket's name that can be read without an account; give its https address"
            )
        parts = urlsplit(f"https://{parts.netloc}.s3.amazonaws.com{quote(parts.path)}")
    host = (parts.hostname or "").lower()
    local = host in _LOOPBACK
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise UserError(f"{shown(text)}: only https:// and s3:// are read (http:// could be changed on its way)")
    if not host or parts.username or parts.password:
        raise UserError(f"{shown(text)}: give an address with a host and without a password")
    if trusted and (urlsplit(trusted).hostname or "").lower() != host and (local or _is_private(host)):
        raise UserError(f"{shown(trusted)}: leads to {host}, a host of a local network; nothing is read from there")
    return urlunsplit(parts._replace(fragment=""))


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))


def shown(address: str | PurePath) -> str:
    """Return an address as text, without what follows a question mark, which may be a secret.

    >>> shown(Path("https:/example.org/dem.tif?token=1"))
    'https://example.org/dem.tif'
    """
    parts = urlsplit(_REMOTE.sub(lambda match: f"{match[1].lower()}://", str(address), count=1))
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host, query="", fragment=""))


# --- requests ------------------------------------------------------------------------------------------------------


class _Redirects(urllib.request.HTTPRedirectHandler):
    max_redirections = _REDIRECTS

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str) -> Any:
        """Follow a redirection to where an untrusted file may lead, too."""
        https_address(newurl, trusted=req.full_url)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_opener = urllib.request.build_opener(_Redirects)


class _PassingError(Exception):
    """A fault after which another try is sensible; `pause`: seconds that the server asks to wait."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


@dataclass(frozen=True)
class Part:
    """Bytes of a remote file from `first` on, the file's size, and its version as the server tells it."""

    data: bytes
    first: int
    total: int
    version: str


class MissingError(UserError):
    """There is no such remote file."""


def request_part(address: str, first: int, last: int) -> Part:
    """Fetch the bytes `first` to `last`, both included, or up to the end; of a server without ranges a small file whole.

    MissingError if there is no such file, UserError if the server refuses, or after `TRIES` tries.
    """
    pause, reason = FIRST_PAUSE, ""
    for attempt in range(TRIES):
        try:
            return _request_once(address, first, last)
        except _PassingError as error:
            reason = str(error)
            if attempt + 1 < TRIES:
                time.sleep(min(max(pause, error.pause), LONGEST_PAUSE))
            pause *= 2
    raise UserError(f"{shown(address)}: not read in {TRIES} tries ({reason}); try again later: what was read is kept")


def _request_once(address: str, first: int, last: int) -> Part:
    headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity", "User-Agent": "soil-carbon-mapper"}
    try:
        with _opener.open(urllib.request.Request(address, headers=headers), timeout=_TIMEOUT) as reply:
            version = reply.headers.get("ETag") or reply.headers.get("Last-Modified") or ""
            if reply.status == 200:
                return _whole(address, reply, version)
            found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers.get("Content-Range", "").strip())
            if reply.status != 206 or not found:
                raise UserError(f"{shown(address)}: the server answers with {reply.status} and no range; download the file by hand")
            start, end, total = map(int, found.groups())
            if start != first or end != min(last, total - 1):
                raise _PassingError(f"bytes {start} to {end} came for {first} to {last}")
            data = reply.read(end - start + 2)
            if len(data) != end - start + 1:
                raise _PassingError(f"{len(data):,} of {end - start + 1:,} bytes came")
            return Part(data, first, total, version)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _PASSING:
            raise _PassingError(f"HTTP {error.code} {error.reason}", _seconds(error.headers.get("Retry-After"))) from error
        kind = MissingError if error.code in (403, 404, 410) else UserError
        raise kind(f"{shown(address)}: {_REASONS.get(error.code, str(error.reason))} (HTTP {error.code})") from error
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:  # no such host, a broken connection
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise _PassingError(" ".join(str(reason).split())[:120] or type(error).__name__) from error


def _whole(address: str, reply: Any, version: str) -> Part:
    """Return a file that a server without ranges sends whole."""
    size = reply.headers.get("Content-Length", "")
    if size.isdigit() and int(size) > _WHOLE:
        raise _too_large(address)
    data = reply.read(_WHOLE + 1)
    if len(data) > _WHOLE:
        raise _too_large(address)
    if size.isdigit() and len(data) != int(size):
        raise _PassingError(f"{len(data):,} of {int(size):,} bytes came")
    return Part(data, 0, len(data), version)


def _too_large(address: str) -> UserError:
    what = f"the server sends no parts of files, and this one has more than {_WHOLE >> 20} MiB"
    return UserError(f"{shown(address)}: {what}; download it by hand")


def _seconds(text: str | None) -> float:
    return float(text) if text and re.fullmatch(r"\d{1,6}", text.strip()) else 0.0


# --- cache ---------------------------------------------------------------------------------------------------------


class RemoteFile(io.RawIOBase):
    """A remote file, read in chunks that are kept in a folder of its own in the cache, which may be deleted at any time.

    `size` in bytes and `version`, ETag or date, are as the server tells them. UserError if the file cannot be read, and neither is
    it in the cache.
    """

    def __init__(self, address: str, cache: Path) -> None:
        super().__init__()
        self.address = address
        self.folder = cache / "files" / hashlib.sha256(address.encode()).hexdigest()[:24]
        self._errors: list[UserError] = []
        self._quiet = False
        self._at = 0
        self._facts = self.folder / "source.json"
        known = self._known()
        if known is None:
            self._forget()
            part = request_part(address, 0, CHUNK - 1)
            if part.total < 1:
                raise UserError(f"{shown(address)}: the file is empty")
            self.size, self.version = part.total, part.version
            self.folder.mkdir(parents=True, exist_ok=True)
            write_json(self._facts, {"address": shown(address), "size": self.size, "version": self.version})
            self._chunks: dict[int, Path] = {}
            self._keep(part)
        else:
            self.size, self.version = known
            names = [(path, _CHUNK_NAME.fullmatch(path.name)) for path in self.folder.iterdir()]
            self._chunks = {int(match[1]): path for path, match in names if match}

    @property
    def error(self) -> UserError | None:
        """Why a read failed, of this file or of one opened `again`."""
        return self._errors[-1] if self._errors else None

    def again(self) -> "RemoteFile":
        """Return the same file for a library that cannot pass an error on: a read that fails ends early, and `error` says why."""
        other = copy.copy(self)
        other._at, other._quiet = 0, True
        return other

    def _known(self) -> tuple[int, str] | None:
        try:
            facts = json.loads(self._facts.read_text(encoding="utf-8"))
            size, version = facts["size"], facts["version"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (size, version) if type(size) is int and size > 0 and isinstance(version, str) else None

    def _forget(self) -> None:
        """Remove the chunks of another version."""
        for path in self.folder.glob("*") if self.folder.is_dir() else []:
            if _CHUNK_NAME.fullmatch(path.name) or path == self._facts:
                path.unlink(missing_ok=True)

    def _keep(self, part: Part) -> None:
        for start in range(0, len(part.data), CHUNK):
            data, number = part.data[start : start + CHUNK], (part.first + start) // CHUNK
            path = self.folder / f"{number:08d}.{_checksum(data)}"
            with atomic_write(path) as file:
                file.write(data)
            self._chunks[number] = path

    def _chunk(self, number: int, wanted: int) -> bytes:
        """Return a chunk; where it has to be fetched, the ones up to `wanted` come with it."""
        path = self._chunks.get(number)
        if path is not None:
            match = _CHUNK_NAME.fullmatch(path.name)
            length = min(CHUNK, self.size - number * CHUNK)
            data = path.read_bytes() if path.is_file() else b""
            if match and len(data) == length and _checksum(data) == match[2]:
                return data
            path.unlink(missing_ok=True)  # changed since: it is fetched again
            del self._chunks[number]
        last = number
        while last < min(wanted, number + _AT_ONCE - 1) and last + 1 not in self._chunks:
            last += 1
        part = request_part(self.address, number * CHUNK, min((last + 1) * CHUNK, self.size) - 1)
        if part.total != self.size or part.version != self.version:
            self._forget()
            raise UserError(f"{shown(self.address)}: has changed since its first parts were read; run again, it is then read anew")
        self._keep(part)
        start = number * CHUNK - part.first
        return part.data[start : start + CHUNK]

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes."""
        end = self.size if size is None or size < 0 else min(self._at + size, self.size)
        pieces: list[bytes] = []
        try:
            while self._at < end and not (self._quiet and self._errors):
                number = self._at // CHUNK
                data = self._chunk(number, (end - 1) // CHUNK)
                piece = data[self._at - number * CHUNK : end - number * CHUNK]
                pieces.append(piece)
                self._at += len(piece)
        except UserError as error:
            self._errors.append(error)
            if not self._quiet:
                raise
        return b"".join(pieces)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the file."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def tell(self) -> int:
        """Return the place in the file."""
        return self._at

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
