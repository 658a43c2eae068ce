"""Numbers of statsmodels 0.15.0 for the quantities that it has too.

It is not among the pinned packages, so its results stand here as it printed them; where it is
installed it is asked again.
"""

import numpy as np
import pytest

from bridge.analysis.numbers.paired import holm, log_ratio, sign_test
from bridge.analysis.numbers.statistics import wilson

# proportion_confint(correct, n, method="wilson")
WILSON = {
    (0, 30): (0.0, 0.113513393174),
    (1, 30): (0.005908590382, 0.166703909914),
    (15, 30): (0.331541256405, 0.668458743595),
    (37, 40): (0.801357664757, 0.974163974225),
    (272, 272): (0.986073671314, 1.0),
    (400, 500): (0.762710894695, 0.832714501028),
}
# multipletests(p, method="holm")[1]
HOLM = (
    (
        [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216, 0.222, 0.251, 0.34],
        [0.013, 0.096, 0.429, 0.429, 0.429, 0.48, 0.518, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
    ),
    ([0.04, 0.01, 0.03, 0.01, 1.0], [0.09, 0.05, 0.09, 0.05, 1.0]),
)


@pytest.mark.parametrize("counts", WILSON)
def test_wilson(counts):
    found = wilson(*counts)
    assert (found.low, found.high) == pytest.approx(WILSON[counts], abs=1e-11)


@pytest.mark.parametrize(("p", "adjusted"), HOLM)
def test_holm(p, adjusted):
    np.testing.assert_allclose(holm(p), adjusted, atol=1e-12)


def test_the_sign_test():
    # sign_test of nine gains and three losses
    assert sign_test(9, 3) == pytest.approx(0.14599609375, abs=1e-12)


def test_the_ratio_of_costs():
    # ttest_ind(log(a), log(b), usevar="unequal"): t, p, degrees of freedom
    found = log_ratio([10, 12, 11], [7, 8.5, 6.9])
    assert found.p_value == pytest.approx(0.011789273718343757, rel=1e-9)
    assert found.mean / found.standard_error == pytest.approx(4.5582668507588515, rel=1e-9)


def test_statsmodels_still_says_so():
    proportion = pytest.importorskip("statsmodels.stats.proportion")
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    for (correct, n), limits in WILSON.items():
        told = proportion.proportion_confint(correct, n, method="wilson")
        assert told == pytest.approx(limits, abs=1e-11)
    for p, adjusted in HOLM:
        np.testing.assert_allclose(multitest.multipletests(p, method="holm")[1], adjusted)
