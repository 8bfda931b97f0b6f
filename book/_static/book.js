// What scrolls sideways must be reachable by keyboard: give it a stop for Tab while it is wider than its frame.
(() => {
  const frames = ".pst-scrollable-table-container, .cell_output .output, .cell_output table, div.math, mjx-container, pre";
  const stops = () => document.querySelectorAll(frames).forEach((frame) => {
    if (frame.scrollWidth > frame.clientWidth + 1) frame.tabIndex = 0;
  });
  window.addEventListener("load", stops);
  window.addEventListener("resize", stops);
})();

// The theme gives the button of the navigation its work on the first such button only, and that one stands in the
// hidden bar at the top; the button that is seen passes its click on.
window.addEventListener("load", () => {
  const [first, ...others] = document.querySelectorAll(".primary-toggle");
  others.forEach((button) => button.addEventListener("click", () => first.click()));
});
