"""Accuracy of pairs: strict, ties beside it, with Wilson's interval, by domain."""

import pytest
from scipy.stats import binomtest

from dogerm.benchmarks.pairs import best, metrics
from dogerm.benchmarks.report import Measured, Metric, Report
from dogerm.recipe import Recipe
from dogerm.rows import Row


def pair(domain=None) -> Row:
    data = {"prompt": "p", "chosen": "c", "rejected": "r"}
    data |= {} if domain is None else {"domain": domain}
    return Row("line 1 of x", data, "p", ("c", "r"), True)


def wilson(wins: int, n: int) -> tuple[float, float]:
    interval = binomtest(wins, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@pytest.mark.parametrize(("wins", "n"), [(0, 1), (3, 4), (17, 32), (1000, 1000)])
def test_the_interval_is_wilsons(wins, n):
    metric = Metric.of(wins, 0, n)
    assert (metric.low, metric.high) == pytest.approx(wilson(wins, n), abs=1e-12)
    assert 0 <= metric.low <= metric.accuracy <= metric.high <= 1


def test_a_tie_is_no_win_and_is_counted():
    metric = Metric.of_margins([0.5, 0.0, -0.5, 1e-7])
    assert (metric.accuracy, metric.ties, metric.n) == (0.5, 1, 4)


def test_nothing_judged_is_not_measured_rather_than_zero():
    assert Metric.of_margins([]) == Metric(None, 0, 0, 0.0, 1.0)


def test_pairs_count_in_their_domain_and_overall():
    rows = [pair("math"), pair("code"), pair("math"), pair(), pair("math")]
    rewards = [[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [3.0, 0.0], None]
    found = metrics(rows, rewards)
    assert list(found) == ["math", "code", "Overall"]
    assert (found["math"].accuracy, found["math"].n, found["math"].ties) == (0.5, 2, 1)
    assert (found["code"].accuracy, found["code"].n) == (0.0, 1)
    assert (found["Overall"].accuracy, found["Overall"].n) == (0.5, 4)


def test_responses_of_unknown_order_count_in_no_metric():
    row = Row("line 1 of x", {"domain": "math"}, "p", ("a", "b", "c"), False)
    assert metrics([row], [[1.0, 2.0, 3.0]]) == {"Overall": Metric.of(0, 0, 0)}


def test_a_domain_whose_pairs_were_all_skipped_is_not_measured():
    assert metrics([pair("math")], [None])["math"].accuracy is None


def test_a_report_reads_back_as_it_was_written():
    points = [
        Measured(Recipe(lam, {"math": 1}), {"Overall": Metric.of(wins, 1, 4)})
        for lam, wins in ((0, 1), (0.5, 3), (1, 3))
    ]
    report = Report("pairs", {"name": "tiny"}, {"dtype": "float32"}, points)
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
    assert report.to_json()["recipes"][1] == {
        "lam": 0.5,
        "shares": {"math": 1.0},
        "method": "linear",
        "metrics": {
            "Overall": {
                "accuracy": 0.75,
                "n": 4,
                "ties": 1,
                "low": pytest.approx(wilson(3, 4)[0]),
                "high": pytest.approx(wilson(3, 4)[1]),
                "interval": "Wilson",
            }
        },
    }
    assert best(report).recipe.lam == 0.5  # the smaller λ of two that are as good
