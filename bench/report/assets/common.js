// What all pages share: making elements, saying numbers, the head of the page, the state in the address.
"use strict";

const SUITE = DATA.suite;

/** An element. Text children become text, whatever they hold; nothing here ever parses HTML. */
function el(tag, attributes = {}, ...children) {
  const made = tag === "svg" || el.svg.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}
el.svg = new Set(["line", "circle", "rect", "path", "g"]);

/** Text of a user that may run from right to left, kept apart from what stands beside it. */
const own = (text) => el("bdi", {}, text);

/** Three significant digits, at most four decimals; what has no place so is a power of ten. */
function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (value && !(size >= 5e-5 && size < 1e7)) return value.toExponential(2).replace(/e([+-])(\d)$/, "e$10$2");
  if (Number.isInteger(value)) return String(value);
  const exponent = parseInt(value.toExponential().split("e")[1], 10);
  return value.toFixed(Math.max(0, Math.min(4, 2 - exponent)));
}

const ARROWS = { lower: "↓", higher: "↑", zero: "→0", one: "→1" };
const BETTER = { lower: "lower is better", higher: "higher is better", zero: "closest to 0 is best", one: "closest to 1 is best" };
const part = (name) => SUITE.parts.find((p) => p.name === name) || SUITE.parts[0];
const promptOf = (at, id) => part(at).prompts.find((p) => p.id === id) || { id, text: id, theme: "" };

// -- the address holds the state: #key=value&key=value

const state = {
  read() { return Object.fromEntries(new URLSearchParams(location.hash.slice(1))); },
  write(changes) {
    const next = new URLSearchParams({ ...state.read(), ...changes });
    for (const [key, value] of [...next]) if (value === "" || value === "null") next.delete(key);
    history.replaceState(null, "", `#${next}`);
  },
};
const linkTo = (page, params) => `${page}.html#${new URLSearchParams(params)}`;

// -- parts of pages

function select(label, options, value, change) {
  const box = el("select", { onchange: () => change(box.value) },
    options.map((o) => {
      const [key, text] = Array.isArray(o) ? o : [o, o];
      return el("option", { value: key, selected: String(key) === String(value) }, text);
    }));
  return el("label", {}, label, box);
}

function toggle(text, pressed, change) {
  const button = el("button", { type: "button", "aria-pressed": String(pressed) }, text);
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    change(on);
  });
  return button;
}

/** An interval as a bar on a scale, for eyes; the numbers stand beside it as text. */
function bar(value, low, high, [first, last], width = 96) {
  const x = (v) => 4 + ((v - first) / (last - first || 1)) * (width - 8);
  const line = (a, b, kind) => el("line", { x1: a, x2: b, y1: 6, y2: 6, class: kind });
  return el("svg", { class: "bar", width, height: 12, "aria-hidden": "true" },
    line(4, width - 4, "track"), line(x(low), x(high)), el("circle", { cx: x(value), cy: 6, r: 3 }));
}

/**
 * A table that sorts by its headings. Columns: {key, head, looks?, words?}; a row: {cells: {key: [content, sort value, class?]},
 * class?}. Rows of class control stay below, empty values come last.
 */
function table(caption, columns, rows) {
  const body = el("tbody");
  const fill = (order) => body.replaceChildren(...order.map((row) => el("tr", { class: row.class },
    columns.map((c, i) => {
      const [content, value, kind] = row.cells[c.key] || ["–", null];
      const options = { class: [kind, c.words && "words"].filter(Boolean).join(" ") || null, "data-value": value };
      return i ? el("td", options, content) : el("th", { scope: "row", ...options }, content);
    }))));
  const heads = columns.map((c) => {
    const head = el("th", { scope: "col", class: c.words && "words" },
      el("button", { type: "button", onclick: () => sort(c, head) }, c.head), c.looks && el("span", { class: "looks" }, c.looks));
    return head;
  });
  function sort(c, head) {
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const h of heads) h.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => (row.cells[c.key] ? row.cells[c.key][1] : null);
    const below = (row) => Number(row.class === "control");
    fill([...rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (below(a) !== below(b)) return below(a) - below(b);
      if (x === y) return 0;
      if (x === null || x === undefined) return 1;
      if (y === null || y === undefined) return -1;
      return (x < y ? -1 : 1) * (up ? 1 : -1);
    }));
  }
  fill(rows);
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", {}, el("caption", {}, caption), el("thead", {}, el("tr", {}, heads)), body));
}

// -- the head of every page

const PAGES = [["index", "Board"], ["compare", "Compare"], ["claims", "Claims"], ["validity", "Validity"],
  ["cost", "Cost"], ["viewer", "Panoramas"], ["vote", "Vote"]];

function scheme(next) {
  const kept = { get: () => { try { return localStorage.getItem("scheme"); } catch { return null; } } };
  const value = next === undefined ? state.read().scheme || kept.get() || "auto" : next;
  if (value === "auto") delete document.documentElement.dataset.scheme;
  else document.documentElement.dataset.scheme = value;
  if (next !== undefined) {
    try { localStorage.setItem("scheme", value); } catch { /* private windows keep nothing */ }
    document.dispatchEvent(new Event("scheme"));
  }
  return value;
}

const isDark = () => {
  const set = document.documentElement.dataset.scheme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => document.dispatchEvent(new Event("scheme")));

(function head() {
  const here = document.body.dataset.page;
  const chosen = scheme();
  const picker = select("Colours", [["auto", "as the system"], ["light", "light"], ["dark", "dark"]], chosen, scheme);
  picker.classList.add("scheme", "inline");
  document.title = `${PAGES.find(([page]) => page === here)[1]} · ${SUITE.title}`;
  document.getElementById("main").before(el("header", { class: "site" },
    el("strong", {}, own(SUITE.title)),
    el("nav", { "aria-label": "Pages" }, PAGES.map(([page, name]) =>
      el("a", { href: `${page}.html`, "aria-current": page === here && "page" }, name))),
    picker));
})();

/** Put the content of a page in place. */
function show(...content) {
  document.getElementById("main").replaceChildren(...content.flat().filter(Boolean));
}
