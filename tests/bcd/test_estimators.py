"""The estimators: scikit-learn's own tests, and its models' coefficients."""

from __future__ import annotations

import pickle
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn import config_context, linear_model, utils
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import fastiter
from fastiter.bcd import NNLS, ElasticNet, Lasso, LogisticRegression
from tests.bcd.cases import data

#: The test that is skipped without an environment variable of SciPy
SKIPPED = {"check_array_api_input"}


@pytest.mark.parametrize("model", [Lasso(), ElasticNet(), NNLS(), LogisticRegression()], ids=repr)
def test_scikit_learns_estimator_checks(model: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the skipped test
        found = check_estimator(model, on_fail=None)
    assert len(found) > 50
    assert {each["check_name"]: str(each["exception"]) for each in found if each["status"] == "failed"} == {}
    assert {each["check_name"] for each in found if each["status"] != "passed"} <= SKIPPED


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_coefficients_are_those_of_scikit_learn(layout: Any, weighted: bool, intercept: bool) -> None:
    X, y = data(30, 8, density=0.6)
    y = y + 3
    weights = np.linspace(0, 2, 30) if weighted else None
    how: dict[str, Any] = {"fit_intercept": intercept, "max_iter": 100_000}
    pairs: list[tuple[Any, Any]] = [
        (Lasso(0.1, tol=1e-12, **how), linear_model.Lasso(0.1, tol=1e-14, **how)),
        (Lasso(0.1, positive=True, tol=1e-12, **how), linear_model.Lasso(0.1, positive=True, tol=1e-14, **how)),
        (ElasticNet(0.2, tol=1e-12, **how), linear_model.ElasticNet(0.2, tol=1e-14, **how)),
    ]
    for mine, peer in pairs:
        mine.fit(layout(X), y, weights), peer.fit(X, y, weights)
        assert np.allclose(mine.coef_, peer.coef_, atol=1e-6) and np.isclose(
            mine.intercept_, peer.intercept_, atol=1e-6
        )
        assert np.allclose(mine.predict(layout(X)), peer.predict(X), atol=1e-5)
        assert np.isclose(mine.score(X, y, weights), peer.score(X, y, weights), atol=1e-6)
    exact = linear_model.LinearRegression(positive=True, fit_intercept=intercept).fit(X, y, weights)
    mine = NNLS(fit_intercept=intercept, tol=1e-10).fit(layout(X), y, weights)
    assert np.allclose(mine.coef_, exact.coef_, atol=1e-6) and np.isclose(mine.intercept_, exact.intercept_, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("penalty", ["l1", "l2"])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_classifiers_are_those_of_scikit_learn(layout: Any, penalty: str, classes: int) -> None:
    X, z = data(60, 5)
    y = np.array(["a", "b", "c"])[np.digitize(z, (0.0,) if classes == 2 else (-1.0, 1.0))]
    weights = 1 + np.arange(60.0) % 3
    mine = LogisticRegression(penalty, C=0.5, tol=1e-9).fit(layout(X), y, weights)
    ratio = 1.0 if penalty == "l1" else 0.0
    peer = linear_model.LogisticRegression(C=0.5, l1_ratio=ratio, solver="saga", tol=1e-10, max_iter=50_000)
    peer.fit(X, y, weights)
    assert mine.coef_.shape == peer.coef_.shape
    assert np.allclose(mine.predict_proba(layout(X)), peer.predict_proba(X), atol=1e-5)
    assert np.allclose(mine.predict_log_proba(layout(X)), peer.predict_log_proba(X), atol=1e-4)
    assert np.array_equal(mine.predict(X), peer.predict(X)) and mine.score(X, y) == peer.score(X, y)
    assert np.allclose(mine.coef_, peer.coef_, atol=1e-4)
    assert np.array_equal(mine.decision_function(X) > 0, peer.decision_function(X) > 0)


def test_logarithms_of_probabilities_that_vanish_are_finite() -> None:
    model = LogisticRegression().fit(np.array([[-1.0], [1.0]] * 20), [0, 1] * 20)
    far = np.array([[1e5], [-1e5]])
    assert (model.predict_proba(far).min(axis=1) == 0).all()
    scores = model.decision_function(far)
    assert np.allclose(model.predict_log_proba(far), [[-scores[0], 0], [0, scores[1]]], rtol=1e-15)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("model", [Lasso(0.1), ElasticNet(0.1)], ids=repr)
def test_duality_gaps_and_sparse_coefficients(model: Any, weighted: bool) -> None:
    """The gap bounds the distance to the minimum of the objective, and decreases with tol."""
    X, y = data(40, 10)
    weights = 1 + np.arange(40.0) % 3 if weighted else np.ones(40)

    def objective(of: Any) -> Any:
        squares = np.average((y - of.predict(X)) ** 2, weights=weights) / 2
        return squares + 0.1 * (of.l1_ratio * abs(of.coef_).sum() + (1 - of.l1_ratio) * (of.coef_**2).sum() / 2)

    best = objective(clone(model).set_params(tol=1e-14).fit(X, y, weights))
    gaps = []
    for tol in (0.5, 1e-3, 1e-9):
        found = clone(model).set_params(tol=tol).fit(X, y, weights)
        gaps.append(found.dual_gap_)
        assert -1e-12 <= objective(found) - best <= found.dual_gap_ + 1e-12
        assert found.dual_gap_ <= tol * np.average((y - np.average(y, weights=weights)) ** 2, weights=weights) / 2
        assert sp.issparse(found.sparse_coef_) and np.array_equal(found.sparse_coef_.toarray(), [found.coef_])
    assert gaps[0] >= gaps[-1]
    for name in ("dual_gap_", "sparse_coef_"):
        with pytest.raises(NotFittedError):
            getattr(clone(model), name)


def test_warm_starts_end_at_once_and_parameters_survive_a_copy() -> None:
    X, y = data(40, 10)
    for model in (Lasso(0.1, warm_start=True), ElasticNet(0.1, warm_start=True), NNLS(warm_start=True)):
        for layout in (np.asarray, sp.csc_array):
            first: Any = clone(model).set_params(fit_intercept=True).fit(layout(X), y)
            coefficients = first.coef_
            again = first.fit(layout(X), y)
            assert again.n_iter_ == 1 and np.allclose(again.coef_, coefficients, atol=1e-6)
    classifier = LogisticRegression(C=2.0, warm_start=True).fit(X, y > 0)
    assert classifier.fit(X, y > 0).n_iter_ == 1
    assert repr(Lasso(0.5, positive=True)) == "Lasso(alpha=0.5, positive=True)"
    with pytest.raises(ValueError, match="Invalid parameter 'beta' for estimator Lasso"):
        Lasso().set_params(beta=1)
    assert Lasso(0.1).fit(X.astype(np.float32), y).coef_.dtype == np.float32
    assert utils.get_tags(LogisticRegression()).estimator_type == "classifier"


def test_warm_starts_with_other_columns_or_signs_equal_cold_starts() -> None:
    X, y = data(40, 10)
    y = X @ np.where(np.arange(10) % 2, -2.0, 3.0) + 0.1 * y
    for layout in (np.asarray, sp.csc_array):
        for columns, options in ((10, {"positive": True}), (6, {}), (10, {"alpha": 0.2})):
            model = Lasso(0.1, warm_start=True, tol=1e-10).fit(layout(X[:, :8] if columns == 6 else X), y)
            model.set_params(**options).fit(layout(X[:, :columns]), y)
            cold = clone(model).fit(layout(X[:, :columns]), y)
            assert np.allclose(model.coef_, cold.coef_, atol=1e-4) and np.isclose(model.intercept_, cold.intercept_)
        more = Lasso(0.1, warm_start=True).fit(layout(X[:, :8]), y).fit(layout(X), y)
        assert np.allclose(more.coef_, Lasso(0.1).fit(layout(X), y).coef_, atol=1e-2)


def test_wrong_parameters_and_ends_without_convergence() -> None:
    X, y = data(40, 10)
    for estimator in (Lasso, ElasticNet, NNLS, LogisticRegression):
        with pytest.raises(TypeError, match=rf"^{estimator.__name__}: keywords must be among .*, got 'random_state'"):
            estimator(random_state=0)  # type: ignore[call-arg]
    wrong: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "Lasso: alpha must be finite and at least 0, got -1", Lasso(-1.0)),
        (TypeError, "Lasso: alpha must be a number, got str", Lasso("0.1")),  # type: ignore[arg-type]
        (ValueError, "NNLS: tol must be finite and at least 0, got nan", NNLS(tol=np.nan)),
        (ValueError, "Lasso: tol must be finite and at least 0, got nan", Lasso(tol=np.nan)),
        (ValueError, "Lasso: max_iter must be at least 1, got 0", Lasso(max_iter=0)),
        (TypeError, "Lasso: max_iter must be an int, got float", Lasso(max_iter=2.5)),  # type: ignore[arg-type]
        (TypeError, "Lasso: positive must be a bool, got str", Lasso(positive="no")),  # type: ignore[arg-type]
        (TypeError, "NNLS: warm_start must be a bool, got int", NNLS(warm_start=1)),  # type: ignore[arg-type]
        (TypeError, "fit_intercept must be a bool, got NoneType", LogisticRegression(fit_intercept=None)),  # type: ignore[arg-type]
        (ValueError, "ElasticNet: l1_ratio must be at most 1, got 2", ElasticNet(l1_ratio=2)),
        (TypeError, "LogisticRegression: C must be a number, got str", LogisticRegression(C="1")),  # type: ignore[arg-type]
    ]
    for error, message, model in wrong:
        with pytest.raises(error, match=message):
            model.fit(X, y > 0)
    with pytest.raises(ValueError, match="LogisticRegression: penalty must be 'l1' or 'l2', got 'l3'"):
        LogisticRegression("l3").fit(X, y > 0)
    with pytest.raises(ValueError, match="LogisticRegression: C must be finite and above 0"):
        LogisticRegression(C=0).fit(X, y > 0)
    with pytest.raises(ValueError, match="LogisticRegression: y must have at least two classes"):
        LogisticRegression().fit(X, np.ones(40, int))
    remedy = r"the residual must fall to .*; try a larger max_iter or tol"
    for tight in (NNLS(max_iter=1, tol=1e-12), Lasso(0.0, max_iter=1, tol=0.0), LogisticRegression(max_iter=1)):
        with pytest.warns(fastiter.ConvergenceWarning, match=rf"^{type(tight).__name__}: {remedy}$") as told:
            tight.fit(X, y > 0 if isinstance(tight, LogisticRegression) else y)
        assert [each.filename for each in told] == [__file__]
    with pytest.warns(fastiter.ConvergenceWarning, match="Lasso: the duality gap must fall to"):
        Lasso(1e-3, max_iter=1).fit(*data(20, 300))


