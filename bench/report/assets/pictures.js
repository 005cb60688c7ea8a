// The pictures of a report: where each lies, and an element that loads it when it comes into view.
"use strict";

const PICTURES = (() => {
  const images = DATA.pictures.images.map(([id, width, height, kind]) => ({ id, width, height, kind }));
  const places = new Map();
  for (const [at, prompt, method, seed, image] of DATA.pictures.places) {
    const key = JSON.stringify([at, prompt]);
    if (!places.has(key)) places.set(key, []);
    places.get(key).push({ method, seed, image: images[image] });
  }
  const preview = (image) => `previews/${image.id}.webp`;
  return {
    /** All pictures of a prompt: [{method, seed, image}]. */
    of: (at, prompt) => places.get(JSON.stringify([at, prompt])) || [],
    /** The picture of a method at a seed, or at its first. */
    find: (at, prompt, method, seed) => {
      const mine = PICTURES.of(at, prompt).filter((p) => p.method === method);
      return mine.find((p) => String(p.seed) === String(seed)) || mine[0];
    },
    preview,
    file: (image) => (image.kind === "file" ? `pictures/${image.id}.webp` : preview(image)),
    element: (image, alt) => el("img", { class: `picture${image.height <= 96 ? " small" : ""}`, src: preview(image), alt,
      width: image.width, height: image.height, loading: "lazy", decoding: "async", style: "height:auto" }),
    /** What OpenSeadragon opens: one file, or a pyramid whose level 0 here is the picture itself. */
    source: (image) => {
      if (image.kind !== "tiles") return { type: "image", url: PICTURES.file(image), buildPyramid: false };
      const side = DATA.pictures.tile, most = Math.ceil(Math.log2(Math.max(image.width, image.height) / side));
      return { width: image.width, height: image.height, tileSize: side, tileOverlap: 0, minLevel: 0, maxLevel: most,
        getLevelScale: (level) => 1 / 2 ** (most - level),
        getTileUrl: (level, x, y) => `tiles/${image.id}/${most - level}/${x}_${y}.webp` };
    },
  };
})();
