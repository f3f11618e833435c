// One photo in linked panels: what is pointed at in one is marked in all.

import * as api from "./api.js";
import { best, least, number, patchAt, patchBox, similarity, toBytes } from "./likeness.js";
import { cellColors, colorTile, drawTile, fromBase64, shadeTile } from "./paint.js";
import { element, Panel } from "./panel.js";

const NEAR = 4;

export class Explore {
  constructor(app, root) {
    this.app = app;
    this.turn = 0;
    this.features = null;
    this.photo = new Panel("Photo", "The photo. Arrow keys move the point.");
    this.alike = new Panel("Similarity", "How similar every patch is to the one at the point");
    this.colors = new Panel("Colors", "Features as colors: the first three principal components");
    this.ground = new Panel("Foreground", "The photo with its ground darkened");
    this.attention = new Panel("Attention", "How much a class token attends to every patch");
    this.merged = new Panel("Merged tokens", "Patches that are merged to one token, in one color");
    this.panels = [this.photo, this.alike, this.colors, this.ground, this.attention, this.merged];
    root.append(...this.panels.map((panel) => panel.element));

    this.only = element("input", { type: "checkbox" });
    this.colors.addTool(element("label", { className: "check" }, this.only, "Foreground only"));
    this.token = this.#select(this.attention, "Class token");
    this.block = this.#select(this.attention, "Block");
    this.head = this.#select(this.attention, "Head");
    this.keep = element("input", { type: "range", min: 0, max: 100, step: 1, value: 62 });
    this.keep.setAttribute("aria-label", "Tokens that stay");
    this.merged.addTool(this.keep);
    this.only.addEventListener("change", () => this.#show(this.colors, () => this.#colors()));
    for (const select of [this.token, this.block, this.head]) {
      select.addEventListener("change", () => this.#show(this.attention, () => this.#attention()));
    }
    let later;
    this.keep.addEventListener("input", () => {
      clearTimeout(later);
      later = setTimeout(() => this.#show(this.merged, () => this.#merged()), 60);
    });

    for (const panel of this.panels) {
      panel.onPoint((point) => app.hover(point, panel), (point) => app.pick(point));
    }
    this.photo.onArrows((across, down) => app.step(across, down));
  }

  #select(panel, label) {
    const select = element("select");
    select.setAttribute("aria-label", label);
    return panel.addTool(select);
  }

  /** The model is another one. */
  chooseModel() {
    const { model } = this.app;
    const fill = (select, options, chosen) => {
      select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
      select.value = chosen;
      select.hidden = options.length < 2;
    };
    fill(this.token, model.tokens.map((name, i) => [i, name]), 0);
    fill(this.block, model.blocks.map((i) => [i, `block ${i}`]), model.blocks.at(-1));
    this.headCount = 0;
    fill(this.head, [], "");
  }

  /** Show the photo at the size, in the space that is chosen. */
  async show() {
    const { photo } = this.app;
    for (const panel of this.panels) {
      panel.setSize(photo.width, photo.height);
      panel.name = `${photo.stem}-${panel.title.toLowerCase().replaceAll(" ", "-")}-${this.app.size}`;
      panel.busy(true);
    }
    this.features = null;
    this.members = null;
    this.photo.show((context, width, height) => context.drawImage(photo.picture, 0, 0, width, height));
    this.photo.say(`${photo.name} · ${photo.width} × ${photo.height}`);
    const turn = ++this.turn;
    await this.#guarded(this.alike, turn, async () => {
      const features = await api.features(this.app.parameters());
      if (turn !== this.turn) return;
      this.features = features;
      this.app.measured(features);
      this.point();
    });
    if (turn !== this.turn) return;
    if (!this.features) {
      for (const panel of this.panels.slice(2)) panel.explain(this.alike.why.textContent);
      return;
    }
    this.#show(this.colors, () => this.#colors());
    this.#show(this.ground, () => this.#ground());
    this.#show(this.merged, () => this.#merged());
    this.#show(this.attention, () => this.#attention());
  }

  /** The grid that arrow keys step on. */
  get grid() {
    return this.features;
  }

  /** The point has moved: show it, and say it in words. */
  point() {
    const { features } = this;
    if (!features) return "";
    const patch = patchAt(features, this.app.point());
    const values = similarity(features, features, patch);
    const low = least(values);
    const tile = this.app.heat(toBytes(values, low), features.rows, features.columns);
    this.alike.show(this.#over(tile));
    const box = patchBox(features, patch);
    for (const panel of this.panels) panel.mark(box);
    if (this.members) this.merged.paint();
    const place = (i) => `row ${Math.floor(i / features.columns) + 1}, column ${(i % features.columns) + 1}`;
    this.alike.say(number(low), "heat", "1", `cosine with ${place(patch)}`);
    const next = best(elsewhere(values, patch, features.columns));
    return `${place(patch)} · most alike elsewhere: ${place(next)}, ${number(values[next])}`;
  }

  repaint() {
    this.show();
  }

  async #colors() {
    const only = this.only.checked ? { only: "foreground" } : {};
    const [{ grid, rgb }] = await api.map("colors", { ...this.app.parameters(), ...only });
    return () => {
      this.colors.show(this.#over(this.app.tile(colorTile, fromBase64(rgb), ...grid)));
      this.colors.say("The first three principal components as red, green, blue");
    };
  }

  async #ground() {
    const { grid, mask, share } = await api.map("foreground", this.app.parameters());
    return () => {
      const tile = this.app.tile(shadeTile, fromBase64(mask), ...grid);
      const { picture } = this.app.photo;
      this.ground.show((context, width, height) => {
        context.drawImage(picture, 0, 0, width, height);
        drawTile(context, tile, 0, 0, width, height);
      });
      this.ground.say(`The first component, in two parts · ${Math.round(100 * share)} % of the photo`);
    };
  }

