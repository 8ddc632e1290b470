// What tests ask of a page: they are in each page before its own scripts. Without scripts they are asked all the same.
globalThis.looks = {
  violations: [],
  reached: [],

  settled: async () => {
    await document.fonts.ready;
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  },

  // Where the page is wider than its window: what sticks out.
  overflows: () => {
    if (document.documentElement.scrollWidth <= innerWidth) return [];
    return [...document.querySelectorAll("body *")]
      .filter((each) => each.getBoundingClientRect().right > innerWidth && !each.parentElement.closest(".scroll"))
      .map((each) => `${innerWidth}: ${each.outerHTML.slice(0, 120)}`);
  },

  plots: () => [...document.querySelectorAll(".plot")].map((box) => {
    const canvas = box.querySelector("canvas");
    const pixels = canvas ? canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data : [];
    const inked = pixels.filter((_, at) => at % 4 === 3).some(Boolean);
    return { drawn: box.dataset.drawn, inked, plot: JSON.parse(box.dataset.plot) };
  }),

  tables: () => [...document.querySelectorAll("figure.chart")].map((figure) => ({
    file: figure.querySelector("a.file").href,
    rows: [...figure.querySelectorAll("details tr")].map((row) => [...row.cells].map((cell) => cell.textContent)),
  })),

  figures: () => [...document.querySelectorAll("main td, main dd, main .figure, main time")]
    .filter((each) => !each.closest(".plot"))
    .map((each) => each.textContent.trim()),

  // All that takes a focus, numbered; and from then on what had it, and whether that was to be seen.
  focusable: () => {
    addEventListener("focusin", ({ target }) => {
      const style = getComputedStyle(target);
      const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
      looks.reached.push({
        at: target.dataset.test ?? "",
        skips: target.matches(".skip"),
        seen: outlined && target.getBoundingClientRect().left >= 0,
        html: target.outerHTML.slice(0, 100),
      });
    });
    const all = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
    return [...document.querySelectorAll(all)]
      .filter((each) => each.checkVisibility() && !each.disabled)
      .map((each, at) => [each.dataset.test = String(at), each.outerHTML.slice(0, 100)]);
  },

  // Rows and items past the seventh are like those before.
  axe: async (how) => {
    const where = { include: [["html"]], exclude: [["tbody > tr:nth-child(n+8)"], [".list > li:nth-child(n+8)"]] };
    const found = await axe.run(where, { resultTypes: ["violations"], ...how });
    return found.violations
      .filter((each) => ["serious", "critical"].includes(each.impact))
      .flatMap((each) => each.nodes.slice(0, 3).map((node) => `${each.id}: ${node.html} ${node.failureSummary}`));
  },
};
addEventListener("securitypolicyviolation", (event) => {
  looks.violations.push(`${event.violatedDirective} ${event.blockedURI}`);
});
