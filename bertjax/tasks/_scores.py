"""The official metrics by name, each a function of (predictions, labels): classes, or numbers for the correlations."""

import math
import warnings
from collections.abc import Callable, Mapping

import numpy as np

# scikit-learn and scipy are imported where they are used: to list the tasks takes no two seconds.


def accuracy(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Share of the predictions that are right."""
    return float(np.mean(predictions == labels))


def f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 of class 1 (harmonic mean of precision and recall); 0 where nothing is predicted to be of it."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, zero_division=0))


def macro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the F1 of all classes that occur."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def micro_f1(predictions: np.ndarray, labels: np.ndarray) -> float:
    """F1 over all classes together: what is given to no class being none of them, it is the accuracy."""
    return accuracy(predictions, labels)


def matthews(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Matthews correlation of classes; 0 where all predictions are the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predictions))


def pearson(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Linear correlation; 0 where it is not defined (all predictions the same, or not numbers)."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, labels)


def spearman(predictions: np.ndarray, labels: np.ndarray) -> float:
    """Correlation of ranks; 0 where it is not defined (all predictions the same, or not numbers)."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, labels)


def _correlation(function: Callable[..., tuple[float, float]], predictions: np.ndarray, labels: np.ndarray) -> float:
    if len(labels) < 2:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant input; an untrained model may well give it
        value = float(function(np.asarray(predictions, np.float64), labels)[0])
    return value if math.isfinite(value) else 0.0


METRICS: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    function.__name__: function for function in (accuracy, f1, macro_f1, micro_f1, matthews, pearson, spearman)
}
