// The decoder against what Python decodes. PREPARED is the folder that prepare.py wrote.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import test from "node:test";
import { pathToFileURL } from "node:url";

const fixtures = process.env.PREPARED ?? "";
const skip = fixtures ? false : "run it by `make test-page`";
const at = (...names) => path.join(fixtures, "page", ...names);
const names = skip
  ? []
  : readdirSync(fixtures)
      .filter((name) => name.endsWith(".json"))
      .map((name) => name.slice(0, -5));

let opened;

/** The model, once for all tests. */
function model() {
  return (opened ??= (async () => {
    const ort = await import(pathToFileURL(at("engine", "ort.wasm.min.mjs")));
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = pathToFileURL(at("engine")).href + "/";
    ort.env.wasm.wasmBinary = readFileSync(at("engine", "ort-wasm-simd-threaded.wasm"));
    const { Model } = await import(pathToFileURL(at("decoder.js")));
    return Model.open(new Uint8Array(readFileSync(at("model.onnx"))), ort);
  })());
}

/** A decoder, and its stream as Python wrote it, with what Python knows of it. */
async function begun(name) {
  const { Decoder, StreamError } = await import(pathToFileURL(at("decoder.js")));
  const [stream, rgb] = ["pdtd", "rgb"].map(
    (suffix) => new Uint8Array(readFileSync(path.join(fixtures, `${name}.${suffix}`))),
  );
  const facts = JSON.parse(readFileSync(path.join(fixtures, `${name}.json`), "utf8"));
  return { decoder: new Decoder(await model()), StreamError, stream, rgb, ...facts };
}

/** The checksum of all places. */
function digest({ bands }) {
  const hash = createHash("sha256");
  for (const { places } of bands) hash.update(new Uint8Array(places.buffer));
  return hash.digest("hex");
}

/** How far pixels (r, g, b, a) are from pixels (r, g, b). */
function farthest(rgba, rgb) {
  let most = 0;
  for (let i = 0; i < rgb.length; i++)
    most = Math.max(most, Math.abs(rgb[i] - rgba[Math.floor(i / 3) * 4 + (i % 3)]));
  return most;
}

for (const name of names)
  test(`${name}: every level is Python's, forwards and backwards`, async () => {
    const { decoder, stream, rgb, levels, width, height } = await begun(name);
    for (const [i, { end, plane, places }] of levels.entries()) {
      await decoder.feed(stream.subarray(0, end + 3)); // three bytes of the next level change nothing
      assert.equal(decoder.level, i + 1);
      assert.equal(digest(decoder.known()), places, `places at level ${i + 1}`);
      assert.equal(decoder.known().plane, plane);
    }
    let from = 0;
    for (const [i, { end, places, psnr }] of levels.entries()) {
      assert.equal(digest(decoder.known(i + 1)), places, `back at level ${i + 1}`);
      if (psnr === undefined) continue;
      const picture = await decoder.decode(stream, { upTo: end });
      assert.deepEqual([picture.level, picture.width, picture.height], [i + 1, width, height]);
      const pixels = rgb.subarray(from, (from += 3 * width * height));
      const far = farthest(picture.rgba, pixels);
      assert.ok(far <= 1, `pixels of level ${i + 1} are ${far} apart`);
    }
    assert.equal(from, rgb.length);
  });

/** Python's kinds of errors. */
const KINDS = {
  NotAStreamError: "foreign",
  NewerVersionError: "newer",
  OlderVersionError: "older",
  OtherModelError: "other model",
  DamagedError: "damaged",
  UndecodableError: "undecodable",
  IncompleteError: "incomplete",
};

test("in bands of rows, as large pictures are, it is the same", { skip }, async (t) => {
  const { decoder, stream, rgb, levels, width, height } = await begun("photo");
  const positions = decoder.model.positions;
  t.after(() => (decoder.model.positions = positions));
  decoder.model.positions = 600;
  const picture = await decoder.decode(stream);
  assert.equal(digest(decoder.known()), levels.at(-1).places);
  const far = farthest(picture.rgba, rgb.subarray(rgb.length - 3 * width * height));
  assert.ok(far <= 1, `pixels are ${far} apart`);
});

test("what is wrong with a stream is told apart as in Python", { skip }, async () => {
  const cases = JSON.parse(readFileSync(path.join(fixtures, "wrong", "cases.json"), "utf8"));
  const claim = (message) => message.split(/[.;]/)[0]; // what to do about it differs in a page
  for (const { what, stream, error, said, level, decoded } of cases) {
    const { decoder, StreamError } = await begun("odd");
    const bytes = new Uint8Array(Buffer.from(stream, "base64"));
    const found = await decoder.decode(bytes).then(
      () => null,
      (found) => found,
    );
    if (!error) {
      assert.deepEqual([found, decoder.level], [null, decoded], what);
      continue;
    }
    assert.ok(found instanceof StreamError, `${what}: ${found}`);
    assert.deepEqual([found.kind, found.level, decoder.level], [KINDS[error], level, decoded], what);
    assert.equal(claim(found.message), claim(said), what);
  }
});

test("the levels before a damage are still a picture", { skip }, async () => {
  const { decoder, stream, levels } = await begun("odd");
  const bytes = stream.slice();
  bytes[levels[2].end - 1] ^= 1;
  await assert.rejects(decoder.decode(bytes), { kind: "damaged", level: 3 });
  assert.equal((await decoder.decode(bytes, { upTo: levels[1].end })).level, 2);
  await assert.rejects(decoder.decode(bytes), { kind: "damaged", level: 3 });
});
