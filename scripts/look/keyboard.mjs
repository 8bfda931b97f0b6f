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
    const here = await page.evaluate(focused);
    if (here[wanted]) return here;
  }
  return null;
}

const toTop = (page) => page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });

export async function onDesk(page) {
  const lines = [];
  await toTop(page);
  const skip = await tabTo(page, "skips", 3);
  await page.waitForTimeout(200);
  if (!skip || !(await page.evaluate(focused)).seen) {
    lines.push("keyboard: no visible skip link among the first three stops");
  }
  const link = await tabTo(page, "navigation");
  if (!link?.seen) lines.push("keyboard: Tab does not reach a visible link of the navigation");
  else if (!link.ringed) lines.push(`keyboard: no ring around ${link.name}`);
  return lines;
}

// On a phone the navigation lies behind a button: Tab to it, Enter, and a link of it must come into view.
export async function onPhone(page) {
  await toTop(page);
  const toggle = await tabTo(page, "toggles");
  if (!toggle?.seen) return ["keyboard: Tab does not reach the button that opens the navigation"];
  await page.keyboard.press("Enter");
  await page.waitForTimeout(400);
  const link = await tabTo(page, "navigation");
  await page.keyboard.press("Escape");
  await page.waitForTimeout(300);
  return link?.seen ? [] : ["keyboard: the opened navigation shows no link to Tab"];
}
