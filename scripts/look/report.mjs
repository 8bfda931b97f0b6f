// Loads one html file that must need nothing else, on a phone and on a desk, light and dark.
// node report.mjs FILE [--shots DIR]   exit status 1 when anything is wrong
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const axeSource = readFileSync(join(here, "node_modules/axe-core/axe.min.js"), "utf8");
const file = resolve(process.argv[2]);
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : "";
const LARGEST = 5e6;

const profile = mkdtempSync(join(tmpdir(), "report-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  ignoreDefaultArgs: ["--hide-scrollbars"],
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"],
});
const found = statSync(file).size > LARGEST ? [`larger than ${LARGEST} bytes`] : [];

function inspect() {
  const wrong = [];
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width + 1) wrong.push(`scrolls sideways at ${width} px`);
  for (const box of document.querySelectorAll("main *")) {
    const style = getComputedStyle(box);
    const wider = box.scrollWidth > box.clientWidth + 1 && box.clientWidth > 0;
    if (!wider || style.display.startsWith("inline")) continue;
    const bar = box.offsetHeight - box.clientHeight;
    if (/auto|scroll/.test(style.overflowX) ? bar < 4 : style.overflowX !== "visible")
      wrong.push(`cut without a scroll bar: ${box.tagName} ${box.id || box.className}`);
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) wrong.push("missing image");
    if (image.alt.length < 20) wrong.push(`image without a description: ${image.alt}`);
  }
  return wrong;
}

async function scan(page) {
  await page.evaluate(axeSource);
  const report = await page.evaluate(() => window.axe.run(document, { preload: false }));
  return report.violations.map((item) => `axe ${item.impact} ${item.id} (${item.nodes.length}): ` +
    `${item.nodes[0].target.join(" ")} ${item.help}`.slice(0, 200));
}

for (const width of [390, 1400]) {
  for (const colorScheme of ["light", "dark"]) {
    const page = await context.newPage();
    page.on("request", (request) => {
      if (!/^(file|data|blob):/.test(request.url())) found.push(`asks ${request.url().slice(0, 120)}`);
    });
    page.on("pageerror", (error) => found.push(`script error: ${String(error).slice(0, 160)}`));
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.goto(pathToFileURL(file).href, { waitUntil: "load" });
    const told = [...(await page.evaluate(inspect)), ...(await scan(page))];
    found.push(...told.map((line) => `${width} px, ${colorScheme}: ${line}`));
    if (shots) {
      mkdirSync(shots, { recursive: true });
      await page.screenshot({ path: join(shots, `${width}_${colorScheme}.png`), fullPage: true });
    }
    await page.close();
  }
}
await context.close();
rmSync(profile, { recursive: true, force: true });
for (const line of [...new Set(found)]) console.log(line);
console.log(`${file}: ${found.length} findings`);
process.exit(found.length ? 1 : 0);
