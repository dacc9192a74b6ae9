"""A stream sealed with a passphrase: it comes back whole, and in no other way."""

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ynet.errors import UserError
from ynet.runtime import passphrase
from ynet.runtime.passphrase import MAGIC, PREFIX_BYTES, SALT_BYTES, TAG_BYTES, Sealing, Unsealing, is_sealed

WORD = "correct horse battery"
PART = 64
HEADER = len(MAGIC) + SALT_BYTES + PREFIX_BYTES


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small parts, and a key that takes no third of a second."""
    monkeypatch.setattr(passphrase, "PART_BYTES", PART)
    monkeypatch.setattr(passphrase, "COST", 2)


def sealed(content: bytes, step: int = 50) -> bytes:
    sink = io.BytesIO()
    sealing = Sealing(sink, WORD)
    for start in range(0, len(content), step):
        sealing.write(content[start : start + step])
    sealing.finish()
    return sink.getvalue()


def opened(content: bytes, word: str = WORD, step: int = 37) -> bytes:
    source, found = Unsealing(io.BytesIO(content), word), b""
    while part := source.read(step):
        found += part
    return found


@settings(max_examples=60)
@given(st.integers(0, 4 * PART), st.integers(1, 3 * PART), st.integers(1, 3 * PART))
def test_what_was_sealed_comes_back_whatever_the_sizes(size: int, written: int, read: int) -> None:
    content = bytes(number % 251 for number in range(size))
    assert opened(sealed(content, written), step=read) == content


def test_another_passphrase_opens_nothing() -> None:
    with pytest.raises(UserError, match="another"):
        opened(sealed(b"x" * 200), "another")


def test_a_stream_that_was_changed_cut_exchanged_or_lengthened_is_not_opened() -> None:
    whole = sealed(bytes(range(200)))
    size = PART + TAG_BYTES
    first, second = whole[HEADER : HEADER + size], whole[HEADER + size : HEADER + 2 * size]
    exchanged = whole[:HEADER] + second + first + whole[HEADER + 2 * size :]
    cut = (whole[: HEADER + size], whole[: HEADER + 2 * size], whole[:-1], whole[:HEADER])
    changed = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(MAGIC), len(whole), 7)]
    for bad in (exchanged, *cut[:3], *changed, whole + b"x", whole[:HEADER] + second):
        with pytest.raises(UserError):
            opened(bad)
    assert opened(cut[3]) == b""  # nothing came: the tar within has no manifest then, and is refused


def test_a_sealed_file_is_known_by_its_beginning() -> None:
    file = io.BytesIO(sealed(b"content"))
    assert is_sealed(file)
    assert file.tell() == 0
    assert not is_sealed(io.BytesIO(b"a tar"))
