"""What is done to images before a model sees them: normalisation; random crops and flips, a batch at a time.

Crop and flip are those of He et al., Deep residual learning for image recognition, 2015, section 4.2: four pixels of
zeros around the normalised image, a random crop of the image's size, mirrored with probability 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from tardigrad.errors import InvalidArgument


def normalise(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """(images / 255 - mean) / deviation for each channel, as float32 on the device of the images.

    Args:
        images: (n, channels, height, width) of values from 0 to 255; not changed. The memory format is kept.
        mean: of each channel, after division by 255.
        deviation: of each channel, after division by 255; above 0.
    """
    centre, scale = _constants(tuple(mean), tuple(deviation), images.device)
    return images.to(torch.float32, copy=True).sub_(centre).mul_(scale)


@lru_cache(maxsize=16)
def _constants(mean: tuple[float, ...], deviation: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Centre and scale on a device, made once: for each tensor made from numbers the CPU waits for the GPU."""
    shape = (1, len(mean), 1, 1)
    centre = torch.tensor([255.0 * value for value in mean]).view(shape)
    scale = torch.tensor([1 / (255.0 * value) for value in deviation]).view(shape)
    return centre.to(device), scale.to(device)


def crop_and_flip(images: Tensor, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Each image moved by up to `pad` pixels, with zeros where it left, and mirrored with probability 1/2.

    The same as `cut(images, draw_crops(len(images), generator, pad=pad), pad=pad)`.

    Args:
        images: normalised images (n, channels, height, width); not changed.
        generator: of random numbers on the CPU, whatever the device of the images: so CPU and CUDA crop alike.
        pad: pixels, at least 0.

    Returns:
        New images of the same shape, dtype, device and memory format.
    """
    crops = draw_crops(len(images), generator, pad=pad)
    return cut(images, crops.to(images.device, non_blocking=True), pad=pad)


def draw_crops(count: int, generator: torch.Generator, *, pad: int = 4) -> Tensor:
    """Random crops int64 (count, 3) on the CPU: first row, first column (from 0 to 2 pad), and 1 to mirror it or 0."""
    if pad < 0 or generator.device.type != "cpu":
        raise InvalidArgument(f"crops need a pad of 0 or more and a CPU generator; got {pad} and {generator.device}.")
    corners = torch.randint(0, 2 * pad + 1, (count, 2), generator=generator)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator)
    return torch.cat((corners, mirrored), dim=1)


def cut(images: Tensor, crops: Tensor, *, pad: int = 4) -> Tensor:
    """The given crops of padded images; nothing in here is random.

    One gather with an index that the channels share. On one CPU core it is faster than selecting windows, rows or
    single pixels, and than a loop over the images.

    Args:
        images: (n, channels, height, width); not changed.
        crops: as `draw_crops` makes them, on the device of the images.
        pad: pixels of zeros on every side.

    Returns:
        New images of the same shape, dtype, device and memory format.
    """
    count, channels, height, width = images.shape
    top, left, mirrored = crops.view(count, 3, 1).unbind(1)
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left + torch.where(mirrored == 1, width - 1 - columns, columns)
    pixels = ((top + rows).unsqueeze(2) * (width + 2 * pad) + columns.unsqueeze(1)).view(count, 1, height * width)
    padded = functional.pad(images, (pad, pad, pad, pad))
    cropped = torch.empty_like(images, memory_format=_memory_format(images))
    torch.gather(
        padded.flatten(2), 2, pixels.expand(-1, channels, -1), out=cropped.view(count, channels, height * width)
    )
    return cropped


def _memory_format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
