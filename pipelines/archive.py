"""Stage `archive@NAME`: import a source of `data.archive` and report the patients it shares with the
challenge.
"""

import argparse
import sys

from isic.core.errors import InputError, run
from isic.core.io import write_json
from isic.core.params import load_params
from isic.core.paths import Layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="a name of data.archive in params.yaml")
    name = parser.parse_args().source
    layout = Layout.find()
    sources = load_params(layout.params).data.archive
    if name not in sources:
        raise InputError(
            f"no source `{name}` in params.yaml: data.archive has {', '.join(sources)}"
        )

    from isic.data.archive.build import describe_source, import_source

    source, folder = sources[name], layout.root / sources[name].path
    counts = import_source(
        name, folder, source.form, source.px, source.licence, layout.raw, layout.archive(name)
    )
    write_json(layout.archive_metrics(name), counts)
    for line in describe_source(counts):
        sys.stderr.write(f"isic: archive {name}: {line}\n")


if __name__ == "__main__":
    run(main)
