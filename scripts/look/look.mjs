// Loads every built page in headless Chromium with the network cut, and says what a reader would stumble over.
// node look.mjs [--shots DIR]   exit status 1 when anything is wrong
import { createServer } from "node:http";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, extname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../../_build/html");
const axeSource = readFileSync(join(here, "node_modules/axe-core/axe.min.js"), "utf8");
const shots = process.argv.includes("--shots") ? process.argv[process.argv.indexOf("--shots") + 1] : "";
const only = process.argv.includes("--only") ? process.argv[process.argv.indexOf("--only") + 1] : "";
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json",
  ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".woff": "font/woff" };

const server = createServer((request, response) => {
  const path = join(root, decodeURIComponent(new URL(request.url, "http://x").pathname));
  if (!path.startsWith(root) || !existsSync(path) || !statSync(path).isFile()) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" });
  response.end(readFileSync(path));
});
await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
const base = `http://127.0.0.1:${server.address().port}`;

const pages = ["book", "notebooks"].flatMap((folder) =>
  existsSync(join(root, folder))
    ? readdirSync(join(root, folder)).filter((name) => name.endsWith(".html")).map((name) => `${folder}/${name}`)
    : []);
const wanted = ["search.html", "genindex.html", ...pages.sort()]
  .filter((name) => existsSync(join(root, name)) && name.includes(only));

const profile = mkdtempSync(join(tmpdir(), "look-"));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  headless: true,
  args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// In the page: raw TeX outside code and MathJax, images that did not load or are not described, sideways scrolling.
function inspect() {
  const found = [];
  const walker = document.createTreeWalker(document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (parent.closest("pre, code, script, style, mjx-container, textarea")) continue;
    const raw = walker.currentNode.textContent.match(/\$\$|\\\(|\\\[|\\(?:frac|sum|theta|nabla|begin|hat|mathbb)\b/);
    if (raw) found.push(`raw TeX: ${walker.currentNode.textContent.trim().slice(0, 60)}`);
    const marks = walker.currentNode.textContent.match(/\|\s*[-—]{1,}\s*\||\$[^$\s][^$\n]{0,80}\$/);
    if (marks) found.push(`raw Markdown: ${walker.currentNode.textContent.trim().slice(0, 60)}`);
  }
  for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]")) {
    found.push(`formula that MathJax refuses: ${error.getAttribute("data-mjx-error") ?? error.textContent.slice(0, 60)}`);
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) found.push(`missing image: ${image.src.slice(0, 80)}`);
  }
  return found;
}

function sideways() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width + 1) return [];
  const wide = [...document.querySelectorAll("article *")]
    .filter((element) => element.getBoundingClientRect().right > width + 1)
    .slice(-1)
    .map((element) => `${element.tagName.toLowerCase()}.${element.className}`.slice(0, 80));
  return [`scrolls sideways at ${width} px (${document.documentElement.scrollWidth} px wide): ${wide}`];
}

