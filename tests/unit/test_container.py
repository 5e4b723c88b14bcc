import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from progdtd.codec import container
from progdtd.codec.errors import (
    CodecError,
    DamagedError,
    IncompleteError,
    NewerVersionError,
    NotAStreamError,
    OlderVersionError,
)
from progdtd.errors import UserError

PAYLOADS = [b"firstone", b"", b"third level." * 60]
HEADER = container.Header(640, 480, b"abcdefgh", container.CHANNELS, b"\x01\x02")
STREAM = container.write(HEADER, PAYLOADS)


def test_the_format_is_what_its_description_says() -> None:
    """Byte by byte, as written in the module's docstring."""
    head = b"\x89DTD" + bytes([2, 1]) + b"\x80\x05" + b"\xe0\x03" + b"abcdefgh" + b"\x03"
    total = (1 + 4 + 8) + (1 + 4) + (2 + 4 + 720)
    head += bytes([total & 0x7F | 0x80, total >> 7]) + b"\x02\x01\x02"
    crc = zlib.crc32(head)
    expected = head + crc.to_bytes(4, "little")
    for payload, size in zip(PAYLOADS, (b"\x02", b"\x00", b"\xb4\x01"), strict=True):
        crc = zlib.crc32(payload, crc)
        expected += size + crc.to_bytes(4, "little") + payload
    assert expected == STREAM


@given(st.lists(st.integers(1, 40)))
def test_bytes_may_arrive_in_any_pieces(sizes: list[int]) -> None:
    reader, read, at = container.Reader(), [], 0
    for size in [*sizes, len(STREAM)]:
        read += reader.feed(STREAM[at : at + size])
        at += size
    assert read == PAYLOADS
    assert reader.position == reader.received == len(STREAM)
    assert reader.header == replace(HEADER, levels=3, total=744)


def test_a_prefix_reads_to_its_last_whole_level() -> None:
    ends = container.ends(STREAM)
    assert ends[-1] == len(STREAM)
    for size in range(len(STREAM)):
        whole = [end for end in ends if end <= size]
        assert container.ends(STREAM[:size]) == whole
        assert list(container.Reader().feed(STREAM[:size])) == PAYLOADS[: len(whole)]


def test_damage_that_shortens_is_an_error_or_a_cut() -> None:
    """Bytes are taken out anywhere: never is another payload read, and the header tells that some
    are missing."""
    payloads = [b"firstone", b"next", b"third level." * 4]
    stream = container.write(HEADER, payloads)
    first, second, _ = container.ends(stream)
    for at in range(len(stream)):
        for count in (1, 4, 5, 100):
            shorter = stream[:at] + stream[at + count :]
            reader, read, error = container.Reader(), [], None
            try:
                for payload in reader.feed(shorter):
                    read.append(payload)
            except CodecError as raised:
                error = raised
            assert read == payloads[: len(read)]
            assert len(read) == sum(end <= at for end in (first, second))
            whole = reader.header and reader.header.levels == len(read)
            assert not whole, "the last level is not there"
            assert error or len(shorter) < len(stream)


def test_what_follows_the_last_level_is_not_read() -> None:
    assert list(container.Reader().feed(STREAM + b"more")) == PAYLOADS


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(at: int, flip: int) -> None:
    """Every change is an error, or ends the reading before the level that was changed."""
    changed = bytearray(STREAM)
    changed[at] ^= flip
    read = []
    try:
        for payload in container.Reader().feed(bytes(changed)):
            read.append(payload)
    except CodecError:
        pass
    assert len(read) < len(PAYLOADS)
    assert read == PAYLOADS[: len(read)]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda s: b"\x89PNG" + s[4:], NotAStreamError),
        (lambda s: s[:4] + b"\x03" + s[5:], NewerVersionError),
        (lambda s: s[:4] + b"\x01" + s[5:], OlderVersionError),
        (lambda s: s[:4] + b"\x00" + s[5:], DamagedError),
        (lambda s: s[:6] + b"\xff" * 40, DamagedError),
    ],
)
def test_errors_are_told_apart(change, error) -> None:
    with pytest.raises(error):
        list(container.Reader().feed(change(STREAM)))


