// The page: what is chosen, and which view shows it.

import * as api from "./api.js";
import { Explore } from "./explore.js";
import { Match } from "./match.js";
import { heatTile, setHeat } from "./paint.js";
import { element } from "./panel.js";
import { Sizes } from "./sizes.js";
import { Words } from "./words.js";

const by = (id) => document.getElementById(id);

class App {
  photos = [];
  photo = null;
  blend = 0;
  smooth = false;
  over = null;
  #picked = { x: 0.5, y: 0.42 };
  #hovered = null;

  async start() {
    this.config = await api.start();
    setHeat(this.config.heat);
    this.views = {
      explore: new Explore(this, by("explore")),
      match: new Match(this, by("match-panel"), by("other"), [...document.getElementsByName("match-show")], by("match-hint")),
      sizes: new Sizes(this, by("ladder"), [...document.getElementsByName("sizes-show")]),
      words: new Words(this, {
        form: by("words-form"), labels: by("labels"), missing: by("no-words"), panel: by("words-panel"), shares: by("shares"),
      }),
    };
    this.view = "explore";
    this.#wire();
    this.#chooseModel();
    for (const described of await api.photos()) await this.#take(described);
    this.#list();
    if (this.photos.length) this.choosePhoto(this.photos[0]);
    else this.#arrange();
    document.documentElement.dataset.ready = "true";
  }

  /** What a request for a map names. */
  parameters() {
    return { model: this.model.name, adaptor: by("adaptor").value, size: this.size, photo: this.photo.id };
  }

  /** The point that counts: under the pointer, else the one that was kept. */
  point() {
    return this.#hovered ?? this.#picked;
  }

  hover(point, panel = null) {
    this.#hovered = point;
    this.over = point ? panel : null;
    this.views[this.view].point();
  }

  pick(point) {
    this.#picked = point;
    this.#hovered = null;
    this.progress(this.views[this.view].point());
  }

  /** Move the point by patches. */
  step(across, down) {
    const { grid } = this.views[this.view];
    if (!grid) return;
    const moved = (part, by, count) => (Math.min(Math.max(Math.floor(part * count) + by, 0), count - 1) + 0.5) / count;
    const { x, y } = this.point();
    this.pick({ x: moved(x, across, grid.columns), y: moved(y, down, grid.rows) });
  }

  /** A tile in the style that is chosen: patches as squares, or smooth. */
  tile(make, values, rows, columns, ...more) {
    const made = make(values, rows, columns, this.smooth, ...more);
    made.smooth = this.smooth;
    return made;
  }

  /** A tile of heat: the more the photo shows behind maps, the more low values let it through. */
  heat(values, rows, columns, fading = Math.min(2 * this.blend, 1)) {
    return this.tile(heatTile, values, rows, columns, fading);
  }

  /** A tile whose patches are squares. */
  plain(make, values, rows, columns) {
    const made = make(values, rows, columns, false);
    made.smooth = false;
    return made;
  }

  progress(words) {
    by("status").textContent = words;
  }

  /** The grid at the size that is chosen, from the features themselves. */
  measured({ rows, columns }) {
    by("size-text").textContent = `${this.size} px · ${columns} × ${rows}`;
  }

  choosePhoto(photo) {
    this.photo = photo;
    this.#picked = { x: 0.5, y: 0.42 };
    this.progress("");
    this.#list();
    this.#show();
  }

