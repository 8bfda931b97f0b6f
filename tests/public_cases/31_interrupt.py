import os
import signal
import subprocess
import sys
import tempfile
import time

out = tempfile.mkdtemp() + "/run"
words = [sys.executable, "-m", "experiments", "released", "--algorithms", "PPO", "--seeds", "1"]
process = subprocess.Popen(
    [*words, "--timesteps", "400000", "--quiet", "--out", out],
    stderr=subprocess.PIPE,
    text=True,
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
)
while process.poll() is None and not os.path.exists(out + "/parts/identity.json"):
    time.sleep(0.05)
time.sleep(2)
process.send_signal(signal.SIGINT)
told = process.communicate(timeout=60)[1]
left = os.path.exists(out + "/.lock")
print("rc", process.returncode, "lines on stderr", len(told.splitlines()), "lock left:", left)
sys.exit("Traceback" in told or process.returncode != 130)
