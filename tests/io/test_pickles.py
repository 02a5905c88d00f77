"""Pickles are read without running them, and take no more than their files hold."""

import _codecs
import contextlib
import gc
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from soilcarbon.io import pickles
from soilcarbon.io.files import UserError
from soilcarbon.io.pickles import dump_pickle, load_patches, load_pickle


class Hostile:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_pickle_written_by_numpy_1_is_read(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": np.ones((3, 3))}, protocol=2).replace(b"numpy._core.", b"numpy.core."))
    np.testing.assert_array_equal(load_pickle(path)["a"], np.ones((3, 3)))


@pytest.mark.parametrize(
    "call", [os.system, eval, exec, getattr, __import__, np.load, np.fromfile, Path, pickle.loads], ids=lambda call: call.__name__
)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, call):
    mark = tmp_path / "ran"
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": Hostile(call, f"touch {mark}")}))
    with pytest.raises(UserError, match="refused"):
        load_pickle(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x04", b"no pickle at all", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"(" * 50_000]
)
def test_torn_pickles_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.pkl"):
        load_pickle(path)


@pytest.mark.parametrize(
    "content",
    [
        # numpy.ndarray called with a buffer: an array of forged pointers
        b"\x80\x04cnumpy\nndarray\n((I120\ntS'O'\nB" + (960).to_bytes(4, "little") + b"A" * 960 + b"tR.",
        pickle.dumps({"a": np.array([[1, "x"]], object)}),
        pickle.dumps({"a": np.zeros((1, 1), [("x", "f4"), ("y", "O")])}),
        pickle.dumps({"a": np.array([["text"]])}),
        pickle.dumps({"a": np.array([["2020-01-01"]], "M8[D]")}),
        pickle.dumps({"a": np.ma.masked_array([[1.0]], [[True]])}),
        # an array that says it is larger than its content
        pickle.dumps({"a": np.zeros((3, 3))}, protocol=4).replace(b"K\x03K\x03\x86", b"K\x7fK\x7f\x86"),
    ],
)
def test_arrays_that_are_not_plain_numbers_of_their_own_size_are_refused(tmp_path, content):
    path = tmp_path / "x.pkl"
    path.write_bytes(content)
    with pytest.raises(UserError, match="refused"):
        load_pickle(path)


def test_what_was_read_can_be_written_and_read_again(tmp_path):
    dump_pickle(tmp_path / "a.pkl", {"x": np.asfortranarray(np.arange(6.0).reshape(2, 3))})
    dump_pickle(tmp_path / "b.pkl", load_pickle(tmp_path / "a.pkl"))
    np.testing.assert_array_equal(load_pickle(tmp_path / "b.pkl")["x"], np.arange(6.0).reshape(2, 3))


class Made:
    """An array with a crafted state."""

    def __init__(self, state, call=np._core.multiarray._reconstruct, arguments=(np.ndarray, (0,), b"b")):
        self.reduced = call, arguments, state

    def __reduce__(self):
        return self.reduced


F4 = np.dtype("f4")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Made((1, (10**9, 10**9), F4, False, b"1234")), "shape does not fit"),
        (Made((1, (2**62, 4), F4, False, b"")), "shape does not fit"),
        (Made((1, (0, 2**62, 2**62), F4, False, b"")), "refused"),
        (Made((1, (-1, -1), F4, False, b"1234")), "without a shape"),
        (Made((1, (True, True), F4, False, b"1234")), "without a shape"),
        (Made((1, (1.0, 1), F4, False, b"1234")), "without a shape"),
        (Made((1, [1, 1], F4, False, b"1234")), "refused"),
        (Made((1, (1, 1), "f4", False, b"1234")), "not made of numbers"),
        (Made((1, (1, 1), np.dtype("O"), False, [1])), "not plain numbers"),
        (Made((1, (1, 1), F4, False, [1.0])), "not made of numbers"),
        (Made((1, (1, 1), F4, False, "1234")), "not made of numbers"),
        (Made((1, (1, 1), F4, False)), "refused"),
        (Made("state"), "refused"),
        (Made(None), "without content"),
        (Made(b"1234", np._core.multiarray.scalar, (F4, b"123")), "refused"),
        (Made(None, np._core.multiarray.scalar, (F4, b"12345678")), "refused"),
        (Made(None, np._core.multiarray.scalar, ("f4", b"1234")), "not one"),
        (Made(None, np._core.numeric._frombuffer, (b"1234", F4, (2,), "C")), "shape does not fit"),
        (Made(None, np._core.numeric._frombuffer, (b"1234", np.dtype("M8[D]"), (1,), "C")), "not plain numbers"),
        (Hostile(_codecs.encode, "a", "zlib"), "codec"),
    ],
)
@pytest.mark.parametrize("inside", [lambda value: value, lambda value: {"a": value, "b": value}, lambda value: [1, (value,)]])
def test_an_array_that_is_not_what_it_says_is_refused_before_it_is_made(tmp_path, value, words, inside):
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(inside(value), protocol=4))
    for load in (load_pickle, load_patches):
        with pytest.raises(UserError, match=words):
            load(tmp_path / "x.pkl")


