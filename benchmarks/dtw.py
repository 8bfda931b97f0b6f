"""Our DTW against dtaidistance's C library: 58 dimensions x 128 trajectories, 16 and 200 steps.

Prints one JSON line a figure. Both run in one thread; dtaidistance is called once a pair, as its users call
it.
"""

import json
import time

import numpy as np
from dtaidistance import dtw as oracle

from twinlib.evaluation.similarity import dtw_distances


def seconds(call, repeats):
    """Return the best of some runs, in seconds, and the last answer."""
    best, answer = np.inf, None
    for _ in range(repeats):
        start = time.perf_counter()
        answer = call()
        best = min(best, time.perf_counter() - start)
    return best, answer


def main():
    rng = np.random.default_rng(0)
    for steps in (16, 200):
        a, b = rng.normal(size=(2, 128, 58, steps)).cumsum(axis=-1)
        pairs = list(zip(a.reshape(-1, steps), b.reshape(-1, steps), strict=True))
        ours, found = seconds(lambda a=a, b=b: dtw_distances(a, b), 5)
        theirs, expected = seconds(
            lambda pairs=pairs: [oracle.distance(x, y, inner_dist="euclidean", use_c=True) for x, y in pairs],
            3,
        )
        difference = float(np.abs(found.ravel() - expected).max())
        figure = {"benchmark": "dtw", "pairs": len(pairs), "steps": steps}
        figure |= {"twinlib_s": round(ours, 4), "dtaidistance_c_s": round(theirs, 4)}
        print(json.dumps(figure | {"ratio": round(theirs / ours, 2), "max_difference": difference}))


if __name__ == "__main__":
    main()
