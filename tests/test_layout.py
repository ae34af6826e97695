"""One flat buffer: every tensor keeps its shape and memory format, gaps stay zero, bad gradients get a sentence."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tardigrad.errors import GradientError, InvalidArgument
from tardigrad.layout import FlatLayout, attach, trainable

shapes = st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=5)
dtypes = st.sampled_from([torch.float32, torch.float64])


def numbered(shape, dtype, offset=0):
    count = torch.Size(shape).numel()
    return torch.arange(offset, offset + count, dtype=dtype).reshape(shape)


@given(shapes, dtypes, st.randoms(use_true_random=False))
def test_views_give_back_what_was_packed_in_any_order_of_dimensions(shapes, dtype, random):
    tensors = []
    for shape in shapes:
        order = random.sample(range(len(shape)), len(shape))
        tensors.append(numbered(shape, dtype, 100).permute(order))
    layout = FlatLayout.of(tensors)
    views = layout.views(layout.pack(tensors))
    for tensor, view in zip(tensors, views, strict=True):
        assert torch.equal(tensor, view)
        assert tensor.is_contiguous() == view.is_contiguous() or 0 in tensor.shape
    assert layout.numel == sum(tensor.numel() for tensor in tensors) <= layout.size


@given(shapes, dtypes)
def test_tensors_begin_at_cache_lines_do_not_overlap_and_gaps_are_zero(shapes, dtype):
    tensors = [torch.full(shape, float(number + 1), dtype=dtype) for number, shape in enumerate(shapes)]
    layout = FlatLayout.of(tensors)
    flat = layout.pack(tensors)
    step = 64 // dtype.itemsize
    assert all(offset % step == 0 for offset in layout.offsets)
    for number, tensor in enumerate(tensors):
        assert int((flat == number + 1).sum()) == tensor.numel()
    assert int((flat == 0).sum()) == layout.size - layout.numel


def test_one_tensor_has_no_gap():
    layout = FlatLayout.of([torch.zeros(7)])
    assert (layout.size, layout.numel) == (7, 7)


def test_channels_last_survives():
    conv = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    layout = FlatLayout.of([conv])
    view = layout.views(layout.pack([conv]))[0]
    assert view.stride() == conv.stride()
    assert view.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("tensor", [torch.zeros(4, 6)[:, ::2], torch.zeros(1, 3).expand(4, 3), torch.zeros(8)[::3]])
def test_a_tensor_that_is_not_dense_is_stored_contiguously(tensor):
    layout = FlatLayout.of([tensor])
    assert layout.views(layout.zeros())[0].is_contiguous()


@given(shapes, dtypes)
def test_a_gradient_is_accepted_as_list_as_vector_and_in_the_servers_layout(shapes, dtype):
    weights = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    gradient = [numbered(shape, dtype, 1) for shape in shapes]
    layout = FlatLayout.of(weights)
    packed = layout.pack_gradient(gradient)
    dense = torch.cat([g.reshape(-1) for g in gradient])
    assert torch.equal(packed, layout.pack(gradient))
    assert torch.equal(layout.pack_gradient(tuple(gradient)), packed)
    assert torch.equal(layout.pack_gradient(dense), packed)
    assert layout.pack_gradient(packed) is packed


@pytest.mark.parametrize(
    ("gradient", "sentence"),
    [
        ([torch.zeros(2, 3)], "has 1 tensors, the weights have 2"),
        ([torch.zeros(2, 3), torch.zeros(5)], r"of bias has shape \(5,\), the weight \(4,\)"),
        ([torch.zeros(6), torch.zeros(4)], r"of weight has shape \(6,\), the weight \(2, 3\)"),
        (
            [torch.zeros(2, 3).double(), torch.zeros(4)],
            "of weight is torch.float64 on cpu, the weights are torch.float32",
        ),
        ([torch.zeros(2, 3), torch.zeros(4).half()], r"of bias is torch.float16 .*\.to\(\)"),
        ([torch.zeros(2, 3, device="meta"), torch.zeros(4)], "on meta, the weights are torch.float32 on cpu"),
        ([torch.zeros(2, 3), None], "of bias is a NoneType; give a dense tensor, zeros where a parameter was not used"),
        ([torch.zeros(2, 3), [0.0] * 4], "of bias is a list"),
        ([torch.zeros(2, 3).to_sparse(), torch.zeros(4)], "of weight is a torch.sparse_coo tensor"),
        (None, "has 1 tensors, the weights have 2"),
        (torch.zeros(11), r"shape \(11,\) was given; accepted are \(10,\).*\(20,\)"),
        (torch.zeros(2, 5), r"shape \(2, 5\)"),
        (torch.zeros(10).double(), "of the flat buffer is torch.float64"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:30],
)
def test_a_gradient_that_does_not_fit_gets_a_sentence(gradient, sentence):
    layout = FlatLayout.of([torch.zeros(2, 3), torch.zeros(4)], ["weight", "bias"])
    with pytest.raises(GradientError, match=sentence):
        layout.pack_gradient(gradient)


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([], "weights is empty"),
        ([torch.zeros(2).half()], "weight0 is torch.float16; weights are torch.float32 or torch.float64"),
        ([torch.zeros(2, dtype=torch.int64)], "torch.int64"),
        (
            [torch.zeros(2), torch.zeros(2).double()],
            "weight1 is torch.float64 on cpu, the first weight is torch.float32",
        ),
        ([torch.zeros(2), torch.zeros(2, device="meta")], "all weights need one dtype and one device"),
        ([torch.zeros(2).to_sparse()], "weight0 is sparse"),
    ],
    ids=lambda value: "" if not isinstance(value, str) else value[:30],
)
def test_weights_that_cannot_be_one_buffer_are_refused(weights, sentence):
    with pytest.raises(InvalidArgument, match=sentence):
        FlatLayout.of(weights)


def test_the_hash_tells_layouts_apart():
    def hash_of(shape, dtype=torch.float32, name="w"):
        return FlatLayout.of([torch.zeros(shape, dtype=dtype)], [name]).hash

    assert hash_of((2, 3)) == hash_of((2, 3))
    assert (
        len(
            {hash_of((2, 3)), hash_of((3, 2)), hash_of((6,)), hash_of((2, 3), torch.float64), hash_of((2, 3), name="v")}
        )
        == 5
    )
    conv = torch.zeros(4, 3, 5, 5)
    assert FlatLayout.of([conv]).hash != FlatLayout.of([conv.to(memory_format=torch.channels_last)]).hash


class Tied(nn.Module):
    """Two layers share a weight; one is frozen."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode, self.frozen = nn.Linear(4, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight
        self.frozen.requires_grad_(False)

    def forward(self, x):
        return self.frozen(self.decode(self.encode(x)))


def test_tied_weights_stand_in_it_once_and_frozen_ones_not_at_all():
    layout = FlatLayout.of_model(Tied())
    assert layout.names == ("encode.weight", "decode.bias")
    assert layout.numel == 20


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(InvalidArgument, match="no trainable parameter"):
        FlatLayout.of_model(nn.Linear(2, 2).requires_grad_(False))


def test_an_attached_model_computes_with_the_buffer():
    model, other = Tied(), Tied()
    layout = FlatLayout.of_model(model)
    flat = layout.pack([parameter.detach() for _, parameter in trainable(other)])
    other.frozen.load_state_dict(model.frozen.state_dict())
    attach(layout, model, flat)
    x = torch.randn(3, 4)
    assert torch.equal(model(x), other(x))
    flat.zero_()
    assert torch.equal(model(x), model.frozen.bias.expand(3, 4))
    assert model.decode.weight is model.encode.weight
    model(x).sum().backward()
    assert all(parameter.grad is not None for _, parameter in trainable(model))
