"""Take the documentation's screenshots of the status page: python tests/status_pictures.py."""

import io
import sys
import tempfile
from pathlib import Path
from typing import Literal

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "story"))

from status_scene import NAME, PASSWORD, running_scene

from browser import chromium, sign_in, window
from prometheus import free_ports

IMAGES = Path(__file__).parents[1] / "docs/images"
PICTURES: dict[str, tuple[int, int, Literal["light", "dark"]]] = {
    "status.png": (1440, 1160, "light"),
    "status-dark.png": (1440, 1160, "dark"),
}


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    (port,) = free_ports(1)
    with tempfile.TemporaryDirectory() as folder, running_scene(Path(folder), port) as scene, chromium() as browser:
        for name, (width, height, scheme) in PICTURES.items():
            with window(browser, width, height, color_scheme=scheme) as opened:
                page = opened.new_page()
                sign_in(page, scene.url, NAME, PASSWORD)
                page.wait_for_selector("#audit .chip.good")
                page.wait_for_selector(".chart circle")
                page.wait_for_timeout(500)  # the progress bar has finished its animation
                Image.open(io.BytesIO(page.screenshot())).convert("RGB").save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main()
