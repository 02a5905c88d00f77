"""Patches are read alike on both ways, quickly where their file is laid out as usual; a deviating byte changes the way only."""

import pickle

import numpy as np
import pytest

from soilcarbon.io import patchfiles
from soilcarbon.io.files import UserError
from soilcarbon.io.patchfiles import PatchReader
from soilcarbon.io.pickles import dump_pickle, load_patches
from soilcarbon.soil.dataset import pack_variable

IDS = {
    "text": lambda n: [f"P{k}" for k in range(n)],
    "text of many lengths": lambda n: ["µ" * (k % 120) + str(k) for k in range(n)],
    "numbers": lambda n: [k * k for k in range(n)],
    "numbers below 0": lambda n: [-1 - k for k in range(n)],
}


def patches_of(ids, dtype="f4", side=3, seed=0):
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 100, (len(ids), side, side)).astype(dtype)
    return dict(zip(ids, values, strict=True))


@pytest.fixture
def only_quickly(monkeypatch):
    """The careful way is closed."""

    def closed(path):
        raise AssertionError(f"{path} is not laid out as usual")

    monkeypatch.setattr(patchfiles, "load_patches", closed)


def assert_same(read, keys, values):
    assert read[0] == keys
    assert [type(key) for key in read[0]] == [type(key) for key in keys]
    assert len(read[1]) == len(values)
    for ours, theirs in zip(read[1], values, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("n", [2, 999, 1000, 1001, 2500])
def test_what_we_write_is_read_quickly(tmp_path, only_quickly, ids, n):
    patches = patches_of(IDS[ids](n))
    dump_pickle(tmp_path / "x.pkl", patches)
    assert_same(PatchReader().read(tmp_path / "x.pkl"), list(patches), list(patches.values()))


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "i2", "u1", "?", "f2", "i8"])
@pytest.mark.parametrize("side", [3, 15, 61])
def test_numbers_of_every_kind_and_windows_of_every_size_are_read_quickly(tmp_path, only_quickly, dtype, side):
    patches = patches_of(["a", "b", "c"] + list(range(20)), dtype, side)
    dump_pickle(tmp_path / "x.pkl", patches)
    assert_same(PatchReader().read(tmp_path / "x.pkl"), list(patches), list(patches.values()))


def test_files_of_numpy_1_are_read_quickly(tmp_path, only_quickly):
    patches = patches_of(["a", "b", "c"])
    content = pickle.dumps(patches, protocol=4)[11:].replace(b"\x8c\x16numpy._core.", b"\x8c\x15numpy.core.")
    (tmp_path / "x.pkl").write_bytes(b"\x80\x04\x95" + len(content).to_bytes(8, "little") + content)
    assert_same(PatchReader().read(tmp_path / "x.pkl"), list(patches), list(patches.values()))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", [b"numpy._core.", b"numpy.core."])
@pytest.mark.parametrize(
    "form",
    [
        lambda ids, a: dict(zip(ids, a, strict=True)),
        lambda ids, a: dict(zip(np.arange(len(ids)), a, strict=True)),
        lambda ids, a: dict(zip(ids, np.asfortranarray(a.transpose(1, 2, 0)).transpose(2, 1, 0), strict=True)),
        lambda ids, a: dict(zip(ids, [*a[:-1], a[-1].astype("f8")], strict=True)),
        lambda ids, a: dict(zip(ids, [*a[:-1], a[0]], strict=True)),  # one array under two names
        lambda ids, a: dict(zip(ids, a[:, 0, 0], strict=True)),
        lambda _, a: list(a),
        lambda _, a: tuple(a),
        lambda _, a: a,
    ],
    ids=["dict", "NumPy's keys", "Fortran order", "two dtypes", "shared", "numbers", "list", "tuple", "array"],
)
def test_every_form_and_protocol_is_packed_as_plain_pickle_would_have_it(tmp_path, protocol, core, form):
    ids = [str(k) for k in range(7)]
    value = form(ids, np.random.default_rng(0).normal(size=(7, 3, 3)).astype("f4"))
    content = pickle.dumps(value, protocol=protocol)
    if core == b"numpy.core." and protocol < 4:
        content = content.replace(b"numpy._core.", core)
    (tmp_path / "x.pkl").write_bytes(content)
    keys, patches = PatchReader().read(tmp_path / "x.pkl")
    ours = patches if keys is None else dict(zip(keys, patches, strict=True))
    np.testing.assert_array_equal(pack_variable(ours, ids, 0, tmp_path), pack_variable(value, ids, 0, tmp_path))


