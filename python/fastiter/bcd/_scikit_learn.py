"""The parts of scikit-learn that the estimators use; without it, they can be imported but not made."""

from __future__ import annotations

from typing import Any

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "sklearn":
        raise

    class BaseEstimator:  # type: ignore[no-redef]
        """Refuses to make an estimator."""

        def __new__(cls, *_: Any, **__: Any) -> Any:
            """Raise an error that names the package to install."""
            needs = f"{cls.__name__} needs scikit-learn, which is not installed"
            raise ModuleNotFoundError(f"{needs}: pip install fastiter-kernels[sklearn]")

    class ClassifierMixin:  # type: ignore[no-redef]
        """A base without methods."""

    class RegressorMixin:  # type: ignore[no-redef]
        """A base without methods."""

    check_classification_targets = _check_sample_weight = check_is_fitted = validate_data = None

__all__ = [
    "BaseEstimator",
    "ClassifierMixin",
    "RegressorMixin",
    "_check_sample_weight",
    "check_classification_targets",
    "check_is_fitted",
    "validate_data",
]
