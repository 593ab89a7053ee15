"""Stage `features`: the selected feature families for every training row, in its patient and in a
random part of its patient.
"""

from isic.core.errors import run
from isic.core.io import write_parquet
from isic.core.params import load_params
from isic.core.paths import Layout
from isic.data.tables import read_metadata
from isic.tabular import build_features
from isic.tabular.thinning import thin_patients


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params)
    frame = read_metadata(layout.train_metadata, train=True)
    families = params.features.families
    write_parquet(layout.features, build_features(frame, families))
    write_parquet(layout.thinned, build_features(thin_patients(frame), families))


if __name__ == "__main__":
    run(main)
