// Requests to the viewer. What was answered is kept, so that going back and forth costs nothing.

const STORED = "radio-session";
const KEPT_ANSWERS = 60;
const KEPT_VECTORS = 10;

let session = sessionStorage.getItem(STORED) ?? "";
const answers = new Map();
const vectors = new Map();

/** What went wrong, in words for the user. */
export class Problem extends Error {}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, "Radio-Session": session } });
  } catch {
    throw new Problem("The viewer does not answer. Has it ended? Start it again in the terminal and reload this page.");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({ error: `the viewer answered ${response.status}` }));
  throw new Problem(told.error);
}

/** Start a session, or go on with the one of this tab. */
export async function start() {
  const config = await (await call("api/session", { method: "POST" })).json();
  session = config.session;
  sessionStorage.setItem(STORED, session);
  return config;
}

export const photos = async () => (await call("api/photos")).json();

export const photoBlob = async (id) => (await call(`api/photos/${id}`)).blob();

export const addPhoto = async (file) =>
  (await call(`api/photos?${new URLSearchParams({ name: file.name })}`, { method: "POST", body: file })).json();

export const removePhoto = (id) => call(`api/photos/${id}`, { method: "DELETE" });

/** A map as JSON. */
export function map(what, parameters) {
  const path = `api/${what}?${new URLSearchParams(parameters)}`;
  return kept(answers, KEPT_ANSWERS, path, async () => (await call(path)).json());
}

/** Labels compared with a photo. */
export function words(parameters, labels) {
  const path = `api/words?${new URLSearchParams(parameters)}`;
  const body = JSON.stringify({ labels });
  return kept(answers, KEPT_ANSWERS, path + body, async () => (await call(path, { method: "POST", body })).json());
}

/** Unit vectors of all patches: {rows, columns, width, data}. */
export function features(parameters) {
  const path = `api/features?${new URLSearchParams(parameters)}`;
  return kept(vectors, KEPT_VECTORS, path, async () => {
    const response = await call(path);
    const [rows, columns, width] = response.headers.get("Radio-Shape").split(",").map(Number);
    return { rows, columns, width, data: fromHalves(await response.arrayBuffer()) };
  });
}

function kept(store, most, key, ask) {
  let answer = store.get(key);
  store.delete(key);
  answer ??= ask().catch((error) => {
    store.delete(key);
    throw error;
  });
  store.set(key, answer);
  if (store.size > most) store.delete(store.keys().next().value);
  return answer;
}

let table;

/** Little-endian float16 numbers as float32. */
function fromHalves(buffer) {
  table ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -24 * fraction);
  });
  const halves = new Uint16Array(buffer);
  const numbers = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) numbers[i] = table[halves[i]];
  return numbers;
}
