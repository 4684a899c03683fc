"""Mean, standard error and bootstrap interval of scores over the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

NUM_RESAMPLES = 2000
_VALUES_AT_ONCE = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The mean over the images that have a value.

    num: number of these images.  se: standard error.  low, high: ends of the 95 % interval.
    Without values all but num are NaN; with one value se is NaN.
    """

    mean: float
    se: float
    low: float
    high: float
    num: int

    def __str__(self) -> str:
        """`0.812 [0.790, 0.833]`."""
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(values: NDArray[np.float64]) -> Estimate:
    """Estimate the mean of values (N,), one per image; NaN means that an image has none.

    The interval is that of the percentile bootstrap (Efron and Tibshirani 1993).  Its seed is
    fixed, so equal values have equal intervals.
    """
    values = values[~np.isnan(values)]
    num = len(values)
    if num < 2:
        mean = float(values[0]) if num else float("nan")
        return Estimate(mean=mean, se=float("nan"), low=mean, high=mean, num=num)
    with np.errstate(invalid="ignore"):  # A score may be infinite.
        found = bootstrap(
            (values,),
            np.mean,
            n_resamples=NUM_RESAMPLES,
            method="percentile",
            batch=max(1, _VALUES_AT_ONCE // num),
            rng=np.random.default_rng(0),
        )
        # Without interpolation an infinite end stays infinite.
        low, high = np.quantile(found.bootstrap_distribution, (0.025, 0.975), method="inverted_cdf")
        return Estimate(
            mean=float(values.mean()),
            se=float(values.std(ddof=1) / np.sqrt(num)),
            low=float(low),
            high=float(high),
            num=num,
        )
