"""The scikit-learn clusterer: scikit-learn's own checks with none left out, and what a user expects."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from icce_ray.core.alarms import CollapseWarning
from icce_ray.estimator import ICCE
from tests.failures import fails

SMALL = {
    "k_min": 2,
    "heads": 4,
    "hidden": 16,
    "bottleneck": 8,
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 0.05,
    "warmup_epochs": 2,
    "teacher_momentum": 0.9,
    "iterations": 50,
    "device": "cpu",
}


@pytest.fixture(autouse=True)
def array_api(monkeypatch):
    """Without it scikit-learn skips its check of array API input."""
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


def small(n_clusters=3, **changes):
    return ICCE(n_clusters, **{**SMALL, "random_state": 0, **changes})


#: Scikit-learn checks with noise of a few rows, too.
MAY_COLLAPSE = pytest.mark.filterwarnings("ignore::icce_ray.core.alarms.CollapseWarning")


@MAY_COLLAPSE
def test_every_check_of_sklearn_passes_and_none_is_left_out():
    results = check_estimator(small(epochs=12), on_skip=None, on_fail=None)
    assert len(results) > 40
    assert {(r["check_name"], r["status"], str(r["exception"])) for r in results if r["status"] != "passed"} == set()


@pytest.fixture(scope="module")
def digits_like():
    """Ten clusters in 64 dimensions, as scikit-learn's digits have."""
    X, y = make_blobs(400, n_features=64, centers=10, cluster_std=4.0, random_state=3)
    return X.astype(np.float32), y


@pytest.fixture(scope="module")
def fitted(digits_like):
    return small(10, heads=6, hidden=32, k_min=10, batch_size=64).fit(digits_like[0])


def test_clusters_are_found(digits_like, fitted):
    X, y = digits_like
    assert adjusted_rand_score(y, fitted.labels_) > 0.9
    assert adjusted_rand_score(y, fitted.predict(X)) > 0.9


def test_a_number_of_clusters_and_a_threshold_may_be_found(digits_like, fitted):
    """Of ten compact clusters most neighbours are right at any threshold but the lowest."""
    X, y = digits_like
    options = {"cluster_range": (4, 14), "heads": 10, "hidden": 32, "k_min": 8, "batch_size": 64, "epochs": 30}
    found = small("auto", threshold="auto", **options).fit(X)
    assert fitted.n_clusters_ == 10
    assert abs(found.n_clusters_ - 10) <= 1
    assert found.n_clusters_interval_[0] <= found.n_clusters_ <= found.n_clusters_interval_[1]
    assert fitted.n_clusters_interval_ == (10, 10)
    assert set(found.labels_) == set(range(found.n_clusters_))
    assert fitted.threshold_ == fitted.choice_.threshold == 0.5
    assert -1.0 < found.threshold_ < 0.9
    assert adjusted_rand_score(y, found.labels_) > 0.85


def test_new_rows_are_labelled_alike(digits_like):
    X, y = digits_like
    model = make_pipeline(StandardScaler(), small(10, heads=6, hidden=32, k_min=10, batch_size=64)).fit(X[:300])
    assert adjusted_rand_score(y[300:], model.predict(X[300:])) > 0.9


def test_attributes(digits_like, fitted):
    X, _ = digits_like
    assert fitted.labels_.shape == fitted.agreement_.shape == (400,)
    assert fitted.labels_.dtype == fitted.head_labels_.dtype == fitted.predict(X).dtype == np.int32
    assert fitted.head_labels_.shape == (400, 6)
    assert fitted.head_losses_.shape == (6,)
    assert fitted.best_head_ == fitted.head_losses_.argmin()
    assert set(fitted.consensus_scores_) == {"cspa", "hgpa", "mcla", "hbgf"}
    assert 0 < fitted.agreement_.mean() <= 1
    assert len(fitted.classifier_grid_) == 13
    assert fitted.coef_.shape == (10, 64)
    assert fitted.intercept_.shape == (10,)
    assert fitted.classes_.tolist() == list(range(10))
    proba = fitted.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0)
    assert np.array_equal(proba.argmax(axis=1), fitted.predict(X))