async function scan(page) {
  await page.evaluate(axeSource);
  const report = await page.evaluate(() =>
    window.axe.run(document, { preload: false, runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"] }));
  return report.violations
    .filter((item) => ["serious", "critical"].includes(item.impact))
    .map((item) => `axe ${item.id} (${item.nodes.length}): ${item.nodes[0].target.join(" ")} ` +
      `${(item.nodes[0].any[0] ?? item.nodes[0].all[0] ?? { message: "" }).message}`.slice(0, 200));
}

// Tab alone must reach the link that skips to the text, and then the navigation, which must show where it is.
const focused = () => {
  const here = document.activeElement;
  const box = here.getBoundingClientRect();
  const outline = getComputedStyle(here);
  return {
    name: `${here.tagName.toLowerCase()}.${here.className}`.slice(0, 60),
    skips: /skip/i.test(here.id + here.className + (here.parentElement?.id ?? "")),
    toggles: here.matches(".primary-toggle"),
    navigation: Boolean(here.closest(".bd-sidebar-primary, #pst-primary-sidebar-modal")) && here.matches("a[href]"),
    seen: box.width > 0 && box.height > 0 && box.right > 0 && box.left < innerWidth,
    ringed: outline.outlineStyle !== "none" || outline.boxShadow !== "none",
  };
};

async function tabTo(page, wanted, most = 60) {
  for (let step = 0; step < most; step += 1) {
    await page.keyboard.press("Tab");
    await page.waitForTimeout(20);
    const here = await page.evaluate(focused);
    if (here[wanted]) return here;
  }
  return null;
}

async function keyboard(page) {
  const found = [];
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  if (!(await tabTo(page, "skips", 3))?.seen) found.push("keyboard: no visible skip link among the first three stops");
  const link = await tabTo(page, "navigation");
  if (!link?.seen) found.push("keyboard: Tab does not reach a visible link of the navigation");
  else if (!link.ringed) found.push(`keyboard: no ring around ${link.name}`);
  return found;
}

// On a phone the navigation lies behind a button: Tab to it, Enter, and a link of it must come into view.
async function keyboardOnPhone(page) {
  await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
  const toggle = await tabTo(page, "toggles");
  if (!toggle?.seen) return ["keyboard at 390 px: Tab does not reach the button that opens the navigation"];
  await page.keyboard.press("Enter");
  await page.waitForTimeout(400);
  const link = await tabTo(page, "navigation");
  await page.keyboard.press("Escape");
  await page.waitForTimeout(300);
  return link?.seen ? [] : ["keyboard at 390 px: the opened navigation shows no link to Tab"];
}

async function shot(page, name) {
  if (!shots) return;
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: join(shots, `${name}.png`), fullPage: true });
}

async function look(name) {
  const found = [];
  const page = await context.newPage();
  await page.route("**/*", (route) => {
    const url = route.request().url();
    if (url.startsWith(base) || url.startsWith("data:") || url.startsWith("blob:")) return route.continue();
    found.push(`asks another host: ${url.slice(0, 120)}`);
    return route.abort();
  });
  page.on("console", (message) => message.type() === "error" && found.push(`console: ${message.text().slice(0, 160)}`));
  page.on("pageerror", (error) => found.push(`script error: ${String(error).slice(0, 160)}`));
  page.on("response", (response) => response.status() >= 400 && found.push(`${response.status()}: ${response.url()}`));
  const label = name.replace(/[/.]/g, "_");
  await page.emulateMedia({ colorScheme: "light" });
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.goto(`${base}/${name}`, { waitUntil: "load" });
  await page.waitForFunction(() => !window.MathJax?.startup?.promise || window.MathJax.startup.promise.then(() => true));
  found.push(...(await page.evaluate(inspect)), ...(await scan(page)));
  found.push(...(await keyboard(page)));
  await shot(page, `${label}_wide`);
  await page.evaluate(() => { document.documentElement.dataset.theme = "dark"; document.documentElement.dataset.mode = "dark"; });
  await page.waitForTimeout(300);
  found.push(...(await scan(page)).map((line) => `dark: ${line}`));
  await shot(page, `${label}_dark`);
  await page.evaluate(() => { document.documentElement.dataset.theme = "light"; document.documentElement.dataset.mode = "light"; });
  await page.setViewportSize({ width: 390, height: 844 });
  await page.waitForTimeout(500);
  found.push(...(await page.evaluate(sideways)), ...(await scan(page)).map((line) => `390 px: ${line}`));
  found.push(...(await keyboardOnPhone(page)));
  await shot(page, `${label}_phone`);
  await page.evaluate(() => { document.documentElement.dataset.theme = "dark"; document.documentElement.dataset.mode = "dark"; });
  await page.waitForTimeout(300);
  found.push(...(await scan(page)).map((line) => `390 px, dark: ${line}`));
  await page.close();
  return [...new Set(found)];
}

let wrong = 0;
for (const name of wanted) {
  const found = await look(name);
  wrong += found.length;
  console.log(`${found.length ? "no " : "ok "} ${name}`);
  for (const line of found) console.log(`     ${line}`);
}
await context.close();
server.close();
rmSync(profile, { recursive: true, force: true });
console.log(`${wanted.length} pages of ${relative(process.cwd(), root) || root}, ${wrong} findings`);
process.exit(wrong ? 1 : 0);
