// What a picture costs.
"use strict";

(function cost() {
  const control = Object.fromEntries(SUITE.methods.map((m) => [m.name, m.control]));
  const stages = [...new Set(DATA.cost.flatMap((r) => Object.keys(r.stages)))];
  const cell = (value) => [number(value), value];
  const tables = SUITE.parts.map((p) => table(p.name,
    [{ key: "method", head: "method" }, { key: "pictures", head: "pictures" }, { key: "seconds", head: "seconds ↓" },
      { key: "nfe", head: "denoiser evaluations ↓" }, { key: "memory", head: "peak memory (GB) ↓" },
      ...stages.map((s) => ({ key: `s:${s}`, head: `${s} (s)` }))],
    DATA.cost.filter((r) => r.part === p.name).map((r) => ({
      class: control[r.method] ? "control" : null,
      cells: { method: [own(r.method), r.method], pictures: cell(r.pictures), seconds: cell(r.seconds), nfe: cell(r.nfe),
        memory: [number(r.peak_bytes === null ? null : r.peak_bytes / 1e9), r.peak_bytes],
        ...Object.fromEntries(Object.entries(r.stages).map(([s, v]) => [`s:${s}`, cell(v)])) },
    }))));
  const spent = DATA.cost.flatMap((r) => Object.entries(r.stages).map(([stage, seconds]) => ({ method: r.method, part: r.part, stage, seconds })));
  show(el("h1", {}, "Cost"), el("p", { class: "sub" }, own(SUITE.subtitle)),
    el("p", { class: "note" }, "Means over pictures, on the machine that made them. Seconds of different hours and machines do not compare; ",
      el("code", {}, "scrollbench gate --speed"), " times two methods side by side."),
    tables,
    spent.length > 0 && el("div", { class: "charts" }, SUITE.parts.map((p) => chart({
      data: { values: spent.filter((s) => s.part === p.name) }, width: "container", autosize: { type: "fit", contains: "padding" },
      height: 40 + 26 * new Set(spent.filter((s) => s.part === p.name).map((s) => s.method)).size, title: { text: p.name, anchor: "start" }, mark: "bar",
      encoding: { y: { field: "method", title: null, sort: "-x" }, x: { field: "seconds", type: "quantitative", aggregate: "sum", title: "seconds a picture" },
        color: { field: "stage", title: null, legend: { orient: "bottom" } }, tooltip: tooltips(["method"], ["stage"], ["seconds"]) },
    }, `${p.name}: seconds a picture, by stage.`))));
})();
