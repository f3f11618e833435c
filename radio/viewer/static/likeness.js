// Cosine similarities of patches. Features are unit vectors: {rows, columns, width, data}.

/** Number of the patch at a point with coordinates in [0, 1). */
export function patchAt(features, point) {
  const row = Math.min(Math.floor(point.y * features.rows), features.rows - 1);
  const column = Math.min(Math.floor(point.x * features.columns), features.columns - 1);
  return Math.max(row, 0) * features.columns + Math.max(column, 0);
}

/** Similarity of every patch of some features with one patch of others, or of the same. */
export function similarity(features, others, patch) {
  const { width, data } = features;
  const query = others.data.subarray(patch * width, (patch + 1) * width);
  const found = new Float32Array(features.rows * features.columns);
  for (let i = 0, at = 0; i < found.length; i++) {
    let sum = 0;
    for (let k = 0; k < width; k++, at++) sum += data[at] * query[k];
    found[i] = sum;
  }
  return found;
}

/** Number of the largest value. */
export function best(values) {
  let at = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[at]) at = i;
  return at;
}

export const least = (values) => values.reduce((low, value) => Math.min(low, value), Infinity);

/** A similarity in words. */
export const number = (value) => value.toFixed(2).replace("-", "−");

/** Values from low to high as numbers from 0 to 255. */
export function toBytes(values, low, high = 1) {
  const scale = 255 / Math.max(high - low, 1e-6);
  return values.map((value) => (value - low) * scale);
}

/** Left, top, width and height of a patch, in [0, 1]. */
export function patchBox(features, patch) {
  const row = Math.floor(patch / features.columns);
  const column = patch % features.columns;
  return [column / features.columns, row / features.rows, 1 / features.columns, 1 / features.rows];
}
