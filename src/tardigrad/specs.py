"""Specs and registries: how a part is named in a configuration, on the command line and in a log.

A spec is a call without the parts that need Python: ``dc-asgd-a(lambda0=4, damped=True)``, ``ssp(2)``, ``asgd``.
A registry maps a name to ``"module:attribute"``; the module is imported only when the part is built, so that
listing names costs nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import inspect
import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from numbers import Integral, Real
from typing import Any

from tardigrad.errors import InvalidArgument, UnknownName

_SPEC = re.compile(r"\s*([A-Za-z_][\w.:<>-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_WORDS = {"inf": float("inf"), "nan": float("nan"), "true": True, "false": False, "none": None}


@dataclass(frozen=True, slots=True)
class Spec:
    """A parsed spec: the name, positional and keyword arguments (literals only)."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse_spec(text: str) -> Spec:
    """Parse ``name`` or ``name(1, key=value)``; values are Python literals, never evaluated code.

    >>> parse_spec("ssp(2)")
    Spec(name='ssp', args=(2,), kwargs={})
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise InvalidArgument(f"{text!r} is not a name or a call such as 'dc-asgd-a(lambda0=2.0)'.")
    name, inner = match.group(1), match.group(2)
    if not inner:
        return Spec(name)
    try:
        args, words = _arguments(ast.parse(f"f({inner})", mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise InvalidArgument(
            f"{text!r}: the part in brackets must be numbers, 'strings', True, False or None, "
            "such as (lambda0=2.0, damped=True)."
        ) from error
    kwargs = dict(words)
    if len(kwargs) < len(words):
        raise InvalidArgument(f"{text!r} gives a keyword twice.")
    return Spec(name, args, kwargs)


def _arguments(call: ast.expr) -> tuple[tuple[Any, ...], list[tuple[str, Any]]]:
    """Values of a call's arguments; ValueError where it is not a call with literals."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError("more than one call")
    named = [(word.arg, _literal(word.value)) for word in call.keywords if word.arg is not None]
    if len(named) < len(call.keywords):
        raise ValueError("** is not accepted")
    return tuple(_literal(node) for node in call.args), named


class _Words(ast.NodeTransformer):
    """Puts the values of inf, nan, true ... in the place of their names."""

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A constant for a known word; any other name stays, and is refused."""
        word = node.id.lower()
        return ast.Constant(_WORDS[word]) if word in _WORDS else node


def _literal(node: ast.expr) -> Any:
    return ast.literal_eval(_Words().visit(node))


def format_spec(name: str, options: Mapping[str, Any]) -> str:
    """The inverse of `parse_spec` for keyword arguments; numbers of numpy become Python's."""
    if not options:
        return name
    return f"{name}({', '.join(f'{key}={_plain(value)!r}' for key, value in options.items())})"


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return int(value) if isinstance(value, Integral) else float(value)


def options_of(part: Any) -> dict[str, Any]:
    """All keywords of a dataclass instance, by value; a whole number given for a float is written as a float."""
    values = {item.name: getattr(part, item.name) for item in dataclasses.fields(part) if item.init}
    kinds = {item.name: str(item.type) for item in dataclasses.fields(part)}
    return {name: as_declared(value, kinds[name]) for name, value in values.items()}


def as_declared(value: Any, kind: str) -> Any:
    """A whole number as a float where a float is declared, so that 4 and 4.0 are one setting; else the value."""
    return float(value) if type(value) is int and kind.startswith("float") else value


def keywords_of(factory: Any) -> list[str]:
    """The keywords a part takes, in order."""
    return [name for name in inspect.signature(factory).parameters if name != "self"]


class Registry:
    """Names of one kind of part, each bound to ``"module:attribute"`` or to the object itself.

    Args:
        kind: the word used in messages ("rule", "delay", ...).
        entries: the built-in names.
        group: entry-point group through which other packages add theirs; None for a closed registry.
    """

    def __init__(self, kind: str, entries: Mapping[str, str], *, group: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, Any] = dict(entries)
        self._builtin = frozenset(entries)
        self._group = group
        self._scanned = group is None

    def register(self, name: str, target: Any) -> None:
        """Bind ``name`` to a class or function, or to ``"module:attribute"``. A built-in name is refused."""
        if name in self._builtin:
            raise InvalidArgument(f"{name!r} is a built-in {self.kind}; register yours under another name.")
        if not re.fullmatch(r"[A-Za-z][\w.-]*", name):
            raise InvalidArgument(f"{name!r} cannot name a {self.kind}: use letters, digits, '-', '_' and '.'.")
        self._entries[name] = target

    def names(self) -> list[str]:
        """All registered names, built-in first; entry points are looked up once."""
        self._scan()
        return list(self._entries)

    def target(self, name: str) -> Any:
        """What a name is bound to: ``"module:attribute"``, or the object itself where that was registered."""
        if name not in self._entries:
            self._scan()
        target = self._entries.get(name, name if ":" in name else None)
        if target is None:
            raise UnknownName(self.kind, name, self._entries)
        return target

    def load(self, name: str) -> Any:
        """The class or function behind a name; ``module:attribute`` is accepted in place of a name."""
        target = self.target(name)
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            return operator.attrgetter(attribute)(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise InvalidArgument(f"{self.kind} {name!r}: cannot import {target!r} ({error}).") from error

    def build(self, spec: str | Spec, **extra: Any) -> Any:
        """Build the part a spec names; an unknown keyword is refused with the list of those it takes."""
        parsed = parse_spec(spec) if isinstance(spec, str) else spec
        factory = self.load(parsed.name)
        known = keywords_of(factory)
        for word in parsed.kwargs:
            if word not in known:
                raise InvalidArgument(unknown_keyword(self.kind, parsed.name, word, known))
        try:
            return factory(*parsed.args, **parsed.kwargs, **extra)
        except TypeError as error:
            raise InvalidArgument(f"{self.kind} {parsed.name!r}: {error}. It takes: {', '.join(known)}.") from error

    def name_of(self, factory: Any, preferred: str) -> str:
        """The name under which `build` finds a factory again: ``preferred`` if bound to it, else module:attribute."""
        if preferred in self._entries and self.load(preferred) is factory:
            return preferred
        return f"{factory.__module__}:{factory.__qualname__}"

    def _scan(self) -> None:
        if self._scanned or self._group is None:
            return
        self._scanned = True
        for point in metadata.entry_points(group=self._group):
            self._entries.setdefault(point.name, point.value)


def unknown_keyword(kind: str, name: str, word: str, known: list[str]) -> str:
    """The sentence for a keyword that a part does not take."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"{kind} {name!r} has no keyword {word!r}.{hint} It takes: {', '.join(known) or 'none'}."
