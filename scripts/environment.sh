#!/bin/sh
# Make .venv hold what requirements.txt pins. Does nothing (and needs no network) when it already does.
set -eu
cd "$(dirname "$0")/.."
# The settings of linters, at the end of pyproject.toml, install nothing.
want=$({ cat requirements.txt; sed '/^\[tool\.ruff\]/,$d' pyproject.toml; } | cksum)
if [ -x .venv/bin/python ] && [ "$(cat .venv/.ready 2>/dev/null || true)" = "$want" ]; then
  exit 0
fi
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
grep -v '^-e' requirements.txt > .venv/pins.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r .venv/pins.txt
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
echo "$want" > .venv/.ready
