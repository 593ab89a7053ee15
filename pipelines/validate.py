"""Stage `validate`: check the data contract and write the counts of the data."""

from isic.core.errors import run
from isic.core.io import write_json
from isic.core.paths import Layout
from isic.data.validate import validate


def main() -> None:
    layout = Layout.find()
    write_json(layout.validate_metrics, validate(layout.raw))


if __name__ == "__main__":
    run(main)
