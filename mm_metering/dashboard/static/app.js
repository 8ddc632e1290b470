/* Draws charts, and shows instants in the zone that was chosen. Pages work without it. */
"use strict";
(() => {
  const DAY_S = 86400;
  const COLOURS = 6;
  const HEIGHT = 240;
  const FAR = 4;
  const plots = [];
  const css = (name) => {
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };
  const faint = (colour, share) => colour.replace(/rgba?\(([^)]+)\)/, (_, parts) => {
    const [r, g, b] = parts.split(/[ ,/]+/);
    return `rgba(${r},${g},${b},${share})`;
  });
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
  const exact = new Intl.NumberFormat("en", { maximumFractionDigits: 9 });

  function stacked(series) {
    const sums = [];
    return series.map((each) => {
      if (each.kind !== "stack") return each.values;
      return each.values.map((value, at) => (sums[at] = (sums[at] || 0) + (value || 0)));
    });
  }

  function look(each, number, scheme) {
    const colour = scheme.colours[number % COLOURS];
    const own = { label: each.name, stroke: colour, width: 2, points: { show: false }, value: (_, v) => (v == null ? "–" : exact.format(v)) };
    switch (each.kind) {
      case "bars": return { ...own, fill: faint(colour, 0.55), width: 0, paths: uPlot.paths.bars({ size: [0.7, 40] }) };
      case "stack": return { ...own, fill: colour, width: 0, value: (plot, _, at, index) => exact.format(index == null ? 0 : scheme.raw.get(each)[index] || 0) };
      case "limit": return { ...own, stroke: scheme.bad, dash: [6, 4], width: 1.5 };
      case "likely": return { ...own, stroke: scheme.dim, dash: [4, 4] };
      case "low": case "high": return { ...own, stroke: faint(scheme.dim, 0.4), width: 1 };
      default: return own;
    }
  }

  function marks(list, scheme) {
    const draw = (plot) => {
      const { ctx, bbox } = plot;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = scheme.dim;
      ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
      for (const [day, text] of list) {
        const x = plot.valToPos(Date.parse(day) / 1000, "x", true);
        if (x < bbox.left || x > bbox.left + bbox.width) continue;
        ctx.beginPath();
        ctx.moveTo(x, bbox.top);
        ctx.lineTo(x, bbox.top + bbox.height);
        ctx.stroke();
        const right = x > bbox.left + bbox.width * 0.7;
        ctx.textAlign = right ? "right" : "left";
        ctx.fillText(text, x + (right ? -4 : 4), bbox.top + 12 * devicePixelRatio);
      }
      ctx.restore();
    };
    return { hooks: { draw } };
  }

  /* An area on top of others lies behind them. */
  function behind(series, sums) {
    const order = series.map((_, at) => at);
    const stacks = order.filter((at) => series[at].kind === "stack").reverse();
    return order.map((at) => (series[at].kind === "stack" ? stacks.shift() : at)).map((at) => [series[at], sums[at], at]);
  }

  /* The highest value to show: a limit far above everything else would press it flat. */
  function top(series, sums) {
    const most = (kinds) => Math.max(0, ...series.flatMap((each, at) => (kinds(each.kind) ? sums[at].map((v) => v || 0) : [])));
    const used = most((kind) => kind !== "limit");
    const limit = most((kind) => kind === "limit");
    return (limit <= FAR * used ? Math.max(limit, used) : used) || limit || 1;
  }

  function plot(box) {
    const given = JSON.parse(box.dataset.plot);
    const sums = stacked(given.series);
    const drawn = behind(given.series, sums);
    const highest = top(given.series, sums) * 1.08;
    const scheme = {
      colours: Array.from({ length: COLOURS }, (_, n) => css(`--c${n + 1}`)),
      bad: css("--bad"), dim: css("--dim"), raw: new Map(given.series.map((each) => [each, each.values])),
    };
    const axis = { stroke: scheme.dim, grid: { stroke: css("--line"), width: 1 }, ticks: { show: false } };
    const at = (kind) => drawn.findIndex(([each]) => each.kind === kind) + 1;
    const band = at("high") && at("low") ? [{ series: [at("high"), at("low")], fill: faint(scheme.dim, 0.15) }] : [];
    const options = {
      width: box.clientWidth, height: HEIGHT, tzDate: (ts) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      scales: { x: { range: (_, low, high) => [low - DAY_S / 2, high + DAY_S / 2] }, y: { range: (_, low) => [Math.min(0, low), highest] } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((s) => new Date(s * 1000).toISOString().slice(5, 10)), incrs: [1, 2, 5, 7, 14, 30, 60].map((n) => n * DAY_S) },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((v) => short.format(v)) }],
      series: [{ label: "day", value: (_, s) => (s == null ? "–" : new Date(s * 1000).toISOString().slice(0, 10)) },
        ...drawn.map(([each, , number]) => look(each, number, scheme))],
      bands: band, plugins: [marks(given.marks, scheme)], cursor: { drag: { x: false, y: false } },
    };
    const days = given.days.map((day) => Date.parse(day) / 1000);
    box.replaceChildren();
    const made = new uPlot(options, [days, ...drawn.map(([, values]) => values)], box);
    const last = given.days.length - 1 - [...given.series[0].values].reverse().findIndex((v) => v != null);
    setTimeout(() => made.setLegend({ idx: last }), 0);
    plots.push([box, made]);
    box.dataset.drawn = "yes";
  }

  function drawAll(within) {
    for (const box of within.querySelectorAll(".plot:not([data-drawn])")) plot(box);
  }

  function redraw() {
    const boxes = plots.splice(0).map(([box, made]) => (made.destroy(), box));
    for (const box of boxes) if (box.isConnected) plot(box);
  }

  const zone = document.getElementById("zone");
  const kept = () => { try { return localStorage.getItem("mm-zone"); } catch { return null; } };
  function instants(within) {
    const local = kept() === "local";
    if (zone) {
      zone.textContent = local ? Intl.DateTimeFormat().resolvedOptions().timeZone || "local" : "UTC";
      zone.setAttribute("aria-pressed", String(local));
    }
    for (const each of within.querySelectorAll("time[datetime]")) {
      each.dataset.utc ??= each.textContent;
      const at = new Date(each.dateTime);
      each.textContent = local ? new Date(at - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19).replace("T", " ") : each.dataset.utc;
    }
  }

  zone?.addEventListener("click", () => {
    try { localStorage.setItem("mm-zone", kept() === "local" ? "utc" : "local"); } catch { /* private mode */ }
    instants(document);
  });
  for (const each of document.querySelectorAll("form.filters select")) each.addEventListener("change", () => each.form.requestSubmit());
  document.addEventListener("htmx:after:swap", () => { instants(document); if (window.uPlot) drawAll(document); });
  if (window.uPlot) {
    drawAll(document);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  }
  instants(document);
})();
