// Two photos: the best match of a patch in the other one, and the pairs that choose each other.

import * as api from "./api.js";
import { best, least, number, patchAt, patchBox, similarity, toBytes } from "./likeness.js";
import { colorTile, drawFrame, drawTile, fromBase64, labelColor } from "./paint.js";
import { Panel } from "./panel.js";

const GAP = 0.02;

const HINTS = {
  match: "Point at a patch of either photo: a line joins it to its best match in the other.",
  pairs: "Patches that are each other's best match.",
  colors: "Both photos in one set of colors: what is alike has one color.",
};

export class Match {
  constructor(app, root, other, choices, hint) {
    this.app = app;
    this.other = other;
    this.choices = choices;
    this.hint = hint;
    this.turn = 0;
    this.at = null;
    this.panel = new Panel("Match", "Two photos side by side, with a line from a patch to its best match", "72vh");
    root.append(this.panel.element);
    this.panel.onPoint((point) => this.#hover(point), (point) => this.#pick(point));
    this.panel.onArrows((across, down) => {
      this.kept = this.at = null;
      app.step(across, down);
    });
    other.addEventListener("change", () => this.show());
    for (const choice of choices) choice.addEventListener("change", () => this.show());
  }

  chooseModel() {}

  async show() {
    const turn = ++this.turn;
    this.#fill();
    const first = this.app.photo;
    const second = this.app.photos.find((photo) => photo.id === this.other.value);
    this.both = null;
    this.hint.textContent = HINTS[this.#shows];
    this.other.closest(".toolbar").hidden = !second;
    if (!second) {
      this.panel.explain("Add a second photo to see which parts of both are alike.");
      return;
    }
    this.#layOut(first, second);
    this.panel.name = `${first.stem}-${second.stem}-${this.#shows}-${this.app.size}`;
    this.panel.show((context) => this.#draw(context));
    this.panel.busy(true);
    try {
      const parameters = this.app.parameters();
      const features = await Promise.all(
        [first, second].map((photo) => api.features({ ...parameters, photo: photo.id })),
      );
      const shows = this.#shows;
      const found = shows === "match" ? null : await this.#map(shows === "pairs" ? "matches" : "colors", second);
      if (turn !== this.turn) return;
      this.both = { features, [shows]: found };
      this.app.measured(features[0]);
      this.point();
      this.panel.busy(false);
    } catch (error) {
      if (!(error instanceof api.Problem)) throw error;
      if (turn === this.turn) this.panel.explain(error.message);
    }
  }

  repaint() {
    this.show();
  }

  /** The grid that arrow keys step on. */
  get grid() {
    return this.both?.features[0];
  }

  /** The point has moved: show it, and say it in words. */
  point() {
    if (!this.both) return "";
    if (this.both.pairs) {
      const { pairs, count } = this.both.pairs;
      const of = count === 1 ? "the one pair" : `${pairs.length} of the ${count} pairs`;
      return this.#only(`${of} of patches that are each other's best match`);
    }
    if (this.both.colors) return this.#only("The first three principal components of both as red, green, blue");
    const { features } = this.both;
    const { side, point } = this.at ?? { side: 0, point: this.app.point() };
    const from = features[side];
    const to = features[1 - side];
    const patch = patchAt(from, point);
    const values = similarity(to, from, patch);
    const match = best(values);
    const score = values[match];
    const back = best(similarity(from, to, match));
    const low = least(values);
    const tile = this.app.heat(toBytes(values, low, score), to.rows, to.columns, 0.6);
    this.found = { side, from: patchBox(from, patch), to: patchBox(to, match), tile, back: back === patch };
    this.panel.paint();
    const mutual = back === patch ? "each is the other's best match" : "its own best match is another patch";
    this.panel.say(number(low), "heat", number(score), `cosine of the best match · ${mutual}`);
    return `best match: ${number(score)} · ${mutual}`;
  }

  #fill() {
    const { photos, photo } = this.app;
    const others = photos.filter((each) => each !== photo);
    const before = this.other.value;
    this.other.replaceChildren(...others.map((each) => new Option(each.name, each.id)));
    if (others.some((each) => each.id === before)) this.other.value = before;
  }

  /** Both photos at one height. Places are in units of that height. */
  #layOut(first, second) {
    const [a, b] = [first, second].map((photo) => Math.min(Math.max(photo.width / photo.height, 0.2), 5));
    this.width = a + GAP + b;
    this.places = [
      [0, a],
      [a + GAP, b],
    ];
    this.pictures = [first.picture, second.picture];
    this.found = null;
    this.panel.setSize(this.width, 1);
    const scale = Math.min(1.6, 1600 / this.panel.size[0]);
    this.panel.size = this.panel.size.map((side) => Math.round(side * scale));
    [this.panel.canvas.width, this.panel.canvas.height] = this.panel.size;
  }

  #draw(context) {
    const height = context.canvas.height;
    const areas = this.places.map(([left, width]) => [left * height, 0, width * height, height]);
    areas.forEach((area, i) => context.drawImage(this.pictures[i], ...area));
    if (!this.both) return;
    const part = ([x, y, w, h], [left, top, width, tall]) => [left + x * width, top + y * tall, w * width, h * tall];
    if (this.both.pairs) {
      const { features, pairs } = this.both;
      pairs.pairs.forEach(([a, b], i) => {
        const ends = [part(patchBox(features[0], a), areas[0]), part(patchBox(features[1], b), areas[1])];
        joined(context, ends, labelColor(i), height / 300);
      });
      return;
    }
    if (this.both.colors) {
      this.both.colors.forEach(({ rgb, grid }, i) => {
        drawTile(context, this.app.tile(colorTile, fromBase64(rgb), ...grid), ...areas[i], 1 - this.app.blend);
      });
      return;
    }
    if (!this.found) return;
    const { side, from, to, tile } = this.found;
    drawTile(context, tile, ...areas[1 - side], 0.92 - 0.6 * this.app.blend);
    const ends = [part(from, areas[side]), part(to, areas[1 - side])];
    joined(context, ends, "#fff", height / 220);
    for (const end of ends) drawFrame(context, ...end);
  }

