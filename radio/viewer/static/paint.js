// From maps at the resolution of the patches to pixels.

const SMOOTH = 8;
let heat = new Uint8Array(768);

/** Take the colors of values, from low to high, as the library has them. */
export function setHeat(anchors) {
  heat = Uint8Array.from({ length: 768 }, (_, i) => {
    const place = (Math.floor(i / 3) / 255) * (anchors.length - 1);
    const low = Math.min(Math.floor(place), anchors.length - 2);
    return Math.round(anchors[low][i % 3] + (anchors[low + 1][i % 3] - anchors[low][i % 3]) * (place - low));
  });
  const stops = anchors.map((color) => `rgb(${color.join(" ")})`).join(", ");
  document.documentElement.style.setProperty("--heat", `linear-gradient(90deg, ${stops})`);
}

export const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** A map of values in 0…255 in the colors of heat; with fading, low values let through what is behind. */
export function heatTile(values, rows, columns, smooth, fading = 0) {
  const [v, r, c] = smooth ? enlarged(values, rows, columns, 1) : [values, rows, columns];
  return tile(r, c, (out) => {
    for (let i = 0; i < r * c; i++) {
      const value = Math.max(0, Math.min(255, Math.round(v[i])));
      const color = 3 * value;
      out[4 * i] = heat[color];
      out[4 * i + 1] = heat[color + 1];
      out[4 * i + 2] = heat[color + 2];
      out[4 * i + 3] = 255 - fading * (255 - value);
    }
  });
}

/** A map of colors (rows, columns, 3) in 0…255. */
export function colorTile(rgb, rows, columns, smooth) {
  const [v, r, c] = smooth ? enlarged(rgb, rows, columns, 3) : [rgb, rows, columns];
  return tile(r, c, (out) => {
    for (let i = 0; i < r * c; i++) {
      out[4 * i] = v[3 * i];
      out[4 * i + 1] = v[3 * i + 1];
      out[4 * i + 2] = v[3 * i + 2];
      out[4 * i + 3] = 255;
    }
  });
}

/** A map of darkness: 0 covers a patch, 255 leaves it as it is. */
export function shadeTile(mask, rows, columns, smooth, ink = [10, 11, 18], most = 0.86) {
  const [v, r, c] = smooth ? enlarged(mask, rows, columns, 1) : [mask, rows, columns];
  return tile(r, c, (out) => {
    for (let i = 0; i < r * c; i++) {
      out.set([...ink, Math.round((255 - v[i]) * most)], 4 * i);
    }
  });
}

/** Draw a tile over a whole picture. */
export function drawTile(context, source, x, y, width, height, alpha = 1) {
  context.save();
  context.globalAlpha = alpha;
  context.imageSmoothingEnabled = source.smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(source, x, y, width, height);
  context.restore();
}

/** A frame around a part of a picture, visible on any ground. */
export function drawFrame(context, x, y, width, height) {
  context.save();
  for (const [line, color] of [[5, "rgb(0 0 0 / .8)"], [2.5, "#fff"]]) {
    context.lineWidth = line;
    context.strokeStyle = color;
    context.strokeRect(x, y, width, height);
  }
  context.restore();
}

/** Colors that are easy to tell apart: hues a golden angle apart, in three styles by turns. */
export function labelColor(number) {
  const styles = [[72, 56], [62, 70], [66, 42]];
  const [saturation, lightness] = styles[number % 3];
  return `hsl(${((0.02 + number * 0.618034) % 1) * 360} ${saturation}% ${lightness}%)`;
}

/** The mean color of a picture in every cell of a grid: (rows, columns, 4) bytes. */
export function cellColors(picture, rows, columns) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, columns, rows);
  return context.getImageData(0, 0, columns, rows).data;
}

function tile(rows, columns, fill) {
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, rows);
  fill(image.data);
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Bilinear, between the centers of the patches. */
function enlarged(values, rows, columns, channels) {
  const r = rows * SMOOTH;
  const c = columns * SMOOTH;
  const out = new Float32Array(r * c * channels);
  const place = (i, most) => {
    const at = Math.min(Math.max((i + 0.5) / SMOOTH - 0.5, 0), most - 1);
    const low = Math.min(Math.floor(at), Math.max(most - 2, 0));
    return [low, Math.min(low + 1, most - 1), at - low];
  };
  const across = Array.from({ length: c }, (_, x) => place(x, columns));
  for (let y = 0; y < r; y++) {
    const [top, bottom, down] = place(y, rows);
    for (let x = 0; x < c; x++) {
      const [left, right, aside] = across[x];
      for (let k = 0; k < channels; k++) {
        const at = (row, column) => values[(row * columns + column) * channels + k];
        const above = at(top, left) + (at(top, right) - at(top, left)) * aside;
        const below = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * aside;
        out[(y * c + x) * channels + k] = above + (below - above) * down;
      }
    }
  }
  return [out, r, c];
}
