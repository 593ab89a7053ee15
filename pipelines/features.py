"""Stage `features`: the selected feature families for every training row."""

from isic.core.errors import run
from isic.core.io import write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.tabular import build_features


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    frame = read_metadata(layout.train_metadata, train=True)
    write_parquet(layout.features, build_features(frame, params.features.families))


if __name__ == "__main__":
    run(main)
