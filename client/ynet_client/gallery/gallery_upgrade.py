"""The upgrade of a gallery's file from format 3, whose codes had detail codes, to format 4."""

import sqlite3

from ynet_client.gallery.stored_codes import CaseCode, checksum, checksum_of

FROM = 3


def upgrade(database: sqlite3.Connection) -> None:
    """Remove the detail codes, in the caller's transaction. Codes with a wrong checksum keep a wrong one."""
    database.create_function("segment_checksum", -1, checksum, deterministic=True)
    database.create_function("tail_checksum", -1, _of_tail, deterministic=True)
    database.execute(
        "UPDATE segments SET checksum = segment_checksum(codes, ids)"
        " WHERE checksum = segment_checksum(codes, ids, details)"
    )
    database.execute(
        "UPDATE tail SET checksum = tail_checksum(case_id, code) WHERE checksum = tail_checksum(case_id, code, detail)"
    )
    for table, column in (("segments", "details"), ("tail", "detail"), ("models", "detail_bytes")):
        database.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def _of_tail(case_id: int, *codes: bytes) -> int:
    return checksum_of(CaseCode(case_id, b"".join(codes)))
