"""Whatever lies in a ring, decoding gives values of valid text or says that it is no sample of ours."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microedr_agent.errors import SampleError
from microedr_agent.sensor import layout
from microedr_agent.sensor.decode import ExecSample, ExitSample, ForkSample, NetSample, Sample, decode
from microedr_agent.sensor.layout import HEADER, Kind
from support.samples import components, exec_sample, exit_sample, fork_sample, header, net_sample


def texts_of(value: object) -> Iterator[bytes]:
    """All byte strings in a sample but the fields that are not text."""
    if isinstance(value, ExecSample):
        yield from (value.header.comm, value.tty, value.filename, value.exe, value.cwd, *value.argv)
    elif isinstance(value, (ForkSample, ExitSample, NetSample)):
        yield value.header.comm


def decoded(sample: bytes) -> Sample | None:
    try:
        return decode(sample)
    except SampleError:
        return None


def test_an_exec_has_its_paths_the_right_way_round() -> None:
    sample = decode(exec_sample())

    assert isinstance(sample, ExecSample)
    assert (sample.exe, sample.cwd, sample.filename) == (b"/usr/bin/dash", b"/tmp", b"/bin/sh")
    assert sample.argv == [b"sh", b"-c", b"id"]
    assert sample.env_names == b"HOME\0PATH\0"
    assert (sample.tty, sample.header.comm, sample.socket_stdio) == (b"pts3", b"sh", 0b101)


def test_the_root_directory_has_no_components() -> None:
    sample = decode(exec_sample(cwd=b""))

    assert isinstance(sample, ExecSample)
    assert sample.cwd == b"/"


def test_a_path_without_its_beginning_is_not_made_absolute() -> None:
    sample = decode(exec_sample(exe=components("/deep/down/tool"), flags=layout.EXE_CUT))

    assert isinstance(sample, ExecSample)
    assert sample.exe == b"deep/down/tool"


def test_empty_arguments_count() -> None:
    sample = decode(exec_sample(argv=b"tool\0\0x\0\0"))

    assert isinstance(sample, ExecSample)
    assert sample.argv == [b"tool", b"", b"x", b""]


def test_an_argument_that_was_cut_has_no_end() -> None:
    sample = decode(exec_sample(argv=b"tool\0begin"))

    assert isinstance(sample, ExecSample)
    assert sample.argv == [b"tool", b"begin"]


def test_bytes_that_are_not_utf8_are_written_out() -> None:
    sample = decode(exec_sample(argv=b"tool\0\xff\xfe\xc3\xa9\0", exe=b"\xf0\x28\0bin\0", comm=b"\xe2\x82"))

    assert isinstance(sample, ExecSample)
    assert sample.argv[1] == "\\xff\\xfeé".encode()
    assert sample.exe == b"/bin/\\xf0("
    assert sample.header.comm == b"\\xe2\\x82"


def test_an_ipv4_address_in_an_ipv6_socket_is_four_bytes() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7))
    sample = decode(net_sample(family=10, local=bytes(15) + b"\1", remote=mapped))

    assert isinstance(sample, NetSample)
    assert sample.remote == bytes((192, 0, 2, 7))
    assert sample.local == bytes(15) + b"\1"


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(exec_sample()[:-1], id="an exec cut short"),
        pytest.param(exec_sample() + b"\0", id="an exec with a byte too many"),
        pytest.param(header(Kind.FORK, HEADER.size), id="a header alone"),
        pytest.param(header(0, HEADER.size), id="no kind"),
        pytest.param(header(15, HEADER.size), id="a kind of the future"),
        pytest.param(fork_sample(boot_ns=2**64 - 1), id="a time after the end of time"),
        pytest.param(net_sample(family=1), id="a Unix socket"),
        pytest.param(exit_sample()[:-4] + b"1234" + b"56789012", id="an exit with eight bytes too many"),
    ],
)
def test_what_is_no_sample_is_refused(sample: bytes) -> None:
    with pytest.raises(SampleError):
        decode(sample)


VALID = [exec_sample(), fork_sample(), exit_sample(), net_sample(), net_sample(family=10, local=b"\1" * 16)]


@given(st.binary(max_size=512))
def test_arbitrary_bytes_never_raise_anything_else(sample: bytes) -> None:
    decoded(sample)


@given(st.sampled_from(VALID), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=12))
def test_damaged_samples_give_valid_text_or_an_error(sample: bytes, damage: list[tuple[int, int]]) -> None:
    damaged = bytearray(sample)
    for at, value in damage:
        damaged[at % len(damaged)] = value

    for text in texts_of(decoded(bytes(damaged))):
        text.decode()


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=300), st.binary(max_size=16))
def test_arbitrary_texts_become_valid_text(filename: bytes, path: bytes, argv: bytes, comm: bytes) -> None:
    sample = decode(exec_sample(filename=filename, exe=path, cwd=path, argv=argv, comm=comm, flags=layout.CWD_CUT))

    for text in texts_of(sample):
        text.decode()
