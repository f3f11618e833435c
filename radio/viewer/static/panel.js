// A picture with a title, tools, a line of words below, and a button that saves it.

import { drawFrame } from "./paint.js";

const SHOWN_SIDE = 1024;
/** Sides of a picture: how many times as long as the other at most. */
const LONGEST = 12;
const SAVE_ICON = `<svg viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round"
  stroke-linejoin="round" aria-hidden="true"><path d="M8 2v8M4.7 7 8 10.3 11.3 7M2.5 13.5h11"/></svg>`;

/** An element with properties and children. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export class Panel {
  /**
   * @param title Above the picture.
   * @param description What the picture shows, for those who do not see it.
   * @param tall The picture's largest height, in CSS.
   */
  constructor(title, description, tall = "var(--half)") {
    this.title = title;
    this.draw = null;
    this.box = null;
    this.size = [4, 3];
    this.canvas = element("canvas");
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", description);
    this.marked = element("div", { className: "mark", hidden: true });
    this.frame = element("div", { className: "frame" }, this.canvas, this.marked);
    this.why = element("p", { className: "why", hidden: true });
    this.picture = element("div", { className: "picture" }, this.frame, this.why);
    this.tools = element("div", { className: "tools" });
    this.words = element("footer");
    const save = element("button", { className: "save", type: "button", title: "Save this picture", innerHTML: SAVE_ICON });
    save.setAttribute("aria-label", `Save the picture: ${title}`);
    save.addEventListener("click", () => this.save());
    this.saver = save;
    const heading = element("header", {}, element("h3", { textContent: title }), this.tools);
    this.tools.append(save);
    this.element = element("figure", { className: "panel" }, heading, this.picture, this.words);
    this.element.style.setProperty("--tall", tall);
    this.name = "picture";
  }

  /** Put a tool before the button that saves. */
  addTool(tool) {
    this.tools.insertBefore(tool, this.saver);
    return tool;
  }

  /** Width and height of what is shown, in any unit. Strips become wider than they are, so that they can be seen. */
  setSize(width, height) {
    const ratio = Math.min(Math.max(width / height, 1 / LONGEST), LONGEST);
    this.size = [Math.min(ratio, 1), Math.min(1 / ratio, 1)].map((side) => Math.round(SHOWN_SIDE * side));
    [this.canvas.width, this.canvas.height] = this.size;
    this.frame.style.aspectRatio = `${ratio}`;
    this.frame.style.width = `min(100%, calc(var(--tall) * ${ratio}))`;
  }

  /** Show what a function draws: (context, width, height). */
  show(draw) {
    this.draw = draw;
    this.frame.hidden = false;
    this.why.hidden = true;
    this.saver.hidden = false;
    this.busy(false);
    this.paint();
  }

  /** Show a reason instead of a picture. */
  explain(reason) {
    this.draw = null;
    this.frame.hidden = true;
    this.saver.hidden = true;
    this.why.hidden = false;
    this.why.textContent = reason;
    this.words.replaceChildren();
    this.busy(false);
  }

  paint() {
    if (this.draw) this.#paintOn(this.canvas);
  }

  busy(yes) {
    this.picture.classList.toggle("busy", yes);
    this.picture.setAttribute("aria-busy", yes);
  }

  /** Frame a part: left, top, width, height in [0, 1]; nothing for null. */
  mark(box) {
    this.box = box;
    this.marked.hidden = !box;
    if (!box) return;
    const [left, top, width, height] = box.map((part) => `${100 * part}%`);
    Object.assign(this.marked.style, { left, top, width, height });
  }

  /** Words below the picture; ``heat`` puts the scale of colors between two of them. */
  say(...parts) {
    this.words.replaceChildren(
      ...parts.map((part) =>
        part === "heat"
          ? Object.assign(element("span", { className: "heat" }), { ariaHidden: "true" })
          : element("span", { textContent: part }),
      ),
    );
  }

  /** Follow the pointer over the picture. Coordinates are in [0, 1); null when it leaves. */
  onPoint(moved, picked) {
    const place = (event) => {
      const area = this.canvas.getBoundingClientRect();
      const inside = (part) => Math.min(Math.max(part, 0), 0.99999);
      return { x: inside((event.clientX - area.left) / area.width), y: inside((event.clientY - area.top) / area.height) };
    };
    let waiting = null;
    this.canvas.addEventListener("pointermove", (event) => {
      const first = waiting === null;
      waiting = place(event);
      if (first) {
        requestAnimationFrame(() => {
          if (waiting) moved(waiting);
          waiting = null;
        });
      }
    });
    this.canvas.addEventListener("pointerleave", () => {
      waiting = null;
      moved(null);
    });
    this.canvas.addEventListener("click", (event) => picked(place(event)));
  }

  /** Let arrow keys on the picture be steps across and down; with Shift five at a time. */
  onArrows(moved) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.addEventListener("keydown", (event) => {
      if (!(event.key in steps)) return;
      event.preventDefault();
      moved(...steps[event.key].map((step) => step * (event.shiftKey ? 5 : 1)));
    });
  }

  save() {
    const canvas = new OffscreenCanvas(...this.size);
    const context = this.#paintOn(canvas);
    const [width, height] = this.size;
    if (this.box) {
      const [x, y, w, h] = this.box;
      drawFrame(context, x * width, y * height, w * width, h * height);
    }
    canvas.convertToBlob({ type: "image/png" }).then((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${this.name}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
    });
  }

  #paintOn(canvas) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    this.draw(context, canvas.width, canvas.height);
    return context;
  }
}
