"""Remote files: parts by range requests, faults of servers, the cache, and addresses that are refused."""

import pytest
from remote_server import serve

from soilcarbon.io import ranges
from soilcarbon.io.files import UserError
from soilcarbon.io.ranges import CHUNK, MissingError, RemoteFile, https_address, request_part

CONTENT = bytes(k * 7 % 251 for k in range(5 * CHUNK + 1234))


@pytest.fixture
def server(monkeypatch):
    pauses = []
    monkeypatch.setattr(ranges.time, "sleep", pauses.append)
    with serve() as running:
        running.files["/file.bin"] = CONTENT
        running.pauses = pauses
        yield running


@pytest.fixture
def address(server):
    return f"{server.address}/file.bin"


def read(address, cache, first, last):
    file = RemoteFile(address, cache)
    file.seek(first)
    return file.read(last - first)


def test_only_the_parts_that_are_read_are_fetched_and_only_once(server, address, tmp_path):
    assert read(address, tmp_path, 2 * CHUNK + 5, 2 * CHUNK + 105) == CONTENT[2 * CHUNK + 5 : 2 * CHUNK + 105]
    assert server.asked == [("/file.bin", 0, CHUNK - 1), ("/file.bin", 2 * CHUNK, 3 * CHUNK - 1)]
    assert server.bytes_sent == 2 * CHUNK
    assert read(address, tmp_path, 2 * CHUNK, 2 * CHUNK + 9) == CONTENT[2 * CHUNK : 2 * CHUNK + 9]
    assert len(server.asked) == 2


def test_neighbouring_parts_come_in_one_request(server, address, tmp_path):
    assert RemoteFile(address, tmp_path).read() == CONTENT
    assert server.asked == [("/file.bin", 0, CHUNK - 1), ("/file.bin", CHUNK, len(CONTENT) - 1)]


def test_what_was_read_is_read_without_the_server(tmp_path):
    with serve() as running:
        running.files["/file.bin"] = CONTENT
        address = f"{running.address}/file.bin"
        read(address, tmp_path, 0, CHUNK + 3)
    assert read(address, tmp_path, 10, CHUNK + 3) == CONTENT[10 : CHUNK + 3]


def test_a_changed_chunk_is_fetched_again(server, address, tmp_path):
    read(address, tmp_path, CHUNK, CHUNK + 9)
    (chunk,) = tmp_path.rglob("00000001.*")
    chunk.write_bytes(b"x" + chunk.read_bytes()[1:])
    assert read(address, tmp_path, CHUNK, CHUNK + 9) == CONTENT[CHUNK : CHUNK + 9]
    assert server.asked[-1] == ("/file.bin", CHUNK, 2 * CHUNK - 1)


@pytest.mark.parametrize("fault", [429, 500, 503, "drop", "short", "other range"])
def test_passing_faults_are_met_by_another_try_after_a_pause(server, address, tmp_path, fault):
    server.faults = [None, fault, fault]
    assert read(address, tmp_path, CHUNK, CHUNK + 9) == CONTENT[CHUNK : CHUNK + 9]
    assert len(server.asked) == 4
    assert server.pauses == [1.0, 2.0]


def test_a_server_may_ask_to_wait(server, address, tmp_path):
    server.faults, server.retry_after = [429, 503], "7"
    read(address, tmp_path, 0, 9)
    assert server.pauses == [7.0, 7.0]
    server.faults, server.retry_after, server.pauses[:] = [429], "86400", []
    read(address, tmp_path / "other", 0, 9)
    assert server.pauses == [ranges.LONGEST_PAUSE]