  #show() {
    this.#arrange();
    if (this.photo) this.views[this.view].show();
  }

  #arrange() {
    by("welcome").hidden = Boolean(this.photo);
    for (const name of Object.keys(this.views)) by(name).hidden = !this.photo || name !== this.view;
  }

  #wire() {
    const { config } = this;
    by("model").replaceChildren(...config.models.map(({ name }) => new Option(shortened(name), name)));
    by("model").addEventListener("change", () => {
      this.#chooseModel();
      this.#show();
    });
    by("adaptor").addEventListener("change", () => this.#show());
    let later;
    by("size").addEventListener("input", () => {
      this.#sizeChosen();
      clearTimeout(later);
      later = setTimeout(() => this.#show(), 250);
    });
    by("blend").addEventListener("input", () => {
      this.blend = by("blend").value / 100;
      by("blend-text").textContent = `${by("blend").value} %`;
      if (this.photo) this.views[this.view].repaint();
    });
    by("blend-text").textContent = "0 %";
    by("smooth").addEventListener("change", () => {
      this.smooth = by("smooth").checked;
      if (this.photo) this.views[this.view].repaint();
    });
    by("add").addEventListener("change", () => {
      this.#add([...by("add").files]);
      by("add").value = "";
    });
    by("problem").querySelector("button").addEventListener("click", () => (by("problem").hidden = true));
    this.#wireTabs();
    this.#wireDrops();
  }

  #wireTabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const choose = (tab) => {
      for (const each of tabs) {
        each.setAttribute("aria-selected", each === tab);
        each.tabIndex = each === tab ? 0 : -1;
      }
      this.views[this.view].leave?.();
      this.view = tab.getAttribute("aria-controls");
      this.progress("");
      this.#show();
    };
    tabs.forEach((tab, i) => {
      tab.addEventListener("click", () => choose(tab));
      tab.addEventListener("keydown", ({ key }) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
        if (!step) return;
        const next = tabs[(i + step + tabs.length) % tabs.length];
        next.focus();
        choose(next);
      });
    });
  }

  #wireDrops() {
    let inside = 0;
    const show = (by_) => {
      inside = Math.max(inside + by_, 0);
      by("drop").hidden = !inside;
    };
    addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && show(1));
    addEventListener("dragleave", () => show(-1));
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
      event.preventDefault();
      show(-inside);
      this.#add([...(event.dataTransfer?.files ?? [])]);
    });
    addEventListener("paste", (event) => this.#add([...(event.clipboardData?.files ?? [])]));
  }

  #chooseModel() {
    this.model = this.config.models.find(({ name }) => name === by("model").value);
    const { adaptors, sizes, size } = this.model;
    by("adaptor").replaceChildren(...adaptors.map((name) => new Option(name, name)));
    by("adaptor").disabled = adaptors.length < 2;
    by("model").disabled = this.config.models.length < 2;
    by("model").title = this.model.name;
    by("size").max = sizes.length - 1;
    by("size").value = sizes.indexOf(size);
    this.#sizeChosen();
    for (const view of Object.values(this.views)) view.chooseModel();
  }

  #sizeChosen() {
    this.size = this.model.sizes[by("size").value];
    by("size-text").textContent = `${this.size} px`;
    by("size").setAttribute("aria-valuetext", `${this.size} pixels, long side`);
  }

  async #add(files) {
    by("problem").hidden = true;
    const problems = new Map(); // how many files each is about
    let last = null;
    for (const [i, file] of files.entries()) {
      this.progress(`Adding ${file.name}${files.length > 1 ? ` (${i + 1} of ${files.length})` : ""} …`);
      try {
        if (file.size > this.config.limits.bytes) {
          throw new api.Problem(`${file.name} is too large: at most ${Math.round(this.config.limits.bytes / 2 ** 20)} MB can be added`);
        }
        last = await this.#take(await api.addPhoto(file));
      } catch (error) {
        if (!(error instanceof api.Problem)) throw error;
        problems.set(error.message, (problems.get(error.message) ?? 0) + 1);
      }
    }
    this.progress("");
    const told = [...problems].map(([words, count]) => (count > 1 ? `${count} photos were not added: ${words}` : words));
    if (told.length) this.#complain(told.join("\n"));
    if (last) this.choosePhoto(last);
  }

  async #take(described) {
    const blob = await api.photoBlob(described.id);
    const photo = {
      ...described,
      stem: described.name.replace(/\.[^.]*$/, "").replace(/[^\p{L}\p{N}_-]+/gu, "-") || "photo",
      picture: await createImageBitmap(blob),
      address: URL.createObjectURL(blob),
    };
    this.photos.push(photo);
    return photo;
  }

  async #remove(photo) {
    await api.removePhoto(photo.id);
    this.photos = this.photos.filter((each) => each !== photo);
    URL.revokeObjectURL(photo.address);
    if (this.photo === photo) this.photo = this.photos[0] ?? null;
    this.progress("");
    this.#list();
    this.#show();
  }

  #list() {
    by("photos").replaceChildren(
      ...this.photos.map((photo) => {
        const picture = element("img", { src: photo.address, alt: photo.name });
        const pick = element("button", { type: "button", className: "pick", title: photo.name }, picture);
        pick.setAttribute("aria-pressed", photo === this.photo);
        pick.addEventListener("click", () => this.choosePhoto(photo));
        const item = element("li", {}, pick);
        if (photo.own) {
          const remove = element("button", { type: "button", className: "remove", textContent: "×" });
          remove.setAttribute("aria-label", `Remove ${photo.name}`);
          remove.addEventListener("click", () => this.#remove(photo));
          item.append(remove);
        }
        return item;
      }),
    );
  }

  #complain(words) {
    by("problem").querySelector("p").textContent = words;
    by("problem").hidden = false;
  }

  /** Say what went wrong where nobody else did. */
  failed(error) {
    this.#complain(error instanceof api.Problem ? error.message : `Something failed on this page: ${error.message ?? error}`);
  }
}

/** The end of a path, which says most. */
function shortened(name) {
  const parts = name.split(/[/\\]/).filter(Boolean);
  return parts.length > 2 ? `…/${parts.slice(-2).join("/")}` : name;
}

const app = new App();
addEventListener("unhandledrejection", (event) => app.failed(event.reason));
app.start();
