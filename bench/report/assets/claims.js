// Papers' numbers and orders beside what was measured.
"use strict";

(function claims() {
  const kinds = { reproduced: "best", "not reproduced": "bad" };
  const interval = (ends) => (ends ? ` (${number(ends[0])} to ${number(ends[1])})` : "");
  const verdict = (row) => [[el("span", { class: kinds[row.verdict] }, row.verdict), el("span", { class: "bounds" }, own(row.why))], row.verdict, "wide"];

  function paper(t) {
    const counts = (rows) => Object.entries(Object.groupBy(rows, (r) => r.verdict)).map(([k, v]) => `${v.length} ${k}`).join(", ");
    return [
      el("h2", {}, own(`${t.paper}: ${t.title}`)),
      el("p", { class: "note" }, t.follows ? `This suite follows ${t.table}.`
        : `This suite was not made for ${t.table}: methods and numbers are matched by name, and only orders can be asked about.`),
      el("p", {}, `numbers: ${counts(t.values) || "none"}; orders: ${counts(t.orders) || "none"}`),
      t.agreement.filter((a) => a.spearman !== null).map((a) =>
        el("p", {}, own(`${a.metric} as ${a.column}: rank correlation ${number(a.spearman)} (Spearman), ${number(a.kendall)} (Kendall), ${a.methods} methods`))),
      table(`${t.table}: printed and measured`,
        [["method", "method"], ["metric", "metric"], ["claimed", "printed"], ["measured", "measured"], ["verdict", "verdict"]]
          .map(([key, head]) => ({ key, head, words: key === "metric" || key === "verdict" })),
        t.values.map((v) => ({ cells: {
          method: [own(v.method), v.method], metric: [own(`${v.metric} ${ARROWS[v.direction] || ""}`), v.metric],
          claimed: [own(v.printed), v.claimed], measured: [number(v.measured) + interval(v.interval), v.measured], verdict: verdict(v),
        } }))),
      t.orders.length > 0 && el("details", {}, el("summary", {}, `${t.orders.length} claims of order`),
        table(`${t.table}: which method is better`,
          [["claim", "claim"], ["gain", "measured gain"], ["prompts", "prompts"], ["verdict", "verdict"]]
            .map(([key, head]) => ({ key, head, words: key === "verdict" })),
          t.orders.map((o) => ({ cells: {
            claim: [own(`${o.better} better than ${o.worse} on ${o.metric}`), o.better],
            gain: [number(o.gain) + interval(o.interval), o.gain], prompts: [String(o.prompts), o.prompts], verdict: verdict(o),
          } })))),
      t.differs.length > 0 && el("details", {}, el("summary", {}, "What the suite does otherwise"),
        el("ul", {}, t.differs.map((d) => el("li", {}, own(d))))),
    ];
  }

  show(el("h1", {}, "Claims"), el("p", { class: "sub" }, own(SUITE.subtitle)),
    DATA.claims.length ? DATA.claims.flatMap(paper).flat()
      : el("p", {}, "No paper's table has methods and numbers that this suite measured. ",
        el("code", {}, "scrollbench reproduce"), " lists all tables."));
})();