def test_tries_end(server, address, tmp_path):
    server.faults = [None] + [503] * 99
    with pytest.raises(
        UserError, match=r"not read in 5 tries \(HTTP 503 Service Unavailable\); try again later: what was read is kept"
    ):
        read(address, tmp_path, CHUNK, CHUNK + 9)
    assert len(server.asked) == 6
    assert server.pauses == [1.0, 2.0, 4.0, 8.0]
    server.faults = []
    assert read(address, tmp_path, 0, CHUNK + 9) == CONTENT[: CHUNK + 9]  # goes on: the first chunk was kept
    assert server.asked[-1] == ("/file.bin", CHUNK, 2 * CHUNK - 1)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [(404, MissingError, "there is no such file"), (403, MissingError, "does not allow it"), (401, UserError, "wants a login")],
)
def test_final_answers_are_not_asked_for_twice(server, address, tmp_path, status, kind, words):
    server.faults = [status]
    with pytest.raises(kind, match=words):
        RemoteFile(address, tmp_path)
    assert len(server.asked) == 1
    assert not server.pauses


def test_a_server_without_ranges_sends_a_small_file_whole(server, address, tmp_path, monkeypatch):
    server.ranges = False
    assert read(address, tmp_path, CHUNK, CHUNK + 9) == CONTENT[CHUNK : CHUNK + 9]
    assert len(server.asked) == 1
    monkeypatch.setattr(ranges, "_WHOLE", CHUNK)
    with pytest.raises(UserError, match="sends no parts of files.*download it by hand"):
        RemoteFile(address, tmp_path / "other")


def test_a_file_that_changes_while_it_is_read_is_refused_and_then_read_anew(server, address, tmp_path):
    file = RemoteFile(address, tmp_path)
    server.version, server.files["/file.bin"] = '"2"', CONTENT[::-1]
    file.seek(CHUNK)
    with pytest.raises(UserError, match="has changed since its first parts were read; run again"):
        file.read(9)
    assert file.error is not None
    assert RemoteFile(address, tmp_path).read() == CONTENT[::-1]


def test_an_empty_file_is_refused(server, tmp_path):
    server.files["/empty"] = b""
    server.ranges = False
    with pytest.raises(UserError, match="the file is empty"):
        RemoteFile(f"{server.address}/empty", tmp_path)


def test_a_host_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setattr(ranges.time, "sleep", lambda _: None)
    with serve() as running:
        address = f"{running.address}/x.tif"
    with pytest.raises(UserError, match="not read in 5 tries .*refused"):
        RemoteFile(address, tmp_path)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://example.org/x.tif", "only https"),
        ("ftp://example.org/x.tif", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://user:secret@example.org/x.tif", "without a password"),
        ("s3://My_Bucket/x.tif", "is no bucket's name"),
    ],
)
def test_addresses_that_are_refused(address, words):
    with pytest.raises(UserError, match=words) as caught:
        https_address(address)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "10.0.0.3", "169.254.169.254", "[::1]", "[fd00::1]", "intranet", "db.internal"]
)
def test_an_untrusted_file_leads_to_no_host_of_a_local_network(host):
    with pytest.raises(UserError, match="a host of a local network"):
        https_address(f"https://{host}/latest/meta-data", trusted="https://example.org/item.json")


def test_redirections(server, tmp_path):
    server.redirect = lambda path: "/file.bin" if path == "/moved" else None
    assert RemoteFile(f"{server.address}/moved", tmp_path).read(9) == CONTENT[:9]
    for target, words in (
        ("http://example.org/x", "only https"),
        ("https://10.0.0.1/x", "local network"),
        ("file:///etc/passwd", "not allowed"),
    ):
        server.redirect = lambda _, target=target: target
        with pytest.raises(UserError, match=words):
            request_part(f"{server.address}/moved", 0, 9)
    server.redirect = lambda _: "/loop"
    with pytest.raises(UserError):
        request_part(f"{server.address}/loop", 0, 9)


def test_secrets_of_an_address_are_neither_shown_nor_stored(server, tmp_path):
    address = f"{server.address}/gone.tif?token=SECRET"
    with pytest.raises(UserError) as caught:
        RemoteFile(address, tmp_path)
    assert "SECRET" not in str(caught.value)
    RemoteFile(f"{server.address}/file.bin?token=SECRET", tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"SECRET" in path.read_bytes()]
