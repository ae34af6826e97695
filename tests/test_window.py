"""The window of the last gradients: which rows it holds, what their products are, and what it takes."""

import pytest
import torch

from tardigrad import window as windows
from tardigrad.layout import FlatLayout
from tardigrad.window import Window, WindowPlan

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))]


def layout_of(size, device="cpu", dtype=torch.float32):
    return FlatLayout.of([torch.empty(size, device=device, dtype=dtype)])


def gradients(count, layout, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = torch.randn(count, layout.numel, generator=generator).to(layout.device, layout.dtype)
    return [layout.pack([row]) for row in made]


def filled(plan, layout, given, live=1):
    window = Window(plan, layout)
    for gradient in given:
        window.add(gradient, live=live)
    return window


def by_age(window, values):
    """Of the rows that count, the newest first."""
    order = [int(row) for row in window.ages.argsort() if window.ages[row] < window.size]
    return torch.stack([values[row] for row in order])


def is_right(window, given, vector, tolerance):
    """Whether all products are those of these gradients, the newest first."""
    rows = torch.stack(given[::-1]).double().cpu()
    products = by_age(window, window.against(vector))
    torch.testing.assert_close(products, rows @ vector.double().cpu(), rtol=tolerance, atol=tolerance)
    gram = torch.stack([by_age(window, row) for row in by_age(window, window.gram)])
    torch.testing.assert_close(gram, rows @ rows.T, rtol=tolerance, atol=tolerance)
    factors = 1.0 / (1.0 + window.ages.double()) * (window.ages < window.size)
    combined = window.combined(factors).double().cpu()
    torch.testing.assert_close(combined, by_age(window, factors) @ rows, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("rows", "per_worker", "live", "expected"), [(None, 8, 3, 128), (None, 8, 40, 320), (5, 8, 40, 5)]
)
def test_how_many_rows_a_plan_has(rows, per_worker, live, expected):
    assert WindowPlan(rows=rows, per_worker=per_worker).rows_for(live) == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", ["as the weights", "bfloat16"])
@pytest.mark.parametrize("pushed", [1, 3, 4, 11])
def test_it_holds_the_last_gradients_and_knows_their_products(pushed, kept, device, monkeypatch):
    monkeypatch.setattr(windows, "_BLOCK", 64)
    monkeypatch.setattr(windows, "_CONVERTED", 64)
    layout = layout_of(150, device)
    given = gradients(pushed, layout)
    window = filled(WindowPlan(rows=4, kept=kept), layout, given)
    assert window.size == min(pushed, 4)
    held = [row.to(torch.bfloat16).to(row) if kept == "bfloat16" else row for row in given[-4:]]
    is_right(window, held, gradients(1, layout, seed=1)[0], 1e-4)
    assert window.gram.device.type == window.against(given[0]).device.type == "cpu"
    assert window.combined(torch.zeros(4, dtype=torch.float64)).device.type == device


def test_products_in_float64_are_as_exact_as_float64():
    layout = layout_of(100, dtype=torch.float64)
    given = gradients(3, layout)
    window = filled(WindowPlan(rows=3), layout, given)
    is_right(window, given, gradients(1, layout, seed=1)[0], 1e-12)
    with pytest.raises(AssertionError):
        is_right(window, given[::-1], given[0], 1e-12)


def test_sums_over_many_columns_do_not_lose_digits():
    """All of one sign, where a float32 sum of so many loses most."""
    layout = layout_of(1 << 20)
    window = filled(WindowPlan(rows=1), layout, [layout.zeros().add_(0.1)])
    exact = float(torch.tensor(0.1).double() ** 2) * (1 << 20)
    assert float(window.gram[0, 0]) == pytest.approx(exact, rel=5e-5)


def test_a_worker_that_joins_makes_room_and_one_that_leaves_takes_none_away():
    layout = layout_of(30)
    plan, given = WindowPlan(per_worker=2, least=2), gradients(12, layout)
    window = filled(plan, layout, given[:5], live=2)  # four rows
    assert window.size == 4
    is_right(window, given[1:5], given[0], 1e-4)
    for gradient in given[5:7]:
        window.add(gradient, live=3)
    assert window.size == 6
    is_right(window, given[1:7], given[0], 1e-4)
    window.add(given[7], live=1)
    assert window.size == 2
    is_right(window, given[6:8], given[0], 1e-4)
    assert window.bytes_held() == plan.bytes_for(3, layout)


def test_what_it_takes_is_what_its_plan_says():
    layout = layout_of(1000)
    for kept, size in (("as the weights", 4), ("bfloat16", 2)):
        plan = WindowPlan(rows=3, kept=kept)
        window = filled(plan, layout, gradients(2, layout))
        assert window.bytes_held() == plan.bytes_for(7, layout) == 3 * layout.size * size + 3 * 8 + 9 * 8
    assert WindowPlan(rows=3).scratch_for(1, layout) == 6 * 9 * 8
    assert WindowPlan(rows=3, kept="bfloat16").scratch_for(1, layout) == 3 * layout.size * 4 + 6 * 9 * 8
    wide = FlatLayout.of([torch.empty(10**7, device="meta")])
    assert WindowPlan(rows=3, kept="bfloat16").scratch_for(1, wide) == 3 * windows._BLOCK * 4 + 6 * 9 * 8


def test_it_goes_on_from_its_state():
    layout = layout_of(40)
    plan, given = WindowPlan(rows=3), gradients(9, layout)
    first = filled(plan, layout, given[:5])
    state = first.state_dict()
    second = Window(plan, layout)
    second.load_state_dict(state)
    for gradient in given[5:7]:
        first.add(gradient, live=1)
        second.add(gradient, live=1)
    vector = given[8]
    assert torch.equal(first.gram, second.gram)
    assert torch.equal(first.against(vector), second.against(vector))
    is_right(second, given[4:7], vector, 1e-4)
    third = Window(plan, layout)
    third.load_state_dict(state)  # what came after it was taken changed nothing in it
    is_right(third, given[2:5], vector, 1e-4)