ADMITTED = [f"c{module}\n{name}\n".encode() for module, name in pickles._ADMITTED]


@pytest.mark.parametrize("name", ADMITTED, ids=lambda name: name.decode().split()[1])
@pytest.mark.parametrize(
    "state",
    [b"}(VX\nK\x01u", b"N}(V__call__\nK\x01u\x86", b"N}(V__setstate__\nK\x01u\x86", b"(K\x01K\x02t", b"(lp0\n", b"K\x01"],
    ids=["attributes", "call", "setstate", "tuple", "list", "number"],
)
def test_what_a_pickle_may_ask_for_cannot_be_changed_by_it(tmp_path, name, state):
    before = {key: (type(value), dir(value)) for key, value in pickles._ADMITTED.items()}
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + name + state + b"b.")
    with pytest.raises(UserError, match="refused"):
        load_pickle(tmp_path / "x.pkl")
    assert {key: (type(value), dir(value)) for key, value in pickles._ADMITTED.items()} == before
    (tmp_path / "y.pkl").write_bytes(pickle.dumps(np.ones((2, 2))))
    np.testing.assert_array_equal(load_pickle(tmp_path / "y.pkl"), np.ones((2, 2)))


@pytest.mark.parametrize("name", ADMITTED, ids=lambda name: name.decode().split()[1])
def test_what_a_pickle_may_ask_for_is_no_class(tmp_path, name):
    assert not any(isinstance(value, type) for value in pickles._ADMITTED.values())
    (tmp_path / "x.pkl").write_bytes(b"\x80\x02" + name + b")\x81.")  # NEWOBJ: cls.__new__(cls)
    with pytest.raises(UserError, match="refused"):
        load_pickle(tmp_path / "x.pkl")


