"""A pickle of images is read without running anything; what is not numbers, text and byte arrays is refused."""

import struct

import numpy as np
import pytest
from official import (
    DTYPE,
    NDARRAY,
    RECONSTRUCT,
    batch,
    byte_array,
    calls,
    in_good_faith,
    integer,
    items,
    table,
    text,
)

from tardigrad.data import pickles
from tardigrad.data.pickles import Refused, read_pickle

IMAGES = np.arange(24, dtype=np.uint8).reshape(4, 6)
WHOLE = batch(IMAGES, [3, 1, 0, 2])


def test_reads_what_python_2_wrote():
    ours, theirs = read_pickle(WHOLE), in_good_faith(WHOLE)
    assert ours.keys() == theirs.keys() == {b"batch_label", b"labels", b"data"}
    assert ours[b"labels"] == theirs[b"labels"] == [3, 1, 0, 2]
    assert ours[b"data"].dtype == np.uint8
    np.testing.assert_array_equal(ours[b"data"], IMAGES)
    np.testing.assert_array_equal(theirs[b"data"], IMAGES)


def test_reads_the_array_under_its_new_name():
    renamed = table({b"data": byte_array(IMAGES, reconstruct=b"cnumpy._core.multiarray\n_reconstruct\n")})
    np.testing.assert_array_equal(read_pickle(renamed)[b"data"], IMAGES)


def test_a_pickle_that_calls_the_system_does_not(tmp_path):
    marker = tmp_path / "was here"
    command = calls("os", "system", f"touch '{marker}'".encode())
    in_good_faith(command)
    assert marker.exists(), "this test's pickle is harmless: it proves nothing"
    marker.unlink()
    with pytest.raises(Refused, match=r"asks for os\.system, which no data set needs"):
        read_pickle(command)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("__builtin__", "eval"),
        ("numpy", "load"),
        ("numpy", "fromfile"),
        ("numpy", "ndarray.tofile"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct.__globals__"),
        ("_codecs", "encode"),
        ("tardigrad.data.pickles", "_Array"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_every_other_name_is_refused(module, name, protocol):
    by_stack = b"\x80\x04}" + text(b"data") + text(module.encode()) + text(name.encode()) + b"\x93s."
    by_stack = by_stack.replace(text(module.encode()), b"\x8c" + text(module.encode())[1:])
    by_stack = by_stack.replace(text(name.encode()), b"\x8c" + text(name.encode())[1:])
    with pytest.raises(Refused, match=r"asks for"):
        read_pickle(calls(module, name, b"1") if protocol == 2 else by_stack)


@pytest.mark.parametrize(
    "value",
    [
        NDARRAY + b"(" + b"(" + integer(4) + b"t" + DTYPE + text(b"u1") + b"\x85R" + text(b"abcd") + b"tR",
        NDARRAY + text(b"x") + b"\x85\x81",  # NEWOBJ
        RECONSTRUCT + text(b"x") + b"\x85\x81",
        b"(" + text(b"x") + b"inumpy\nndarray\n",  # INST
        NDARRAY + b"N}" + text(b"_describe") + integer(1) + b"s\x86b",  # BUILD with attributes, on the name itself
        RECONSTRUCT + b"N}" + text(b"_describe") + integer(1) + b"s\x86b",
        RECONSTRUCT + b"}" + text(b"_describe") + integer(1) + b"sb",
        DTYPE + text(b"O8") + integer(0) + integer(1) + b"\x87R",
        DTYPE + text(b"f4") + b"\x85R",
        DTYPE + b")R",
        byte_array(IMAGES, shape=(4, 7)),
        byte_array(IMAGES, shape=(-4, -6)),
        byte_array(IMAGES, shape=(65_535, 65_535)),
        byte_array(IMAGES, by_column=b"\x88"),
        byte_array(IMAGES, code=b"i8"),
        byte_array(IMAGES).replace(DTYPE, RECONSTRUCT),
        RECONSTRUCT + b")R" + items([1], integer) + b"b",
        b"P1\n",  # PERSID
        b"\x82\x01",  # EXT1
    ],
)
def test_other_uses_of_the_known_names_are_refused(value):
    with pytest.raises(Refused):
        read_pickle(table({b"data": value}))
    np.testing.assert_array_equal(read_pickle(WHOLE)[b"data"], IMAGES)  # and change nothing for the next file


def test_names_lead_to_nothing_of_numpy():
    """What a pickle is handed is ours: it could not reach numpy if it called it."""
    for name in pickles._STAND_INS.values():
        assert type(name).__module__ == "tardigrad.data.pickles"
        with pytest.raises(AttributeError):
            name.anything = 1


@pytest.mark.parametrize("content", [b"", b"\x80\x02N.", b"\x80\x02](K\x01e.", b"<html>404</html>", b"\x80\x02]\x81."])
def test_what_is_no_table_is_refused(content):
    with pytest.raises(Refused, match=r"cannot be read|is not a table"):
        read_pickle(content)


def test_a_torn_pickle_is_refused_wherever_it_is_torn():
    for length in range(len(WHOLE)):
        with pytest.raises(Refused):
            read_pickle(WHOLE[:length])


def test_a_changed_byte_gives_a_table_or_a_refusal():
    """Past the checksum a changed pixel cannot be seen; but nothing else than a refusal ever comes out."""
    refused = 0
    for place in range(len(WHOLE)):
        for value in (0, ord("c"), ord("R"), ord("b"), ord("."), WHOLE[place] ^ 0x80):
            try:
                assert isinstance(read_pickle(WHOLE[:place] + bytes([value]) + WHOLE[place + 1 :]), dict)
            except Refused:
                refused += 1
    assert refused > 2 * len(WHOLE)


def test_a_length_that_lies_is_refused():
    lying = WHOLE.replace(b"T" + struct.pack("<i", 24), b"T" + struct.pack("<i", 2**31 - 1))
    with pytest.raises(Refused, match="cannot be read"):
        read_pickle(lying)
