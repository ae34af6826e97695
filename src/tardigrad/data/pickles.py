"""Reading a pickle of numbers, text and byte arrays without running anything that it asks for.

A pickle is a program: it may name any function of any module and call it. The published files need three names, all
numpy's. Even those are not handed out: a crafted pickle could point an array at memory of its choice. What stands in
for them here only writes down what it is told, and checks it.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray


class Refused(Exception):
    """What a pickle holds that is not read; the message says why."""


class _Dtype:
    """Stands for numpy's dtype of unsigned bytes, the only one in the published files."""

    __slots__ = ()

    def __init__(self, code: object, *_flags: object) -> None:
        if code not in (b"u1", "u1"):
            raise Refused(f"holds an array of {str(code)[:20]!r} instead of unsigned bytes")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment, of which single bytes have none."""


class _Array:
    """Stands for numpy's array while it is described; `as_array` is the array."""

    __slots__ = ("content", "shape")

    def __init__(self, *_description: object) -> None:
        self.shape: tuple[int, ...] = (0,)
        self.content = b""

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple() as shape, _Dtype(), by_column, bytes() as content):
                if not all(type(length) is int and length >= 0 for length in shape) or by_column:
                    raise Refused("holds an array of a form that was never published")
                if math.prod(shape) != len(content):
                    raise Refused("holds an array that is larger or smaller than its content")
                self.shape, self.content = shape, content
            case _:
                raise Refused("holds an array of a form that was never published")

    def as_array(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.content, np.uint8).reshape(self.shape)


class _Name:
    """What a pickle gets for a name: an object, since classes and functions could be given attributes by it."""

    __slots__ = ("_describe",)

    def __init__(self, describe: Callable[..., object] | None = None) -> None:
        self._describe = describe

    def __call__(self, *arguments: object) -> object:
        if self._describe is None:
            raise Refused("makes an array in a way that was never published")
        return self._describe(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("changes what it was only to name")


_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Name(_Array),  # until numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _Name(_Array),  # since numpy 2
    ("numpy", "ndarray"): _Name(),  # named by the files, never called
    ("numpy", "dtype"): _Name(_Dtype),
}


class _InertUnpickler(pickle.Unpickler):
    """Knows the four names above and no others."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; nothing is ever imported.

        Raises:
            Refused: for every other name.
        """
        try:
            return _STAND_INS[module, name]
        except KeyError:
            raise Refused(f"asks for {module}.{name}"[:120] + ", which no data set needs") from None


def read_pickle(content: bytes) -> dict[Any, Any]:
    """What a pickled table holds, with text as bytes and arrays of unsigned bytes (read-only).

    Raises:
        Refused: for a pickle that is damaged, or asks for a function or class; nothing of it has been run.
    """
    try:
        found = _InertUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Refused:
        raise
    except Exception as error:  # the documentation of pickle: damaged data may raise any exception
        raise Refused(f"cannot be read ({type(error).__name__}: {str(error)[:80]})") from error
    if not isinstance(found, dict):
        raise Refused("is not a table of names and values")
    return {key: value.as_array() if isinstance(value, _Array) else value for key, value in found.items()}
