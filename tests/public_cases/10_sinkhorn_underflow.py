import sys
from unittest import mock

import numpy as np

from twinlib.data import pairing

# large groups (> 25 M entries; here > 200,000) are matched with entropy 0.05 * mean cost: one outlier cell,
# 15 times further out than the rest, underflows exp(-cost / reg) and the plan that comes back moves almost no
# mass
rng = np.random.default_rng(1)
n, m = 510, 500
controls, perturbed = rng.normal(size=(n, 32)), rng.normal(size=(m, 32))
perturbed[0] *= 15.0
with mock.patch.object(pairing, "EXACT_ENTRIES", 200_000), np.errstate(all="ignore"):
    plan, exact = pairing.transport_plan(controls, perturbed)
mass = plan.sum(axis=0) * m  # 1 for every perturbed cell, if it is a plan
print(
    "exact:", exact, "mass of a perturbed cell: min", mass.min(), "max", mass.max(), "median", np.median(mass)
)
sys.exit(exact or not np.allclose(mass, 1.0, atol=0.05))
