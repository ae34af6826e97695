"""Generator states: drawing without a trace."""

import json
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tardigrad.session.generators import GeneratorStates, generators_kept, generators_within, seed_cpu_generators


def drawn():
    return torch.rand(()).item(), random.random(), np.random.rand()


def test_states_are_put_back():
    before = GeneratorStates.now()
    first = drawn()
    assert drawn() != first
    before.put_back()
    assert drawn() == first


def test_nothing_drawn_inside_is_seen_outside_even_after_an_error():
    own = [torch.Generator(), np.random.default_rng(1), np.random.RandomState(1), random.Random(1)]
    before = GeneratorStates.now()
    expected = drawn(), torch.rand((), generator=own[0]).item(), [one.random() for one in own[1:3]], own[3].random()
    own = [torch.Generator(), np.random.default_rng(1), np.random.RandomState(1), random.Random(1)]
    before.put_back()
    with pytest.raises(ValueError, match="inside"), generators_kept(*own):  # noqa: PT012
        seed_cpu_generators(3)
        torch.rand((), generator=own[0])
        _ = [one.random() for one in own[1:]]
        raise ValueError("inside")
    assert (drawn(), torch.rand((), generator=own[0]).item(), [one.random() for one in own[1:3]], own[3].random()) == (
        expected
    )


@pytest.mark.parametrize("kind", [np.random.MT19937, np.random.PCG64, np.random.Philox])
def test_states_travel_as_plain_data(kind):
    usual = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(kind(3))
        _ = torch.randn(3), random.gauss(0, 1), np.random.randn()  # half of a pair is left
        before = GeneratorStates.now()
        plain = json.loads(json.dumps(before.as_plain()))
        first = torch.randn(3).tolist(), random.gauss(0, 1), np.random.randn()
        GeneratorStates.from_plain(plain).put_back()
        assert GeneratorStates.now().as_plain() == before.as_plain() == plain
        assert (torch.randn(3).tolist(), random.gauss(0, 1), np.random.randn()) == first
    finally:
        np.random.set_bit_generator(usual)


def test_seeding_decides_every_draw():
    with generators_kept():
        seed_cpu_generators(2**40)
        first = drawn()
        seed_cpu_generators(2**40)
        assert drawn() == first


@dataclass
class Nested:
    generator: object
    parts: object = None


def test_generators_are_found_at_any_depth():
    first, second, third = random.Random(1), np.random.default_rng(1), torch.Generator()
    thing = Nested(first, [1, "text", {"key": (Nested(second), np.zeros(3), torch)}, Nested(third)])
    thing.parts += [thing, thing.parts]
    assert {id(found) for found in generators_within(thing)} == {id(first), id(second), id(third)}


def test_the_search_ends():
    assert generators_within([[number] for number in range(1000)] + [random.Random(1)], most=10) == []
