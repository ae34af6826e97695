"""The residual networks are those of He et al. 2016, section 4.2 and Table 6, layer by layer."""

import math

import pytest
import torch
from torch import nn

from tardigrad.errors import InvalidArgument
from tardigrad.models.resnet import DEPTHS, Block, cifar_resnet, small_resnet


def layers_of(model, size=32):
    """(name, kind, weight's shape, stride, input's shape, output's shape) of each layer with weights, as it is run."""
    seen, names = [], {module: name for name, module in model.named_modules()}

    def look(module, inputs, output):
        stride = module.stride[0] if isinstance(module, nn.Conv2d) else None
        shape = tuple(module.weight.shape)
        seen.append((names[module], type(module), shape, stride, tuple(inputs[0].shape[1:]), tuple(output.shape[1:])))

    for module in names:
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.Linear)):
            module.register_forward_hook(look)
    model(torch.zeros(2, 3, size, size))
    return seen


def conv(name, inputs, outputs, stride, size):
    """A 3 x 3 convolution and its BatchNorm."""
    norm, to = name.replace("conv", "norm"), size // stride
    yield name, nn.Conv2d, (outputs, inputs, 3, 3), stride, (inputs, size, size), (outputs, to, to)
    yield norm, nn.BatchNorm2d, (outputs,), None, (outputs, to, to), (outputs, to, to)


def table(n, widths=(16, 32, 64), first_stride=1, classes=10):
    """The paper's table: 1 + 2n layers at 32 x 32, 2n at 16 x 16, 2n at 8 x 8, a mean over pixels, one linear layer."""
    size = 32 // first_stride
    yield from conv("conv", 3, widths[0], first_stride, 32)
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(n):
            stride = 2 if stage > 0 and block == 0 else 1
            yield from conv(f"stages.{stage}.{block}.conv1", before, width, stride, size)
            size //= stride
            yield from conv(f"stages.{stage}.{block}.conv2", width, width, 1, size)
            before = width
    yield "linear", nn.Linear, (classes, before), None, (before,), (classes,)


@pytest.mark.parametrize("depth", DEPTHS)
def test_every_layer_is_the_papers(depth):
    n = (depth - 2) // 6
    found = layers_of(cifar_resnet(depth))
    assert found == list(table(n))
    assert sum(kind is not nn.BatchNorm2d for _, kind, *_ in found) == depth  # the layers that the paper counts


@pytest.mark.parametrize(
    ("depth", "parameters", "millions"),
    [
        (20, 269_722, "0.27"),
        (32, 464_154, "0.46"),
        (44, 658_586, "0.66"),
        (56, 853_018, "0.85"),
        (110, 1_727_962, "1.7"),
    ],
)
def test_parameters_are_as_many_as_in_table_6(depth, parameters, millions):
    model = cifar_resnet(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    assert f"{parameters / 1e6:.{len(millions) - 2}f}" == millions
    # By hand: convolutions, two numbers of BatchNorm for each of their channels, the linear layer. No shortcut has any.
    n = (depth - 2) // 6
    pairs = (
        [(3, 16)] + [(16, 16)] * 2 * n + [(16, 32), *[(32, 32)] * (2 * n - 1)] + [(32, 64), *[(64, 64)] * (2 * n - 1)]
    )
    assert sum(9 * a * b + 2 * b for a, b in pairs) + 64 * 10 + 10 == parameters


def test_a_hundred_classes_change_the_last_layer_only():
    model = cifar_resnet(20, classes=100)
    assert layers_of(model) == list(table(3, classes=100))
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722 + 90 * 65


def test_the_small_network():
    model = small_resnet()
    assert layers_of(model) == list(table(1, widths=(8, 16, 32), first_stride=2))
    assert sum(parameter.numel() for parameter in model.parameters()) == 19_218


def test_a_shortcut_is_every_second_pixel_with_zero_channels_around():
    block = Block(2, 4, 2).eval()
    nn.init.zeros_(block.norm2.weight)  # nothing is left of the residual
    first = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], [9.0, 10.0, 11.0, 12.0], [13.0, 14.0, 15.0, 16.0]]
    x = torch.tensor([first, [[-value for value in row] for row in first]]).unsqueeze(0)
    x[0, 1, 2, 2] = 20.0
    expected = [[[0, 0], [0, 0]], [[1, 3], [9, 11]], [[0, 0], [0, 20]], [[0, 0], [0, 0]]]  # relu took the negative ones
    assert torch.equal(block(x), torch.tensor([expected], dtype=torch.float32))


def test_a_shortcut_of_one_shape_is_the_input_itself():
    block = Block(3, 3, 1).eval()
    nn.init.zeros_(block.norm2.weight)
    x = torch.randn(2, 3, 5, 5)
    before = x.clone()
    assert torch.equal(block(x), x.relu())
    assert torch.equal(x, before)


def test_the_residual_is_added_before_the_last_relu():
    block = Block(1, 1, 1).eval()
    for convolution in (block.conv1, block.conv2):
        nn.init.dirac_(convolution.weight)
    nn.init.constant_(block.norm2.weight, -3.0)
    x = torch.tensor([2.0, -1.0]).view(2, 1, 1, 1)
    shrink = 1.0 + block.norm1.eps  # running statistics 0 and 1: division by sqrt(1 + eps), twice
    got = block(x).flatten()
    torch.testing.assert_close(got, torch.tensor([0.0, 0.0]))  # 2 - 3 * 2 < 0; -1 - 3 * relu(-1) < 0
    nn.init.constant_(block.norm2.weight, 0.5)
    torch.testing.assert_close(block(x).flatten(), torch.tensor([2.0 + 0.5 * 2.0 / shrink, 0.0]))


def test_weights_begin_as_he_et_al_draw_them():
    torch.manual_seed(0)
    model = cifar_resnet(56)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            wanted = math.sqrt(2.0 / (9 * module.out_channels))
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.15 if "stages" in name else 0.3), name
        if isinstance(module, nn.BatchNorm2d):
            assert torch.equal(module.weight, torch.ones_like(module.weight))
            assert torch.equal(module.bias, torch.zeros_like(module.bias))


@pytest.mark.parametrize("depth", [2, 19, 21, 0])
def test_other_depths_are_refused(depth):
    with pytest.raises(InvalidArgument, match=f"6n \\+ 2.*not {depth}"):
        cifar_resnet(depth)
