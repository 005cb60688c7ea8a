// How the numbers respond: on controls whose truth is known, to what the suite varies, and along the panorama.
"use strict";

(function validity() {
  const { knobs, along } = DATA.validity;
  const group = (rows, key) => [...rows.reduce((m, r) => m.set(key(r), [...(m.get(key(r)) || []), r]), new Map())];
  const wide = { width: "container", autosize: { type: "fit", contains: "padding" } };

  const controls = DATA.board.columns.filter((c) => !["nfe", "seconds"].includes(c.label)).map((c) => {
    const rows = DATA.board.sections.flatMap((s) => s.rows.filter((r) => r.spots[c.label]).map((r) => ({
      method: r.method, part: s.part, kind: r.control ? "control" : "method", value: r.spots[c.label].value,
      low: r.spots[c.label].low, high: r.spots[c.label].high })));
    if (!rows.some((r) => r.kind === "control")) return null;
    const x = (field) => ({ field, type: "quantitative", title: `${c.label} ${ARROWS[c.direction] || ""}`.trim(), scale: { zero: false } });
    return chart({
      data: { values: rows }, ...wide, height: 40 + 22 * rows.length,
      encoding: { y: { field: "method", title: null, sort: null }, color: { field: "kind", title: null, legend: { orient: "bottom" } } },
      layer: [{ mark: "rule", encoding: { x: x("low"), x2: { field: "high" } } },
        { mark: { type: "point", filled: true, size: 70, opacity: 1 }, encoding: { x: x("value"),
          tooltip: tooltips(["method"], ["part"], ["value"], ["low"], ["high"]) } }],
    }, `${c.label}${BETTER[c.direction] ? ` (${BETTER[c.direction]})` : ""}: controls beside methods.`);
  }).filter(Boolean);

  const responses = group(knobs, (r) => r.metric).map(([metric, rows]) => chart({
    data: { values: rows }, ...wide, height: 230,
    encoding: { x: { field: "x", type: "quantitative", title: rows[0].knob }, color: { field: "curve", title: null, legend: { orient: "bottom" } } },
    layer: [
      { mark: { type: "area", opacity: 0.18 }, encoding: { y: { field: "low", type: "quantitative", scale: { zero: false }, title: metric }, y2: { field: "high" } } },
      { mark: { type: "line", point: true }, encoding: { y: { field: "mean", type: "quantitative", scale: { zero: false }, title: metric },
        tooltip: tooltips(["curve"], ["x"], ["mean"], ["low"], ["high"], ["prompts"]) } }],
  }, `${metric} against ${rows[0].knob}; bands are 95 % intervals of means over prompts.`));

  const curves = group(along, (r) => `${r.part} · ${r.metric} · ${r.extractor || r.view}`).map(([key, rows]) => chart({
    data: { values: rows }, ...wide, height: 230, title: { text: key, anchor: "start" },
    mark: { type: "line", point: { size: 24 } },
    encoding: { x: { field: "index", type: "quantitative", title: rows[0].metric.endsWith("-lag") ? "distance in squares" : "place, from the left",
      axis: { tickMinStep: 1 } },
    y: { field: "value", type: "quantitative", title: null, scale: { zero: false } },
    color: { field: "method", title: null, legend: { orient: "bottom", columns: 2 } },
    tooltip: tooltips(["method"], ["index"], ["value"], ["pictures"]) },
  }, `${key}: mean over all pictures, by place or distance.`));

  const chapter = (head, text, charts) => charts.length > 0 && [el("h2", {}, head), el("p", { class: "note" }, text), el("div", { class: "charts" }, charts)];
  const chapters = [
    chapter("Controls", "Controls are made from a known truth. A number that measures what it says puts them where they belong.", controls),
    chapter("Response curves", "Each number against what the suite varies.", responses),
    chapter("Along the panorama", "Numbers that have a value at each place, or at each distance between squares.", curves),
  ].filter(Boolean).flat();
  show(el("h1", {}, "Validity"), el("p", { class: "sub" }, own(SUITE.subtitle)),
    chapters.length ? chapters : el("p", {}, "This suite has no controls, varies nothing, and has no number along the panorama."));
})();
