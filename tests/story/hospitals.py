"""Small hospitals and plans for the story tests."""

import csv
from pathlib import Path
from typing import Any

import yaml

from ynet.data.synthetic import CLASSES

SITES = {"A": 36, "B": 24, "C": 24}


def small_plan(
    path: Path,
    *,
    image: int = 32,
    width: int = 4,
    privacy: dict[str, Any] | None = None,
    cohort: dict[str, Any] | None = None,
    **training: Any,
) -> Path:
    """Write a plan that trains in seconds."""
    values = {
        "name": "story",
        "classes": list(CLASSES),
        "image": {"channels": 1, "size": image},
        "network": {"width": width, "code_bits": 64},
        "training": {"rounds": 2, "batch_size": 8, "learning_rate": 2e-3, **training},
        "cohort": cohort or {"min_sites": 3, "quorum": 3, "round_deadline_s": 60},
        "privacy": privacy or {"mode": "off"},
    }
    path.write_text(yaml.safe_dump(values), "utf-8")
    return path


def plant_canaries(manifest: Path) -> None:
    """Give every patient and every file a searchable name."""
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    site = manifest.parent.name
    for row in rows:
        row["patient"] = f"CANARY-{site}-PATIENT-{row['patient']}"
        for column in ("image", "mask"):
            if row[column]:
                old = manifest.parent / row[column]
                new = old.with_name(f"CANARY-{site}-FILE-{old.name}")
                if old.exists():
                    old.rename(new)
                row[column] = new.relative_to(manifest.parent).as_posix()
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