def read(way, path):
    """Return keys, and bytes, dtype and shape of each patch, or what was said."""
    try:
        keys, patches = way(path)
        return keys, [(patch.tobytes(), patch.dtype, patch.shape) for patch in map(np.asarray, patches)]
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("ids", [["P1", "P2", "P3"], [7, 800, 90000]])
def test_a_file_with_a_byte_changed_is_read_as_the_careful_way_reads_it(tmp_path, ids):
    path = tmp_path / "x.pkl"
    content = pickle.dumps(patches_of(ids, "i2"), protocol=4)
    quick = 0
    for at in range(len(content)):
        for change in (1, 128):
            path.write_bytes(content[:at] + bytes([content[at] ^ change]) + content[at + 1 :])
            reader = PatchReader()
            assert read(reader.read, path) == read(load_patches, path), (at, change)
            quick += bool(reader._last[0])
    assert 2 * 3 * 18 <= quick < len(content)  # bytes of arrays and of keys, and few others


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "x.pkl"
    content = pickle.dumps(patches_of(["P1", "P2", "P3"]), protocol=4)
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError, match="refused"):
            PatchReader().read(path)


def test_a_key_that_comes_twice_counts_as_it_does_for_pickle(tmp_path):
    content = pickle.dumps(patches_of(["P1", "P2", "P3"]), protocol=4).replace(b"\x8c\x02P2", b"\x8c\x02P1")
    (tmp_path / "x.pkl").write_bytes(content)
    plain = pickle.loads(content)
    assert len(plain) == 2
    assert_same(PatchReader().read(tmp_path / "x.pkl"), list(plain), list(plain.values()))


def test_numbers_and_names_that_look_like_the_files_own_marks_are_not_taken_for_them(tmp_path, only_quickly):
    tail = b"\x94t\x94b"
    path = tmp_path / "x.pkl"
    dump_pickle(path, patches_of(["a", "b"], "u1", 9))
    content = path.read_bytes()
    second = content.index(b"\x8c\x01b\x94h")  # a whole record, as content of an array and, in part, as a name
    record = content[second : content.index(tail, second) + len(tail)]
    numbers = np.frombuffer((record + record)[:81], "u1").reshape(9, 9)
    patches = {"a": numbers, "b\x94h": numbers[::-1].copy(), "\x94t\x94b": numbers + 1, "u(": numbers.T.copy()}
    dump_pickle(path, patches)
    assert_same(PatchReader().read(path), list(patches), list(patches.values()))


def test_each_files_own_keys_count(tmp_path):
    orders = [["a", "b", "c"], ["c", "a", "b"], ["a", "b", "c"], ["a", "b", "d"]]
    reader = PatchReader()
    for k, ids in enumerate(orders):
        patches = patches_of(ids, seed=k)
        dump_pickle(tmp_path / f"{k}.pkl", patches)
        assert_same(reader.read(tmp_path / f"{k}.pkl"), ids, list(patches.values()))
    dump_pickle(tmp_path / "list.pkl", list(patches.values()))
    assert reader.read(tmp_path / "list.pkl")[0] is None


def test_a_file_that_only_begins_as_usual_is_not_searched_again_and_again(tmp_path):
    """A search over all that was read, for each frame, would take hours for what a stranger can make."""
    content = pickle.dumps(patches_of(["a", "b"]), protocol=4)
    head = content[11 : content.index(b"\x8c\x01b\x94h")]
    junk = b"\x8c\x01b\x94" + b"0" * 200_000 + head * 10
    frames = [head, *(junk[k : k + 50] for k in range(0, len(junk), 50))]
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(b"\x95" + len(part).to_bytes(8, "little") + part for part in frames))
    with path.open("rb") as file, pytest.raises(patchfiles._UnusualError):
        patchfiles._split(file)
    with path.open("rb") as file:
        file.seek(0)
        with pytest.raises(patchfiles._UnusualError):
            patchfiles._split(file)
        assert file.tell() < 4000