def test_one_seed_one_result(digits_like, fitted):
    X, _ = digits_like
    again = clone(fitted)
    assert not hasattr(again, "labels_")
    assert again.get_params() == fitted.get_params()
    assert np.array_equal(again.fit_predict(X), fitted.labels_)
    assert np.array_equal(again.head_labels_, fitted.head_labels_)
    assert np.array_equal(again.coef_, fitted.coef_)
    other = clone(fitted).set_params(random_state=np.random.RandomState(7)).fit(X)
    assert not np.array_equal(other.head_losses_, fitted.head_losses_)


def test_pickle_keeps_the_answers(digits_like, fitted):
    X, _ = digits_like
    copy = pickle.loads(pickle.dumps(fitted))  # noqa: S301 - our own bytes
    assert np.array_equal(copy.predict_proba(X), fitted.predict_proba(X))
    assert copy.classifier_grid_ == fitted.classifier_grid_


def test_the_input_is_left_alone_and_may_be_half_precision(digits_like, fitted):
    X, y = digits_like
    half = X[:200].astype(np.float16)
    half.setflags(write=False)
    assert adjusted_rand_score(y[:200], clone(fitted).fit_predict(half)) > 0.8
    ordered = np.asfortranarray(X)
    kept = ordered.copy()
    assert np.array_equal(clone(fitted).fit_predict(ordered), fitted.labels_)
    assert np.array_equal(ordered, kept)


@pytest.mark.parametrize(
    "X",
    [
        np.ones((20, 1)),
        np.ones((20, 4)),
        np.repeat(np.eye(4), 5, axis=0),
        np.linspace(-1, 1, 20)[:, None],
        np.vstack([np.zeros((9, 3)), np.eye(3)]),
        np.eye(3),
        np.full((10, 2), 1e15),
    ],
    ids=["constant column", "constant rows", "duplicates", "a line", "zero rows", "as many rows as clusters", "huge"],
)
def test_degenerate_features(X):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *args, **kwargs: None)
        model = small(3).fit(X)
    assert model.labels_.shape == (len(X),)
    assert sorted(set(model.labels_)) == model.classes_.tolist()
    assert np.isfinite(model.predict_proba(X)).all()


@MAY_COLLAPSE
def test_duplicates_share_a_label():
    X = np.repeat(np.eye(4)[:3], 10, axis=0) + 0.1
    assert adjusted_rand_score(np.repeat(np.arange(3), 10), small(3).fit_predict(X)) == 1.0


def test_one_cluster():
    model = small(1).fit(np.random.default_rng(0).normal(size=(12, 3)))
    assert not model.labels_.any()
    assert model.consensus_scores_ == {}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_clusters": 0}, ValueError, "n_clusters=0 must be >= 1"),
        ({"n_clusters": 2.5}, TypeError, "n_clusters=2.5 must be an integer"),
        ({"n_clusters": "many"}, TypeError, "n_clusters='many' must be an integer"),
        ({"cluster_range": (5, 5)}, ValueError, "[5, 5]; give 4 <= lowest < highest"),
        ({"heads": True}, TypeError, "heads=True must be an integer"),
        ({"beta": "x"}, TypeError, "beta='x' must be a number"),
        ({"threshold": float("nan")}, ValueError, "threshold=nan must be >= -1.0 and <= 1.0"),
        ({"threshold": 2}, ValueError, "threshold=2 must be"),
        ({"threshold": "best"}, TypeError, "threshold='best' must be a number"),
        ({"threshold": "auto", "n_clusters": 1}, ValueError, "at least 2 clusters; give a number"),
        ({"threshold": "auto", "k_max": 1}, ValueError, "k_max = 1 is below k_min = 2; raise k_max"),
        ({"k_max": 1}, ValueError, "k_max = 1 is below k_min = 2; raise k_max"),
        ({"teacher": "none"}, ValueError, "teacher='none' must be one of"),
        ({"cluster_prior": "equal"}, ValueError, "cluster_prior='equal' must be one of"),
        ({"prior_strength": 1.5}, ValueError, "prior_strength=1.5 must be >= 0.0 and <= 1.0"),
        ({"consensus_methods": ()}, ValueError, "must be some of"),
        ({"consensus_methods": ("mcla", "best")}, ValueError, "must be some of"),
        ({"n_clusters": 31}, ValueError, "n_samples=30 should be >= n_clusters=31"),
        ({"learning_rate": 1e30}, ValueError, "the heads diverged at learning_rate=1e+30; lower it"),
    ],
)
def test_bad_parameters_are_named(changes, error, message):
    X = np.random.default_rng(0).normal(size=(30, 4))
    with fails(error, message):
        small().set_params(**changes).fit(X)