def test_no_bytes_are_no_error_yet() -> None:
    reader = container.Reader()
    assert list(reader.feed(b"")) == []
    with pytest.raises(IncompleteError):
        reader.require_header()


def test_damage_names_its_level() -> None:
    with pytest.raises(DamagedError, match="level 3 does not match its checksum") as caught:
        list(container.Reader().feed(STREAM[:-1] + b"?"))
    assert caught.value.level == 3


def test_levels_of_an_unknown_kind_are_of_a_newer_version(monkeypatch) -> None:
    with monkeypatch.context() as later:
        later.setattr(
            container, "KINDS", {"later": 4, "later still": 4, "latest": 4, **container.KINDS}
        )
        stream = container.write(HEADER, PAYLOADS)
    with pytest.raises(NewerVersionError, match="of kind 4"):
        list(container.Reader().feed(stream))


def test_a_forged_size_is_no_reason_to_wait() -> None:
    start = len(STREAM) - len(PAYLOADS[2]) - 6
    for size in (b"\xff\xff\xff\x7f", b"\xb5\x01"):  # the latter one word too many
        forged = STREAM[:start] + size + STREAM[start + 2 :]
        with pytest.raises(DamagedError, match="level 3 claims"):
            list(container.Reader().feed(forged))
    most = 16 * 640 * 512 + 64 * 3  # of 640x480, padded
    for total in (most, most + 1):
        header = bytes(replace(HEADER, levels=3, total=total))
        if total == most:
            assert container.read_header(header)[0].total == most
        else:
            with pytest.raises(DamagedError, match="header"):
                container.read_header(header)


def test_no_side_and_no_parameters_are_larger_than_can_be() -> None:
    side = container.MAX_SIDE
    most = replace(HEADER, width=side, height=side, parameters=bytes(0xFFFF), levels=3, total=744)
    assert container.MAX_SIDE == 2**20
    assert container.read_header(bytes(most))[0] == most
    for more in ({"width": 2**20 + 1}, {"height": 2**20 + 1}, {"parameters": bytes(0x10000)}):
        with pytest.raises(DamagedError, match="header"):
            container.read_header(bytes(replace(most, **more)))


@pytest.mark.parametrize("kind", container.KINDS)
def test_as_many_levels_as_fit(kind) -> None:
    """Their number and size, which the header holds, take more bytes the larger they are."""
    header, payloads = replace(HEADER, kind=kind), PAYLOADS * 50
    sizes = [len(container.write(header, payloads[:levels])) for levels in range(1, 151)]
    assert sizes == sorted(sizes)
    for levels, size in enumerate(sizes, 1):
        assert container.fitting(header, payloads, size) == levels
        assert levels == 1 or container.fitting(header, payloads, size - 1) == levels - 1
    assert container.fitting(header, payloads, 10**6) == 150
    with pytest.raises(UserError, match=f"first level ends after {sizes[0]} bytes"):
        container.fitting(header, payloads, sizes[0] - 1)


def test_checksums_of_planes_are_short_but_for_the_last() -> None:
    payloads = [bytes(range(size)) for size in (32, 0, 8)]
    channels, planes = (
        container.write(replace(HEADER, kind=kind), payloads)
        for kind in (container.CHANNELS, container.PLANES)
    )
    assert len(channels) - len(planes) == 2 * 2
    assert list(container.Reader().feed(planes)) == payloads
    assert container.ends(planes)[-1] == len(planes)
    for end in container.ends(planes)[:1]:
        damaged = bytearray(planes)
        damaged[end - 1] ^= 1
        assert container.ends(bytes(damaged)) == []
