/** What a visitor sees and does. The worker decodes; pictures that it made are kept. */
import { Reader, StreamError } from "./decoder.js";

/** @typedef {{ bytes: number, psnr: number, file: string }} Other */
/** @typedef {{ name: string, stream: string, original?: string, others?: Record<string, Other[]> }} Picture */

const MOST_KEPT = 192 << 20; // bytes of pictures
const STARTING_RATE = 0.25; // bits per pixel
const CLOSEST = 32; // as far as one can zoom in

const $ = (/** @type {string} */ id) => /** @type {any} */ (document.getElementById(id));
const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const canvas = /** @type {HTMLCanvasElement} */ ($("ours"));
const number = new Intl.NumberFormat("en");

/** @type {Picture[]} */
let pictures = [];
/** What is shown: everything here is of one stream. */
let view = fresh(0);

/** @param {number} stream */
function fresh(stream) {
  return {
    stream,
    picture: /** @type {Picture | null} */ (null),
    bytes: new Uint8Array(0),
    reader: new Reader(),
    level: 0,
    chosen: false, // by the visitor
    most: 0, // levels that can be shown
    kept: /** @type {Map<number, ImageData>} */ (new Map()),
    psnrs: /** @type {Map<number, number>} */ (new Map()),
    original: /** @type {ImageData | null} */ (null),
    drawn: 0,
    problem: "",
    whole: false,
  };
}

// --- Streams -------------------------------------------------------------------------------------

/** Begin with another stream. @param {Picture | null} picture */
function begin(picture) {
  stop();
  view = fresh(view.stream + 1);
  view.picture = picture;
  canvas.width = canvas.height = 0;
  const codecs = Object.entries(picture?.others ?? {}).filter(([, files]) => files.length);
  const choices = [
    "nothing",
    ...codecs.map(([codec]) => codec),
    ...(picture?.original ? ["the original"] : []),
  ];
  const before = $("beside").value;
  $("beside").replaceChildren(...choices.map((choice) => new Option(choice)));
  $("beside").value = choices.includes(before) ? before : (choices[1] ?? choices[0]);
  $("comparison").hidden = choices.length < 2;
  draw();
}

/** @param {Picture} picture */
async function load(picture) {
  begin(picture);
  const now = view;
  try {
    const answer = await fetch(picture.stream);
    if (!answer.ok || !answer.body) throw new Error(`${answer.status}`);
    const arriving = answer.body.getReader();
    for (let part; !(part = await arriving.read()).done && now === view;) arrive(part.value);
  } catch (error) {
    now.problem = `${picture.name} cannot be loaded (${error}). Load the page again.`;
  }
  if (now === view) arrive(new Uint8Array(0), true);
}

/** Take more bytes of the stream. @param {Uint8Array} more @param {boolean} [last] */
function arrive(more, last = false) {
  const now = view;
  const bytes = new Uint8Array(now.bytes.length + more.length);
  bytes.set(now.bytes);
  bytes.set(more, now.bytes.length);
  now.bytes = bytes;
  now.whole = last;
  try {
    for (const _ of now.reader.read(bytes)) now.most = now.reader.ends.length;
    if (last && !now.most && !now.problem) throw now.reader.incomplete(bytes);
  } catch (error) {
    if (!(error instanceof StreamError)) throw error;
    now.problem = error.message;
  }
  const header = now.reader.header;
  if (header && !canvas.width && header.width * header.height <= 2 ** 27) {
    [canvas.width, canvas.height] = [header.width, header.height];
    place();
  }
  $("slider").max = header?.levels ?? 1;
  worker.postMessage({ stream: now.stream, bytes });
  if (!header || !now.most) return draw();
  const most = (STARTING_RATE / 8) * header.width * header.height;
  const start = Math.max(1, now.reader.ends.filter((end) => end <= most).length);
  show(now.chosen ? now.level : start, now.chosen);
  if (last && now.picture?.original) original(now, now.picture.original);
}

/** Fetch the original, which the PSNR needs. @param {typeof view} now @param {string} file */
async function original(now, file) {
  const blob = await (await fetch(file)).blob();
  const image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = /** @type {any} */ (new OffscreenCanvas(image.width, image.height).getContext("2d"));
  context.drawImage(image, 0, 0);
  now.original = context.getImageData(0, 0, image.width, image.height);
  if (now === view) draw();
}

worker.onmessage = ({ data }) => {
  if (data.stream !== view.stream) return;
  if (data.error) {
    view.problem ||= data.error;
    view.most = Math.min(view.most, data.level);
    if (view.level > view.most) show(view.most, view.chosen);
  } else {
    keep(data.level, new ImageData(data.rgba, data.width, data.height));
  }
  draw();
};

worker.onerror = () => {
  view.problem = "The decoder could not be started: this browser may be too old for it.";
  draw();
};

