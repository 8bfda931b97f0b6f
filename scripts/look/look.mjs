// Loads built pages in headless Chromium with the network cut, and says what a reader would stumble over.
// node look.mjs [--pages 04,intro] [--shots DIR] [--site DIR]   exit status 1 when anything is wrong
import { createServer } from "node:http";
import { existsSync, mkdirSync, readFileSync, readdirSync, statSync } from "node:fs";
import { dirname, extname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { onDesk, onPhone } from "./keyboard.mjs";
import { accessible, cut, firstFigure, raw, sideways } from "./rules.mjs";

const TABS = 2;
const PAGE_LIMIT = 120_000;
const CONTRAST = ["color-contrast"];
const WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"];
const VIEWS = [
  { name: "1400 px", width: 1400, theme: "light", rules: WCAG, once: raw, keys: onDesk },
  { name: "1400 px, dark", width: 1400, theme: "dark", rules: CONTRAST },
  { name: "390 px", width: 390, theme: "light", rules: ["scrollable-region-focusable", "label", "button-name"], keys: onPhone },
  { name: "390 px, dark", width: 390, theme: "dark", rules: CONTRAST },
];
const types = { ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".json": "application/json",
  ".svg": "image/svg+xml", ".png": "image/png", ".woff2": "font/woff2", ".woff": "font/woff" };

const here = dirname(fileURLToPath(import.meta.url));
const option = (name, other) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : other);
const root = resolve(option("--site", join(here, "../../_build/html")));
const shots = option("--shots", "");
const asked = option("--pages", "").split(/[\s,]+/).filter(Boolean);
const axeSource = readFileSync(join(here, "node_modules/axe-core/axe.min.js"), "utf8");

function serve() {
  const server = createServer((request, response) => {
    const path = join(root, decodeURIComponent(new URL(request.url, "http://x").pathname));
    if (!path.startsWith(root) || !existsSync(path) || !statSync(path).isFile()) return response.writeHead(404).end();
    response.writeHead(200, { "content-type": types[extname(path)] ?? "application/octet-stream" });
    return response.end(readFileSync(path));
  });
  return new Promise((ready) => server.listen(0, "127.0.0.1", () => ready(server)));
}

function wanted() {
  const inFolder = (folder) => existsSync(join(root, folder))
    ? readdirSync(join(root, folder)).filter((name) => name.endsWith(".html")).map((name) => `${folder}/${name}`)
    : [];
  const chosen = (name) => !asked.length || asked.some((part) => name.split("/").pop().startsWith(part));
  return ["search.html", "genindex.html", ...["book", "notebooks"].flatMap(inFolder).sort()]
    .filter((name) => existsSync(join(root, name)) && chosen(name));
}

function listen(page, base, lines) {
  page.on("console", (message) => message.type() === "error" && lines.push(`console: ${message.text().slice(0, 160)}`));
  page.on("pageerror", (error) => lines.push(`script error: ${String(error).slice(0, 160)}`));
  page.on("response", (response) => response.status() >= 400 && lines.push(`${response.status()}: ${response.url()}`));
  return page.route((url) => !url.href.startsWith(base) && !/^(data|blob):/.test(url.protocol), (route) => {
    lines.push(`asks another host: ${route.request().url().slice(0, 120)}`);
    return route.abort();
  });
}

// On a busy machine a page notices late that boxes changed their width: two frames after all was drawn.
const settled = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 50))));

async function view(page, { name, width, theme, rules, once, keys }, label) {
  await page.setViewportSize({ width, height: 900 });
  await page.evaluate((mode) => Object.assign(document.documentElement.dataset, { theme: mode, mode }), theme);
  await page.evaluate(() => document.querySelectorAll("details").forEach((one) => { one.open = true; }));
  await page.evaluate(() => document.activeElement?.blur()); // what the keyboard reached may show a tip
  await page.waitForTimeout(300);
  await page.evaluate(settled);
  const lines = [];
  if (once) lines.push(...(await page.evaluate(once)));
  lines.push(...(await page.evaluate(cut)), ...(await page.evaluate(sideways)));
  lines.push(...(await page.evaluate(accessible, rules)));
  // the checks leave boxes scrolled, and a picture would begin where they stand
  if (shots) await page.evaluate(() => document.querySelectorAll("*").forEach((one) => { one.scrollLeft = 0; }));
  if (shots) await page.screenshot({ path: join(shots, `${label}_${width}_${theme}.png`), fullPage: true });
  if (keys) lines.push(...(await keys(page)));
  return lines;
}

// One line a finding, with every view that has it.
function merged(byView) {
  const views = new Map();
  for (const [name, lines] of byView) {
    for (const line of lines) {
      const key = line.replace(/is \d+ px wider/, "is wider");
      views.set(key, new Set([...(views.get(key) ?? []), name]));
    }
  }
  return [...views].map(([line, names]) => `${[...names].join("; ")}: ${line}`);
}

async function load(page, address) {
  await page.setViewportSize({ width: 1400, height: 900 });
  await page.goto(address, { waitUntil: "load" });
  await page.evaluate(() => window.MathJax?.startup?.promise?.then(() => true));
  // a colour on its way to another one is neither
  await page.addStyleTag({ content: "*, *::before, *::after { transition: none !important; animation: none !important }" });
  await page.evaluate(axeSource);
  return page.evaluate(firstFigure);
}

async function look(browser, base, name) {
  const lines = [];
  const page = await browser.newPage({ colorScheme: "light" });
  page.setDefaultTimeout(PAGE_LIMIT);
  await listen(page, base, lines);
  const fact = await load(page, `${base}/${name}`);
  const byView = [];
  for (const each of VIEWS) byView.push([each.name, await view(page, each, name.replace(/[/.]/g, "_"))]);
  await page.close();
  return { fact, lines: merged([...byView, ["any view", lines]]) };
}

async function tell(browser, base, name) {
  const started = Date.now();
  const { fact, lines } = await look(browser, base, name)
    .catch((error) => ({ fact: "", lines: [`stopped: ${String(error).split("\n")[0]}`] }));
  console.log(`${lines.length ? "no" : "ok"} ${name} (${fact}; ${((Date.now() - started) / 1000).toFixed(0)} s)`);
  for (const line of lines) console.log(`   ${name}: ${line}`);
  return lines.length;
}

if (shots) mkdirSync(shots, { recursive: true });
const server = await serve();
const base = `http://127.0.0.1:${server.address().port}`;
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});
const names = wanted();
const queue = [...names];
let wrong = names.length ? 0 : 1;
if (!names.length) console.log(`no built page of ${root} is called ${asked.join(", ") || "anything"}`);
const tab = async () => {
  while (queue.length) {
    const found = await tell(browser, base, queue.shift()); // not `wrong += await ...`, which forgets the other tab's
    wrong += found;
  }
};
await Promise.all(Array.from({ length: TABS }, tab));
await browser.close();
server.close();
console.log(`${names.length} pages of ${relative(process.cwd(), root) || root}, ${wrong} findings`);
process.exit(wrong ? 1 : 0);
