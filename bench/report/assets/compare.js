// Two methods: what the numbers say, and their prompts from the worst for B to the best, pictures beside.
"use strict";

(function compare() {
  const { pairs, values } = DATA.compare;
  const labels = SUITE.methods.map((m) => m.name).filter((m) => pairs.some((p) => p.a === m || p.b === m));
  if (!labels.length) {
    show(el("h1", {}, "Compare"), el("p", {}, "There are no two methods with numbers."));
    return;
  }
  const ranked = SUITE.methods.filter((m) => !m.control && labels.includes(m.name)).map((m) => m.name);
  const given = state.read(), STEP = 20;
  const first = ranked[0] || labels[0];
  const view = { a: given.a || first, b: given.b || [...ranked, ...labels].find((m) => m !== first), part: given.part || SUITE.parts[0].name,
    metric: given.metric || "", order: given.order || "worst", shown: STEP };
  const place = el("div");

  /** The comparisons of A and B; turned round where the data have them as B and A. */
  function between() {
    return pairs.filter((p) => p.part === view.part && [p.a, p.b].every((m) => m === view.a || m === view.b) && view.a !== view.b)
      .map((p) => (p.a === view.a ? p : { ...p, a: p.b, b: p.a, mean_a: p.mean_b, mean_b: p.mean_a, turned: true,
        said: { better: "worse", worse: "better" }[p.said] || p.said,
        gain: p.gain && { ...p.gain, value: -p.gain.value, low: p.gain.high === null ? null : -p.gain.high, high: p.gain.low === null ? null : -p.gain.low } }));
  }

  function gains(row) {
    const [a, b] = [view.a, view.b].map((m) => ((values[view.part] || {})[row.metric] || {})[m] || {});
    return Object.keys(a).filter((p) => p in b).map((p) => ({ prompt: p, a: a[p], b: b[p],
      gain: row.gains ? (row.turned ? -1 : 1) * row.gains[p] : row.direction === "lower" ? a[p] - b[p] : b[p] - a[p] }))
      .sort((x, y) => x.gain - y.gain || (x.prompt < y.prompt ? -1 : 1));
  }

  function side(name, at, value) {
    const found = PICTURES.find(view.part, at, name);
    return el("figure", {}, found ? PICTURES.element(found.image, `${name}: ${promptOf(view.part, at).text}`) : el("p", {}, "no picture"),
      el("figcaption", {}, own(name), `: ${number(value)}`));
  }

  function prompts(row) {
    let found = gains(row);
    if (view.order === "best") found = found.reverse();
    if (view.order === "close") found = [...found].sort((x, y) => Math.abs(x.gain) - Math.abs(y.gain));
    const list = found.slice(0, view.shown).map((g) => {
      const p = promptOf(view.part, g.prompt);
      return el("article", { class: "pair" },
        el("p", {}, own(p.text), el("span", { class: "sub" }, ` · gain of B `),
          el("span", { class: g.gain > 0 ? "best" : g.gain < 0 ? "bad" : null }, number(g.gain)), " · ",
          el("a", { href: linkTo("viewer", { part: view.part, prompt: g.prompt, lanes: JSON.stringify([view.a, view.b]) }) }, "look closer")),
        el("div", { class: "sides" }, side(view.a, g.prompt, g.a), side(view.b, g.prompt, g.b)));
    });
    const more = found.length > view.shown && el("button", { type: "button", onclick: () => { view.shown += STEP; draw(); } },
      `Show ${Math.min(STEP, found.length - view.shown)} more of ${found.length}`);
    return [el("div", { class: "pairs" }, list), el("p", {}, more || `All ${found.length} prompts.`)];
  }

  function spread(row) {
    const found = gains(row);
    return found.length > 1 && chart({
      data: { values: found.map((g, i) => ({ place: i + 1, gain: g.gain, prompt: g.prompt, sign: g.gain > 0 ? "B better" : g.gain < 0 ? "B worse" : "equal" })) },
      width: "container", height: 170, autosize: { type: "fit", contains: "padding" }, mark: { type: "bar" },
      encoding: { x: { field: "place", type: "quantitative", title: "prompts, from the worst for B", axis: { tickMinStep: 1 } },
        y: { field: "gain", type: "quantitative", title: "gain of B" },
        color: { field: "sign", type: "nominal", title: null, sort: ["B better", "B worse", "equal"], legend: { orient: "bottom" } }, tooltip: tooltips(["prompt"], ["gain"]) },
    }, `Gain of ${view.b} over ${view.a} in ${row.metric}, prompt by prompt.`);
  }

  function draw() {
    const rows = between();
    const row = rows.find((r) => r.metric === view.metric) || rows[0];
    if (!row) {
      place.replaceChildren(el("p", {}, view.a === view.b ? "Choose two different methods." : "These two have no numbers in common."));
      return;
    }
    const each = rows.map((r) => ({ cells: {
      metric: [el("button", { type: "button", "aria-pressed": String(r === row), onclick: () => change("metric", r.metric) }, r.metric), r.metric],
      better: [BETTER[r.direction] || "", r.direction], a: [number(r.mean_a), r.mean_a], b: [number(r.mean_b), r.mean_b],
      gain: r.gain ? [[number(r.gain.value), el("span", { class: "bounds" }, `${number(r.gain.low)} to ${number(r.gain.high)}`)], r.gain.value] : [own(r.note || "–"), null],
      p: [number(r.adjusted), r.adjusted], n: [r.gain ? String(r.gain.n) : "0", r.gain ? r.gain.n : 0],
      said: [el("span", { class: { better: "best", worse: "bad" }[r.said] }, r.said), r.said],
    } }));
    place.replaceChildren(
      table(`${view.b} against ${view.a}, paired by prompt; p by Holm over the numbers of this table`,
        [["metric", "number"], ["better", "better"], ["a", `A: ${view.a}`], ["b", `B: ${view.b}`], ["gain", "gain of B"], ["p", "p"], ["n", "prompts"], ["said", "B is"]]
          .map(([key, head]) => ({ key, head, words: key === "better" })), each),
      el("h2", {}, `${row.metric}, prompt by prompt`), ...[spread(row)].filter(Boolean),
      el("div", { class: "controls" }, select("Order", [["worst", "worst for B first"], ["best", "best for B first"], ["close", "closest first"]], view.order, (v) => change("order", v))),
      ...prompts(row));
  }
  function change(key, value) { view[key] = value; view.shown = STEP; state.write({ [key]: value }); draw(); }
  draw();
  show(el("h1", {}, "Compare"), el("p", { class: "sub" }, own(SUITE.subtitle)),
    el("div", { class: "controls" },
      SUITE.parts.length > 1 && select("Part", SUITE.parts.map((p) => p.name), view.part, (v) => change("part", v)),
      select("A", labels, view.a, (v) => change("a", v)), select("B", labels, view.b, (v) => change("b", v))),
    place,
    el("p", { class: "note" }, "Distances between sets (FID, KID) have one number for all pictures: ", el("code", {}, "scrollbench compare"), " gives their intervals."));
})();
