"""A sealed frame is read back exactly, or refused with the fault that names what is wrong."""

import uuid
from dataclasses import replace

import google_crc32c
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from microedr import frame, limits
from microedr.frame import FrameError, FrameFault

EPOCH = uuid.UUID("7b0c0f0e-1111-4222-8333-444455556666")


def sealed(raw: bytes = b"\x00", count: int = 1, schema_version: int = 1, previous: bytes = frame.FIRST_CHAIN) -> bytes:
    return frame.seal(
        raw,
        lane=0,
        epoch=EPOCH,
        first_seq=7,
        count=count,
        sealed_unix_ns=1,
        previous_chain=previous,
        schema_version=schema_version,
    ).sealed


def forge(raw_bytes: int, body: bytes, *, count: int = 1, version: int = 1) -> bytes:
    """A frame with a right checksum around whatever a hostile agent likes."""
    header: bytes = frame._HEADER.pack(frame.MAGIC, 0, version, 0, 1, count, 1, EPOCH.bytes, len(body), raw_bytes, 1)
    checked = header[8:] + body + bytes(32)
    return frame.MAGIC + int(google_crc32c.value(checked)).to_bytes(4, "little") + checked


@given(raw=st.binary(max_size=4096), count=st.integers(1, limits.MAX_BATCH_EVENTS))
def test_what_was_sealed_is_what_opens(raw: bytes, count: int) -> None:
    header, opened = frame.open_frame(sealed(raw, count))

    assert opened == raw
    assert (header.first_seq, header.last_seq, header.count) == (7, 6 + count, count)
    assert header.epoch_id == str(EPOCH)


def test_frames_of_one_epoch_form_a_chain() -> None:
    first = sealed(b"first")
    second = sealed(b"second", previous=frame.chain_of(first))

    assert frame.continues(first, frame.FIRST_CHAIN)
    assert frame.continues(second, frame.chain_of(first))
    assert not frame.continues(second, frame.FIRST_CHAIN)


@given(position=st.integers(8, len(sealed()) - 1), flip=st.integers(1, 255))
def test_every_changed_byte_is_noticed(position: int, flip: int) -> None:
    damaged = bytearray(sealed())
    damaged[position] ^= flip

    with pytest.raises(FrameError):
        frame.open_frame(bytes(damaged))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_as_a_frame_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        frame.open_frame(data)


BOMB = zstandard.ZstdCompressor().compress(bytes(64 * 1024 * 1024))
UNSIZED = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100))


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        pytest.param(b"", FrameFault.MALFORMED, id="nothing"),
        pytest.param(b"XXXX" + sealed()[4:], FrameFault.MALFORMED, id="another magic"),
        pytest.param(sealed()[:-1], FrameFault.MALFORMED, id="cut short"),
        pytest.param(sealed() + b"x", FrameFault.MALFORMED, id="something behind"),
        pytest.param(sealed()[:-1] + b"x", FrameFault.CHECKSUM, id="another byte"),
        pytest.param(forge(1, b"not zstd", version=9), FrameFault.VERSION, id="another version"),
        pytest.param(sealed(schema_version=2), FrameFault.SCHEMA_VERSION, id="a later schema"),
        pytest.param(forge(1, b"not zstd"), FrameFault.MALFORMED, id="not zstd"),
        pytest.param(forge(100, UNSIZED), FrameFault.TOO_LARGE, id="no size in the body"),
        pytest.param(forge(1, b"x", count=2001), FrameFault.TOO_MANY_EVENTS, id="too many events"),
        pytest.param(forge(1, b"x", count=0), FrameFault.MALFORMED, id="no event"),
        pytest.param(forge(64 * 1024 * 1024, BOMB), FrameFault.TOO_LARGE, id="an honest bomb"),
        pytest.param(forge(1024, BOMB), FrameFault.TOO_LARGE, id="a lying bomb"),
        pytest.param(forge(900 * 1024, BOMB[:100]), FrameFault.TOO_LARGE, id="a ratio beyond belief"),
    ],
)
def test_one_flaw_is_enough_to_refuse(data: bytes, fault: FrameFault) -> None:
    with pytest.raises(FrameError) as caught:
        frame.open_frame(data)

    assert caught.value.fault is fault


def test_a_header_tells_the_size_of_its_frame() -> None:
    data = sealed(b"abc")
    header = frame.read_header(data + b"what follows")

    assert header.sealed_bytes == len(data)
    assert replace(header, count=3).last_seq == 9