  async #attention() {
    const { model } = this.app;
    if (!model.blocks.length || !model.tokens.length) {
      return () => this.attention.explain(model.no_attention ?? "This model has no class token.");
    }
    const { model: name, photo, size } = this.app.parameters();
    const asked = { model: name, photo, size, block: this.block.value, token: this.token.value };
    const found = await api.map("attention", asked);
    return () => {
      if (this.headCount !== found.maps.length - 1) {
        this.headCount = found.maps.length - 1;
        const options = found.maps.map((_, i) => new Option(i ? `head ${i - 1}` : "all heads", i));
        this.head.replaceChildren(...options);
        this.head.hidden = this.headCount < 2;
      }
      const head = Number(this.head.value || 0);
      const tile = this.app.heat(fromBase64(found.maps[head]), ...found.grid);
      this.attention.show(this.#over(tile));
      const which = head ? `head ${head - 1}` : `the mean of ${this.headCount} heads`;
      this.attention.say("0", "heat", found.largest[head].toPrecision(2), `${model.tokens[this.token.value]}, ${which}`);
    };
  }

  async #merged() {
    const { features } = this;
    const all = features.rows * features.columns;
    const least = Math.min(16, all);
    const keep = Math.round(least * (all / least) ** (this.keep.value / 100));
    const found = await api.map("merged", { ...this.app.parameters(), keep });
    return () => {
      const [rows, columns] = found.grid;
      const { picture } = this.app.photo;
      const colors = meanColors(cellColors(picture, rows, columns), found.token, found.count);
      const tile = this.app.plain(colorTile, colors, rows, columns);
      this.members = found;
      const mosaic = this.#over(tile);
      this.merged.show((context, width, height) => {
        mosaic(context, width, height);
        this.#borders(context, found, width, height);
      });
      const words = `${found.count} of ${all} tokens · error ${(100 * found.error).toFixed(1)} %, cosine ${found.cosine.toFixed(3)}`;
      this.merged.say(words);
      this.keep.setAttribute("aria-valuetext", words);
    };
  }

  /** Lines between tokens, and the token at the point with the others darkened. */
  #borders(context, { grid: [rows, columns], token }, width, height) {
    const cell = [width / columns, height / rows];
    const chosen = this.app.over === this.merged ? token[patchAt({ rows, columns }, this.app.point())] : null;
    if (chosen !== null) {
      context.fillStyle = "rgb(8 9 14 / .66)";
      token.forEach((number, i) => {
        if (number !== chosen) context.fillRect((i % columns) * cell[0], Math.floor(i / columns) * cell[1], cell[0] + 0.5, cell[1] + 0.5);
      });
    }
    const lines = { all: new Path2D(), chosen: new Path2D() };
    const line = (one, other, from, to) => {
      if (one === other) return;
      const path = one === chosen || other === chosen ? lines.chosen : lines.all;
      path.moveTo(...from);
      path.lineTo(...to);
    };
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const at = row * columns + column;
        const [x, y] = [(column + 1) * cell[0], (row + 1) * cell[1]];
        if (column + 1 < columns) line(token[at], token[at + 1], [x, y - cell[1]], [x, y]);
        if (row + 1 < rows) line(token[at], token[at + columns], [x - cell[0], y], [x, y]);
      }
    }
    context.lineWidth = Math.max(1, Math.min(...cell) / 14);
    context.strokeStyle = "rgb(255 255 255 / .5)";
    context.stroke(lines.all);
    context.lineWidth = chosen === null ? context.lineWidth : Math.max(2.5, Math.min(...cell) / 6);
    context.strokeStyle = chosen === null ? context.strokeStyle : "#ffe14d";
    context.stroke(lines.chosen);
  }

  #over(tile) {
    const { picture } = this.app.photo;
    const alpha = 1 - this.app.blend;
    return (context, width, height) => {
      if (alpha < 1) context.drawImage(picture, 0, 0, width, height);
      drawTile(context, tile, 0, 0, width, height, alpha);
    };
  }

  /** Ask for a panel's map and show it, unless the photo or the size has changed meanwhile. */
  #show(panel, ask) {
    panel.asked = (panel.asked ?? 0) + 1;
    const { asked } = panel;
    const { turn } = this;
    if (!this.features) return;
    panel.busy(true);
    this.#guarded(panel, turn, async () => {
      const show = await ask();
      if (turn === this.turn && asked === panel.asked) show();
    });
  }

  async #guarded(panel, turn, work) {
    try {
      await work();
    } catch (error) {
      if (!(error instanceof api.Problem)) throw error;
      if (turn === this.turn) panel.explain(error.message);
    }
  }
}

/** Similarities without those of a patch's surroundings, which are alike in any photo. */
function elsewhere(values, patch, columns) {
  const [row, column] = [Math.floor(patch / columns), patch % columns];
  const near = (i) => Math.abs(Math.floor(i / columns) - row) <= NEAR && Math.abs((i % columns) - column) <= NEAR;
  return values.map((value, i) => (near(i) ? -2 : value));
}

/** Every patch in the mean color of its token. */
function meanColors(cells, token, count) {
  const sums = new Float64Array(4 * count);
  token.forEach((number, i) => {
    for (let k = 0; k < 3; k++) sums[4 * number + k] += cells[4 * i + k];
    sums[4 * number + 3]++;
  });
  const colors = new Uint8Array(3 * token.length);
  token.forEach((number, i) => {
    for (let k = 0; k < 3; k++) colors[3 * i + k] = sums[4 * number + k] / sums[4 * number + 3];
  });
  return colors;
}
