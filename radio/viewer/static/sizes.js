// One photo at growing sizes, side by side.

import * as api from "./api.js";
import { least, patchAt, patchBox, similarity, toBytes } from "./likeness.js";
import { colorTile, drawTile, fromBase64 } from "./paint.js";
import { Panel } from "./panel.js";

export class Sizes {
  constructor(app, root, choices) {
    this.app = app;
    this.root = root;
    this.choices = choices;
    this.turn = 0;
    this.panels = [];
    this.features = [];
    this.photo = new Panel("Photo", "The photo");
    this.photo.onPoint((point) => app.hover(point, this.photo), (point) => app.pick(point));
    this.photo.onArrows((across, down) => app.step(across, down));
    for (const choice of choices) choice.addEventListener("change", () => this.#paint());
  }

  chooseModel() {
    this.panels = this.app.model.ladder.map((size) => {
      const panel = new Panel(`${size} px`, `The photo run at ${size} pixels`);
      panel.onPoint((point) => this.app.hover(point, panel), (point) => this.app.pick(point));
      return panel;
    });
    this.root.replaceChildren(this.photo.element, ...this.panels.map((panel) => panel.element));
  }

  async show() {
    const { photo, model } = this.app;
    const turn = ++this.turn;
    this.features = [];
    this.colors = null;
    this.photo.setSize(photo.width, photo.height);
    this.photo.name = photo.stem;
    this.photo.show((context, width, height) => context.drawImage(photo.picture, 0, 0, width, height));
    this.photo.say(`${photo.name} · ${photo.width} × ${photo.height}`);
    for (const [i, panel] of this.panels.entries()) {
      panel.setSize(photo.width, photo.height);
      panel.name = `${photo.stem}-${model.ladder[i]}`;
      panel.mark(null);
      panel.show((context, width, height) => context.drawImage(photo.picture, 0, 0, width, height));
      panel.say("…");
      panel.busy(true);
    }
    try {
      for (const [i, size] of model.ladder.entries()) {
        const features = await api.features({ ...this.app.parameters(), size });
        if (turn !== this.turn) return;
        this.features[i] = features;
        this.panels[i].say(`${features.columns} × ${features.rows} patches`);
        this.app.progress(`${i + 1} of ${model.ladder.length} sizes`);
      }
      const found = await api.map("sizes", this.app.parameters());
      if (turn !== this.turn) return;
      this.colors = found;
      this.app.progress("");
      this.#paint();
    } catch (error) {
      if (!(error instanceof api.Problem)) throw error;
      if (turn !== this.turn) return;
      this.app.progress("");
      for (const panel of this.panels) panel.explain(error.message);
    }
  }

  /** Another view is shown: ask for no more sizes. */
  leave() {
    this.turn++;
  }

  repaint() {
    if (this.colors) this.#paint();
  }

  /** The grid that arrow keys step on. */
  get grid() {
    return this.features.at(-1);
  }

  point() {
    if (this.#shows === "similarity") this.#paint();
    return "";
  }

  get #shows() {
    return this.choices.find((choice) => choice.checked).value;
  }

  #paint() {
    if (!this.colors) return;
    const similar = this.#shows === "similarity";
    const maps = similar ? this.features.map((features) => this.#alike(features)) : [];
    const low = similar ? Math.min(...maps.map(({ values }) => least(values))) : 0;
    this.photo.mark(similar ? maps.at(-1).box : null);
    const last = this.panels.length - 1;
    this.panels.forEach((panel, i) => {
      const features = this.features[i];
      const { rgb, grid } = this.colors.colors[i];
      const tile = similar
        ? this.app.heat(toBytes(maps[i].values, low), features.rows, features.columns)
        : this.app.tile(colorTile, fromBase64(rgb), ...grid);
      const alpha = 1 - this.app.blend;
      const { picture } = this.app.photo;
      panel.show((context, width, height) => {
        if (alpha < 1) context.drawImage(picture, 0, 0, width, height);
        drawTile(context, tile, 0, 0, width, height, alpha);
      });
      panel.mark(similar ? maps[i].box : null);
      const alike = i === last ? "" : ` · ${this.colors.alike[i].toFixed(2)} like ${this.app.model.ladder[last]} px`;
      panel.say(`${features.columns} × ${features.rows} patches${alike}`);
    });
  }

  #alike(features) {
    const patch = patchAt(features, this.app.point());
    return { values: similarity(features, features, patch), box: patchBox(features, patch) };
  }
}
