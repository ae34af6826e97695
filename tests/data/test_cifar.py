"""CIFAR-10 and CIFAR-100 as tensors: what lies in the files comes out, once per process, or a sentence says why not."""

import os

import numpy as np
import pytest
import torch
from official import batch, byte_array, calls, items, meta, small_set, table, text

from tardigrad.data.cifar import DEVIATION, MEAN, load_cifar
from tardigrad.data.places import data_directory
from tardigrad.errors import DataError, UnknownName

REAL = os.environ.get("TARDIGRAD_DATA", "")
TRAIN = [f"data_batch_{number}" for number in range(1, 6)]


@pytest.fixture(params=["folder", "archive"])
def laid(request, small):
    """The small set, in its folder or in its archive."""
    small.unpack() if request.param == "folder" else small.pack()
    return small


def test_images_and_labels_come_out_in_order(laid):
    loaded = load_cifar("cifar10")
    expected = np.concatenate([laid.images[name] for name in TRAIN]).reshape(20, 3, 32, 32)
    np.testing.assert_array_equal(loaded.train_images.numpy(), expected)
    assert loaded.train_labels.tolist() == [label for name in TRAIN for label in laid.labels[name]]
    np.testing.assert_array_equal(loaded.test_images.numpy(), laid.images["test_batch"].reshape(4, 3, 32, 32))
    assert loaded.test_labels.tolist() == laid.labels["test_batch"]
    assert loaded.classes == tuple(f"class {number}" for number in range(10))


def test_types_are_as_promised(laid):
    loaded = load_cifar("cifar10")
    for images, labels in ((loaded.train_images, loaded.train_labels), (loaded.test_images, loaded.test_labels)):
        assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
        assert images.is_contiguous()
        assert labels.is_contiguous()


def test_loaded_once_per_process_and_folder(small, tmp_path):
    small.unpack()
    first = load_cifar("cifar10")
    (small.folder / "test_batch").unlink()
    assert load_cifar("cifar10") is first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = small_set("cifar10", elsewhere)
    other.unpack()
    with data_directory(str(elsewhere)):
        assert load_cifar("cifar10") is not first
    with data_directory(f"{small.directory}/../{small.directory.name}"):
        assert load_cifar("cifar10") is first


def test_a_failure_is_not_remembered(small):
    small.folder.mkdir()
    with pytest.raises(DataError):
        load_cifar("cifar10")
    small.folder.rmdir()
    small.unpack()
    assert len(load_cifar("cifar10").train_labels) == 20


def test_cifar100_gives_the_fine_labels(tmp_path):
    small = small_set("cifar100", tmp_path)
    small.unpack()
    with data_directory(str(tmp_path)):
        loaded = load_cifar("cifar100")
    np.testing.assert_array_equal(loaded.train_images.numpy().reshape(4, -1), small.images["train"])
    assert loaded.train_labels.tolist() == small.labels["train"]
    assert loaded.test_labels.tolist() == small.labels["test"]
    assert max(small.labels["train"]) > 9, "labels that CIFAR-10 could have: this proves nothing"
    assert len(loaded.classes) == 100


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(UnknownName, match=r"'cifar-10'\. Did you mean 'cifar10'"):
        load_cifar("cifar-10")


IMAGES = np.zeros((4, 3072), np.uint8)
CHANGES = {  # the content of one file, and what is said of it, once it has gone past its checksum
    "label too large": (batch(IMAGES, [0, 1, 2, 10]), "labels that are not whole numbers from 0 to 9"),
    "label negative": (batch(IMAGES, [0, 1, 2, -1]), "labels that are not whole numbers from 0 to 9"),
    "label of text": (batch(IMAGES, [b"0"] * 4, write=text), "labels that are not whole numbers"),
    "label true": (batch(IMAGES, [0] * 4, write=lambda _: b"\x88"), "labels that are not whole numbers"),
    "a label too few": (batch(IMAGES, [0, 1, 2]), "holds no 4 labels"),
    "no labels": (table({b"data": byte_array(IMAGES)}), "holds no 4 labels"),
    "an image too few": (batch(IMAGES[:3], [0, 1, 2, 3]), "holds no 4 images of 3 x 32 x 32"),
    "images too small": (batch(IMAGES[:, :3071], [0] * 4), "holds no 4 images of 3 x 32 x 32"),
    "images in a list": (table({b"data": items([b"a"] * 4, text)}), "holds no 4 images"),
    "no images": (table({b"labels": items([b"a"] * 4, text)}), "holds no 4 images"),
    "wrong opcode": (batch(IMAGES, [0] * 4).replace(b"\x87R", b"\x87\xff", 1), "cannot be read"),
    "torn": (batch(IMAGES, [0] * 4)[:-20], "cannot be read"),
    "empty": (b"", "cannot be read"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_wrong_is_said_past_the_checksum(small, change):
    small.contents["data_batch_2"], expected = CHANGES[change]
    small.publish()
    small.unpack()
    with pytest.raises(DataError) as caught:
        load_cifar("cifar10")
    told = str(caught.value)
    assert told.startswith(f"data_batch_2 of {small.folder} ")
    assert expected in told
    assert f"Delete the folder {small.folder}" in told


@pytest.mark.parametrize(
    "content",
    [meta([b"cat"] * 9), meta([b"\xff"] * 10), meta([b"cat"] * 10, key=b"names"), table({b"label_names": b"N"})],
)
def test_names_of_classes_are_checked(small, content):
    small.contents["batches.meta"] = content
    small.publish()
    small.unpack()
    with pytest.raises(DataError, match=r"holds (no )?names of"):
        load_cifar("cifar10")


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_a_malicious_file_runs_nothing_even_past_the_checksums(small, name, tmp_path):
    marker = tmp_path / "was here"
    small.contents[name] = calls("os", "system", f"touch '{marker}'".encode())
    small.publish()
    small.pack()
    with pytest.raises(DataError, match=r"asks for os\.system, which no data set needs"):
        load_cifar("cifar10")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_constants_are_of_pixels_between_0_and_1(name):
    assert len(MEAN[name]) == len(DEVIATION[name]) == 3
    assert all(
        0.4 < mean < 0.6 and 0.2 < deviation < 0.3 for mean, deviation in zip(MEAN[name], DEVIATION[name], strict=True)
    )


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.skipif(not REAL, reason="needs the data: set TARDIGRAD_DATA")
def test_the_real_data(name, monkeypatch):
    def absent(published, directory):
        pytest.skip(f"{published.title} is not in TARDIGRAD_DATA")

    monkeypatch.setattr("tardigrad.data.cifar.fetch", absent)
    loaded, classes = load_cifar(name), {"cifar10": 10, "cifar100": 100}[name]
    assert loaded.train_images.shape == (50_000, 3, 32, 32)
    assert loaded.test_images.shape == (10_000, 3, 32, 32)
    assert loaded.train_labels.bincount().tolist() == [50_000 // classes] * classes
    assert loaded.test_labels.bincount().tolist() == [10_000 // classes] * classes
    values = np.arange(256) / 255
    for channel in range(3):
        counts = np.bincount(loaded.train_images[:, channel].numpy().ravel(), minlength=256)
        mean = np.average(values, weights=counts)
        deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
        assert MEAN[name][channel] == pytest.approx(mean, abs=1e-4)
        assert DEVIATION[name][channel] == pytest.approx(deviation, abs=1e-4)
    if name == "cifar10":
        assert loaded.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
        assert loaded.test_labels[:5].tolist() == [3, 8, 8, 0, 6]
        assert loaded.classes[6] == "frog"
        assert loaded.train_images[0, :, 0, 0].tolist() == [59, 62, 63]
