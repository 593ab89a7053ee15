"""Stage `data`: put the five official files into data/raw, generated or taken from a folder."""

from isic.core.errors import run
from isic.core.params import load_params
from isic.core.paths import Layout


def main() -> None:
    layout = Layout.find()
    params = load_params(layout.params).data
    if params.source == "folder":
        from isic.data.source import take_folder

        take_folder(layout.root / str(params.folder), layout.raw, layout.root / ".resume" / "data")
    else:
        from isic.data.sample import write_sample

        sample = params.sample
        write_sample(layout.raw, sample.patients, sample.lesions, sample.positives, sample.seed)


if __name__ == "__main__":
    run(main)
