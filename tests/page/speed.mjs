// Times the decoder of a page that is served, in a headless Chromium; prints seconds as JSON. See
// scripts/benchmark_page.py:
//     node tests/page/speed.mjs ADDRESS STREAM BYTES THREADS
import * as driver from "playwright-core";
import { chromium } from "./chromium.mjs";

const [address, stream, bytes, threads] = process.argv.slice(2);
const browser = await driver.chromium.launch({ executablePath: chromium(), args: ["--no-sandbox"] });
const page = await browser.newPage();
await page.goto(new URL("style.css", address).href); // of the page's origin, without its own decoder
const times = await page.evaluate(
  async ([stream, bytes, threads]) => {
    const here = (/** @type {string} */ name) => new URL(name, location.href).href;
    const fetched = async (name) => new Uint8Array(await (await fetch(here(name))).arrayBuffer());
    const [content, coded] = [await fetched("model.onnx"), await fetched(stream)];
    const { Model, Decoder } = await import(here("decoder.js"));
    const found = {};
    let last = performance.now();
    const timed = (what) => {
      found[what] = (performance.now() - last) / 1000;
      last = performance.now();
    };
    const ort = await import(here("engine/ort.wasm.min.mjs"));
    Object.assign(ort.env.wasm, { numThreads: threads, wasmPaths: here("engine/") });
    const model = await Model.open(content, ort);
    timed("start of the engine, with the model");
    await new Decoder(model).decode(coded.subarray(0, bytes));
    timed("first picture, at the start");
    const decoder = new Decoder(model);
    await decoder.decode(coded.subarray(0, bytes));
    timed("first picture, once warm");
    await decoder.feed(coded);
    timed("digits of all further levels");
    await decoder.picture();
    timed("last picture");
    return found;
  },
  [stream, Number(bytes), Number(threads)],
);
console.log(JSON.stringify(times));
await browser.close();
