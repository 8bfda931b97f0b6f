import pathlib
import subprocess
import sys
import tempfile
import time

out = pathlib.Path(tempfile.mkdtemp()) / "run"
words = [sys.executable, "-m", "experiments", "released", "--algorithms", "PPO", "--seeds", "1"]
words += ["--timesteps", "2048", "--quiet", "--out", str(out)]
typo = subprocess.run([*words, "--dataset", "wadington"], capture_output=True, text=True, check=False)
print("typo:", typo.stderr.strip())
bad = typo.returncode != 2
for more in ([], ["--resume"]):
    mended = [*words, "--dataset", "waddington", *more]
    again = subprocess.Popen(mended, stderr=subprocess.PIPE, text=True)
    while again.poll() is None and not (out / "parts" / "identity.json").exists():
        time.sleep(0.05)
    if again.poll() is None:
        print("runs")
        again.kill()
        again.wait()
        break
    print("typo mended", more, "rc", again.returncode, again.stderr.read().strip())
    bad |= again.returncode == 2
sys.exit(bad)
