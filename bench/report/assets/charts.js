// Charts by Vega-Lite, in the colours of the page, each with a caption that says it in words.
"use strict";

const FONT = 'system-ui, "DejaVu Sans", sans-serif';

function chart(spec, caption) {
  const plot = el("div", { class: "plot", role: "img", "aria-label": caption });
  const draw = () => {
    const ink = isDark() ? "#ececee" : "#1c1c1e", line = isDark() ? "#3a3a40" : "#dcdad3";
    const axis = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line };
    const whole = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json", background: null, ...spec,
      config: {
        font: FONT, axis, legend: { labelColor: ink, titleColor: ink }, title: { color: ink },
        header: { labelColor: ink, titleColor: ink }, view: { stroke: null }, text: { color: ink },
        range: { category: isDark() ? ["#8ab8ec", "#f0b27a", "#7fd1a8", "#e59ac4", "#d6cf7a", "#a9a3ee", "#8fd8dd", "#e7937f",
          "#c3c3cc", "#5f9e3a", "#c98b4b", "#4f7fd6", "#b86fd0", "#d9577a", "#3fa39a", "#f3d9a4"]
          : ["#2a5f9e", "#b35c00", "#0a7a4b", "#a02c74", "#7a6d00", "#5a4fc4", "#0b7285", "#b23a2a",
            "#6b6b75", "#3f7d1a", "#8a5a2b", "#12367a", "#7b2fa0", "#d81b60", "#00695c", "#4e342e"],
          heatmap: { scheme: isDark() ? "viridis" : "yellowgreenblue" } },
      },
    };
    const view = new vega.View(vega.parse(vegaLite.compile(whole).spec), { renderer: "svg", container: plot, hover: true });
    view.tooltip((_handler, _event, _item, value) => { plot.title = tip(value); });
    view.runAsync();
  };
  const figure = el("figure", {}, plot, el("figcaption", {}, caption), asTable(spec.data.values, caption));
  const seen = new IntersectionObserver((entries) => {  // far charts are drawn when one comes near them
    if (entries.some((e) => e.isIntersecting)) { seen.disconnect(); draw(); document.addEventListener("scheme", draw); }
  }, { rootMargin: "400px" });
  seen.observe(figure);
  return figure;
}

/** The numbers of a chart as a table, made when somebody asks for it. */
function asTable(rows, caption) {
  const box = el("details", { ontoggle: () => {
    if (!box.open || box.querySelector("table")) return;
    const keys = Object.keys(rows[0]).filter((k) => rows.some((r) => ["string", "number"].includes(typeof r[k])));
    const cell = (v) => (typeof v === "number" ? [number(v), v] : [own(String(v ?? "–")), v]);
    box.append(table(caption, keys.map((key) => ({ key, head: key, words: typeof rows[0][key] === "string" })),
      rows.map((r) => ({ cells: Object.fromEntries(keys.map((k) => [k, cell(r[k])])) }))));
  } }, el("summary", {}, "Numbers"));
  return box;
}

function tip(value) {
  if (value === null || value === undefined) return "";
  return typeof value === "object" ? Object.entries(value).map(([k, v]) => `${k}: ${v}`).join("\n") : String(value);
}

/** Field names of Vega may not hold dots or brackets: data use plain keys, names of users stand in values alone. */
const tooltips = (...fields) => fields.map(([field, title]) => ({ field, title: title || field }));
