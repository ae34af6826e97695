"""Crops and flips of a batch equal those of a loop over its images, and depend on the generator alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tardigrad.data.augmentation import crop_and_flip, cut, draw_crops, normalise
from tardigrad.errors import InvalidArgument


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed))


def one_by_one(images, crops, pad):
    """The same for one image after the other, as one would write it down."""
    height, width = images.shape[2:]
    done = []
    for image, (top, left, mirrored) in zip(images, crops.tolist(), strict=True):
        padded = torch.zeros(images.shape[1], height + 2 * pad, width + 2 * pad, dtype=images.dtype)
        padded[:, pad : pad + height, pad : pad + width] = image
        part = padded[:, top : top + height, left : left + width]
        done.append(torch.stack([part[:, :, width - 1 - k] for k in range(width)], 2) if mirrored else part)
    return torch.stack(done) if done else images.clone()


@given(
    count=st.integers(0, 7),
    channels=st.integers(1, 4),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    pad=st.integers(0, 5),
    seed=st.integers(0, 2**31),
    last=st.booleans(),
)
def test_equals_the_loop_over_images(count, channels, height, width, pad, seed, last):
    memory_format = torch.channels_last if last else torch.contiguous_format
    images = pictures(count, channels, height, width).contiguous(memory_format=memory_format)
    before = images.clone()
    crops = draw_crops(count, generator(seed), pad=pad)
    got = crop_and_flip(images, generator(seed), pad=pad)
    assert torch.equal(got, one_by_one(images, crops, pad))
    assert count == 0 or got.is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    assert got.numel() == 0 or got.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_type_is_kept(dtype):
    images = pictures(5, 3, 8, 8).to(dtype)
    got = crop_and_flip(images, generator())
    assert got.dtype == dtype
    assert torch.equal(got, one_by_one(images, draw_crops(5, generator()), 4))


def test_images_that_are_a_view_are_cropped_as_they_look():
    images = pictures(4, 6, 9, 10).transpose(2, 3)[:, ::2, 1:, ::3]
    got = crop_and_flip(images, generator(), pad=2)
    assert torch.equal(got, one_by_one(images, draw_crops(4, generator(), pad=2), 2))


def test_the_centre_without_a_mirror_is_the_image_and_two_mirrors_are():
    images = pictures(6, 3, 8, 8)
    centre = torch.tensor([[4, 4, 0]] * 6)
    mirrored = torch.tensor([[4, 4, 1]] * 6)
    assert torch.equal(cut(images, centre), images)
    assert torch.equal(cut(images, torch.zeros(6, 3, dtype=torch.int64), pad=0), images)
    assert torch.equal(cut(images, mirrored), images.flip(3))
    assert torch.equal(cut(cut(images, mirrored), mirrored), images)


def test_what_comes_from_outside_is_zero():
    images = torch.ones(1, 1, 6, 6)
    corner = cut(images, torch.tensor([[0, 0, 0]]), pad=2)
    assert torch.equal(corner[0, 0], functional.pad(torch.ones(4, 4), (2, 0, 2, 0)))
    assert cut(images, torch.tensor([[0, 0, 0]]), pad=6).sum() == 0


def test_the_same_seed_gives_the_same_crops_and_another_others():
    images = pictures(64, 3, 32, 32)
    assert torch.equal(crop_and_flip(images, generator(1)), crop_and_flip(images, generator(1)))
    assert not torch.equal(crop_and_flip(images, generator(1)), crop_and_flip(images, generator(2)))
    running = generator(1)
    crop_and_flip(images, running)
    assert not torch.equal(crop_and_flip(images, running), crop_and_flip(images, generator(1)))


def test_draws_do_not_depend_on_content_size_type_or_memory_format():
    def state_after(images):
        used = generator(3)
        crop_and_flip(images, used)
        return used.get_state()

    plain = pictures(8, 3, 32, 32)
    first = state_after(plain)
    for images in (
        plain * 0,
        pictures(8, 1, 5, 7),
        plain.double(),
        plain.contiguous(memory_format=torch.channels_last),
    ):
        assert torch.equal(state_after(images), first)


def test_every_place_and_both_mirrors_are_drawn_equally_often():
    count, pad = 81_000, 4
    crops = draw_crops(count, generator(), pad=pad)
    assert crops.shape == (count, 3)
    assert crops.dtype == torch.int64
    for column, values in enumerate((9, 9, 2)):
        counts = crops[:, column].bincount(minlength=values)
        assert len(counts) == values
        expected = count / values
        assert ((counts - expected) ** 2 / expected).sum() < 30  # chi squared: 8 degrees at most; P(> 30) < 0.0003
    corners = (crops[:, 0] * 9 + crops[:, 1]).bincount(minlength=81)
    assert ((corners - 1000.0) ** 2 / 1000.0).sum() < 140  # 80 degrees


def test_a_pad_below_zero_is_refused():
    with pytest.raises(InvalidArgument, match="a pad of 0 or more"):
        draw_crops(4, generator(), pad=-1)


def test_normalised_by_channel():
    images = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    got = normalise(images, mean, deviation)
    expected = torch.stack([(images[:, c].double() / 255 - mean[c]) / deviation[c] for c in range(3)], 1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalising_keeps_the_memory_format_and_the_images(memory_format):
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8).contiguous(memory_format=memory_format)
    before = images.clone()
    assert normalise(images, (0.5,) * 3, (0.2,) * 3).is_contiguous(memory_format=memory_format)
    assert torch.equal(images, before)
    floats = images.float()
    normalise(floats, (0.5,) * 3, (0.2,) * 3)
    assert torch.equal(floats, before.float())


def test_data_with_its_own_constants_has_mean_0_and_deviation_1():
    images = torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8, generator=generator())
    pixels = images.transpose(0, 1).reshape(3, -1).double() / 255
    got = normalise(images, pixels.mean(1).tolist(), pixels.std(1).tolist()).transpose(0, 1).reshape(3, -1)
    torch.testing.assert_close(got.mean(1), torch.zeros(3), rtol=0, atol=1e-5)
    torch.testing.assert_close(got.std(1), torch.ones(3), rtol=0, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_cuda_draws_the_same_crops(memory_format):
    images = pictures(32, 3, 32, 32).contiguous(memory_format=memory_format)
    there = crop_and_flip(images.cuda(), generator(5))
    assert there.device.type == "cuda"
    assert there.is_contiguous(memory_format=memory_format)
    assert torch.equal(there.cpu(), crop_and_flip(images, generator(5)))
    with pytest.raises(InvalidArgument, match="a CPU generator; got 4 and cuda"):
        crop_and_flip(images.cuda(), torch.Generator("cuda"))
