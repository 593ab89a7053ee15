"""Make README's pictures of the report and of the table of runs: `make pictures`, in a checkout with
a finished demo.

Needs Chromium and playwright, as the browser tests do. Pictures are written to docs/pictures in 64
colours, which keeps them small.
"""

from __future__ import annotations

import argparse
import io
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))
OUT = ROOT / "docs" / "pictures"
#: Pixels of a picture: the first screen.
REPORT, RUNS = (1200, 760), (1500, 560)


def main() -> int:
    argparse.ArgumentParser(description=__doc__).parse_args()
    from tests.browser import CHROMIUM, opened

    report = ROOT / "reports" / "index.html"
    if CHROMIUM is None or not report.is_file():
        print("pictures: needs Chromium and a finished demo: make demo", file=sys.stderr)
        return 2
    OUT.mkdir(exist_ok=True)
    with opened() as browser, served() as address:
        page = shown(browser, report.as_uri(), REPORT)
        page.wait_for_function("() => document.documentElement.dataset.ready")
        keep(page, "report.png")

        page = shown(browser, address, RUNS)
        page.get_by_role("link", name="stack-").first.wait_for(timeout=300_000)
        # MLflow opens a chat panel on the first visit, and a note on shared views.
        for label in ("Close assistant", "Close"):
            for button in page.get_by_label(label).all():
                if button.is_visible():
                    button.click()
        page.wait_for_timeout(2000)
        keep(page, "runs.png")
    return 0


def shown(browser: Any, address: str, size: tuple[int, int]) -> Any:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    page.goto(address)
    return page


def keep(page: Any, name: str) -> None:
    """Write the visible part of the page to docs/pictures."""
    from PIL import Image

    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(64)
    picture.save(OUT / name, optimize=True)
    print(f"docs/pictures/{name}: {(OUT / name).stat().st_size / 1000:.0f} kB")


@contextmanager
def served() -> Iterator[str]:
    """The address of the table of runs in a running `isic ui`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "isic", "ui", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield next(line.strip() for line in process.stdout if line.startswith("http"))
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
