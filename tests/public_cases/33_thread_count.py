import subprocess
import sys

code = """
import sys, warnings
warnings.simplefilter("ignore")
import torch
from twinlib.data.preparation import prepare
from twinlib.data.simulated import simulate_waddington
from twinlib.embedding.attention import EmbeddingConfig
from twinlib.embedding.train import train_embedding
torch.set_num_threads(int(sys.argv[1]))
p = prepare(simulate_waddington(600, seed=1, perturbations=("Gata1", "Pu1")), 30)
torch.set_num_threads(int(sys.argv[1]))
_, h = train_embedding(p, EmbeddingConfig(epochs=1), seed=0)
print(p.fingerprint[:8], float(h["validation_mse"].iloc[0]))
"""
got = [
    subprocess.run(
        [sys.executable, "-c", code, n], capture_output=True, text=True, check=False
    ).stdout.split()
    for n in ("1", "2")
]
print("threads 1:", got[0], "threads 2:", got[1])
a, b = float(got[0][1]), float(got[1][1])
sys.exit(abs(a - b) > 0.02 * a)
