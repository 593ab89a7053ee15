"""`make data`: download the official files to data/official with the Kaggle client.

Not a DVC stage: it needs an account, accepted competition rules and a network. Stage `data` reads
the files.
"""

import shutil
import subprocess
import zipfile
from pathlib import Path

from isic.core.errors import InputError, error_line, run
from isic.core.io import atomic_dir
from isic.core.paths import Layout
from isic.data.image_files import BAD_ZIP
from isic.data.source import FILES
from isic.submit.kaggle import COMPETITION
from isic.submit.push import require_token

#: The largest official file, the training tiles, has 1.2 GB. A zip archive may claim any size,
#: hence the limit.
MAX_BYTES = 8 << 30


def main() -> None:
    folder = Layout.find().root / "data" / "official"
    if all((folder / name).is_file() for name in FILES):
        print(f"{folder} already holds the official files; next: make preset P=full")
        return
    require_token()
    client = shutil.which("kaggle")
    if client is None:
        raise InputError(
            "the Kaggle client is not installed: .venv/bin/pip install kaggle, then make data again"
        )
    with atomic_dir(folder) as temporary:
        command = [client, "competitions", "download", "-c", COMPETITION, "-p", str(temporary)]
        if subprocess.run(command, check=False).returncode:
            raise InputError(
                f"the Kaggle client could not download {COMPETITION}: see its message above"
            )
        archive = temporary / f"{COMPETITION}.zip"
        if not archive.is_file():
            raise InputError(
                f"the Kaggle client left no {archive.name}: see its message above, then make data"
                " again"
            )
        try:
            _extract(archive, temporary)
        except BAD_ZIP as error:
            if error_line(error) is not None:  # a full disk is not a fault of the archive
                raise
            reason = " ".join(str(error).split())[:120] or type(error).__name__
            raise InputError(
                f"the {archive.name} that Kaggle sent is not a complete zip archive ({reason}):"
                f" accept the rules at kaggle.com/c/{COMPETITION}, then make data again"
            ) from error
        archive.unlink()
    print(f"{folder} holds the official files; next: make preset P=full")


def _extract(archive: Path, folder: Path) -> None:
    """Extract the five official files into `folder`. Raises InputError when one is missing or too
    large.
    """
    with zipfile.ZipFile(archive) as content:
        sizes = {member.filename: member.file_size for member in content.infolist()}
        if missing := [name for name in FILES if name not in sizes]:
            raise InputError(
                f"the {archive.name} that Kaggle sent lacks {', '.join(missing)}: download them by"
                " hand"
            )
        for name in FILES:
            if sizes[name] > MAX_BYTES:
                raise InputError(
                    f"{name} in {archive.name} claims {sizes[name]} bytes, at most {MAX_BYTES} are"
                    " extracted"
                )
            # Only the five names are extracted: paths in a downloaded archive are not trusted.
            # zipfile stops at the claimed size even if the compressed bytes hold more.
            with content.open(name) as source, (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


if __name__ == "__main__":
    run(main)
