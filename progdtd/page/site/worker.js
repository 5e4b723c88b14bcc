/**
 * Decodes away from the page's own thread. Takes messages
 *     { stream: number }                a new stream begins; what follows is of it
 *     { stream, bytes: Uint8Array }     all of it that is there by now
 *     { stream, level: number }         the level that is wanted
 * and answers, always with the number of the stream, with
 *     { level, width, height, rgba }    a picture: of the wanted level, or on the way to it
 *     { error, level }                  a sentence, and how many levels can be shown
 */
import { Decoder, Model, StreamError } from "./decoder.js";
import * as ort from "./engine/ort.wasm.min.mjs";

ort.env.wasm.wasmPaths = new URL("./engine/", import.meta.url).href;
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;

const model = fetch(new URL("./model.onnx", import.meta.url))
  .then((answer) => answer.arrayBuffer())
  .then((content) => Model.open(new Uint8Array(content), ort));

let stream = 0;
let bytes = new Uint8Array(0);
let wanted = 0;
let shown = 0; // level of the last picture
let failed = false;
/** @type {Decoder | null} */
let decoder = null;
let busy = false;
let since = 0; // when the last picture was done
let took = 0; // milliseconds that it took

self.onmessage = ({ data }) => {
  if (data.stream !== stream) {
    [stream, bytes, wanted, shown, failed, decoder] = [data.stream, new Uint8Array(0), 0, 0, false, null];
    [since, took] = [0, 0];
  }
  if (data.bytes) bytes = data.bytes;
  if (data.level !== undefined) wanted = data.level;
  work();
};

/** Do what is wanted, in steps between which messages come in. */
async function work() {
  if (busy) return;
  busy = true;
  try {
    while (await step()) await new Promise((resume) => setTimeout(resume));
  } finally {
    busy = false;
  }
}

/** Decode a level or make a picture; returns whether there may be more to do. */
async function step() {
  const of = stream;
  try {
    decoder ??= new Decoder(await model);
    if (of !== stream) return true;
    const now = decoder;
    const level = Math.min(wanted, now.level);
    const due = level === wanted || performance.now() - since > Math.max(200, took);
    if (level && level !== shown && due) {
      const begun = performance.now();
      const picture = await now.picture(level);
      [shown, since, took] = [level, performance.now(), performance.now() - begun];
      self.postMessage({ stream: of, ...picture }, { transfer: [picture.rgba.buffer] });
      return true;
    }
    if (failed) return false;
    const before = now.level;
    const until = performance.now() + 50; // then messages come in
    // also what is not wanted yet, which will be
    await now.feed(bytes, () => performance.now() > until || now.level === wanted);
    return now.level > before || of !== stream;
  } catch (error) {
    if (of !== stream) return true;
    failed = true;
    const message =
      error instanceof StreamError ? error.message : `The picture cannot be decoded here: ${error}`;
    self.postMessage({ stream: of, error: message, level: decoder?.level ?? 0 });
    return decoder !== null && decoder.level > 0;
  }
}
