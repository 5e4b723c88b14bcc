"""The file: a header, then levels. A prefix that holds the header and k whole levels is a picture.

The container knows bytes only; what is inside a level is the business of the kind that the
header names. All integers are little-endian; `varint` is LEB128 (seven bits a byte, low first), at
most 49 bits.

    bytes    field
    4        magic, 89 44 54 44 (\\x89 D T D)
    1        version of this format, 2
    1        kind of the levels: 1 = channels, 2 = planes, 3 = wavelet (see `KINDS`)
    varint   width in pixels, 1 to 2^20
    varint   height in pixels, 1 to 2^20
    8        fingerprint of the model (see `Codec.fingerprint`)
    varint   n, number of levels in this stream when it is whole, 1 to 65535
    varint   total bytes of the levels of the whole stream, with their framing, at most 16 for each
             pixel of the image padded to multiples of 64, and 64 for each level
    varint   size of the parameters of the levels, at most 65535
    ...      the parameters (none: the kind's defaults)
    4        CRC-32 of everything above

and n times

    varint   size of the payload, in words of 4 bytes
    4        CRC-32 of the payload, begun with the CRC of the level before (the header's at first);
             of a kind with many levels its low 2 bytes only, but for the last level's
    ...      payload

A stream of all the bytes that its header tells of is checked to the last one. A shorter one is cut:
what is left of an incomplete level at its end is not checked, as nothing tells it from damage.
"""

import bisect
import contextlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from progdtd.codec.errors import (
    DamagedError,
    IncompleteError,
    NewerVersionError,
    NotAStreamError,
    OlderVersionError,
)
from progdtd.downsampling_factor import HYPER_FACTOR
from progdtd.errors import UserError

MAGIC = b"\x89DTD"
VERSION = 2
WORD = 4
MAX_SIDE = 1 << 20
MAX_LEVELS = MAX_PARAMETERS = 0xFFFF
FINGERPRINT_SIZE = 8
CRC_SIZE = 4
CHANNELS, PLANES, WAVELET = "channels", "planes", "wavelet"
KINDS = {
    CHANNELS: CRC_SIZE,  # `channels.py`
    PLANES: 2,  # `tritplanes.py`
    WAVELET: 2,  # `wavelet.py`
}
"""The kinds of level in the order of their numbers, from 1, and how many bytes each keeps of the
checksum of a level that is not the last."""


Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Args:
        width, height: of the image, in pixels.
        fingerprint: 8 bytes that name the decoding half of the model.
        kind: of its levels, one of KINDS.
        parameters: of the levels; empty for the kind's defaults.
        levels: how many levels the whole stream has.
        total: bytes of all levels of the whole stream with their framing, without the header.
    """

    width: int
    height: int
    fingerprint: bytes
    kind: str = CHANNELS
    parameters: bytes = b""
    levels: int = 0
    total: int = 0

    def __bytes__(self) -> bytes:
        size = varint(self.width) + varint(self.height)
        levels = varint(self.levels) + varint(self.total)
        parameters = varint(len(self.parameters)) + self.parameters
        fields = MAGIC + bytes((VERSION, 1 + list(KINDS).index(self.kind)))
        fields += size + self.fingerprint + levels + parameters
        return fields + struct.pack("<I", zlib.crc32(fields))

    @property
    def whole(self) -> int:
        """Bytes of the whole stream."""
        return len(bytes(self)) + self.total

    def levels_within(self, p: float, ends: Sequence[int]) -> int:
        """How many of the levels that end there are within a fraction p of the bytes of the whole
        stream, at least one."""
        most = p * self.whole
        return max(1, sum(end <= most for end in ends))

    def crc_size(self, level: int) -> int:
        """Bytes of the checksum of a level; levels count from 1."""
        return KINDS[self.kind] if level < self.levels else CRC_SIZE


def write(header: Header, payloads: Sequence[bytes]) -> bytes:
    """The stream of these levels, each of whole words, with their number and size in its header."""
    levels = len(payloads)
    sizes = [varint(len(payload) // WORD) for payload in payloads]
    framing = sum(map(len, sizes)) + KINDS[header.kind] * (levels - 1) + CRC_SIZE
    total = framing + sum(map(len, payloads))
    pieces = [bytes(header := replace(header, levels=levels, total=total))]
    crc = crc_of(pieces[0])
    for level, (size, payload) in enumerate(zip(sizes, payloads, strict=True), 1):
        crc = zlib.crc32(payload, crc)
        pieces += [size, struct.pack("<I", crc)[: header.crc_size(level)], payload]
    return b"".join(pieces)


def fitting(header: Header, payloads: Sequence[bytes], most: int) -> int:
    """How many of these levels a stream of at most this many bytes holds.

    Raises:
        UserError: not even the first.
    """

    def size(levels: int) -> int:
        return len(write(header, payloads[:levels]))

    levels = bisect.bisect_right(range(1, len(payloads) + 1), most, key=size)
    if not levels:
        raise UserError(
            f"The first level ends after {size(1)} bytes, more than the {most} allowed: allow "
            "more, or choose a model of lower rate."
        )
    return levels


def ends(stream: bytes) -> list[int]:
    """Where in a stream each of its whole levels ends, in bytes, as far as it is not damaged.

    Raises:
        NotAStreamError, NewerVersionError, OlderVersionError: the bytes are something else.
    """
    reader, positions = Reader(), []
    with contextlib.suppress(DamagedError):
        for _ in reader.feed(stream):
            positions.append(reader.position)
    return positions


class Reader:
    """Reads a stream from bytes as they arrive.

    `header` is None until it is complete; `levels` counts the levels read, `position` is the end of
    the last of them in the stream and `received` all that came, in bytes.
    """

    def __init__(self) -> None:
        self.header: Header | None = None
        self.levels = 0
        self.position = 0
        self.received = 0
        self._rest = bytearray()
        self._crc = self._end = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Take the next bytes of the stream; yields the payload of each level that they complete.

        Raises:
            NotAStreamError, NewerVersionError, OlderVersionError: at the first bytes of something
                else.
            DamagedError: a checksum does not match, or a size is impossible.
        """
        self.received += len(chunk)
        self._rest += chunk
        with contextlib.suppress(IncompleteError):
            if self.header is None:
                self.header, used = read_header(self._rest)
                self._crc, self._end = crc_of(self._rest[:used]), used + self.header.total
                self._take(used)
            while self.levels < self.header.levels:
                yield self._next_level(self.header)
            self._rest.clear()

    def _next_level(self, header: Header) -> bytes:
        """Returns the payload of the next level.

        Raises:
            IncompleteError: its bytes have not all arrived.
            DamagedError: its checksum does not match, or its size is impossible.
        """
        level = self.levels + 1
        crc_size = header.crc_size(level)
        words, start = read_varint(self._rest, 0, f"level {level}")
        start += crc_size
        end = start + WORD * words
        if self.position + end > self._end:
            raise DamagedError(
                f"level {level} claims {WORD * words} bytes, more than there can be", level
            )
        if len(self._rest) < end:
            raise IncompleteError(f"level {level}", self.received)
        payload = bytes(self._rest[start:end])
        crc = zlib.crc32(payload, self._crc)
        if struct.pack("<I", crc)[:crc_size] != self._rest[start - crc_size : start]:
            raise DamagedError(f"level {level} does not match its checksum", level)
        self._crc, self.levels = crc, level
        self._take(end)
        return payload

    def _take(self, count: int) -> None:
        del self._rest[:count]
        self.position += count

    def require_header(self) -> Header:
        """The header.

        Raises:
            IncompleteError: it has not arrived yet.
        """
        if self.header is None:
            raise IncompleteError("the header", self.received)
        return self.header


