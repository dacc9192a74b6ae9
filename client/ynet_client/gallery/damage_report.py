"""The damaged parts of a gallery's file, reported until their cases are encoded again."""

import logging
from collections.abc import Sequence

from ynet_client.gallery.stored_codes import Damage

log = logging.getLogger("ynet.gallery")


class DamageReport:
    """Names the damaged parts, for `ynet-client status` and the log."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def add(self, damaged: Sequence[Damage]) -> None:
        """Report codes that failed their checksum."""
        self.parts += [str(one) for one in damaged]
        for one in damaged:
            log.warning("gallery: %s failed its checksum; its cases will be encoded again", one)

    def add_rebuilt(self, chunks: Sequence[int]) -> None:
        """Report chunks of facts that were rebuilt from the rows."""
        self.parts += [f"facts {chunk} (rebuilt)" for chunk in chunks]

    def clear(self) -> None:
        """Drop all reports: every case has a code again."""
        self.parts = []
