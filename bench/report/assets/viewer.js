// Panoramas: lanes of several methods that move together, over one another or one below the other.
"use strict";

(function viewer() {
  const MODES = [["lanes", "lanes"], ["blink", "blink"], ["slider", "slider"]], BLINK = 800, STEP = 0.15;
  const given = state.read();
  const methods = SUITE.methods.map((m) => m.name);
  const asked = (() => { try { return JSON.parse(given.lanes); } catch { return null; } })();
  const view = {
    part: part(given.part).name, prompt: given.prompt, seed: given.seed || String(SUITE.seeds[0]), theme: given.theme || "",
    lanes: (Array.isArray(asked) ? asked : methods.slice(0, 2)).filter((m) => methods.includes(m)),
    mode: given.mode || "lanes", over: given.over || "", curve: given.curve || "", loop: given.loop === "1",
  };
  let lanes = [], leader = null, blinking = null, up = 0;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const text = el("p", { class: "prompt", "aria-live": "polite" });
  const controls = el("div", { class: "controls" });
  const frame = el("div", { class: "frame" }), strip = el("img", { alt: "", draggable: "false" });
  const overview = el("div", { class: "overview", "aria-hidden": "true" }, strip, frame);
  const grid = el("div", { class: "lanes" });
  const divider = el("input", { type: "range", class: "divider", min: 0, max: 100, value: 50, "aria-label": "Where the upper picture begins",
    oninput: () => grid.style.setProperty("--cut", `${divider.value}%`) });

  // -- what is shown

  const prompts = () => part(view.part).prompts.filter((p) => (!view.theme || p.theme === view.theme) && PICTURES.of(view.part, p.id).length);
  const keep = (changes) => { Object.assign(view, changes); state.write({ ...changes, ...("lanes" in changes && { lanes: JSON.stringify(view.lanes) }),
    ...("loop" in changes && { loop: view.loop ? "1" : "" }) }); };

  function open() {
    const list = prompts();
    if (!list.some((p) => p.id === view.prompt)) view.prompt = list.length ? list[0].id : "";
    state.write({ part: view.part, prompt: view.prompt });
    text.replaceChildren(own(promptOf(view.part, view.prompt).text));
    head(list);
    const at = leader && leader.port() ? leader.place() : place(state.read());
    for (const l of lanes) l.close();
    lanes = view.lanes.map((m) => [m, PICTURES.find(view.part, view.prompt, m, view.seed)]).filter(([, p]) => p)
      .slice(0, view.mode === "slider" ? 2 : 8).map(([m, p]) => lane(m, p, at));
    leader = lanes[0] || null;
    grid.replaceChildren(...(lanes.length ? lanes.map((l) => l.element) : [el("p", {}, "Choose one method or more.")]));
    strip.src = leader ? PICTURES.preview(leader.image) : "";
    grid.className = `lanes ${view.mode === "lanes" ? "" : `stacked ${view.mode}`}`;
    divider.hidden = view.mode !== "slider";
    clearInterval(blinking);
    up = 0; flip(0);
    if (view.mode === "blink" && !still) blinking = setInterval(() => flip(1), BLINK);
    if (window.OpenSeadragon) for (const l of lanes) l.start();
  }

  function flip(by) {
    up = lanes.length ? (up + by) % lanes.length : 0;
    for (const [i, l] of lanes.entries()) l.element.classList.toggle("up", i === up);
  }
  const place = (s) => (s.z ? { x: Number(s.x), y: Number(s.y), z: Number(s.z) } : null);

  // -- one lane

  function lane(name, { image, seed }, at) {
    const over = el("svg", { class: "over", "aria-hidden": "true" });
    const curve = el("svg", { class: "curve" }), ends = el("span", { class: "ends" });
    const glass = el("div", { class: "glass" });
    const dragon = el("div", { class: "seadragon" });
    glass.append(dragon, over);
    const scores = (DATA.along[image.id] || {})[view.curve];
    const element = el("section", { class: "lane", "aria-label": `${name}: ${promptOf(view.part, view.prompt).text}` },
      el("div", { class: "name" }, own(name), el("span", {}, `${image.width} × ${image.height}, seed ${seed}`)), glass,
      scores && curve, scores && ends);
    let osd = null;
    const self = {
      element, image, name, scores,
      port: () => osd && osd.viewport,
      place: () => { const c = osd.viewport.getCenter(); return { x: c.x, y: c.y, z: osd.viewport.getZoom() }; },
      close: () => osd && osd.destroy(),
      go: ({ x, y, z }, now = true) => { osd.viewport.zoomTo(z, null, now); osd.viewport.panTo(new OpenSeadragon.Point(x, y), now); },
      fit() {  // the whole height, from the left edge; all of it where it is narrower than the lane
        const box = osd.viewport.getContainerSize(), tall = (image.height / image.width) * (box.x / box.y);
        const z = Math.max(1, 1 / tall);
        self.go({ x: 0.5 / z, y: image.height / image.width / 2, z });
      },
      start() {
        osd = new OpenSeadragon({
          element: dragon, tileSources: PICTURES.source(image), drawer: "canvas", wrapHorizontal: view.loop, showNavigationControl: false,
          visibilityRatio: 0.1, minZoomImageRatio: 0.5, maxZoomPixelRatio: Math.max(16, 16384 / image.width), animationTime: still ? 0 : 0.35,
          imageSmoothingEnabled: image.height > 96, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
        });
        osd.addHandler("open", () => {
          if (self === leader) { if (at) self.go(at); else self.fit(); } else if (leader.port()) self.go(leader.place());
          moved();
        });
        osd.addHandler("viewport-change", () => { if (self === leader) moved(); });
        osd.addHandler("resize", () => setTimeout(moved));
        osd.addHandler("canvas-key", (e) => { e.preventDefaultAction = true; });
        osd.addHandler("canvas-scroll", (e) => {
          const wheel = e.originalEvent;
          if (!wheel.shiftKey && Math.abs(wheel.deltaX) <= Math.abs(wheel.deltaY)) return;
          e.preventDefaultAction = true;
          pan((wheel.deltaX || wheel.deltaY) / 1000);
        });
        for (const kind of ["canvas-press", "canvas-scroll"]) osd.addHandler(kind, () => { leader = self; });
        for (const canvas of dragon.querySelectorAll("canvas")) {
          canvas.setAttribute("role", "img");
          canvas.setAttribute("aria-label", `panorama by ${name}`);
        }
      },
      draw() {  // windows over the picture, scores under it
        const size = osd.viewport.getContainerSize(), { z } = self.place(), bounds = osd.viewport.getBounds();
        const px = size.x * z / image.width;  // screen px a picture px
        const x = (v) => v * px - bounds.x * size.x * z, y = (v) => v * px - bounds.y * size.x * z;
        const boxes = (DATA.pictures.overlays[view.part] || {})[view.over] || [];
        const turns = view.loop ? [-1, 0, 1] : [0];
        over.replaceChildren(...boxes.flatMap(([bx, by, w, h]) => turns.map((k) =>
          el("rect", { x: x(bx + k * image.width) + 1, y: y(by) + 1, width: Math.max(0, w * px - 2), height: Math.max(0, h * px - 2), rx: 2 }))));
        if (scores) ends.textContent = plot(curve, scores, x, image, limits());
      },
    };
    return self;
  }

  function limits() {
    const all = lanes.flatMap((l) => (l.scores || []).map((s) => s[1])).filter((v) => v !== null);
    return [Math.min(...all), Math.max(...all)];
  }

  function plot(svg, scores, x, image, [low, high]) {
    const centres = ((DATA.pictures.overlays[view.part] || {})[view.curve.split("@")[1]] || []).map(([bx, , w]) => bx + w / 2);
    const first = scores[0][0], n = scores.length;
    const at = (i) => (centres.length === n ? centres[i] : ((i + 0.5) / n) * image.width);
    const points = scores.filter(([, v]) => v !== null).map(([i, v]) => [x(at(i - first)), 46 - ((v - low) / (high - low || 1)) * 41]);
    svg.replaceChildren(el("path", { d: points.map((p, i) => `${i ? "L" : "M"}${p[0].toFixed(1)} ${p[1].toFixed(1)}`).join("") }),
      ...points.map(([cx, cy]) => el("circle", { cx, cy, r: 2.5 })));
    return `${view.curve.split("@")[0]}: ${number(low)} to ${number(high)}`;
  }

  // -- moving

  let saving = null;
  function moved() {
    if (!leader || !leader.port()) return;
    const at = leader.place(), bounds = leader.port().getBounds();
    for (const l of lanes) if (l !== leader && l.port()) l.go(at);
    for (const l of lanes) if (l.port()) l.draw();
    const left = view.loop ? ((bounds.x % 1) + 1) % 1 : Math.max(0, bounds.x);
    frame.style.left = `${100 * left}%`;
    frame.style.width = `${100 * Math.min(1 - left, bounds.width)}%`;
    clearTimeout(saving);
    saving = setTimeout(() => state.write({ x: at.x.toFixed(5), y: at.y.toFixed(5), z: at.z.toFixed(4) }), 150);
  }
  function pan(by) {
    if (!leader || !leader.port()) return;
    leader.port().panBy(new OpenSeadragon.Point(by * leader.port().getBounds().width, 0), still);
    if (!view.loop) leader.port().applyConstraints();
  }
  const zoom = (by) => leader && leader.port() && leader.port().zoomBy(by, null, still);
  const jump = (x) => leader && leader.go({ ...leader.place(), x }, still);
  function step(by) {
    const list = prompts(), i = list.findIndex((p) => p.id === view.prompt);
    if (list.length) { keep({ prompt: list[(i + by + list.length) % list.length].id }); open(); }
  }
  const drag = (e) => { if (e.buttons) { const box = overview.getBoundingClientRect(); jump((e.clientX - box.left) / box.width); } };
  overview.addEventListener("pointerdown", (e) => { overview.setPointerCapture(e.pointerId); drag(e); });
  overview.addEventListener("pointermove", drag);

  const next = (options, value) => options[(options.indexOf(value) + 1) % options.length];
  const KEYS = {
    ArrowLeft: () => pan(-STEP), ArrowRight: () => pan(STEP), PageUp: () => pan(-0.9), PageDown: () => pan(0.9),
    Home: () => jump(leader.port().getBounds().width / 2), End: () => jump(1 - leader.port().getBounds().width / 2),
    "+": () => zoom(1.3), "=": () => zoom(1.3), "-": () => zoom(1 / 1.3), 0: () => leader && leader.fit(),
    n: () => step(1), p: () => step(-1), " ": () => { clearInterval(blinking); flip(1); },
    m: () => { keep({ mode: next(MODES.map(([m]) => m), view.mode) }); open(); },
    o: () => { keep({ over: next(["", ...Object.keys(DATA.pictures.overlays[view.part])], view.over) }); open(); },
    l: () => { keep({ loop: !view.loop }); open(); },
  };
  document.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.altKey || e.metaKey || e.target.matches("select, input:not([type=checkbox])")) return;
    if (e.key === " " && e.target.matches("button, a, input")) return;  // they have a use for it
    const act = KEYS[e.key];
    if (act) { e.preventDefault(); if (leader && leader.port()) act(); }
  });

  // -- choosing

  function head(list) {
    const focus = document.activeElement && document.activeElement.dataset ? document.activeElement.dataset.control : null;
    const themes = [...new Set(part(view.part).prompts.map((p) => p.theme).filter(Boolean))].sort();
    const curves = [...new Set(PICTURES.of(view.part, view.prompt).flatMap((p) => Object.keys(DATA.along[p.image.id] || {})))].sort();
    const set = (key) => (value) => { keep({ [key]: value }); open(); };
    const found = [
      SUITE.parts.length > 1 && select("Part", SUITE.parts.map((p) => p.name), view.part, (v) => { leader = null; set("part")(v); }),
      themes.length > 1 && select("Theme", [["", "all"], ...themes], view.theme, set("theme")),
      select("Prompt", list.map((p) => [p.id, p.text.length > 70 ? `${p.text.slice(0, 68)}…` : p.text]), view.prompt, set("prompt")),
      el("button", { type: "button", onclick: () => step(-1), "aria-label": "Prompt before" }, "◀"),
      el("button", { type: "button", onclick: () => step(1), "aria-label": "Next prompt" }, "▶"),
      SUITE.seeds.length > 1 && select("Seed", SUITE.seeds.map(String), view.seed, set("seed")),
      select("Show", MODES, view.mode, set("mode")),
      select("Over the picture", [["", "nothing"], ...Object.keys(DATA.pictures.overlays[view.part] || {})], view.over, set("over")),
      curves.length > 0 && select("Scores along it", [["", "none"], ...curves], view.curve, set("curve")),
      toggle("Loop", view.loop, set("loop")),
      el("fieldset", {}, el("legend", {}, "Lanes"), methods.map((m) => el("label", { class: "inline" },
        el("input", { type: "checkbox", "data-control": `lane ${m}`, checked: view.lanes.includes(m), onchange: (e) => set("lanes")(
          e.target.checked ? methods.filter((x) => x === m || view.lanes.includes(x)) : view.lanes.filter((x) => x !== m)) }), own(m)))),
    ];
    found.forEach((box) => { const input = box && box.querySelector && box.querySelector("select"); if (input) input.dataset.control = box.firstChild.textContent; });
    controls.replaceChildren(...found.filter(Boolean));
    if (focus) [...controls.querySelectorAll("[data-control]")].find((c) => c.dataset.control === focus)?.focus();
  }

  const key = (...names) => names.flatMap((n) => [el("kbd", {}, n), " "]);
  show(el("h1", {}, "Panoramas"), text, controls, overview, divider, grid,
    el("p", { class: "keys" }, ...key("←", "→", "Home", "End"), "move, ", ...key("+", "−", "0"), "zoom and fit, ", ...key("n", "p"), "next and previous prompt, ",
      ...key("m"), "lanes, blink, slider, ", ...key("Space"), "flip, ", ...key("o"), "overlay, ", ...key("l"), "loop. Drag and wheel work too; shift and wheel move."));
  open();
  addEventListener("hashchange", () => location.reload());
})();