def read_header(data: Bytes) -> tuple[Header, int]:
    """The header at the start of `data`, and its size in bytes.

    Raises:
        IncompleteError: the header is not complete.
        NotAStreamError, NewerVersionError, OlderVersionError: the bytes are something else.
        DamagedError: the header does not match its checksum.
    """
    unfinished = IncompleteError("the header", len(data))
    if bytes(data[: len(MAGIC)]) != MAGIC[: len(data)]:
        raise NotAStreamError
    if len(data) < len(MAGIC) + 2:
        raise unfinished
    version, number = data[len(MAGIC)], data[len(MAGIC) + 1]
    if version > VERSION:
        raise NewerVersionError(f"The stream has format version {version}", f"up to {VERSION}")
    if 0 < version < VERSION:
        raise OlderVersionError(version)
    width, at = read_varint(data, len(MAGIC) + 2)
    height, at = read_varint(data, at)
    fingerprint, at = bytes(data[at : at + FINGERPRINT_SIZE]), at + FINGERPRINT_SIZE
    levels, at = read_varint(data, at)
    total, at = read_varint(data, at)
    size, at = read_varint(data, at)
    if size > MAX_PARAMETERS:
        raise DamagedError("the header does not match its checksum")
    end = at + size + CRC_SIZE
    if len(data) < end:
        raise unfinished
    sizes_fit = 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and 0 < levels <= MAX_LEVELS
    padded = -(-width // HYPER_FACTOR) * -(-height // HYPER_FACTOR) * HYPER_FACTOR**2
    sizes_fit = sizes_fit and total <= 16 * padded + 64 * levels
    if (
        version != VERSION
        or not sizes_fit
        or zlib.crc32(data[: end - CRC_SIZE]) != crc_of(data[:end])
    ):
        raise DamagedError("the header does not match its checksum")
    if not 0 < number <= len(KINDS):
        raise NewerVersionError(f"The stream's levels are of kind {number}", f"up to {len(KINDS)}")
    kind, parameters = list(KINDS)[number - 1], bytes(data[at : at + size])
    return Header(width, height, fingerprint, kind, parameters, levels, total), end


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def read_varint(data: Bytes, at: int, where: str = "the header") -> tuple[int, int]:
    """The varint at `at`, at most 49 bits, and the position after it.

    Raises:
        IncompleteError: the bytes end before it does.
        DamagedError: it is longer.
    """
    value = 0
    for shift in range(0, 49, 7):
        if at >= len(data):
            raise IncompleteError(where, len(data))
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise DamagedError(f"{where} holds a number that is too long")


def varints(data: Bytes) -> list[int]:
    """All the varints that `data` consist of.

    Raises:
        IncompleteError: the bytes end before the last one does.
        DamagedError: one is too long.
    """
    numbers, at = [], 0
    while at < len(data):
        number, at = read_varint(data, at)
        numbers.append(number)
    return numbers


def crc_of(data: Bytes) -> int:
    """The CRC-32 in the last four bytes."""
    return int(struct.unpack("<I", data[-CRC_SIZE:])[0])