/** Keep a picture; of too many, those farthest from what is shown go. @param {number} level @param {ImageData} image */
function keep(level, image) {
  view.kept.set(level, image);
  const most = Math.max(2, MOST_KEPT / image.data.length);
  const distance = (/** @type {number} */ other) => Math.abs(other - view.level);
  while (view.kept.size > most)
    view.kept.delete([...view.kept.keys()].reduce((a, b) => (distance(b) > distance(a) ? b : a)));
}

// --- What is drawn -------------------------------------------------------------------------------

/** Show a level, or at first the nearest picture that is there. @param {number} level @param {boolean} chosen */
function show(level, chosen = true) {
  view.chosen = chosen;
  view.level = Math.max(0, Math.min(level, view.most));
  $("slider").value = Math.max(1, view.level);
  if (view.level) worker.postMessage({ stream: view.stream, level: view.level });
  draw();
}

function draw() {
  const { level, kept, reader, picture } = view;
  const near = [...kept.keys()].filter((other) => other <= level).reduce((a, b) => Math.max(a, b), 0);
  const found = level ? near || Math.min(...kept.keys()) : 0;
  const image = kept.get(found);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  if (image && view.drawn !== found) context.putImageData(image, 0, 0);
  if (!image) context.clearRect(0, 0, canvas.width, canvas.height);
  view.drawn = image ? found : 0;
  canvas.dataset.level = String(view.drawn);

  const { width = 1, height = 1 } = reader.header ?? {};
  const bytes = level ? reader.ends[level - 1] : 0;
  const rate = ((8 * bytes) / (width * height)).toFixed(3);
  const quality = image && found === level ? psnr(level, image) : null;
  const decibels = quality === null ? "" : quality < Infinity ? `, ${quality.toFixed(2)} dB` : ", exact";
  const whole = reader.header ? number.format(reader.header.whole) : "";
  $("facts").innerHTML = reader.header
    ? `<b>${number.format(bytes)}</b> of ${whole} bytes, ${rate} bits per pixel${decibels}, level ${level} of ${reader.header.levels}`
    : "";
  $("slider").setAttribute(
    "aria-valuetext",
    `${number.format(bytes)} bytes, ${rate} bits per pixel${decibels}`,
  );
  $("slider").disabled = !view.most;
  $("play").disabled = !view.most;
  $("caption").textContent = level ? `ProgDTD, ${number.format(bytes)} bytes${decibels}` : "";

  const cut = view.whole && reader.header && view.most < reader.header.levels;
  const cutAt = cut ? `The file is cut: ${view.most} of its ${reader.header?.levels} levels are here.` : "";
  const waiting = level && found !== level ? "Decoding …" : "";
  $("status").textContent = view.problem || waiting || (view.most ? cutAt : view.stream ? "Loading …" : "");
  $("status").className = view.problem ? "wrong" : "";
  $("stage").setAttribute("aria-busy", String(!!waiting));

  const beside = $("beside").value;
  const files = picture?.others?.[beside] ?? [];
  const distance = (/** @type {Other} */ other) => Math.abs(Math.log(other.bytes / bytes));
  const other = files.length && bytes ? files.reduce((a, b) => (distance(b) < distance(a) ? b : a)) : null;
  const source = other?.file ?? (beside === "the original" ? picture?.original : undefined);
  for (const id of ["right", "divider", "other-caption"]) $(id).hidden = !source;
  if (source && $("theirs").getAttribute("src") !== source) $("theirs").src = source;
  $("other-caption").textContent = other
    ? `${beside}, ${number.format(other.bytes)} bytes, ${other.psnr.toFixed(2)} dB`
    : "The original";
  place();
}

/** The PSNR of a level in dB; null without an original. @param {number} level @param {ImageData} image */
function psnr(level, image) {
  const { original, psnrs } = view;
  if (!original || original.width !== image.width || original.height !== image.height) return null;
  const known = psnrs.get(level);
  if (known !== undefined) return known;
  let sum = 0;
  for (let i = 0; i < image.data.length; i++) if (i % 4 < 3) sum += (image.data[i] - original.data[i]) ** 2;
  const found = 10 * Math.log10(255 ** 2 / (sum / (0.75 * image.data.length)));
  psnrs.set(level, found);
  return found;
}

// --- Zoom, pan and divider -----------------------------------------------------------------------

let [zoom, x, y, divider] = [1, 0, 0, 50];

/** Both sides at the same place. */
function place() {
  const stage = $("stage");
  const [wide, tall] = [stage.clientWidth, stage.clientHeight];
  const fit = Math.min(wide / (canvas.width || 1), tall / (canvas.height || 1), 8);
  const scale = fit * zoom;
  const reach = (/** @type {number} */ side, /** @type {number} */ there) =>
    Math.max(0, (side * scale - there) / 2);
  x = Math.max(-reach(canvas.width, wide), Math.min(reach(canvas.width, wide), x));
  y = Math.max(-reach(canvas.height, tall), Math.min(reach(canvas.height, tall), y));
  for (const [name, value] of [
    ["--x", `${x}px`],
    ["--y", `${y}px`],
    ["--scale", scale],
    ["--divider", `${divider}%`],
  ])
    stage.style.setProperty(name, value);
  stage.classList.toggle("large", scale * devicePixelRatio >= 2);
  stage.classList.toggle("zoomed", zoom > 1);
  stage.classList.toggle("held", zoom > 1 || !$("divider").hidden);
  $("divider").setAttribute("aria-valuenow", String(Math.round(divider)));
}

