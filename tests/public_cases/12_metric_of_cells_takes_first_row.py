import sys

import numpy as np

from twinlib.evaluation import metrics

rng = np.random.default_rng(0)
x, y = rng.random((30, 5)), rng.random((20, 5))  # cells given where the mean profile [G] is asked for
bad = 0
for name, call in (
    ("pseudobulk_mse", lambda a, b: metrics.pseudobulk_mse(a, b)),
    ("pearson_delta", lambda a, b: metrics.pearson_delta(a, b, np.zeros(5))),
    ("overlap_at_n", lambda a, b: metrics.overlap_at_n(a, b, 2)),
):
    try:
        got = call(x, y)
    except ValueError as e:
        print(name, "refused:", e)
        continue
    print(name, got, "first rows:", call(x[0], y[0]), "means:", call(x.mean(0), y.mean(0)))
    bad |= np.isclose(got, call(x[0], y[0])) and not np.isclose(got, call(x.mean(0), y.mean(0)))
sys.exit(bool(bad))
