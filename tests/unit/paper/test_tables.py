"""Tables of a study: figures over seeds, the paper's beside, and whether an effect is there."""

from itertools import pairwise

from icce_ray.core.recipe import Recipe
from jobs.paper.studies import BEST, TABLE_11, studies
from jobs.paper.tables import Claim, Row, Study, cell, judged, markdown
from jobs.paper.variants import Variant
from tests.failures import fails

FIGURES = {"worse": [{BEST: 0.80}, {BEST: 0.84}], "better": [{BEST: 0.85}, {BEST: 0.87}]}
CLAIM = Claim("better helps", ("better", BEST), ("worse", BEST))


def test_a_cell_is_mean_and_sample_deviation_beside_the_paper():
    assert cell(FIGURES["worse"], BEST) == "82.00 +- 2.83"
    assert cell(FIGURES["worse"][:1], BEST, 93.18) == "80.00 (93.18)"
    assert cell([{"mean_neighbors": 940.68}], "mean_neighbors", 50.0) == "940.7 (50)"


def test_an_effect_is_judged_seed_by_seed():
    assert judged(CLAIM, FIGURES) == "- better helps: +4.00 +- 1.00 points: agrees."
    turned = {"worse": FIGURES["better"], "better": FIGURES["worse"]}
    assert judged(CLAIM, turned).endswith("-4.00 +- 1.00 points: DOES NOT AGREE.")
    noise = {"worse": [{BEST: 0.80}, {BEST: 0.84}], "better": [{BEST: 0.84}, {BEST: 0.81}]}
    assert judged(CLAIM, noise).endswith("+0.50 +- 3.50 points: no difference beyond two standard errors.")
    one = {name: figures[:1] for name, figures in turned.items()}
    assert judged(CLAIM, one).endswith("-5.00 points: DOES NOT AGREE.")


def test_a_study_is_one_table_and_its_claims():
    rows = (Row("worse", Variant(), {BEST: 79.0}), Row("better", Variant()))
    text = markdown(Study("s", "A title", rows, (BEST,), (CLAIM,)), FIGURES)
    assert text.splitlines() == [
        "### A title",
        "",
        "|  | best head |",
        "|---|---|",
        "| worse | 82.00 +- 2.83 (79) |",
        "| better | 86.00 +- 1.41 |",
        "",
        "- better helps: +4.00 +- 1.00 points: agrees.",
    ]


def test_every_table_of_the_paper_is_there_and_consistent():
    base = Variant(recipe=Recipe(heads=8))
    found = studies(base, (10, 80))
    assert set(found) == {"ladder", "smoothing", "ground_truth", "clusters", "validation", "thresholds", "heads"}
    for study in found.values():
        names = [row.name for row in study.rows]
        assert len(set(names)) == len(names)
        for claim in study.claims:
            assert {claim.better[0], claim.worse[0]} <= set(names)
            assert {claim.better[1], claim.worse[1]} <= set(study.columns)
    assert found["ladder"].rows[-2].variant == base
    assert [row.variant.threshold for row in found["thresholds"].rows[1:]] == list(TABLE_11)[1:]
    assert [row.variant.recipe.heads for row in found["heads"].rows] == [10, 80]


def test_each_step_of_the_ladder_changes_one_thing():
    rows = studies(Variant())["ladder"].rows
    changes = []
    for before, after in pairwise(rows):
        pairs = zip(vars(before.variant).items(), vars(after.variant).items(), strict=True)
        changed = [name for (name, one), (_, other) in pairs if one != other]
        if changed == ["recipe"]:
            recipes = zip(vars(before.variant.recipe).items(), vars(after.variant.recipe).items(), strict=True)
            changed = [name for (name, one), (_, other) in recipes if one != other]
        changes.append(changed)
    assert changes == [["input_norm"], ["neighbors"], ["teacher"], ["ce_weight"], ["neighbors"]]


def test_one_number_of_heads_is_no_comparison():
    with fails(ValueError, "at least two"):
        studies(Variant(), (50,))
