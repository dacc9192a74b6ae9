"""`make release` and `make release-lock`: make a signed release of the commit that is checked out."""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from release import archive, contents, sources, wheelhouse, wheels
from release.signing import public_digits, read_key
from release.verify_release import verify_archive
from ynet.errors import UserError

ROOT = Path(__file__).parents[2]
NOTES = """\
ynet {version}, commit {commit}

{archive}: {size:,} bytes
  SHA-256 {sha256}
verify_release.py
  SHA-256 {verifier}
public key, which you give to each hospital by telephone or on paper
  {key}

{vulnerabilities}
"""


def lock_for(folder: Path) -> Path:
    """Return the path of the lock of wheels for this Python and platform."""
    return folder / f"deploy/release/wheels-{wheelhouse.platform()}.lock"


def make_release(key_file: Path | None, kept: Path, out: Path, copy: Path | None) -> str:
    """Make a release of the checked-out commit in `out/ynet-VERSION`; return its notes. Raises UserError."""
    key = read_key(key_file, ROOT)
    if changed := sources.git(ROOT, "status", "--porcelain"):
        raise UserError("the checkout is not a commit", changed.splitlines()[0], "commit, or git stash --all")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = sources.export(ROOT, "HEAD", work / "source")
        fetched = wheelhouse.fetch(lock_for(source.folder), kept)
        (work / "built").mkdir()
        built = sources.build(source, work / "built")
        (work / "texts").mkdir()
        name = f"ynet-{source.version}-offline-{wheelhouse.platform()}.tar"
        files = contents.make(source, built, fetched, copy, work / "texts", name)
        folder = out / f"ynet-{source.version}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        archive.write(folder / name, archive.manifest(source.version, source.commit, files), files, key)
        verify_archive(folder / name, key.public_key().public_bytes_raw())
        for path in (*built, source.folder / contents.VERIFIER):
            shutil.copyfile(path, folder / path.name)
        notes = NOTES.format(
            version=source.version,
            commit=source.commit,
            archive=name,
            size=(folder / name).stat().st_size,
            sha256=archive.digest(folder / name),
            verifier=archive.digest(folder / "verify_release.py"),
            key=public_digits(key),
            vulnerabilities=vulnerabilities(copy, work / "texts/vulnerabilities.json"),
        )
        (folder / "RELEASE-NOTES.txt").write_text(notes, "utf-8")
    return notes


def vulnerabilities(copy: Path | None, report: Path) -> str:
    """Return what the notes say about known vulnerabilities."""
    if copy is None:
        return "Known vulnerabilities: no comparison was made, because ADVISORIES=FILE.zip was not given."
    found = json.loads(report.read_text("utf-8"))["found"]
    return f"Known vulnerabilities: {len(found)}, see {report.name} in the archive"


def make_lock(out: Path) -> str:
    """Write the lock of wheels that pip chooses now; return what to do next."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        source = sources.export(ROOT, "HEAD", work / "source")
        (work / "built").mkdir()
        _, wheel = sources.build(source, work / "built")
        chosen = wheelhouse.resolve(wheel, ROOT / "requirements.lock", out)
        text = wheels.lock(wheels.read(path) for path in chosen)
    lock_for(ROOT).write_text(text, "ascii")
    return f"{lock_for(ROOT)}: {len(chosen)} wheels; look at the change, and commit it"


def main() -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m release", description="Make a signed release of ynet.")
    parser.add_argument("--key", type=Path, help="the releaser's private Ed25519 key, PEM, outside the repository")
    parser.add_argument("--wheels", type=Path, default=ROOT / "dist/wheels", help="where wheels are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "dist/release", help="where the release is written")
    parser.add_argument("--advisories", type=Path, help="an offline copy of advisories: a zip of OSV records")
    parser.add_argument("--lock", action="store_true", help="write the lock of wheels instead")
    given = parser.parse_args()
    os.umask(0o022)
    try:
        if given.lock:
            print(make_lock(given.wheels))
        else:
            print(make_release(given.key, given.wheels, given.out, given.advisories))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
