"""Residual networks for images of 32 x 32 (He et al. 2016, section 4.2), and a small one for CPUs.

Shortcuts are the paper's option A: identity, with every second pixel and zero channels where the shape changes, so
a shortcut has no parameters. Of the zero channels half go before, half after the given ones.

References:
    He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016 (arXiv 1512.03385), Table 6.
    He, Zhang, Ren, Sun, Delving deep into rectifiers, ICCV 2015 (arXiv 1502.01852): the initial weights.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from tardigrad.errors import InvalidArgument

DEPTHS = (20, 32, 44, 56, 110)


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm around an option A shortcut.

    Takes (batch, inputs, h, w), gives (batch, outputs, h / stride, w / stride).
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv(inputs, outputs, stride)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = _conv(outputs, outputs, 1)
        self.norm2 = nn.BatchNorm2d(outputs)
        self._stride = stride
        self._before = (outputs - inputs) // 2
        self._after = outputs - inputs - self._before

    def forward(self, x: Tensor) -> Tensor:
        """relu(residual + shortcut)."""
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return functional.relu(y + self._shortcut(x), inplace=True)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self._stride != 1:
            x = x[:, :, :: self._stride, :: self._stride]
        if self._before or self._after:
            x = functional.pad(x, (0, 0, 0, 0, self._before, self._after))
        return x


class ResNet(nn.Module):
    """A convolution, stages of blocks of which all but the first halve the image, mean over pixels, a linear layer.

    Args:
        widths: channels of each stage.
        blocks: blocks in each stage, >= 1.
        classes: outputs, >= 1.
        stride: of the first convolution; 2 makes everything behind it four times cheaper.

    Takes (batch, 3, 32, 32), gives (batch, classes).
    """

    def __init__(self, widths: tuple[int, ...], blocks: int, *, classes: int = 10, stride: int = 1) -> None:
        super().__init__()
        self.conv = _conv(3, widths[0], stride)
        self.norm = nn.BatchNorm2d(widths[0])
        stages, inputs = [], widths[0]
        for number, width in enumerate(widths):
            strides = [1 if number == 0 else 2] + [1] * (blocks - 1)
            stages.append(nn.Sequential(*(Block(inputs if i == 0 else width, width, s) for i, s in enumerate(strides))))
            inputs = width
        self.stages = nn.Sequential(*stages)
        self.linear = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = functional.relu(self.norm(self.conv(x)), inplace=True)
        logits: Tensor = self.linear(self.stages(x).mean(dim=(2, 3)))
        return logits


def cifar_resnet(depth: int = 20, *, classes: int = 10) -> ResNet:
    """The paper's network of depth 6n + 2: 16, 32 and 64 channels at 32, 16 and 8 pixels, n blocks each.

    Depth 20 has 0.27 M parameters, 32: 0.46 M, 44: 0.66 M, 56: 0.85 M, 110: 1.7 M.
    """
    if depth < 8 or (depth - 2) % 6:
        raise InvalidArgument(f"a CIFAR ResNet has depth 6n + 2, such as {DEPTHS}, not {depth}.")
    return ResNet((16, 32, 64), (depth - 2) // 6, classes=classes)


def small_resnet(*, classes: int = 10) -> ResNet:
    """A ResNet of depth 8 for CPUs: 8, 16 and 32 channels at 16, 8 and 4 pixels; 19,218 parameters with 10 classes."""
    return ResNet((8, 16, 32), 1, classes=classes, stride=2)


def _conv(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False)
