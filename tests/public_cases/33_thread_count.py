import sys
import warnings

import torch

from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding

warnings.simplefilter("ignore")
got = []
for threads in (1, 2):
    torch.set_num_threads(threads)
    p = prepare(simulate_waddington(600, seed=1, perturbations=("Gata1", "Pu1")), 30)
    torch.set_num_threads(threads)
    _, h = train_embedding(p, EmbeddingConfig(epochs=1), seed=0)
    got.append((p.fingerprint[:8], float(h["validation_mse"].iloc[0])))
print("threads 1:", got[0], "threads 2:", got[1])
a, b = got[0][1], got[1][1]
sys.exit(abs(a - b) > 0.02 * a)
