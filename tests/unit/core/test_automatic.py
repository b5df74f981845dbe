"""The automatic recipe: the paper's at its size, whole and consistent below it, and what is given is kept."""

import dataclasses

import pytest

from icce_ray.core.automatic import Choice, automatic
from icce_ray.core.recipe import GridRecipe, Recipe


def chosen(n, dim=768, k=10, cosine=0.0, **given):
    return automatic(n, dim, k, mean_cosine=cosine, given=given)


def test_at_imagenets_size_with_dinov2_it_is_the_papers():
    choice = dataclasses.asdict(chosen(1_281_167, 2048, 1000, 0.05))
    recipe = dataclasses.asdict(Recipe())
    assert {name: choice[name] for name in choice if name in recipe} == {
        name: recipe[name] for name in choice if name in recipe
    }
    assert (choice["components"], choice["threshold"], choice["k_min"]) == (0, 0.3, 50)
    assert choice["iterations"] == GridRecipe.iterations == 12_500
    assert (choice["l2"], choice["agreement_power"]) == (0.0, 0.0)


def test_features_that_point_one_way_are_centred_at_any_size():
    assert chosen(1_000_000, 2048, 1000, 0.4).components == 2048
    assert chosen(5_000, 2048, 10, 0.4).components == chosen(5_000, 2048, 10, 0.0).components == 128


@pytest.mark.parametrize(
    ("n", "dim", "k"), [(2, 1, 1), (2, 5, 2), (100, 324, 3), (1500, 324, 10), (20_000, 768, 300), (499_999, 4, 1000)]
)
def test_small_sets_get_a_whole_training(n, dim, k):
    choice = chosen(n, dim, k)
    steps = choice.epochs * (n // choice.batch_size)
    assert min(600, 75 * n**0.3) - 10 <= steps <= 20_000
    assert 1 <= choice.components <= min(dim, 128)
    assert 1 <= choice.k_min <= max(1, n // k)
    assert 1 <= choice.batch_size <= min(n, 1024)
    assert 1 <= choice.warmup_epochs <= choice.epochs
    # The teacher remembers a small share of the training, or the heads would follow a student of long ago.
    assert 1.0 / (1.0 - choice.teacher_momentum) <= steps / 10
    assert 300 <= choice.iterations <= 12_500


def test_a_batch_has_pairs_for_every_cluster_where_memory_allows():
    assert [chosen(10_000, k=k).batch_size for k in (10, 50, 100, 300)] == [256, 512, 1024, 1024]


def test_what_is_given_is_kept_and_the_others_follow_it():
    assert chosen(5_000, heads=3, threshold="auto", components=0, k_min=None) == dataclasses.replace(
        chosen(5_000), heads=3, threshold="auto", components=0
    )
    assert (chosen(5_000, k_max=7).k_min, chosen(1_000_000, k_max=7).k_min, chosen(5_000, k_max=30).k_min) == (7, 7, 20)
    longer, free = chosen(5_000, epochs=1000), chosen(5_000)
    assert longer.warmup_epochs > free.warmup_epochs
    assert longer.teacher_momentum > free.teacher_momentum
    assert chosen(5_000, epochs=3, batch_size=64).warmup_epochs == 1
    assert chosen(5_000, batch_size=64).learning_rate * 64 == pytest.approx(free.learning_rate * free.batch_size)
    assert chosen(1_000_000, epochs=5).warmup_epochs == 5


def test_the_line_says_every_value():
    for choice in (chosen(5_000), chosen(1_000_000), chosen(5_000, threshold="auto")):
        text = choice.describe()
        assert "\n" not in text
        assert all(
            str(getattr(choice, name)) in text for name in ("heads", "epochs", "batch_size", "threshold", "k_min")
        )
    assert {field.name for field in dataclasses.fields(Choice)} <= set(dir(chosen(5_000)))
