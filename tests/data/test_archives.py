"""What is published is read, from its folder or its archive; everything else is refused before it is unpickled."""

import hashlib
import io
import tarfile

import pytest

from tardigrad.data import cifar
from tardigrad.data.archives import find_source, read_files, size_flaw
from tardigrad.data.pickles import read_pickle
from tardigrad.errors import DataError


def read(small):
    """Every file by its name."""
    source = find_source(small.published, small.directory)
    return {file.name: content for file, content in read_files(small.published, source)}


@pytest.fixture
def only_the_published_is_unpickled(small, monkeypatch):
    """Nothing is unpickled whose checksum is not the published one."""
    sums = {file.md5 for file in small.published.files}

    def checked(content):
        assert hashlib.md5(content).hexdigest() in sums, "unpickled before the checksum was compared"
        return read_pickle(content)

    monkeypatch.setattr(cifar, "read_pickle", checked)


def test_the_folder_and_the_archive_hold_the_same(small):
    assert find_source(small.published, small.directory) is None
    small.pack()
    assert find_source(small.published, small.directory) == small.archive
    assert read(small) == small.contents
    small.unpack()
    assert find_source(small.published, small.directory) == small.folder
    assert read(small) == small.contents


def test_reading_an_archive_writes_nothing(small, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    small.pack()
    read(small)
    assert list(small.directory.iterdir()) == [small.archive]
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_changed_byte_in_the_folder_is_refused(small, place, only_the_published_is_unpickled):
    small.unpack()
    content = bytearray(small.contents["data_batch_3"])
    content[place] ^= 1
    (small.folder / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError) as caught:
        cifar._load(small.directory, "cifar10")
    told = str(caught.value)
    assert told.startswith(f"{small.folder / 'data_batch_3'} is not the published file of CIFAR-10: its md5 is ")
    assert f"Delete the folder {small.folder}" in told
    assert small.published.address in told


def test_a_torn_file_in_the_folder_is_refused_before_it_is_read(small):
    small.unpack()
    (small.folder / "data_batch_2").write_bytes(small.contents["data_batch_2"][:-1])
    size = len(small.contents["data_batch_2"])
    with pytest.raises(DataError, match=rf"data_batch_2 has {size - 1:,} bytes instead of {size:,}\."):
        read(small)


def test_a_file_that_is_missing_is_named(small):
    (small.unpack() / "test_batch").unlink()
    with pytest.raises(DataError, match=r"test_batch cannot be read \(No such file or directory\).*Delete the folder"):
        read(small)


def test_a_folder_without_files_is_refused_and_nothing_is_fetched(small, monkeypatch):
    monkeypatch.setattr(cifar, "fetch", lambda *_: pytest.fail("fetched"))
    small.folder.mkdir()
    with pytest.raises(DataError, match="data_batch_1 cannot be read"):
        cifar._load(small.directory, "cifar10")


def test_a_folder_in_the_place_of_a_file_is_refused(small):
    (small.unpack() / "test_batch").unlink()
    (small.folder / "test_batch").mkdir()
    with pytest.raises(DataError, match="test_batch"):
        read(small)


@pytest.mark.parametrize("harm", ["torn", "changed", "empty"])
def test_a_damaged_archive_is_refused_before_it_is_unpacked(small, harm, monkeypatch, only_the_published_is_unpickled):
    content = bytearray(small.pack().read_bytes())
    content[len(content) // 2] ^= 1
    small.archive.write_bytes({"torn": content[:-100], "changed": content, "empty": b""}[harm])
    monkeypatch.setattr(tarfile, "open", lambda *_: pytest.fail("unpacked before the checksum was compared"))
    expected = "its md5 is" if harm == "changed" else "bytes instead of"
    with pytest.raises(DataError, match=expected) as caught:
        cifar._load(small.directory, "cifar10")
    assert f"Delete the file {small.archive}" in str(caught.value)


@pytest.mark.parametrize("harm", ["torn", "torn late", "changed", "no archive"])
def test_a_damaged_archive_is_refused_past_its_checksum(small, harm):
    content = bytearray(small.pack().read_bytes())
    harmed = {"torn": content[: len(content) // 2], "torn late": content[:-3_000], "no archive": b"<html>404</html>"}
    content[len(content) // 2] ^= 255
    small.archive.write_bytes(harmed.get(harm, content))
    small.publish_archive()
    with pytest.raises(DataError, match=r"cannot be unpacked|its md5 is|holds no|bytes instead of"):
        read(small)


def test_a_changed_member_is_refused_past_the_checksum_of_the_archive(small, only_the_published_is_unpickled):
    small.contents["data_batch_4"] = small.contents["data_batch_4"][:-1] + b"\0"
    small.pack()
    with pytest.raises(DataError, match="data_batch_4 is not the published file"):
        cifar._load(small.directory, "cifar10")


def test_a_member_that_is_missing_is_named(small):
    small.pack([name for name in small.contents if name != "data_batch_5"])
    with pytest.raises(DataError, match=r"holds no cifar-10-batches-py/data_batch_5\."):
        read(small)


@pytest.mark.parametrize(
    "prefix", ["..", "../cifar-10-batches-py", "/cifar-10-batches-py", "./cifar-10-batches-py", ""]
)
def test_members_are_read_by_their_exact_names(small, prefix):
    small.pack(prefix=prefix)
    with pytest.raises(DataError, match=r"holds no cifar-10-batches-py/batches\.meta"):
        read(small)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_points_elsewhere_is_not_followed(small, kind, tmp_path):
    secret = tmp_path / "data_batch_1"
    secret.write_bytes(small.contents["data_batch_1"])
    with tarfile.open(small.archive, "w:gz") as archive:
        for name, content in small.contents.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            if name == "data_batch_1":
                member.type, member.linkname = kind, str(secret)
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    small.publish_archive()
    with pytest.raises(DataError, match="holds no cifar-10-batches-py/data_batch_1"):
        read(small)


def test_a_member_of_any_size_is_not_taken_into_memory(small):
    """The size that an archive claims is looked at before a byte is read."""
    member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    member.size = 2**40
    with tarfile.open(small.archive, "w:gz") as archive:
        archive.fileobj.write(member.tobuf())
    small.publish_archive()
    with pytest.raises(DataError, match=r"data_batch_1 has 1,099,511,627,776 bytes"):
        read(small)


def test_a_look_at_the_sizes(small):
    small.unpack()
    assert size_flaw(small.published, small.folder) == ""
    (small.folder / "data_batch_2").write_bytes(b"abc")
    assert size_flaw(small.published, small.folder).startswith("data_batch_2 has 3 bytes instead of ")
    (small.folder / "data_batch_1").unlink()
    assert size_flaw(small.published, small.folder) == "data_batch_1 is missing"
    small.pack()
    assert size_flaw(small.published, small.archive) == ""
    small.archive.write_bytes(b"abcd")
    assert size_flaw(small.published, small.archive).startswith("cifar-10-python.tar.gz has 4 bytes instead of ")
