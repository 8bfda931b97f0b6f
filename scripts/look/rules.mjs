// What is asked of a page from inside it; each function runs in the browser and returns one line a finding.

// Raw TeX and Markdown outside code and MathJax, formulas that MathJax refuses, images that did not load.
export function raw() {
  const lines = [];
  const walker = document.createTreeWalker(document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent;
    if (walker.currentNode.parentElement.closest("pre, code, script, style, mjx-container, textarea")) continue;
    if (/\$\$|\\\(|\\\[|\\(?:frac|sum|theta|nabla|begin|hat|mathbb)\b/.test(text)) {
      lines.push(`raw TeX: ${text.trim().slice(0, 60)}`);
    }
    if (/\|\s*[-—]{1,}\s*\||\$[^$\s][^$\n]{0,80}\$/.test(text)) lines.push(`raw Markdown: ${text.trim().slice(0, 60)}`);
  }
  for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]")) {
    lines.push(`formula that MathJax refuses: ${error.getAttribute("data-mjx-error") ?? error.textContent.slice(0, 60)}`);
  }
  for (const image of document.images) {
    if (!image.complete || image.naturalWidth === 0) lines.push(`missing image: ${image.src.slice(0, 80)}`);
  }
  return lines;
}

// Wider than its box: a figure and a line of code never may be; a table and a formula only inside a box of their
// own that scrolls, that Tab reaches and whose edge is seen.
export function cut() {
  const article = document.querySelector("article");
  if (!article) return [];
  const box = (element) => element.getBoundingClientRect();
  const clips = (element) => getComputedStyle(element).overflowX !== "visible";
  const heading = (element) => {
    const section = element.closest("section[id]");
    return section ? ` under #${section.id}` : "";
  };
  const name = (element) => {
    const kind = element.tagName.toLowerCase();
    const said = element.closest("figure")?.id || element.textContent.trim().replace(/\s+/g, " ").slice(0, 40);
    return `${kind === "pre" ? "line of code" : kind} '${said}'${heading(element)}`;
  };
  // The nearest ancestor that cuts or scrolls; the column of text where there is none.
  const frame = (element) => {
    let above = element.parentElement;
    while (above !== article && !clips(above)) above = above.parentElement;
    return above;
  };
  const inside = (element) => {
    const style = getComputedStyle(element);
    const left = box(element).left + element.clientLeft + parseFloat(style.paddingLeft);
    return { left, right: left + element.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) };
  };
  const over = (element) => {
    const around = frame(element);
    const outer = Math.min(inside(around).right, inside(article).right);
    return Math.round(Math.max(box(element).right - outer, around.scrollWidth - around.clientWidth));
  };
  const shown = (element) => box(element).width > 0 && !element.closest("details:not([open])");
  const edged = (element) => {
    const style = getComputedStyle(element);
    return style.borderRightStyle !== "none" && parseFloat(style.borderRightWidth) > 0;
  };
  const scrolls = (element) => ["auto", "scroll"].includes(getComputedStyle(element).overflowX);
  const longest = (element) => Math.max(...element.textContent.split("\n").map((line) => line.length));
  const lines = [];
  for (const element of article.querySelectorAll("figure img, figure canvas, figure svg, .image-reference img, canvas")) {
    if (shown(element) && over(element) > 1) lines.push(`cut: ${name(element)} is ${over(element)} px wider than its box`);
  }
  for (const element of article.querySelectorAll("pre")) {
    const wide = element.scrollWidth - element.clientWidth;
    if (shown(element) && wide > 1) lines.push(`cut: ${name(element)} is ${wide} px wider than its box (${longest(element)} letters)`);
  }
  for (const element of article.querySelectorAll("table, mjx-container[display='true']")) {
    const own = scrolls(element) ? element : frame(element);
    const wide = scrolls(element) ? element.scrollWidth - element.clientWidth : over(element);
    if (!shown(element) || wide <= 1) continue;
    const lacks = [
      [scrolls(own), "does not scroll"],
      [own !== article, "has no box of its own"],
      [own.tabIndex >= 0, "cannot be reached by Tab"],
      [edged(own), "shows no edge"],
      [box(own).right <= inside(article).right + 1, "leaves the column"],
    ].filter(([holds]) => !holds).map(([, word]) => word);
    if (lacks.length) lines.push(`cut: ${name(element)} is ${wide} px wider than its box, which ${lacks.join(", ")}`);
  }
  return lines;
}

export function sideways() {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width + 1) return [];
  const wide = [...document.querySelectorAll("article *")]
    .filter((element) => element.getBoundingClientRect().right > width + 1)
    .slice(-1)
    .map((element) => `${element.tagName.toLowerCase()}.${element.className}`.slice(0, 80));
  return [`the page scrolls sideways (${document.documentElement.scrollWidth} px wide): ${wide}`];
}

// How many screens down the first figure stands; a fact, no finding.
export function firstFigure() {
  const figure = document.querySelector("article img, article canvas");
  const screens = (height) => (height / innerHeight).toFixed(1);
  const all = screens(document.documentElement.scrollHeight);
  if (!figure) return `${all} screens, no figure`;
  return `first figure on screen ${screens(figure.getBoundingClientRect().top + scrollY)} of ${all}`;
}

// Every line of code, formula and entry of an API page is coloured by one style: axe reads three of each, since its
// contrast rule looks at each letter group and would take minutes for the rest.
export function accessible(rules) {
  const beyond = (selector) => [...document.querySelectorAll(selector)].slice(3);
  const exclude = ["pre", "mjx-container", "dl.py"].flatMap((kind) => beyond(`article ${kind}`));
  return window.axe
    .run({ include: [document], exclude }, { preload: false, resultTypes: ["violations"], runOnly: rules })
    .then((report) => report.violations
      .filter((item) => ["serious", "critical"].includes(item.impact))
      .map((item) => `axe ${item.id} (${item.nodes.length}): ${item.nodes[0].target.join(" ")} ` +
        `${(item.nodes[0].any[0] ?? item.nodes[0].all[0] ?? { message: "" }).message}`.slice(0, 200)));
}
