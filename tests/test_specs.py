"""Specs: read and written back, never evaluated; registries: names, suggestions, what strangers add."""

import contextlib
import keyword
import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tardigrad.errors import InvalidArgument, UnknownName
from tardigrad.specs import Registry, Spec, format_spec, parse_spec

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,12}", fullmatch=True)
words = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda word: not keyword.iskeyword(word))
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**12), 10**12), st.floats(allow_nan=False), st.text(max_size=12)
)
literals = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner), max_leaves=6)


@given(names, st.dictionaries(words, literals, max_size=4))
def test_what_is_written_is_read_back(name, options):
    assert parse_spec(format_spec(name, options)) == Spec(name, (), options)


@given(st.text(max_size=60))
def test_any_text_is_a_spec_or_refused_with_a_sentence(text):
    for candidate in (text, f"asgd({text})", f"asgd(x={text})"):
        with contextlib.suppress(InvalidArgument):
            assert isinstance(parse_spec(candidate), Spec)


@pytest.mark.parametrize("name", ["__main__:Own", "package.module:Outer.Inner", "module:made.<locals>.Own", "own-rule"])
def test_classes_are_named_by_module_and_place(name):
    assert parse_spec(f"{name}(x=1)") == Spec(name, (), {"x": 1})


class Outer:
    class Inner:
        def __init__(self, x=0):
            self.x = x


def test_a_nested_class_is_found_by_its_place():
    registry = Registry("part", {})
    name = registry.name_of(Outer.Inner, "inner")
    assert name == f"{__name__}:Outer.Inner"
    assert registry.build(f"{name}(x=3)").x == 3
    registry.register("inner", Outer.Inner)
    assert registry.name_of(Outer.Inner, "inner") == "inner"


def test_positional_arguments_and_words():
    assert parse_spec(" ssp( 2 ) ") == Spec("ssp", (2,), {})
    assert parse_spec("asgd()") == Spec("asgd")
    assert parse_spec("f(true, False, none, inf, -inf)").args == (True, False, None, math.inf, -math.inf)
    assert math.isnan(parse_spec("f(x=nan)").kwargs["x"])
    assert parse_spec("f(x=[1, (inf, 'a')])").kwargs == {"x": [1, (math.inf, "a")]}
    assert parse_spec("a.module:Name(1)").name == "a.module:Name"


class Tripwire:
    """Notes any attempt to call or read it."""

    touched = False

    def __call__(self, *args, **kwargs):
        type(self).touched = True

    def __getattr__(self, name):
        type(self).touched = True
        return self


@pytest.mark.parametrize(
    "inner",
    [
        "tripwire()",
        "x=tripwire()",
        "tripwire.x",
        "[tripwire() for _ in (1, 2)]",
        "*tripwire",
        "**tripwire()",
        "**{'x': 1}",
        "*(1, 2)",
        "(lambda: tripwire())()",
        "x := tripwire()",
        "f'{tripwire()}'",
        "1) + tripwire(",
        "1)(tripwire()",
        "__import__('os').getcwd()",
        "1 + 1 ** 9",
        "'a' * 3",
        "{[]: 1}",
        "x=1, x=2",
        "x=1 y=2",
        "-true",
        "-" * 100_000 + "1",
        "[" * 300 + "]" * 300,
        "1,,2",
        "\x00",
        "lambda0=2.0",
    ],
    ids=lambda inner: inner[:20],
)
def test_code_is_never_evaluated(inner, monkeypatch):
    monkeypatch.setitem(sys.modules["builtins"].__dict__, "tripwire", Tripwire())
    if inner == "lambda0=2.0":
        assert parse_spec(f"asgd({inner})").kwargs == {"lambda0": 2.0}
        return
    with pytest.raises(InvalidArgument):
        parse_spec(f"asgd({inner})")
    assert not Tripwire.touched


@pytest.mark.parametrize("text", ["", "(", "2fast", "dc asgd", "asgd(1", "asgd)1(", "asgd(1) more", "-a"])
def test_what_is_no_call_is_refused(text):
    with pytest.raises(InvalidArgument, match="such as"):
        parse_spec(text)


def part(a=1, *, b=2):
    """A part."""
    return (a, b)


@pytest.fixture
def registry():
    return Registry("thing", {"plain": f"{__name__}:part", "broken": "no.such.module:part"})


def test_a_registry_builds_from_specs(registry, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules[part.__module__])
    assert registry.build("plain") == (1, 2)
    assert registry.build("plain(5, b=6)") == (5, 6)
    registry.register("mine", part)
    assert registry.build("mine(b=0)") == (1, 0)
    assert registry.names() == ["plain", "broken", "mine"]


def test_unknown_names_keywords_and_places_are_refused_with_what_there_is(registry):
    registry.register("mine", part)
    with pytest.raises(UnknownName, match=r"unknown thing 'plane'. Did you mean 'plain'\? Known: broken, mine, plain."):
        registry.build("plane")
    with pytest.raises(UnknownName, match=r"unknown thing 'zzz'. Known"):
        registry.build("zzz")
    with pytest.raises(InvalidArgument, match=r"thing 'mine' has no keyword 'bb'. Did you mean 'b'\? It takes: a, b."):
        registry.build("mine(bb=1)")
    with pytest.raises(InvalidArgument, match=r"thing 'mine': .* It takes: a, b."):
        registry.build("mine(1, 2, 3)")
    with pytest.raises(InvalidArgument, match=r"thing 'broken': cannot import 'no.such.module:part'"):
        registry.build("broken")


def test_an_unknown_name_is_a_lookup_error_and_a_value_error(registry):
    with pytest.raises(LookupError):
        registry.build("nothing")
    with pytest.raises(ValueError, match="unknown thing"):
        registry.build("nothing")


def test_built_in_names_stay_what_they_are(registry):
    with pytest.raises(InvalidArgument, match="'plain' is a built-in thing"):
        registry.register("plain", part)
    registry.register("mine", part)
    registry.register("mine", "elsewhere:part")  # one's own may be bound anew
    assert registry.target("mine") == "elsewhere:part"


def test_entry_points_of_other_packages_are_found(monkeypatch):
    class Point:
        name, value = "theirs", f"{part.__module__}:part"

    monkeypatch.setattr("tardigrad.specs.metadata.entry_points", lambda group: [Point] if group == "g.things" else [])
    registry = Registry("thing", {"plain": "a:b"}, group="g.things")
    assert registry.names() == ["plain", "theirs"]
    assert registry.target("theirs") == Point.value
