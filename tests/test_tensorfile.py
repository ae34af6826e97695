"""Tensors on disk are what the library reads back, bit for bit, and the checksum is the file's."""

import pytest
import safetensors.torch
import torch

from tardigrad.durable import checksum
from tardigrad.errors import InvalidArgument
from tardigrad.tensorfile import write_tensors

TENSORS = {
    "double": torch.arange(6, dtype=torch.float64).view(2, 3).t(),
    "flag": torch.tensor([True, False, True]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "images": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "one": torch.tensor(7),
    "none": torch.zeros(0, 4),
    "bits": torch.tensor([1, 0x7F800001, -1], dtype=torch.int32).view(torch.float32),
    "a \"name\"\n\u2028": torch.tensor([-0.0]),
    "every other": torch.arange(10.0)[::2],
    "needs a gradient": torch.ones(2, requires_grad=True),
}  # fmt: skip


def as_bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()


def test_what_is_written_is_read_by_the_library(tmp_path):
    path = tmp_path / "tensors"
    digest = write_tensors(path, TENSORS)
    assert digest == checksum(path)
    found = safetensors.torch.load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert as_bytes(found[name]) == as_bytes(tensor)


def test_nothing_but_a_header_is_a_file_too(tmp_path):
    write_tensors(tmp_path / "none", {})
    assert safetensors.torch.load_file(tmp_path / "none") == {}


def test_a_type_that_the_format_has_not_is_refused(tmp_path):
    with pytest.raises(
        InvalidArgument, match=r"the state waves is torch\.complex64; a checkpoint can hold torch\.float64"
    ):
        write_tensors(tmp_path / "file", {"waves": torch.zeros(2, dtype=torch.complex64)})
    assert not (tmp_path / "file").exists()
