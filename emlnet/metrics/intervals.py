"""What a column of scores says: mean, standard error, and a bootstrap interval over the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean over images that have a value.

    num: how many have one.  se: standard error of the mean.  low, high: ends of the 95 % interval.
    All but num are NaN without any value, se with one.
    """

    mean: float
    se: float
    low: float
    high: float
    num: int

    def __str__(self) -> str:
        """`0.812 [0.790, 0.833]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: NDArray[np.float64]) -> list[Estimate]:
    """An estimate for each column of values (images, columns); NaN is no value.

    The interval is the percentile bootstrap's (Efron and Tibshirani 1993): images drawn with
    repeats, `NUM_RESAMPLES` times from one seed, so equal values have equal intervals.
    """
    num_images, num_columns = values.shape
    has = ~np.isnan(values)
    infinite = np.isinf(values)
    finite = np.where(has & ~infinite, values, 0)
    signs = np.where(infinite, np.sign(values), 0)
    random = np.random.default_rng(0)
    means = np.full((NUM_RESAMPLES, num_columns), np.nan)
    for start in range(0, NUM_RESAMPLES if num_images else 0, _RESAMPLES_AT_ONCE):
        drawn = random.multinomial(
            num_images, np.full(num_images, 1 / num_images), size=_RESAMPLES_AT_ONCE
        ).astype(np.float64)
        means[start : start + _RESAMPLES_AT_ONCE] = _means(drawn, finite, signs, has)
    (centre,) = _means(np.ones((1, num_images)), finite, signs, has)
    return [
        _estimate(values[has[:, column], column], centre[column], means[:, column])
        for column in range(num_columns)
    ]


def _means(
    weights: NDArray[np.float64],
    finite: NDArray[np.float64],
    signs: NDArray[np.float64],
    has: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Weighted means (R, columns); infinite where an infinite value has weight."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means: NDArray[np.float64] = (weights @ finite) / (weights @ has)
    endless = weights @ signs
    return np.where(endless > 0, np.inf, np.where(endless < 0, -np.inf, means))


def _estimate(values: NDArray[np.float64], mean: float, resampled: NDArray[np.float64]) -> Estimate:
    resampled = resampled[~np.isnan(resampled)]
    nan = float("nan")
    if not len(values):
        return Estimate(mean=nan, se=nan, low=nan, high=nan, num=0)
    with np.errstate(invalid="ignore"):
        se = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else nan
    # Without interpolation an infinite end stays infinite.
    low, high = np.quantile(resampled, (0.025, 0.975), method="inverted_cdf")
    return Estimate(mean=float(mean), se=se, low=float(low), high=float(high), num=len(values))
