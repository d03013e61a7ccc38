"""How the site and a report look, on a screen and on a phone: the pictures of docs/pictures.md.

    make docs demo && python docs/pictures.py build/site runs/demo/report.html

Needs Chromium (or Chrome) and Pillow (`pip install 'seqzoo[images]'`).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
PAGES = {"first": "index.html", "mixer": "mixers/mamba2.html", "task": "tasks/mqar.html"}
SIZES = {"screen": (1280, 860), "phone": (390, 844)}
COLOURS = 256  # enough, and half of the bytes
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def picture(browser: str, page: Path, size: tuple[int, int], out: Path) -> None:
    """What a browser of that size shows of a page before anybody scrolls."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "made.png")
        flags = ("--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=5000")
        shown = f"--window-size={size[0]},{size[1]}", f"--screenshot={made}"
        command = [browser, *flags, *shown, page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(made).convert("RGB").quantize(COLOURS).save(out, optimize=True)


def main() -> None:
    """Reads the command line and takes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("site", type=Path, help="that make docs has built")
    parser.add_argument("report", type=Path, help="report.html of a comparison or of the demo")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"no browser found; looked for {', '.join(BROWSERS)}")
    pages = {name: options.site / page for name, page in PAGES.items()} | {"report": options.report}
    (HERE / "pictures").mkdir(exist_ok=True)
    for name, page in pages.items():
        for kind, size in SIZES.items():
            picture(browser, page, size, HERE / "pictures" / f"{name}_{kind}.png")


if __name__ == "__main__":
    main()
