"""What a site's home folder keeps, and for how long."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ynet.runtime.terminal import LOG_BYTES, LOGS_KEPT
from ynet.trust.journal import MOST_SEGMENTS, SEGMENT_BYTES
from ynet_client.workbench.history import LONGEST_S, MOST_OF_ONE


@dataclass(frozen=True)
class KeptFile:
    """One kind of file, or of folder, in the home folder."""

    pattern: str  # of the name, in the home folder
    contents: str
    kept_for: str
    is_personal: bool  # about patients, or about people who use ynet

    def to_json(self, home: Path) -> dict[str, Any]:
        """Return the kind with its size as `ynet-client dossier --json` prints it."""
        return {"file": self.pattern, **{key: getattr(self, key) for key in _SHOWN}, "bytes": size_bytes(home, self)}


_SHOWN = ("contents", "kept_for", "is_personal")
_ALWAYS = "until the folder is deleted"
_LOG = f"{MOST_SEGMENTS} older files of {SEGMENT_BYTES >> 20} MiB each; then the oldest is deleted"

EVERY = (
    KeptFile("gallery.sqlite*", "paths, labels, attributes and codes of cases; patients as pseudonyms",
             "as long as the manifest lists the case, or until ynet-client forget", is_personal=True),
    KeptFile("*.secret", "keys of the pseudonyms of patients and users", _ALWAYS, is_personal=False),
    KeptFile("site*.key", "the site's private keys", "until replaced", is_personal=False),
    KeptFile("membership.json", "the server's address, certificates", _ALWAYS, is_personal=False),
    KeptFile("client.yaml", "the settings", _ALWAYS, is_personal=False),
    KeptFile("models", "published models", "the newest 8, and the one in use", is_personal=True),
    KeptFile("encoders", "pretrained encoders", "the 8 that were used last", is_personal=False),
    KeptFile("fixed", "arrays of a run that no round changes", "the 8 that were used last", is_personal=True),
    KeptFile("update.safetensors", "the newest private update", "until the next private round", is_personal=True),
    KeptFile("plans", "plans that have come, and decisions", _ALWAYS, is_personal=False),
    KeptFile("offered", "models that wait, and decisions", _ALWAYS, is_personal=False),
    KeptFile("ledger.*", "the privacy spent, one line for each private round", _ALWAYS, is_personal=False),
    KeptFile("scored.json", "scores that private plans were sent", _ALWAYS, is_personal=True),
    KeptFile("audit.*", "who asked whom, when, how much; users as pseudonyms", _LOG, is_personal=True),
    KeptFile("egress.sqlite*", "messages and bytes that have left, by class", _ALWAYS, is_personal=False),
    KeptFile("consults.sqlite*", "notes and answers of consults, paths of own cases", _ALWAYS, is_personal=True),
    KeptFile("quotas.sqlite*", "digests of other sites' codes", "one UTC day", is_personal=True),
    KeptFile("noise.sqlite*", "noise that was drawn for own queries", _ALWAYS, is_personal=True),
    KeptFile("workbench.sqlite*", "each account's history, with small pictures",
             f"{LONGEST_S / 86_400:g} days, at most {MOST_OF_ONE} queries an account", is_personal=True),
    KeptFile("accounts.json", "accounts of the workbench, passwords as Argon2id hashes", "until the account is removed",
             is_personal=True),
    KeptFile("peers", "fingerprints of other sites, and decisions", _ALWAYS, is_personal=False),
    KeptFile("import*", "which image came from which object of the PACS", _ALWAYS, is_personal=True),
    KeptFile("quarantine.csv", "objects that an import left out, and why", _ALWAYS, is_personal=True),
    KeptFile("forg*", "patients who must stay out", _ALWAYS, is_personal=True),
    KeptFile("took_part.json", "rounds that were trained, by plan", _ALWAYS, is_personal=False),
    KeptFile("summed.json", "the last secure sum of each plan", _ALWAYS, is_personal=False),
    KeptFile("training.json", "micro-batches of a batch", _ALWAYS, is_personal=False),
    KeptFile("restored.json", "when the folder was restored from a backup", _ALWAYS, is_personal=False),
    KeptFile("web.pem", "the workbench's key and certificate", "until replaced", is_personal=False),
    KeptFile("reserve", "empty space for a full disk", _ALWAYS, is_personal=False),
    KeptFile("client.log*", "the log of the process",
             f"{LOGS_KEPT + 1} files of {LOG_BYTES >> 20} MiB", is_personal=False),
    KeptFile("spool", "files in transit, images of queries while they are encoded", "until the next start",
             is_personal=True),
)  # fmt: skip


def present(home: Path) -> Iterator[KeptFile]:
    """Yield the kinds that the home folder has a file of."""
    return (one for one in EVERY if any(home.glob(one.pattern)))


def size_bytes(home: Path, kind: KeptFile) -> int:
    """Return the size of all files of a kind; a file that vanishes counts 0."""
    return sum(_size(path) for found in home.glob(kind.pattern) for path in (found, *found.rglob("*")))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0
