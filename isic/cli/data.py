"""Verbs that write data: generated official files, and shards for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isic.cli.options import missing_images as parse_missing
from isic.core.errors import InputError, redact

app = typer.Typer()
data_app = typer.Typer(
    help="The official files, from other forms of the data.", no_args_is_help=True
)


@app.command()
def sample(
    out: Annotated[Path, typer.Option(help="Folder for the five official files.")],
    patients: Annotated[int, typer.Option(help="Number of patients.")] = 1042,
    lesions: Annotated[int, typer.Option(help="Number of lesions (training rows).")] = 401_059,
    positives: Annotated[int, typer.Option(help="Number of malignant lesions.")] = 393,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    no_images: Annotated[bool, typer.Option("--no-images", help="Tables only.")] = False,
    population: Annotated[
        Path | None, typer.Option(help="Population file; default: the published population.")
    ] = None,
) -> None:
    """Generate the five official files.

    Patients, lesions and diagnoses are distributed as in the published data.
    """
    from isic.core.io import TEMPORARY
    from isic.data.sample import write_sample
    from isic.data.source import FILES

    existing = [name for name in FILES if (out / name).exists()]
    # A run that was killed while it moved its files leaves some, and its temporary folder.
    if existing and not any(out.glob(f"{TEMPORARY}*")):
        raise InputError(
            f"{out} already holds {existing[0]}: name another folder, or remove its files first"
        )

    write_sample(out, patients, lesions, positives, seed, not no_images, population_file=population)
    typer.echo(f"{lesions:,} lesions of {patients:,} patients, {positives} malignant: {out}")


@data_app.command("import")
def import_command(
    source: Annotated[
        Path,
        typer.Argument(
            help="Folder, zip or tar archive with tables (CSV) and tiles (.jpg, zip, tar, HDF5)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the five official files.")],
) -> None:
    """Build the five official files from another form.

    It may be the challenge's, the competition's or the archive's form.

    A killed import resumes when run again.
    """
    from isic.data.forms.build import import_data
    from isic.data.source import FILES

    existing = [name for name in FILES if (out / name).exists()]
    if existing:
        raise InputError(
            f"{out} already holds {existing[0]}: name another folder, or remove its files first"
        )
    counts = import_data(source, out)
    typer.echo(
        f"{counts.lesions:,} lesions of {counts.patients:,} patients, {counts.positives:,} malignant,"
        f" and {counts.test:,} test lesions: {out}"
    )


@app.command()
def shard(
    out: Annotated[str | None, typer.Option(help="Folder or URI (s3://…) for the shards.")] = None,
    metadata: Annotated[
        Path | None, typer.Option(help="CSV or parquet, official test or training form.")
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="One JPEG per isic_id: HDF5, or folder or zip archive of .jpg files."),
    ] = None,
    rows: Annotated[
        int, typer.Option(help="Maximum lesions of a shard; a patient with more gets a larger one.")
    ] = 20_000,
    megabytes: Annotated[float, typer.Option(help="Approximate size of a shard.")] = 64,
    missing_images: Annotated[
        str, typer.Option(help="error, or impute: keep lesions without a tile.")
    ] = "error",
    index: Annotated[
        str | None,
        typer.Option(help="Only write the manifest of existing shards in this folder or URI."),
    ] = None,
) -> None:
    """Write the official files as shards for `predict --on ray`.

    A shard is a parquet file of whole patients.
    """
    from isic.scale.make_shards import index_shards, make_shards
    from isic.scale.store import Store

    if index is not None:
        if (out, metadata, images) != (None, None, None):
            raise InputError(
                "--index takes no other option: it only writes the manifest of existing shards"
            )
        manifest, uri = index_shards(Store(index)), index
    elif metadata is None or out is None:
        raise InputError("give --metadata (and --images) and --out, or --index alone")
    else:
        impute = parse_missing(missing_images) == "impute"
        manifest, uri = make_shards(metadata, images, Store(out), rows, megabytes, impute), out

    typer.echo(f"{manifest.rows:,} lesions in {len(manifest.shards):,} shards: {redact(uri)}")
