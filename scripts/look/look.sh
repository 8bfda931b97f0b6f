#!/bin/sh
# Load the built pages (PAGES=04,intro: these) in headless Chromium; skipped with a reason where Chromium or Node is missing.
set -eu
cd "$(dirname "$0")"
CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
[ -n "$CHROMIUM" ] || { echo "make look is skipped: no Chromium here; set CHROMIUM to one."; exit 0; }
command -v node >/dev/null || { echo "make look is skipped: no Node here."; exit 0; }
if [ ! -d node_modules/playwright-core ]; then
  npm ci --silent --no-audit --no-fund || { echo "make look is skipped: npm could not install playwright-core."; exit 0; }
fi
export CHROMIUM
exec node look.mjs ${PAGES:+--pages "$PAGES"} ${SHOTS:+--shots "$SHOTS"}
