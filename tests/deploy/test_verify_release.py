"""The verifier of releases: the signature against RFC 8032 and `cryptography`, and every kind of changed release."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from release import archive, verify_release
from release.signing import sign
from release.verify_release import BLOCK, Refused, is_signed, unpack, verify_archive, verify_folder

COMMIT = "c" * 40
SEED = bytes(range(32))
KEY = Ed25519PrivateKey.from_private_bytes(SEED)
PUBLIC = KEY.public_key().public_bytes_raw()

RFC_8032 = {
    "1": (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        b"",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
        "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    "2": (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        b"\x72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    "3": (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        b"\xaf\x82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
    "SHA(abc)": (
        "ec172b93ad5e563bf4932c70e1245034c35467ef2efd4d64ebf819683467e2bf",
        hashlib.sha512(b"abc").digest(),
        "dc2a4459e7369633a52b1bf277839a00201009a3efbf3ecb69bea2186c26b589"
        "09351fc9ac90b3ecfdfbc7c66431e0303dca179c138ac17ad9bef1177331a704",
    ),
}


@pytest.mark.parametrize("vector", RFC_8032)
def test_rfc_8032_vector_is_accepted(vector: str) -> None:
    key, message, signature = RFC_8032[vector]
    assert is_signed(bytes.fromhex(key), bytes.fromhex(signature), message)
    assert not is_signed(bytes.fromhex(key), bytes.fromhex(signature), message + b"\0")


def accepts(key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except InvalidSignature:
        return False
    return True


@settings(max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.integers(0, 767))
def test_signature_agrees_with_cryptography(seed: bytes, message: bytes, bit: int) -> None:
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert is_signed(key, signature, message)
    both = bytearray(key + signature)
    both[bit // 8] ^= 1 << bit % 8
    changed = bytes(both)
    assert not is_signed(changed[:32], changed[32:], message)
    assert not accepts(changed[:32], changed[32:], message)


def test_signature_with_s_plus_l_is_refused() -> None:
    signature = KEY.sign(b"manifest")
    s = int.from_bytes(signature[32:], "little") + verify_release.L
    assert not is_signed(PUBLIC, signature[:32] + s.to_bytes(32, "little"), b"manifest")


SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
]


@pytest.mark.parametrize("key", SMALL_ORDER)
def test_public_key_of_small_order_is_refused(key: str) -> None:
    point = verify_release.decode(bytes.fromhex(key))
    assert point is not None
    assert verify_release.encode(verify_release.multiply(8, point)) == verify_release.encode(verify_release.NEUTRAL)
    forged = bytes.fromhex(SMALL_ORDER[0]) + bytes(32)  # R is neutral, S is 0: valid for every message with a key of 1
    assert not any(is_signed(bytes.fromhex(key), forged, bytes([n])) for n in range(20))


@pytest.mark.parametrize(
    "encoded",
    [
        verify_release.P.to_bytes(32, "little"),  # 0, not reduced
        (verify_release.P + 1).to_bytes(32, "little"),  # 1, not reduced
        (1 | 1 << 255).to_bytes(32, "little"),  # x is 0, and its sign is not
        (2).to_bytes(32, "little"),  # no point has this y
    ],
)
def test_encoding_that_is_not_canonical_is_refused(encoded: bytes) -> None:
    assert verify_release.decode(encoded) is None
    assert not is_signed(encoded, KEY.sign(b""), b"")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    folder = tmp_path / "files"
    folder.mkdir()
    contents = {
        "client.lock": b"a==1\n",
        "wheels/a-1-py3-none-any.whl": bytes(range(100)),
        "wheels/empty": b"",
        f"wheels/{'n' * 130}": b"long",
    }
    for name, content in contents.items():
        (folder / name.replace("/", "-")).write_bytes(content)
    return {name: folder / name.replace("/", "-") for name in contents}


@pytest.fixture
def bundle(files: dict[str, Path], tmp_path: Path) -> Path:
    path = tmp_path / "bundle.tar"
    archive.write(path, archive.manifest("0.2.0", COMMIT, files), files, KEY)
    return path


def test_archive_is_verified_and_unpacked(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    release = unpack(bundle, PUBLIC, tmp_path / "into")
    assert (release.version, release.commit) == ("0.2.0", COMMIT)
    assert all((tmp_path / "into" / name).read_bytes() == path.read_bytes() for name, path in files.items())
    assert verify_folder(tmp_path / "into", PUBLIC) == release
    assert (tmp_path / "into").stat().st_mode & 0o077 == 0


def test_archive_is_an_ordinary_tar(bundle: Path, files: dict[str, Path]) -> None:
    with tarfile.open(bundle) as opened:
        assert opened.getnames() == ["MANIFEST", "SIGNATURE", *sorted(files)]
        assert {member.mode for member in opened} == {0o644}


def test_archive_is_the_same_bytes_again(bundle: Path, files: dict[str, Path], tmp_path: Path) -> None:
    for path in files.values():
        os.utime(path, (1, 1))
        path.chmod(0o600)
    archive.write(tmp_path / "again.tar", archive.manifest("0.2.0", COMMIT, dict(reversed(files.items()))), files, KEY)
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


def test_flipped_byte_of_an_archive_is_refused(bundle: Path, tmp_path: Path) -> None:
    good, path = bytearray(bundle.read_bytes()), tmp_path / "flipped.tar"
    signed = 5 * BLOCK  # manifest and signature: every byte of them, and every seventh of the rest
    for place in (*range(signed), *range(signed, len(good), 7), len(good) - 1):
        good[place] ^= 1 << place % 8
        path.write_bytes(good)
        with pytest.raises(Refused):
            verify_archive(path, PUBLIC)
        good[place] ^= 1 << place % 8


def test_every_truncation_is_refused_and_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    good, path = bundle.read_bytes(), tmp_path / "short.tar"
    for size in (*range(0, len(good), 97), len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(Refused):
            unpack(path, PUBLIC, tmp_path / "into")
    path.write_bytes(good + b"\0")
    with pytest.raises(Refused):
        unpack(path, PUBLIC, tmp_path / "into")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["bundle.tar", "files", "short.tar"]


def test_another_key_is_refused(bundle: Path) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(Refused, match="public key"):
        verify_archive(bundle, other)


def test_member_that_was_added_or_removed_is_refused(bundle: Path, tmp_path: Path) -> None:
    with tarfile.open(bundle) as opened:
        members = [(one, opened.extractfile(one).read()) for one in opened]  # type: ignore[union-attr]
    extra = (tarfile.TarInfo("wheels/z"), b"")
    link = tarfile.TarInfo("wheels/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    for changed in (
        [*members, extra],
        members[:-1],
        [*members, members[-1]],
        [*members[:2], (link, b""), *members[2:]],
    ):
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w", format=tarfile.GNU_FORMAT) as made:
            for member, content in changed:
                made.addfile(member, io.BytesIO(content))
        (tmp_path / "changed.tar").write_bytes(held.getvalue())
        with pytest.raises(Refused):
            verify_archive(tmp_path / "changed.tar", PUBLIC)


def signed_names(*names: str) -> bytes:
    lines = [verify_release.TITLE, "version 0.2.0", f"commit {COMMIT}", *(f"{'0' * 64} 0 {name}" for name in names)]
    return ("\n".join(lines) + "\n").encode()


@pytest.mark.parametrize(
    "names",
    [
        ["../a"],
        ["/etc/passwd"],
        ["wheels/../../a"],
        ["a/b/c"],
        ["./a"],
        [".hidden"],
        ["a\\b"],
        ["C:a"],
        ["a//b"],
        ["a/"],
        ["a b"],
        ["a\tb"],
        ["ä"],
        ["a", "a"],
        ["b", "a"],
        ["A", "a"],
        ["A", "a/b"],
        ["a", "a/b"],
        ["MANIFEST"],
        ["manifest"],
        ["signature/a"],
        [""],
    ],
    ids=str,
)
def test_signed_manifest_with_an_unsafe_name_is_refused(names: list[str]) -> None:
    manifest = signed_names(*names)
    with pytest.raises(Refused, match="manifest"):
        verify_release.check_signature(PUBLIC, manifest, sign(KEY, manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.removesuffix(b"\n"),
        lambda text: text + b"\n",
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"manifest 1", b"manifest 2"),
        lambda text: text.replace(b" 0 a", b" 00 a"),
        lambda text: text.replace(b" 0 a", b" -1 a"),
        lambda text: text.replace(b"version", b"Version"),
        lambda text: text[:0],
        lambda text: text.replace(b"a", b"\xff"),
    ],
)
def test_signed_manifest_of_another_form_is_refused(change: Callable[[bytes], bytes]) -> None:
    manifest = change(signed_names("a"))
    with pytest.raises(Refused, match="manifest"):
        verify_release.check_signature(PUBLIC, manifest, sign(KEY, manifest))


@pytest.mark.parametrize("change", [bytes.upper, bytes.strip, lambda text: text + b"\n", lambda text: b"0" + text])
def test_signature_in_another_form_is_refused(change: Callable[[bytes], bytes]) -> None:
    manifest = signed_names("a")
    with pytest.raises(Refused, match="signature"):
        verify_release.check_signature(PUBLIC, manifest, change(sign(KEY, manifest)))


def add_file(folder: Path) -> None:
    (folder / "wheels/extra.whl").write_bytes(b"")


def add_folder(folder: Path) -> None:
    (folder / "wheels/extra").mkdir()


def remove_file(folder: Path) -> None:
    (folder / "client.lock").unlink()


def replace_by_link(folder: Path) -> None:
    (folder / "client.lock").rename(folder.parent / "outside")
    (folder / "client.lock").symlink_to(folder.parent / "outside")


def replace_folder_by_link(folder: Path) -> None:
    (folder / "wheels").rename(folder.parent / "wheels")
    (folder / "wheels").symlink_to(folder.parent / "wheels")


def replace_by_fifo(folder: Path) -> None:
    (folder / "client.lock").unlink()
    os.mkfifo(folder / "client.lock")


def lengthen(folder: Path) -> None:
    with (folder / "client.lock").open("ab") as file:
        file.write(b"b==1\n")


def rename_in_case(folder: Path) -> None:
    (folder / "client.lock").rename(folder / "Client.lock")


@pytest.mark.parametrize(
    "change",
    [
        add_file,
        add_folder,
        remove_file,
        replace_by_link,
        replace_folder_by_link,
        replace_by_fifo,
        lengthen,
        rename_in_case,
    ],
)
def test_changed_folder_is_refused(change: Callable[[Path], None], bundle: Path, tmp_path: Path) -> None:
    unpack(bundle, PUBLIC, tmp_path / "into")
    change(tmp_path / "into")
    with pytest.raises(Refused):
        verify_folder(tmp_path / "into", PUBLIC)


def test_flipped_byte_of_a_folder_is_refused(bundle: Path, tmp_path: Path) -> None:
    folder = tmp_path / "into"
    unpack(bundle, PUBLIC, folder)
    for path in [one for one in folder.rglob("*") if one.is_file()]:
        good = bytearray(path.read_bytes())
        for place in {*range(0, len(good), 5), len(good) - 1} if good else ():
            good[place] ^= 1
            path.write_bytes(good)
            with pytest.raises(Refused):
                verify_folder(folder, PUBLIC)
            good[place] ^= 1
        path.write_bytes(good)
    verify_folder(folder, PUBLIC)


@pytest.mark.parametrize("is_link", [True, False])
def test_unpack_writes_into_no_existing_folder(is_link: bool, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    if is_link:
        (tmp_path / "into").symlink_to(tmp_path / "other")
    else:
        (tmp_path / "into").mkdir()
    with pytest.raises(Refused, match="exists"):
        unpack(bundle, PUBLIC, tmp_path / "into")
    assert not list((tmp_path / "other").iterdir())


def command(*arguments: object, isolated: str = "-I") -> "subprocess.CompletedProcess[str]":
    program = [sys.executable, isolated, verify_release.__file__, *map(str, arguments)]
    return subprocess.run(program, capture_output=True, text=True, check=False)


def test_command_verifies_and_unpacks(bundle: Path, tmp_path: Path) -> None:
    digits = PUBLIC.hex()
    done = command(bundle, "--key", f"{digits[:32]} {digits[32:].upper()}", "--into", tmp_path / "into")
    assert done.returncode == 0, done.stderr
    assert f"ynet 0.2.0, commit {COMMIT}" in done.stdout
    assert command(tmp_path / "into", "--key", digits).returncode == 0
    add_file(tmp_path / "into")
    refused = command(tmp_path / "into", "--key", digits)
    assert (refused.returncode, refused.stderr) == (1, "refused: not in the manifest: 'wheels/extra.whl'\n")
    assert command(tmp_path / "absent.tar", "--key", digits).returncode == 1
    assert command(bundle, "--key", digits[:-1]).returncode == 2


def test_command_imports_nothing_beside_it(bundle: Path, tmp_path: Path) -> None:
    copied = tmp_path / "verify_release.py"
    copied.write_bytes(Path(verify_release.__file__).read_bytes())
    (tmp_path / "tarfile.py").write_text("raise SystemExit('not the library')")
    arguments = [str(copied), str(bundle), "--key", PUBLIC.hex()]
    isolated = subprocess.run([sys.executable, "-I", *arguments], capture_output=True, text=True, check=False)
    assert isolated.returncode == 0
    ordinary = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert "python3 -I" in ordinary.stderr


def test_verifier_imports_the_standard_library_alone() -> None:
    names = {
        line.split()[1].split(".")[0]
        for line in Path(verify_release.__file__).read_text().splitlines()
        if line.startswith(("import ", "from "))
    }
    assert names <= sys.stdlib_module_names


def test_manifest_takes_no_more_than_its_limit(bundle: Path, tmp_path: Path) -> None:
    size = verify_release.MOST_MANIFEST_BYTES + 1
    (tmp_path / "large.tar").write_bytes(verify_release.header("MANIFEST", size) + bytes(size + BLOCK))
    with pytest.raises(Refused, match="begin"):
        verify_archive(tmp_path / "large.tar", PUBLIC)