/** Zoom about a point of the stage, by default its middle. @param {number} times @param {{ clientX: number, clientY: number }} [at] */
function zoomBy(times, at) {
  const box = $("stage").getBoundingClientRect();
  const after = Math.max(1, Math.min(CLOSEST, zoom * times));
  const [fromX, fromY] = at
    ? [at.clientX - box.x - box.width / 2, at.clientY - box.y - box.height / 2]
    : [0, 0];
  x = fromX + ((x - fromX) * after) / zoom;
  y = fromY + ((y - fromY) * after) / zoom;
  zoom = after;
  place();
}

/** @param {number} percent */
function divide(percent) {
  divider = Math.max(0, Math.min(100, percent));
  place();
}

/** @type {Map<number, PointerEvent>} */
const pointers = new Map();
let dividing = false;

$("stage").addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
  if (event.button) return;
  pointers.set(event.pointerId, event);
  $("stage").setPointerCapture(event.pointerId);
  dividing = pointers.size === 1 && !$("divider").hidden && (event.target === $("divider") || zoom === 1);
});
$("stage").addEventListener("pointermove", (/** @type {PointerEvent} */ event) => {
  const before = pointers.get(event.pointerId);
  if (!before) return;
  const other = [...pointers.values()].find(({ pointerId }) => pointerId !== event.pointerId);
  const box = $("stage").getBoundingClientRect();
  if (other) {
    const apart = (/** @type {PointerEvent} */ one) =>
      Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    zoomBy(apart(event) / Math.max(1, apart(before)), other);
  } else if (dividing) {
    divide((100 * (event.clientX - box.x)) / box.width);
  } else {
    x += event.clientX - before.clientX;
    y += event.clientY - before.clientY;
    place();
  }
  pointers.set(event.pointerId, event);
});
for (const end of ["pointerup", "pointercancel"])
  $("stage").addEventListener(end, (/** @type {PointerEvent} */ event) => pointers.delete(event.pointerId));
$("stage").addEventListener(
  "wheel",
  (/** @type {WheelEvent} */ event) => {
    event.preventDefault();
    zoomBy(2 ** (-event.deltaY / 400), event);
  },
  { passive: false },
);
$("in").onclick = () => zoomBy(1.5);
$("out").onclick = () => zoomBy(1 / 1.5);
$("fit").onclick = () => zoomBy(1 / CLOSEST);
new ResizeObserver(place).observe($("stage"));

// --- Keys, slider and playing --------------------------------------------------------------------

let playing = 0; // the animation frame that comes next

function play() {
  const [now, began] = [view, performance.now()];
  const frame = () => {
    const bytes = ((performance.now() - began) / 1000) * $("speed").value * 125;
    const level = now.reader.ends.filter((end) => end <= bytes).length;
    if (now !== view || level >= now.most) stop();
    else playing = requestAnimationFrame(frame);
    if (now === view && level !== now.level) show(level);
  };
  playing = requestAnimationFrame(frame);
  $("play").textContent = "■";
  $("play").setAttribute("aria-label", "Stop");
}

function stop() {
  cancelAnimationFrame(playing);
  playing = 0;
  $("play").textContent = "▶";
  $("play").setAttribute("aria-label", "Play as it arrives");
}

$("play").onclick = () => (playing ? stop() : play());
$("slider").oninput = () => {
  stop();
  show(Number($("slider").value));
};
$("beside").onchange = draw;
$("pictures").onchange = () => load(pictures[$("pictures").selectedIndex]);
$("file").onchange = async () => {
  const [file] = $("file").files;
  if (!file) return;
  $("file").value = ""; // so that the same one can be opened again
  begin(null);
  const now = view;
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (now === view) arrive(bytes, true);
};

document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.ctrlKey || event.altKey || event.metaKey || /INPUT|SELECT|BUTTON/.test(target.tagName)) return;
  const along = { ArrowLeft: -1, ArrowRight: 1 }[event.key] ?? 0;
  const down = { ArrowUp: -1, ArrowDown: 1 }[event.key] ?? 0;
  if (target === $("divider") && along) divide(divider + 2 * along);
  else if (target === $("stage") && zoom > 1 && (along || down)) {
    x -= 40 * along;
    y -= 40 * down;
    place();
  } else if (along) {
    stop();
    show(Math.max(1, view.level + along));
  } else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") zoomBy(1 / CLOSEST);
  else if (event.key === " ") $("play").click();
  else return;
  event.preventDefault();
});

// --- Begin ---------------------------------------------------------------------------------------

pictures = await (await fetch("pictures.json")).json();
$("pictures").replaceChildren(...pictures.map(({ name }) => new Option(name)));
$("choice").hidden = pictures.length < 2;
await load(pictures[0]);