def test_features_that_cannot_be_clustered():
    with fails(ValueError, "9 of 10 rows", "at least 2"):
        small().fit(np.vstack([np.zeros((9, 2)), [[1, 1]]]))
    with fails(ValueError, "1e+20", "1e+15", "scale the columns"):
        small().fit(np.full((10, 2), -1e20))
    with fails(ValueError, "1 sample"):
        small().fit([[1.0, 2.0]])


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"learning_rate": 1e-12}, ["nothing was learned; raise the learning rate", "of the heads agree with"]),
        ({"teacher": "softmax", "weight_decay": 100.0}, ["heads 0, 1, 2, 3 collapsed", "labels have no image"]),
    ],
)
def test_a_collapse_is_warned_of(digits_like, changes, messages):
    with pytest.warns(CollapseWarning) as caught:
        small(10, k_min=10, **changes).fit(digits_like[0][:200])
    for message in messages:
        assert any(message in str(warning.message) for warning in caught), [str(one.message) for one in caught]
    assert {warning.filename for warning in caught} == {__file__}


@MAY_COLLAPSE
def test_a_k_min_beyond_the_clusters_is_warned_of():
    with pytest.warns(UserWarning, match="k_min=20 neighbours are more than a cluster of 30 / 3"):
        small(k_min=20).fit(np.random.default_rng(0).normal(size=(30, 4)))


def test_progress_goes_to_standard_error(capsys):
    X = np.random.default_rng(0).normal(size=(30, 4))
    small(verbose=1).fit(X)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split()[0] for line in shown.err.splitlines()] == ["neighbors"] * 2 + [
        "heads",
        "consensus",
        "classifier",
    ]
    small().fit(X)
    assert capsys.readouterr() == ("", "")


@pytest.fixture(scope="module")
def halves():
    """Two spaces, float32[240, 8] each, and four classes: one tells the first bit of a class, the other the second."""
    classes = np.arange(240) % 4
    random = np.random.default_rng(0)
    bits = (classes // 2, classes % 2)
    return [(8 * bit[:, None] + random.normal(size=(240, 8))).astype(np.float32) for bit in bits], classes


@MAY_COLLAPSE
def test_two_spaces_find_what_neither_can_alone(halves):
    spaces, classes = halves
    train, new = [space[:200] for space in spaces], [space[200:] for space in spaces]
    for alone in train:
        assert adjusted_rand_score(classes[:200], small(4, k_min=10).fit_predict(alone)) < 0.6
    model = small(4, k_min=10, heads=6).fit(train)
    assert adjusted_rand_score(classes[:200], model.labels_) > 0.95
    assert adjusted_rand_score(classes[200:], model.predict(tuple(new))) > 0.95
    assert model.coef_.shape == (4, 16)
    assert model.space_dims_ == (8, 8)
    assert sum(model.space_weights_) == pytest.approx(1.0)
    assert model.head_spaces_.tolist().count(2) == 3  # half of the heads see the joined space
    assert len(model.head_spaces_) == model.head_labels_.shape[1] == 6
    assert model.head_spaces_[model.best_head_] == 2


def test_a_list_of_one_matrix_is_that_matrix(digits_like, fitted):
    X, _ = digits_like
    assert np.array_equal(clone(fitted).fit([X]).predict_proba([X]), fitted.predict_proba(X))
    assert (fitted.space_dims_, fitted.space_weights_) == ((64,), (1.0,))
    assert not fitted.head_spaces_.any()


@MAY_COLLAPSE
def test_spaces_that_do_not_fit_are_named(halves):
    (first, second), _ = halves
    with fails(ValueError, "[240, 239] rows", "the same images"):
        small(4).fit([first, second[1:]])
    with fails(ValueError, "240 of 240 rows of X[1] are zero"):
        small(4).fit([first, 0 * second])
    model = small(4, k_min=10, epochs=2, iterations=2).fit([first, second])
    with fails(ValueError, "1 feature spaces, but 2 were fitted", "[8, 8] columns"):
        model.predict(np.hstack([first, second]))
    with fails(ValueError, "[8, 7] columns, those fitted [8, 8]"):
        model.predict([first, second[:, 1:]])
