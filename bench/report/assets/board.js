// The board: a sortable table for each section, cost against quality, and means by theme.
"use strict";

(function board() {
  const { columns, sections, notes, themes } = DATA.board;
  const by = Object.fromEntries(columns.map((c) => [c.label, c]));
  const scales = Object.fromEntries(columns.map((c) => {
    const spots = sections.flatMap((s) => s.rows.filter((r) => !r.control).map((r) => r.spots[c.label])).filter(Boolean);
    const ends = spots.flatMap((s) => [s.low, s.high]).filter((v) => v !== null);
    return [c.label, ends.length ? [Math.min(...ends), Math.max(...ends)] : null];
  }));
  const view = { part: state.read().part || "", search: state.read().search || "", controls: state.read().controls !== "0" };
  const place = el("div", { class: "tables" }), LEGEND = { orient: "bottom", columns: 2 };

  function spotCell(row, label) {
    const spot = row.spots[label];
    if (!spot) return ["–", null];
    const ends = scales[label], kind = row.optimises.length || spot.missing ? "unranked" : null;
    const said = `${spot.n} pictures${spot.missing ? `, ${spot.missing} missing` : ""}` +
      (spot.ranks ? `; rank ${spot.ranks[0]} to ${spot.ranks[1]}` : "");
    const clip = (v) => Math.max(ends[0], Math.min(ends[1], v));
    return [[
      el("span", { class: spot.best ? "best" : null, title: said }, number(spot.value) + (spot.missing ? "*" : "")),
      spot.group && el("span", { class: "group", title: "tie group" }, spot.group),
      spot.low !== null && ends && el("span", { class: "bounds" }, `${number(spot.low)} to ${number(spot.high)}`),
      spot.low !== null && ends && bar(clip(spot.value), clip(spot.low), clip(spot.high), ends),
    ], spot.value, kind];
  }

  function sectionTable(s) {
    const rows = s.rows
      .filter((r) => (view.controls || !r.control) && r.method.toLowerCase().includes(view.search.toLowerCase()))
      .map((r) => ({
        class: r.control ? "control" : null,
        cells: {
          method: [own(r.method + r.marks), r.method],
          pictures: [`${r.made}/${r.wanted}` + (r.failed ? `, ${r.failed} failed` : ""), r.made],
          ...Object.fromEntries(s.columns.map((label) => [`n:${label}`, spotCell(r, label)])),
        },
      }));
    const heads = s.columns.map((label) => ({
      key: `n:${label}`, looks: by[label].looks,
      head: `${label}${label === "seconds" ? " (s)" : ""} ${ARROWS[by[label].direction] || ""}`.trim(),
    }));
    return table(`${s.part}, ${s.backbone}`, [{ key: "method", head: "method" }, { key: "pictures", head: "pictures" }, ...heads], rows);
  }

  function draw() {
    place.replaceChildren(...sections.filter((s) => !view.part || s.part === view.part)
      .map(sectionTable));
  }
  const change = (key, value) => { view[key] = value; state.write({ [key]: key === "controls" ? (value ? "" : "0") : value }); draw(); };
  const search = el("input", { type: "search", value: view.search, oninput: () => change("search", search.value) });
  draw();

  show(
    el("h1", {}, "Board"), el("p", { class: "sub" }, own(SUITE.subtitle)),
    el("div", { class: "controls" },
      SUITE.parts.length > 1 && select("Part", [["", "all"], ...SUITE.parts.map((p) => p.name)], view.part, (v) => change("part", v)),
      el("label", {}, "Method", search),
      toggle("Controls", view.controls, (on) => change("controls", on))),
    place, el("ul", { class: "note" }, notes.map((n) => el("li", {}, own(n)))),
    el("h2", {}, "Cost against quality"), el("div", { class: "charts" }, fronts()),
    themes.length > 0 && el("h2", {}, "By theme"), el("div", { class: "charts" }, heat()),
  );

  // -- cost against quality: nobody is both cheaper and better than those on the front

  function fronts() {
    const cost = by.nfe ? "nfe" : "seconds";
    return columns.filter((c) => (c.direction === "lower" || c.direction === "higher") && !["nfe", "seconds"].includes(c.label))
      .map((c) => {
        const points = sections.flatMap((s) => s.rows.filter((r) => !r.control && r.spots[c.label] && r.spots[cost])
          .map((r) => ({ method: r.method, group: `${s.part}, ${s.backbone}`, x: r.spots[cost].value, y: r.spots[c.label].value,
            low: r.spots[c.label].low, high: r.spots[c.label].high })));
        const loss = (p) => (c.direction === "lower" ? p.y : -p.y);
        for (const p of points) {
          p.front = !points.some((q) => q.group === p.group && q.x <= p.x && loss(q) <= loss(p) && (q.x < p.x || loss(q) < loss(p)));
        }
        if (!points.length) return null;
        const sense = { x: { field: "x", type: "quantitative", title: cost === "nfe" ? "denoiser evaluations" : "seconds", scale: { zero: false } },
          y: { field: "y", type: "quantitative", title: `${c.label} ${ARROWS[c.direction]}`, scale: { zero: false } } };
        return chart({
          data: { values: points }, width: "container", height: 230, autosize: { type: "fit", contains: "padding" },
          resolve: { legend: { color: "shared" } },
          layer: [
            { transform: [{ filter: "datum.front" }], mark: { type: "line", strokeDash: [4, 3], opacity: 0.7 },
              encoding: { ...sense, detail: { field: "group" }, order: { field: "x" } } },
            { mark: { type: "rule" }, encoding: { x: sense.x, y: { ...sense.y, field: "low" }, y2: { field: "high" },
              color: { field: "method", title: null, legend: LEGEND } } },
            { mark: { type: "point", filled: true, size: 90, opacity: 1 }, encoding: { ...sense, color: { field: "method", title: null, legend: LEGEND },
              shape: { field: "group", legend: null },
              tooltip: tooltips(["method"], ["group"], ["x", cost], ["y", c.label]) } },
          ],
        }, `${c.label} (${BETTER[c.direction]}) against cost. On the front, dashed: ${points.filter((p) => p.front).map((p) => p.method).join(", ")}.`);
      }).filter(Boolean);
  }

  function heat() {
    const groups = new Map();
    for (const t of themes) {
      const key = `${t.part} · ${t.metric}`;
      if (!groups.has(`${key} ${t.protocol}`)) groups.set(`${key} ${t.protocol}`, { key, rows: [] });
      groups.get(`${key} ${t.protocol}`).rows.push({ ...t, said: number(t.value) });
    }
    return [...groups.values()].map(({ key, rows }) => chart({
      data: { values: rows }, width: "container", autosize: { type: "fit", contains: "padding" },
      height: 60 + 24 * new Set(rows.map((r) => r.method)).size, title: { text: key, anchor: "start" },
      mark: "rect",
      encoding: { x: { field: "theme", title: null, axis: { labelAngle: -40 } }, y: { field: "method", title: null },
        color: { field: "value", type: "quantitative", title: null, legend: { orient: "right", gradientLength: 90 } },
        tooltip: tooltips(["method"], ["theme"], ["said", "mean"], ["prompts"]) },
    }, `${key}: mean over the prompts of each theme.`));
  }
})();
