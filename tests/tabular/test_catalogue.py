"""The table of features: complete, unambiguous, and the one in docs."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from isic.cli.features import app
from isic.core.errors import InputError
from isic.tabular.catalogue import catalogue, check_markdown, find_features, write_markdown

DOCS = Path(__file__).resolve().parents[2] / "docs" / "features.md"


def test_docs_list_every_family_and_stay_short() -> None:
    check_markdown(DOCS)
    text = DOCS.read_text()
    assert len(text.splitlines()) < 100
    for family in {row.family for row in catalogue()}:
        count = sum(row.family == family for row in catalogue())
        assert f"\n| {family} | {count} | " in text


def test_drift_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "features.md"
    write_markdown(path)
    check_markdown(path)
    path.write_text(path.read_text().replace("| size | 7 |", "| size | 8 |"))
    with pytest.raises(InputError, match="isic features write"):
        check_markdown(path)


def _listed(*words: str) -> list[str]:
    done = CliRunner().invoke(app, ["list", *words])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def test_list_prints_families_under_a_header_in_100_lines() -> None:
    lines = _listed()
    assert lines[0].split() == ["family", "features", "meaning"]
    assert len(lines) <= 100
    assert {row.family for row in catalogue()} <= {line.split("  ")[0] for line in lines}


def test_list_filters_by_family_and_text() -> None:
    assert [line.split()[0] for line in _listed("size")] == [
        "name",
        *(row.name for row in catalogue(["size"])),
    ]
    assert all("hue" in line.lower() for line in _listed("--find", "HUE", "colour", "texture")[1:])
    fitted = _listed("encoding")
    assert len(fitted) == 5
    assert fitted[1:] == _listed("fitted: encoding")[1:]


def test_list_cuts_long_tables_unless_asked_for_all() -> None:
    cut = _listed("patient_z")
    assert len(cut) == 100
    assert cut[-1] == "13 more of 111 features: --all"
    assert len(_listed("patient_z", "--all")) == 112
    assert len(_listed("--all")) == 1 + len(catalogue())


@pytest.mark.parametrize(
    ("families", "text", "message"),
    [(["sise"], "", "unknown feature family `sise`"), ([], "no such thing", "no feature with")],
)
def test_list_names_what_it_cannot_find(families: list[str], text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_features(families, text)


def test_every_feature_is_explained_in_one_line() -> None:
    rows = catalogue()
    assert len({row.name for row in rows}) == len(rows)
    assert all(field and "\n" not in field and "{" not in field for row in rows for field in row)
    # LightGBM refuses these in feature names.
    assert not any(set(row.name) & set('",:[]{} ') for row in rows)


#: Names the published solutions give their features (greysky, 2nd, 10th, 5th, junaid, gunes, the
#: guide).
_PUBLISHED = """
lesion_size_ratio elongation lesion_shape_index perimeter_to_area_ratio area_to_perimeter_ratio log_lesion_area
border_length_ratio shape_irregularity circularity area_diameter_ratio area_ratio weighted_area_ratio asymmetry_ratio
asymmetry_area_ratio border_complexity shape_complexity_index symmetry_border_consistency consistency_symmetry_border
symmetry_perimeter_interaction border_density hue_contrast luminance_contrast mean_hue_difference
lesion_color_difference std_dev_contrast overall_color_difference color_contrast_index color_range color_difference_AB
color_contrast_ratio relative_hue_difference color_uniformity color_consistency consistency_color color_variance_ratio
hue_color_std_interaction color_asymmetry_index lesion_visibility_score color_variation_intensity color_variation_index
texture_contrast texture_uniformity norm_L norm_A norm_B lab_chroma lab_hue color_geometric_mean lesion_severity_index
comprehensive_lesion_index color_shape_composite_index shape_color_consistency border_color_interaction
border_color_interaction_2 size_color_contrast_ratio size_age_interaction normalized_lesion_size size_age_ratio
age_normalized_nevi_confidence age_normalized_nevi_confidence_2 age_size_symmetry_index index_age_size_symmetry
position_distance_3d lesion_orientation_3d position_angle_3d_xz volume_approximation_3d lesion_flatness
combined_anatomical_site
"""
#: Those with the same order as another column: features as z-scores within the patient only.
_RESTATED = """
luminance_contrast std_dev_contrast lab_chroma lab_hue texture_uniformity area_to_perimeter_ratio elongation
border_length_ratio shape_irregularity circularity area_ratio weighted_area_ratio size_age_ratio
"""


def test_every_published_name_is_there() -> None:
    names = {row.name for row in catalogue()}
    assert set(_PUBLISHED.split()) - names == set(_RESTATED.split())
    assert {f"patient_pairs_z__{name}" for name in _RESTATED.split()} <= names


def test_every_pair_of_colour_channels_is_there() -> None:
    names = {row.name for row in catalogue()}
    for suffix in ("", "ext"):
        for one, other in combinations([channel + suffix for channel in "ABCHL"], 2):
            assert {f"{one}_minus_{other}", f"{one}_by_{other}"} <= names
