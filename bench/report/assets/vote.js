// Blind votes: two pictures, no names, sides shuffled; with checks whose answer is known, and pairs asked twice.
"use strict";

(function vote() {
  const CHECK = 8, AGAIN = 10, SPOILED = "spoiled";  // one trial in so many is a check, is one asked again
  const COLUMNS = ["suite", "suite_digest", "voter", "trial", "kind", "part", "prompt_id", "seed", "left", "right", "vote", "seconds", "time"];
  const ranked = SUITE.methods.filter((m) => !m.control).map((m) => m.name);
  const store = { get: (k) => { try { return JSON.parse(localStorage.getItem(k)); } catch { return null; } },
    set: (k, v) => { try { localStorage.setItem(k, JSON.stringify(v)); } catch { /* kept in this tab only */ } } };
  let session = null, begun = 0, glasses = [];

  /** Numbers from 0 to 1 that are the same for the same text (mulberry32 over FNV-1a). */
  function random(seed) {
    let h = 2166136261;
    for (const c of seed) h = Math.imul(h ^ c.codePointAt(0), 16777619);
    return () => {
      h = (h + 0x6d2b79f5) | 0;
      let t = Math.imul(h ^ (h >>> 15), 1 | h);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }
  function shuffled(list, rng) {
    const out = [...list];
    for (let i = out.length - 1; i > 0; i--) { const j = Math.floor(rng() * (i + 1)); [out[i], out[j]] = [out[j], out[i]]; }
    return out;
  }

  /** The trials of a voter: every pair of methods about equally often, prompts in turn, sides by chance. */
  function plan(voter, count) {
    const rng = random(`${SUITE.digest}\n${voter}`);
    const pairs = ranked.flatMap((a, i) => ranked.slice(i + 1).map((b) => [a, b]));
    const asked = SUITE.parts.flatMap((p) => p.prompts.map((q) => [p.name, q.id]));
    const trials = [];
    let turn = [], prompts = [];
    for (let guard = 0; trials.length < count && guard < 50 * count; guard++) {
      if (!turn.length) turn = shuffled(pairs, rng);
      if (!prompts.length) prompts = shuffled(asked, rng);
      const [a, b] = turn.pop(), [at, prompt] = prompts.pop();
      const seeds = SUITE.seeds.filter((s) => [a, b].every((m) => { const p = PICTURES.find(at, prompt, m, s); return p && p.seed === s; }));
      if (!seeds.length) continue;
      const seed = seeds[Math.floor(rng() * seeds.length)], [left, right] = rng() < 0.5 ? [a, b] : [b, a];
      const base = { part: at, prompt_id: prompt, seed };
      if (trials.length % CHECK === CHECK - 3) {
        const sides = rng() < 0.5 ? [left, SPOILED] : [SPOILED, left];
        trials.push({ ...base, kind: "check", left: sides[0], right: sides[1] });
      } else if (trials.length % AGAIN === AGAIN - 1) {
        const before = trials.filter((t) => t.kind === "pair");
        const t = before[Math.floor(rng() * before.length)];
        trials.push({ ...t, kind: "again", left: t.right, right: t.left });
      } else trials.push({ ...base, kind: "pair", left, right });
    }
    return trials;
  }

  function csv() {
    const cell = (v) => `"${String(v ?? "").replaceAll('"', '""')}"`;
    const rows = session.votes.map((v, i) => ({ ...session.trials[i], ...v, suite: SUITE.ref, suite_digest: SUITE.digest, voter: session.voter, trial: i + 1 }));
    return [COLUMNS, ...rows.map((r) => COLUMNS.map((c) => r[c]))].map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }
  function save() {
    const link = el("a", { href: URL.createObjectURL(new Blob([csv()], { type: "text/csv" })), download: `votes-${session.voter.replace(/[^\w-]+/g, "-")}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function side(trial, which) {
    const name = trial[which] === SPOILED ? trial[which === "left" ? "right" : "left"] : trial[which];
    const { image } = PICTURES.find(trial.part, trial.prompt_id, name, trial.seed);
    const blur = trial[which] === SPOILED ? `filter: blur(${Math.max(2, Math.round(0.012 * innerWidth))}px) saturate(.4)` : null;
    return el("figure", {}, image.kind === "tiles" ? deep(image, which, blur)
      : el("img", { src: PICTURES.file(image), alt: `${which} picture`, class: image.height <= 96 ? "small" : null, style: blur }),
      el("figcaption", {}, which === "left" ? "left (first)" : "right (second)"));
  }

  /** A picture in tiles, to drag and to zoom into; its arrow keys stay those of the vote. */
  function deep(image, which, style) {
    const box = el("div", { class: "deep", style });
    setTimeout(() => {
      const glass = new OpenSeadragon({ element: box, tileSources: PICTURES.source(image), drawer: "canvas", showNavigationControl: false,
        gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true } });
      glass.addHandler("canvas-key", (e) => { e.preventDefaultAction = true; });
      for (const canvas of box.querySelectorAll("canvas")) {
        canvas.setAttribute("role", "img");
        canvas.setAttribute("aria-label", `${which} picture`);
      }
      glasses.push(glass);
    });
    return box;
  }

  function cast(answer) {
    if (!session || session.votes.length >= session.trials.length) return;
    session.votes.push({ vote: answer, seconds: ((performance.now() - begun) / 1000).toFixed(2), time: new Date().toISOString() });
    store.set(session.key, session);
    ask();
  }

  function ask() {
    const done = session.votes.length, trial = session.trials[done];
    for (const glass of glasses) glass.destroy();
    glasses = [];
    if (!trial) {
      show(el("h1", {}, "Thank you"), el("p", {}, `${done} votes. Save them and send the file to who asked you; `, el("code", {}, "scrollbench votes FILE..."), " reads it."),
        el("button", { type: "button", id: "save", onclick: save }, "Save the votes as CSV"));
      return;
    }
    begun = performance.now();
    const answer = (name, text, keys) => el("button", { type: "button", "data-vote": name, "aria-keyshortcuts": keys, onclick: () => cast(name) }, text);
    show(el("h1", {}, "Which is the better panorama?"), el("p", { class: "prompt", "aria-live": "polite" }, own(promptOf(trial.part, trial.prompt_id).text)),
      el("progress", { max: session.trials.length, value: done, "aria-label": "Votes given" }),
      el("div", { class: "ballot" }, el("div", { class: "sides" }, side(trial, "left"), side(trial, "right")),
        el("div", { class: "answers" }, answer("left", "← left", "ArrowLeft"), answer("tie", "↓ no difference", "ArrowDown"), answer("right", "right →", "ArrowRight"))),
      el("p", { class: "sub" }, `${done + 1} of ${session.trials.length}. `, el("button", { type: "button", onclick: save }, "Save what there is")));
    document.querySelector("[data-vote=tie]").focus({ preventScroll: true });
  }

  document.addEventListener("keydown", (e) => {
    const answer = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[e.key];
    if (answer && session && !e.repeat) { e.preventDefault(); cast(answer); }
  });

  function start() {
    const name = el("input", { type: "text", required: true, autocomplete: "off" });
    const count = select("How many pairs", ["20", "40", "80", "160"], "40", () => {});
    const begin = () => {
      const voter = name.value.trim();
      if (!voter) { name.focus(); return; }
      const key = `votes ${SUITE.digest} ${voter}`, kept = store.get(key);
      session = kept && kept.trials ? kept : { key, voter, trials: plan(voter, Number(count.querySelector("select").value)), votes: [] };
      ask();
    };
    const form = el("form", { class: "controls", onsubmit: (e) => { e.preventDefault(); begin(); } },
      el("label", {}, "A name for you, any", name), count, el("button", { type: "submit" }, "Begin"));
    show(el("h1", {}, "Vote"), ranked.length < 2 ? el("p", {}, "A vote needs two methods.") : [
      el("p", { class: "note" }, "You see two panoramas for one prompt, without names and on sides that chance decides. Choose the better one, or say that there is no difference. "
        + "Some pairs come twice, and some have an answer that is known, to tell attentive votes from others. Arrow keys work."),
      form]);
  }
  start();
})();