def peak_memory(call):
    """Return the most bytes held by Python and NumPy while `call` runs."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_small_file_does_not_become_much_memory(tmp_path):
    path = tmp_path / "x.pkl"
    large = np.ones((161, 161), "f4")
    raw = large.tobytes()
    for values in ([large] * 2000, [Made((1, (161, 161), F4, False, raw)) for _ in range(2000)]):  # 0.2 GB if copied
        path.write_bytes(pickle.dumps(dict(enumerate(values)), protocol=4))
        assert path.stat().st_size < 1_000_000
        assert peak_memory(lambda: load_pickle(path)) < 20_000_000
        assert peak_memory(lambda: load_patches(path)) < 20_000_000
    np.testing.assert_array_equal(load_pickle(path)[1999], large)


def test_containers_that_hold_one_another_many_times_or_themselves_are_read_once(tmp_path):
    nested = [np.ones((1, 1)), 2.0]
    for _ in range(60):  # 2 ** 60 arrays, if each were visited
        nested = [nested, (nested, 1)]
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(nested))
    read = load_pickle(path)
    assert read[0] is read[1][0]
    own = {"a": np.ones((1, 1)), "b": 1}
    own["own"] = own
    path.write_bytes(pickle.dumps(own))
    read = load_pickle(path)
    assert read["own"] is read
    assert read["a"] == 1


def test_collecting_garbage_goes_on_after_a_file_good_or_bad(tmp_path):
    path = tmp_path / "x.pkl"
    for content in (pickle.dumps([np.ones(3)]), b"no pickle"):
        path.write_bytes(content)
        with contextlib.suppress(UserError):
            load_pickle(path)
        assert gc.isenabled()


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_form_are_what_plain_pickle_makes_of_them(tmp_path, protocol):
    shared = np.arange(6.0).reshape(2, 3)
    value = {
        "rows": list(np.arange(12, dtype=">i4").reshape(3, 2, 2)),
        "columns": [np.asfortranarray(shared + k) for k in range(3)],
        "two forms": (np.ones(2), np.ones((2, 2), bool), shared, shared.T, shared[:, ::2]),
        "none": [np.empty((0, 3)), np.empty((0, 3))] if protocol > 2 else [],  # else pickle needs `bytes`
        "numbers": [np.array(1.5), np.array(2.5)],
        "kinds": [np.arange(4).reshape(2, 2).astype(kind) for kind in ("f4", "f8", "i2", "u1", ">f4")],
        np.int64(3): {np.float32(1.5): np.complex64(1j), True: b"bytes"},
    }
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    read, plain = load_pickle(path), pickle.loads(path.read_bytes())
    assert list(read) == list(plain)
    for name in ("rows", "columns", "two forms", "none", "numbers", "kinds"):
        assert type(read[name]) is type(plain[name])
        for ours, theirs in zip(read[name], plain[name], strict=True):
            assert (ours.dtype.kind, ours.dtype.itemsize, ours.shape) == (theirs.dtype.kind, theirs.dtype.itemsize, theirs.shape)
            np.testing.assert_array_equal(ours, theirs)
    assert read[3] == plain[3]


def test_places_of_the_memo_that_no_object_fills_take_no_memory(tmp_path):
    path = tmp_path / "x.pkl"
    for put in (b"r" + (2**28).to_bytes(4, "little"), b"r\xff\xff\xff\xff", b"p268435456\n", b"\x94" * 3 + b"r\x00\x00\x00\x40"):
        path.write_bytes(b"\x80\x02]" + put + b".")
        with pytest.raises(UserError, match="no instruction for plain data"):
            load_pickle(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"}K\x01" + b"2\x86" * 40 + b"K\x01s.", "a key is text or a number; found a tuple"),  # hashed, it would take 2 ** 40 steps
        (b"}(K\x01" + b"2\x86" * 40 + b"K\x01u.", "found a tuple"),
        (b"\x8f(K\x01\x90.", "no instruction for plain data"),  # a set
        (b"}\x8a\xff" + b"\x01" * 255 + b"K\x01s.", "no instruction for plain data"),  # a number of 600 digits
        (b"\x96" + (2**40).to_bytes(8, "little") + b"abc.", "claims more bytes"),
        (b"B\xff\xff\xff\x7fabc.", "claims more bytes"),
        (b"\x8d" + b"\xff" * 8 + b".", "claims more bytes"),
        (b"}q\x00(" + b"K\x01" * 1001 + b"u.", "no keys and values"),
        (b"]q\x00(K\x01K\x02tq\x010}" + b"h\x01a" * 99 + b".", None),  # one pair, many times: within the file's size
        (b"](" + b"K\x01" * 900 + b"tq\x010}" + b"h\x01a" * 999 + b".", "more keys and values than it has bytes"),
        (b"(" * 100_000 + b".", "refused"),
        (b"]" * 100_000 + b"a" * 99_999 + b".", "recursion"),
    ],
)
def test_a_pickle_unfolds_to_no_more_than_it_holds(tmp_path, content, words):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04" + content)
    if words is None:
        assert load_pickle(path) == {1: 2}
        return
    with pytest.raises(UserError, match=words):
        load_pickle(path)


def test_texts_as_bytes_and_joined_arrays_are_copied_once_however_often_they_come(tmp_path):
    path = tmp_path / "x.pkl"
    text, latin1 = b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b"q\x00", b"X\x06\x00\x00\x00latin1q\x02"
    first, again = b"c_codecs\nencode\nq\x01" + text + latin1 + b"\x86R", b"h\x01h\x00h\x02\x86R"
    path.write_bytes(b"\x80\x02(" + first + again * 9999 + b"l.")
    assert peak_memory(lambda: load_pickle(path)) < 10_000_000
    large = np.ones(10**5)
    path.write_bytes(pickle.dumps([[large, large] for _ in range(1000)], protocol=4))
    assert peak_memory(lambda: load_pickle(path)) < 10_000_000