def test_numbers_beyond_the_range_of_the_dtype_give_a_warning() -> None:
    X, y = data(20, 4)
    for samples, targets in ((X, 1e200 * y), (X.astype(np.float32) * np.float32(1e-15), 1e30 * y)):
        with pytest.warns(fastiter.ConvergenceWarning, match="Lasso: the duality gap must fall to"):
            Lasso(1e-6, fit_intercept=False).fit(samples, targets)


@pytest.mark.parametrize("model", [Lasso(0.1), ElasticNet(0.1), NNLS(), LogisticRegression(C=2.0)], ids=repr)
def test_estimators_are_those_of_scikit_learn(model: Any) -> None:
    X, y = data(40, 10)
    y = y > 0 if is_classifier(model) else y
    assert isinstance(model, BaseEstimator) and is_classifier(model) != is_regressor(model)
    pipeline = make_pipeline(StandardScaler(), model)
    step = list(pipeline.named_steps)[1]
    search = GridSearchCV(pipeline, {f"{step}__tol": [1e-6, 1e-3]}, cv=2).fit(X, y)
    assert (
        isinstance(search.best_estimator_.named_steps[step], type(model)) and "sk-top-container" in search._repr_html_()
    )
    again = pickle.loads(pickle.dumps(clone(model).fit(X, y)))
    assert type(again) is type(model) and np.array_equal(again.coef_, clone(model).fit(X, y).coef_)
    with config_context(enable_metadata_routing=True):
        weights = 1 + np.arange(40.0) % 3
        asks = clone(model).set_fit_request(sample_weight=True)
        routed = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), asks).fit(
            X, y, sample_weight=weights
        )
    expected = clone(model).fit(StandardScaler().fit_transform(X), y, weights)
    assert np.array_equal(routed[1].coef_, expected.coef_)


def test_without_scikit_learn_the_error_names_the_package() -> None:
    program = (
        "import sys; sys.modules['sklearn'] = None; from fastiter.bcd import *; print(lasso_path.__name__); Lasso()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    expected = "Lasso needs scikit-learn, which is not installed: pip install fastiter-kernels[sklearn]"
    assert done.stdout == "lasso_path\n"
    assert done.stderr.splitlines()[-1] == f"ModuleNotFoundError: {expected}"


def test_scikit_learn_is_imported_on_first_access() -> None:
    program = (
        "import sys, fastiter.bcd as bcd; print('sklearn' in sys.modules); bcd.Lasso; print('sklearn' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nTrue\n"
