"""`make data`: the official files into data/official, by the Kaggle client and the token of its user.

Not a DVC stage: it needs an account, accepted competition rules and a network, and its result is read by stage `data`.
"""

import shutil
import subprocess
import zipfile

from isic.core.errors import InputError, run
from isic.core.io import atomic_dir
from isic.core.paths import Layout
from isic.data.source import FILES
from isic.submit.kaggle import COMPETITION
from isic.submit.push import require_token


def main() -> None:
    folder = Layout.find().root / "data" / "official"
    if all((folder / name).is_file() for name in FILES):
        print(f"{folder} already holds the official files; next: make preset P=full")
        return
    require_token()
    client = shutil.which("kaggle")
    if client is None:
        raise InputError("the Kaggle client is not installed: .venv/bin/pip install kaggle, then make data again")
    with atomic_dir(folder) as temporary:
        command = [client, "competitions", "download", "-c", COMPETITION, "-p", str(temporary)]
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"the Kaggle client could not download {COMPETITION}: see its message above")
        archive = temporary / f"{COMPETITION}.zip"
        with zipfile.ZipFile(archive) as content:
            for name in FILES:
                # Only the five names are taken: a path in an archive from outside is not trusted.
                with content.open(name) as source, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        archive.unlink()
    print(f"{folder} holds the official files; next: make preset P=full")


if __name__ == "__main__":
    run(main)
