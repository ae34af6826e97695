"""One tuned comparison by hand, 8 workers and five seeds; in the comments the numbers that follow, in points.

| difference | per seed | mean | std | interval | needs |
| --- | --- | --- | --- | --- | --- |
| dc-asgd-a minus asgd, best | -2 -1 -1 -1.5 -2 | -1.5 | 0.5 | -2.1208, -0.8792 | 4 |
| dc-asgd-a minus asgd, recipe | -13 -13 -11 -15 -11 | -12.6 | 1.6733 | -14.6777, -10.5223 | 3 |
| dc-asgd-a minus sequential, best | 5 6 5 4 3.5 | 4.7 | 0.9747 | 3.4898, 5.9102 | 3 |
| dc-asgd-a's recipe penalty | 5 5 5 4 5 | 4.8 | 0.4472 | 4.2447, 5.3553 | 3 |
| dc-asgd-a's own loss | 2 1 3 1 4.5 | 2.3 | 1.4832 | 0.4583, 4.1417 | 6 |
| asgd's recipe penalty | 18 18 16 19 16 | 17.4 | 1.3416 | 15.7341, 19.0659 | 2 |
| dc-asgd minus asgd, best | -1 -1 -2 -1.5 -1.5 | -1.4 | 0.4183 | -1.9194, -0.8806 | 3 |

Intervals: 2.776445 std / sqrt(5), the quantile of Student's t with 4 degrees of freedom.
"""

from fake_runs import RULES
from tuned_runs import Arm, write_tuned

from tardigrad.metrics.comparison import compare_runs
from tardigrad.metrics.runs import find_runs

STRONG = RULES["dc-asgd-a"].replace("lambda0=2.0", "lambda0=8.0")


def arms():
    """The algorithms; dc-asgd's best point is the untouched recipe."""
    return {
        "sequential": Arm(0.4, (0.38, 0.39, 0.38, 0.40, 0.39), (0.40, 0.41, 0.41, 0.41, 0.42)),
        "asgd": Arm(0.05, (0.45, 0.46, 0.44, 0.455, 0.445), (0.58, 0.59, 0.57, 0.60, 0.58)),
        "dc-asgd-a": Arm(0.1, (0.43, 0.45, 0.43, 0.44, 0.425), (0.45, 0.46, 0.46, 0.45, 0.47), STRONG, {STRONG: 0.38}),
        "dc-asgd": Arm(0.2, (0.44, 0.45, 0.42, 0.44, 0.43)),
    }


def read(folder, every=None, **options):
    """Write and compare."""
    return compare_runs(find_runs(write_tuned(folder, every or arms(), **options)))


def series(comparison, label):
    """One algorithm."""
    return next(s for s in comparison.series if s.label == label)
