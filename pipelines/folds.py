"""Stage `folds`: assign patients to folds."""

from isic.core.errors import run
from isic.core.folds import make_folds
from isic.core.io import write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    frame = read_metadata(layout.train_metadata, train=True)
    write_parquet(layout.folds, make_folds(frame, len(params.folds), params.split.seed))


if __name__ == "__main__":
    run(main)
