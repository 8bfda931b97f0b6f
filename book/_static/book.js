// What scrolls sideways gets a box of its own, a stop for Tab and a visible edge while it is wider than that box.
(() => {
  const boxes = ".wide-box, .pst-scrollable-table-container, mjx-container[display='true'], article pre";
  const wrap = (table) => {
    if (table.closest(".wide-box, .pst-scrollable-table-container, .highlight")) return;
    const box = document.createElement("div");
    box.className = "wide-box";
    table.replaceWith(box);
    box.append(table);
  };
  const mark = (box) => {
    const wide = box.scrollWidth > box.clientWidth + 1;
    box.classList.toggle("scrolls", wide);
    if (wide) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  };
  // A column changes its width with the window, and with a sidebar that is folded or a fold that is opened.
  const watched = new ResizeObserver((seen) => seen.forEach((one) => mark(one.target)));
  window.addEventListener("load", () => {
    document.querySelectorAll("article table").forEach(wrap);
    (window.MathJax?.startup?.promise ?? Promise.resolve()).then(() => document.querySelectorAll(boxes).forEach((box) => {
      mark(box);
      watched.observe(box);
    }));
  });
})();

// The theme gives the button of the navigation its work on the first such button only, and that one stands in the
// hidden bar at the top; the button that is seen passes its click on.
window.addEventListener("load", () => {
  const [first, ...others] = document.querySelectorAll(".primary-toggle");
  others.forEach((button) => button.addEventListener("click", () => first.click()));
});
