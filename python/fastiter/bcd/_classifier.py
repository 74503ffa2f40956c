"""Classification with the interface of scikit-learn: logistic regression with l1 or l2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._estimators import Estimator, without_last
from ._problem import Logistic
from ._quasi_newton import Centred, Classes, centre, minimise
from ._result import BCDSolution
from ._scikit_learn import ClassifierMixin, check_classification_targets

if TYPE_CHECKING:
    from typing_extensions import Self

Array = npt.NDArray[Any]
#: Newton steps with l1 store the matrix of up to this number of columns
_MANY = 256


class LogisticRegression(ClassifierMixin, Estimator):  # type: ignore[misc]
    """C times the sum of the losses of X w + c, plus ||w||_1 or ||w||^2 / 2, with scikit-learn's interface.

    Parameters
    ----------
    penalty : {"l1", "l2"}
        The penalty.
    C : float
        The weight of the losses, above 0; infinite for no penalty.
    fit_intercept : bool
        Whether there is an intercept c; it has no penalty.
    warm_start : bool
        Whether ``fit`` starts from the last coefficients.
    max_iter : int
        The maximum number of steps: quasi-Newton steps, or with "l1", two classes, and more columns than samples and
        than 256, Newton steps.
    tol : float
        The largest entry of the minimum-norm subgradient at which it ends, as a fraction of that of the gradient at 0.
        With an intercept, both are those of centred columns, unless Newton steps are taken on sparse data.

    Attributes
    ----------
    classes_ : (classes,)
        The labels.
    coef_ : (1, m) or (classes, m)
        The coefficients: one row for two classes, otherwise one for each class.
    intercept_ : (1,) or (classes,)
        The intercepts.
    n_iter_ : (1,) int
        The number of steps.

    See Also
    --------
    Lasso : Regression.
    bcd : The solver.

    Examples
    --------
    >>> import numpy as np
    >>> from fastiter.bcd import LogisticRegression
    >>> X, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array(["no", "no", "yes", "yes"])
    >>> LogisticRegression(C=10.0).fit(X, y).predict(X)
    array(['no', 'no', 'yes', 'yes'], dtype='<U3')
    """

    coef_: Array
    intercept_: Array

    def __init__(
        self,
        penalty: str = "l1",
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        warm_start: bool = False,
        max_iter: int = 10_000,
        tol: float = 1e-6,
    ) -> None:
        self.penalty, self.C, self.fit_intercept = penalty, C, fit_intercept
        self.warm_start, self.max_iter, self.tol = warm_start, max_iter, tol

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model, and return it.

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.
        y : (n,)
            The class of each sample.
        sample_weight : (n,), optional
            A weight for each sample, ones by default.

        Returns
        -------
        estimator
            The estimator itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter of the estimator is of a wrong type or out of its range; for X, y or sample_weight that
            scikit-learn's validation refuses, or negative weights.
        """
        X, y = self._read(X, y, formats=["csr", "csc"])
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if self.penalty not in ("l1", "l2"):
            raise ValueError(f"LogisticRegression: penalty must be 'l1' or 'l2', got {self.penalty!r}")
        count, m = len(self.classes_), X.shape[1]
        if count < 2:
            raise ValueError(f"LogisticRegression: y must have at least two classes, got {count} class")
        weights = self._weights(sample_weight, X)
        columns, has_intercept = 1 if count == 2 else count, bool(self.fit_intercept)
        weight = 1 / self.C
        classes = Classes(labels, count, weights, *((weight, 0.0) if self.penalty == "l1" else (0.0, weight)))
        is_wide = self.penalty == "l1" and count == 2 and m > max(X.shape[0], _MANY)
        A = centre(X, weights, has_intercept, implicit=not is_wide)
        x = self._start(A, columns)
        if is_wide:
            solution = self._by_newton(A, classes, x)
        else:
            solution = self._warned(minimise(A, classes, x, self.tol, self.max_iter))
        x = np.asarray(solution.value, np.float64).reshape(x.shape)
        self.coef_ = np.ascontiguousarray(x[:m].T, X.dtype)
        intercepts = A.intercepts(x) if has_intercept else np.zeros(columns)
        if count > 2:
            intercepts -= intercepts.mean()  # a constant added to all changes no probability
        self.intercept_ = intercepts.astype(X.dtype)
        self.n_iter_ = np.array([max(solution.steps, 1)], np.int32)
        return self

    def _start(self, A: Centred, columns: int) -> Array:
        """Return the first coefficients, followed by the intercepts of centred columns: 0, or the last ones."""
        m = A.shape[1]
        x = np.zeros((m + bool(self.fit_intercept), columns))
        if self.warm_start and hasattr(self, "coef_") and self.coef_.shape == (columns, m):
            x[:m] = self.coef_.T
            if self.fit_intercept:
                x[m] = self.intercept_ + A.middle @ x[:m]
        return x

    def _by_newton(self, A: Centred, classes: Classes, x: Array) -> BCDSolution[Array]:
        """Return the minimiser with l1 for two classes, by sweeps over the few columns that matter."""
        parts = without_last({"l1": classes.l1}, A.shape[1], bool(self.fit_intercept))
        problem = Logistic(A.matrix, classes.labels, weights=classes.weights, **parts)
        start = x[:, 0].astype(A.dtype) if x.any() else None
        return self._minimised(problem, start, blocks=len(x), update="newton", max_steps=self.max_iter)

    def decision_function(self, X: Any) -> Array:
        """Return ``X coef_ + intercept_``: (n,) for two classes, else (n, classes).

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.

        Returns
        -------
        ndarray
            The score of each sample: positive for the second of two classes.
        """
        scores = self._scores(X)
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (n, classes).

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.

        Returns
        -------
        ndarray (n, classes)
            Rows that sum to 1, in the order of ``classes_``.
        """
        z = self._below_zero(X)
        e = np.exp(z)
        return np.asarray(e / e.sum(axis=1, keepdims=True))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of the probability of each class, (n, classes).

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.

        Returns
        -------
        ndarray (n, classes)
            In the order of ``classes_``; finite also where the probability underflows to 0.
        """
        z = self._below_zero(X)
        return np.asarray(z - np.log(np.exp(z).sum(axis=1, keepdims=True)))

    def _below_zero(self, X: Any) -> Array:
        """Return the score of each class minus the largest of its sample, (n, classes)."""
        z = self._scores(X)
        z = np.concatenate([np.zeros_like(z), z], axis=1) if z.shape[1] == 1 else z
        return np.asarray(z - z.max(axis=1, keepdims=True))

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row of X.

        Parameters
        ----------
        X : array or sparse matrix (n, features)
            The samples.

        Returns
        -------
        ndarray (n,)
            The labels, among ``classes_``.
        """
        scores = self.decision_function(X)
        chosen = (scores > 0).astype(np.int64) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[chosen])
