"""Fixtures of the data tests: a site's folder that a test may damage."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Row = dict[str, str]
WriteSite = Callable[..., Path]

HEADER = ("image", "mask", "label", "patient", "split")


@pytest.fixture
def write_site(tmp_path: Path) -> WriteSite:
    """Return a function that writes eight valid cases of four patients; `change` edits the rows first."""

    def write(change: Callable[[list[Row]], object] = list, columns: Sequence[str] = HEADER) -> Path:
        random = np.random.default_rng(1)
        rows = []
        for number in range(8):
            mask = np.zeros((20, 24), np.uint8)
            mask[5 : 10 + number, 6:12] = 255
            save(tmp_path / f"i{number}.png", random.integers(0, 256, (20, 24), dtype=np.uint8))
            save(tmp_path / f"m{number}.png", mask)
            rows.append(
                {
                    "image": f"i{number}.png",
                    "mask": f"m{number}.png",
                    "label": "round" if number % 4 < 2 else "spiky",
                    "patient": f"secret-{number // 2}",
                    "split": "train" if number < 4 else "test",
                }
            )
        change(rows)
        lines = [",".join(columns), *(",".join(row.get(name, "") for name in columns) for row in rows)]
        manifest = tmp_path / "manifest.csv"
        manifest.write_text("\n".join(lines) + "\n", "utf-8")
        return manifest

    return write


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)
