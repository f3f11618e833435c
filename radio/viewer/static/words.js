// A photo compared with labels in words.

import * as api from "./api.js";
import { number } from "./likeness.js";
import { drawTile, fromBase64, labelColor } from "./paint.js";
import { element, Panel } from "./panel.js";

/** Parts of a command that stay in one line. */
const COMMAND = ["radio view", "--model c-radio_v3-b", "--adaptor siglip2-g"];

export class Words {
  constructor(app, { form, labels, missing, panel, shares }) {
    this.app = app;
    this.form = form;
    this.labels = labels;
    this.missing = missing;
    this.shares = shares;
    this.turn = 0;
    this.chosen = null;
    this.found = null;
    this.panel = new Panel("Labels", "The photo with every patch in the color of the label that fits it best", "72vh");
    panel.append(this.panel.element);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.show();
    });
  }

  chooseModel() {
    const { text, name } = this.app.model;
    const can = text.length > 0;
    for (const part of [this.form, this.panel.element, this.shares]) part.hidden = !can;
    this.missing.hidden = can;
    this.missing.replaceChildren(
      `Words need a teacher that knows them, and ${name} was opened without one. Start the viewer with such an adaptor:`,
      element("code", {}, ...COMMAND.flatMap((part) => [" ", element("span", { textContent: part })]).slice(1)),
    );
  }

  async show() {
    const { text } = this.app.model;
    if (!text.length) return;
    const turn = ++this.turn;
    const { photo } = this.app;
    const labels = this.labels.value.split(",").map((label) => label.trim()).filter(Boolean);
    this.found = null;
    this.shares.replaceChildren();
    this.panel.setSize(photo.width, photo.height);
    this.panel.name = `${photo.stem}-labels-${this.app.size}`;
    this.panel.show((context, width, height) => context.drawImage(photo.picture, 0, 0, width, height));
    this.panel.say(labels.length ? "" : "Write what may be in the photo, with commas between the words.");
    if (!labels.length) return;
    this.panel.busy(true);
    const parameters = this.app.parameters();
    const adaptor = text.includes(parameters.adaptor) ? parameters.adaptor : text[0];
    try {
      const found = await api.words({ ...parameters, adaptor }, labels);
      if (turn !== this.turn) return;
      this.found = { ...found, adaptor, maps: fromBase64(found.maps) };
      this.chosen = null;
      this.#list();
      this.#paint();
    } catch (error) {
      if (!(error instanceof api.Problem)) throw error;
      if (turn === this.turn) this.panel.explain(error.message);
    }
  }

  point() {
    return "";
  }

  repaint() {
    if (this.found) this.#paint();
  }

  #list() {
    const { labels, share, similarity } = this.found;
    const order = labels.map((_, i) => i).sort((a, b) => share[b] - share[a]);
    this.shares.replaceChildren(
      ...order.map((i) => {
        const dot = element("span", { className: "dot" });
        const filled = element("i");
        dot.style.background = filled.style.background = labelColor(i);
        filled.style.width = `${100 * share[i]}%`;
        const told = `${(100 * share[i]).toFixed(1)} % · ${number(similarity[i])}`;
        const button = element(
          "button",
          { type: "button", title: "Show where" },
          dot,
          element("span", { textContent: labels[i] }),
          element("span", { className: "number", textContent: told }),
          element("span", { className: "bar" }, filled),
        );
        button.setAttribute("aria-pressed", "false");
        button.addEventListener("click", () => {
          this.chosen = this.chosen === i ? null : i;
          for (const each of this.shares.querySelectorAll("button")) {
            each.setAttribute("aria-pressed", each === button && this.chosen !== null);
          }
          this.#paint();
        });
        return element("li", {}, button);
      }),
    );
  }

  #paint() {
    const { grid: [rows, columns], maps, labels, low, high, adaptor } = this.found;
    const { picture } = this.app.photo;
    const size = rows * columns;
    if (this.chosen !== null) {
      const values = maps.subarray(this.chosen * size, (this.chosen + 1) * size);
      const tile = this.app.heat(values, rows, columns, 0.6);
      this.panel.show((context, width, height) => {
        context.drawImage(picture, 0, 0, width, height);
        drawTile(context, tile, 0, 0, width, height, 0.85 - 0.6 * this.app.blend);
      });
      this.panel.say(number(low), "heat", number(high), `cosine of patches with “${labels[this.chosen]}”`);
      return;
    }
    this.panel.show((context, width, height) => {
      context.filter = "grayscale(1)";
      context.drawImage(picture, 0, 0, width, height);
      context.filter = "none";
      context.globalAlpha = 0.6 - 0.4 * this.app.blend;
      this.found.best.forEach((label, i) => {
        const [x, y] = [i % columns, Math.floor(i / columns)];
        const [left, top] = [Math.round((x * width) / columns), Math.round((y * height) / rows)];
        context.fillStyle = labelColor(label);
        context.fillRect(left, top, Math.round(((x + 1) * width) / columns) - left, Math.round(((y + 1) * height) / rows) - top);
      });
      context.globalAlpha = 1;
    });
    this.panel.say(`The label that fits each patch best, in the space of ${adaptor}`);
  }
}