  get #shows() {
    return this.choices.find((choice) => choice.checked).value;
  }

  /** A map of both photos. */
  #map(what, second) {
    const asked = new URLSearchParams(this.app.parameters());
    asked.append("photo", second.id);
    return api.map(what, asked);
  }

  /** Show what does not depend on the point. */
  #only(words) {
    this.panel.paint();
    this.panel.say(words);
    return "";
  }

  /** The side and the place in its photo of a point of the whole picture; null between both. */
  #side(point) {
    if (!point || !this.places) return null;
    const x = point.x * this.width;
    for (const [side, [left, width]] of this.places.entries()) {
      if (x >= left && x < left + width) return { side, point: { x: (x - left) / width, y: point.y } };
    }
    return null;
  }

  #hover(point) {
    this.at = this.#side(point) ?? this.kept ?? null;
    this.point();
  }

  #pick(point) {
    const at = this.#side(point);
    if (!at) return;
    this.kept = this.at = at;
    if (at.side === 0) this.app.pick(at.point);
    else this.app.progress(this.point());
  }
}

/** A bent line between the centers of two boxes. */
function joined(context, [[x, y, w, h], [u, v, s, t]], color, width) {
  const [a, b, c, d] = [x + w / 2, y + h / 2, u + s / 2, v + t / 2];
  const bend = Math.abs(c - a) * 0.12;
  for (const [line, ink] of [[width + 2.5, "rgb(0 0 0 / .55)"], [width, color]]) {
    context.beginPath();
    context.moveTo(a, b);
    context.quadraticCurveTo((a + c) / 2, (b + d) / 2 - bend, c, d);
    context.lineWidth = line;
    context.strokeStyle = ink;
    context.stroke();
    for (const [p, q] of [[a, b], [c, d]]) {
      context.beginPath();
      context.arc(p, q, line * 1.5, 0, 2 * Math.PI);
      context.fillStyle = ink;
      context.fill();
    }
  }
}
