"""What the doctor says of data and of bfloat16 on this processor."""

import sys

import pytest

from tardigrad import doctor
from tardigrad.data.published import PUBLISHED
from tardigrad.doctor import examine

CIFAR10 = PUBLISHED["cifar10"]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """Where data is looked for: an empty folder."""
    monkeypatch.setenv("TARDIGRAD_DATA", str(tmp_path))
    return tmp_path


def about(subject, start=""):
    """The one finding on a subject that begins so."""
    found = [finding for finding in examine() if finding.subject == subject and finding.found.startswith(start)]
    assert len(found) == 1
    return found[0]


def file_of(path, size):
    """A file of this size which takes no room."""
    with path.open("wb") as stream:
        stream.truncate(size)


def test_cifar10_is_not_there_which_is_no_fault(directory):
    finding = about("data", "CIFAR-10")
    assert finding.good
    assert f"not in {directory}" in finding.found
    assert "--data-dir" in finding.found


def test_cifar10_is_there_in_a_folder(directory):
    folder = directory / CIFAR10.folder
    folder.mkdir()
    for file in CIFAR10.files:
        file_of(folder / file.name, file.size)
    assert about("data", "CIFAR-10") == doctor.Finding(True, "data", f"CIFAR-10: {folder}", f"rm -r {folder}")
    file_of(folder / "data_batch_3", 5)
    finding = about("data", "CIFAR-10")
    assert not finding.good
    assert finding.found == f"CIFAR-10: {folder}, but data_batch_3 has 5 bytes instead of 31,035,999"
    (folder / "batches.meta").unlink()
    (folder / "data_batch_1").unlink()
    assert about("data", "CIFAR-10").found == f"CIFAR-10: {folder}, but data_batch_1 is missing"


def test_cifar10_is_there_as_an_archive(directory):
    archive = directory / CIFAR10.archive.name
    file_of(archive, CIFAR10.archive.size)
    finding = about("data", "CIFAR-10")
    assert finding.good
    assert finding.found == f"CIFAR-10: {archive}"
    file_of(archive, 170)
    assert (
        about("data", "CIFAR-10").found
        == f"CIFAR-10: {archive}, but {archive.name} has 170 bytes instead of 170,498,071"
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx2 avx512f", "neither AVX-512 BF16 nor AMX, so --precision bfloat16 is 10 to 20 times slower"),
        ("fpu avx512f avx512_bf16 avx512_fp16", "on CPU: AVX-512 BF16"),
        ("avx512_bf16 amx_bf16 amx_tile", "on CPU: AVX-512 BF16 and AMX"),
        ("fp asimd bf16", "on CPU: Arm BF16"),
    ],
)
def test_bfloat16_is_looked_up_in_the_processors_flags(tmp_path, monkeypatch, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"model name\t: any\nflags\t\t: {flags}\n\nflags\t\t: {flags}\n")
    monkeypatch.setattr(doctor, "_CPUINFO", cpuinfo)
    finding = about("bfloat16")
    assert finding.good
    assert expected in finding.found
    assert ("slower" in finding.found) == ("slower" in expected)


def test_bfloat16_is_not_known_without_flags(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_CPUINFO", tmp_path / "none")
    assert about("bfloat16").found == "on CPU: not known"


def test_pooch_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    finding = about("pooch")
    assert (finding.good, finding.remedy) == (False, "pip install 'tardigrad[data]'")
