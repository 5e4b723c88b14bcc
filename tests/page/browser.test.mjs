// The written page in a headless Chromium, against what Python decodes. PREPARED is the folder that
// prepare.py wrote, PYTHON runs the command.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import test, { after, before } from "node:test";
import { chromium } from "./chromium.mjs";

const prepared = process.env.PREPARED ?? "";
const TIMEOUT = 60_000;

const executablePath = chromium();
const driver = await import("playwright-core").catch(() => null);
const skip =
  !prepared || !driver
    ? "run it by `make test-page`"
    : !executablePath && `no browser is here: install chromium`;

const facts = (name) => JSON.parse(readFileSync(path.join(prepared, `${name}.json`), "utf8"));
const bytesOf = (name) => readFileSync(path.join(prepared, name));

let [server, browser, page, address, folder] = [];
const foreign = [];

before(async () => {
  if (skip) return;
  folder = mkdtempSync(path.join(tmpdir(), "page-"));
  const at = (name) => path.join(prepared, name);
  server = spawn(process.env.PYTHON ?? "python3", [
    ...[
      "-m",
      "progdtd.codec",
      "page",
      at("photo.pdtd"),
      at("odd.pdtd"),
      path.join(folder, "site"),
      "--serve",
    ],
    ...["--originals", at("photo.png"), at("odd.png"), "--model", at("page/model.onnx")],
  ]);
  address = await new Promise((found, failed) => {
    let said = "";
    server.stderr.on("data", (text) => {
      said += text;
      const match = said.match(/http:\/\/127\.0\.0\.1:\d+\//);
      if (match) found(match[0]);
    });
    server.on("exit", () => failed(new Error(said)));
  });
  browser = await driver.chromium.launch({ executablePath, args: ["--no-sandbox"] });
  page = await browser.newPage({ viewport: { width: 1000, height: 800 } });
  page.setDefaultTimeout(TIMEOUT);
  page.on("request", (request) => {
    if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(address))
      foreign.push(request.url());
  });
  page.on("pageerror", (error) => foreign.push(error.message));
  await page.goto(address);
});

after(async () => {
  await browser?.close();
  server?.kill();
  if (folder) rmSync(folder, { recursive: true });
});

/** Wait until this level's own picture is shown. */
async function shown(level) {
  await page.waitForFunction(
    (level) => document.querySelector("#ours").dataset.level === String(level),
    level,
  );
}

const sliderAt = () => page.$eval("#slider", (slider) => Number(slider.value));

/** The canvas's pixels (r, g, b, a). */
async function pixels() {
  const content = await page.$eval("#ours", (canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return btoa(data.reduce((text, byte) => text + String.fromCharCode(byte), ""));
  });
  return Buffer.from(content, "base64");
}

/** Compare what is shown at a level with Python's pixels and PSNR. */
async function compare(name, level) {
  await shown(level);
  const { levels, width, height } = facts(name);
  const before = levels.slice(0, level - 1).filter(({ psnr }) => psnr !== undefined).length;
  const rgb = bytesOf(`${name}.rgb`).subarray(3 * width * height * before);
  const rgba = await pixels();
  assert.equal(rgba.length, 4 * width * height);
  let far = 0;
  for (let i = 0; i < 3 * width * height; i++)
    far = Math.max(far, Math.abs(rgb[i] - rgba[Math.floor(i / 3) * 4 + (i % 3)]));
  assert.ok(far <= 1, `level ${level}: ${far}`);
  await page.waitForFunction(() => document.querySelector("#facts").textContent.includes("dB"));
  const text = await page.textContent("#facts");
  assert.ok(text.startsWith(levels[level - 1].end.toLocaleString("en")), text);
  assert.ok(Math.abs(Number(text.match(/([\d.]+) dB/)[1]) - levels[level - 1].psnr) < 0.1, text);
}

/** Give the page a file of the visitor's; returns what it says. */
async function opened(bytes) {
  const file = path.join(folder, "given.pdtd");
  writeFileSync(file, bytes);
  await page.$eval("#status", (status) => (status.textContent = ""));
  await page.setInputFiles("#file", file);
  await page.waitForFunction(
    () => !/^(Loading|Decoding|$)/.test(document.querySelector("#status").textContent),
  );
  return page.textContent("#status");
}

test("dragged to its end, a picture is Python's", { skip }, async () => {
  const box = await page.locator("#slider").boundingBox();
  await page.waitForFunction(() => !document.querySelector("#slider").disabled);
  await page.mouse.move(box.x + box.width / 3, box.y + box.height / 2);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2, { steps: 5 });
  const middle = await sliderAt();
  const { levels } = facts("photo");
  assert.ok(Math.abs(middle - levels.length / 2) < 2, String(middle));
  await page.mouse.move(box.x + box.width + 50, box.y + box.height / 2, { steps: 5 });
  await page.mouse.up();
  await compare("photo", levels.length);
});

test("keys go level by level, and back to what was passed over", { skip }, async () => {
  await page.focus("#slider");
  await page.keyboard.press("Home");
  await compare("photo", 1);
  for (let i = 0; i < 6; i++) await page.keyboard.press("ArrowRight");
  await compare("photo", 7);
});

test("going back is instant", { skip }, async () => {
  const drawn = await page.evaluate(() => {
    const slider = document.querySelector("#slider");
    return ["1", slider.max, "7"].map((level) => {
      slider.value = level;
      slider.dispatchEvent(new Event("input"));
      return document.querySelector("#ours").dataset.level;
    });
  });
  assert.deepEqual(drawn, ["1", String(facts("photo").levels.length), "7"]);
});

test("beside it is another codec of as many bytes, and a divider between", { skip }, async () => {
  const ours = facts("photo").levels[6].end;
  for (const codec of ["WebP", "JPEG 2000"]) {
    await page.selectOption("#beside", codec);
    const [, name, bytes] = (await page.textContent("#other-caption")).match(
      /^(.*), ([\d,]+) bytes, [\d.]+ dB$/,
    );
    assert.equal(name, codec);
    assert.ok(Math.abs(Math.log(Number(bytes.replace(",", "")) / ours)) < 0.4, `${codec}: ${bytes}`);
    await page.waitForFunction(() => document.querySelector("#theirs").naturalWidth > 0);
  }
  await page.focus("#divider");
  await page.keyboard.press("ArrowRight");
  assert.equal(await page.getAttribute("#divider", "aria-valuenow"), "52");
  const box = await page.locator("#stage").boundingBox();
  await page.mouse.move(box.x + 0.52 * box.width, box.y + 100);
  await page.mouse.down();
  await page.mouse.move(box.x + 0.25 * box.width, box.y + 100, { steps: 3 });
  await page.mouse.up();
  await page.waitForSelector('#divider[aria-valuenow="25"]');
});

test("zoom and pan move both sides", { skip }, async () => {
  const transforms = () =>
    page.$$eval("#ours, #theirs", (sides) => sides.map((side) => getComputedStyle(side).transform));
  const [before] = await transforms();
  const box = await page.locator("#stage").boundingBox();
  await page.mouse.move(box.x + 0.6 * box.width, box.y + 0.6 * box.height);
  await page.mouse.wheel(0, -600);
  await page.waitForFunction(
    (before) => getComputedStyle(document.querySelector("#ours")).transform !== before,
    before,
  );
  const [zoomed, too] = await transforms();
  assert.equal(zoomed, too);
  await page.mouse.down();
  await page.mouse.move(box.x + 0.7 * box.width, box.y + 0.7 * box.height);
  await page.mouse.up();
  const [moved, also] = await transforms();
  assert.equal(moved, also);
  assert.notEqual(moved, zoomed);
  await page.click("#fit");
  assert.equal((await transforms())[0], before);
});

test("it plays as it arrives", { skip }, async () => {
  await page.selectOption("#speed", "9.6");
  const began = Date.now();
  await page.click("#play");
  await page.waitForFunction(() => Number(document.querySelector("#slider").value) === 2);
  const { end } = facts("photo").levels[1];
  assert.ok((Date.now() - began) / 1000 > end / 1200 - 0.2);
  await page.click("#play");
  const level = await sliderAt();
  await page.waitForTimeout(500);
  assert.equal(await sliderAt(), level);
});

test("another picture is shown", { skip }, async () => {
  await page.selectOption("#pictures", "odd");
  await page.waitForFunction(() => !document.querySelector("#slider").disabled);
  await page.focus("#slider");
  await page.keyboard.press("End");
  await compare("odd", facts("odd").levels.length);
});

test("what is wrong with a visitor's file is said", { skip }, async () => {
  const { levels } = facts("odd");
  const stream = bytesOf("odd.pdtd");
  assert.match(await opened(Buffer.from("another file")), /^This is not a ProgDTD stream/);
  assert.match(await opened(stream.subarray(0, 20)), /^No level is complete yet/);
  assert.match(await opened(stream.subarray(0, levels[3].end + 9)), /^The file is cut: 4 of its \d+ levels/);
  const damaged = Buffer.from(stream);
  damaged[levels[2].end - 1] ^= 1;
  assert.match(await opened(damaged), /^The stream is damaged: level 3 /);
  await page.focus("#slider");
  await page.keyboard.press("End");
  await shown(2);
  const cases = JSON.parse(bytesOf("wrong/cases.json"));
  for (const [what, said] of [
    ["another model", /made by the model/],
    ["other words", /^Level \d+ does not decode/],
  ])
    assert.match(await opened(Buffer.from(cases.find((one) => one.what === what).stream, "base64")), said);
});

test("no other host is asked, and nothing failed on the way", { skip }, () => {
  assert.deepEqual(foreign, []);
});

test("it fits a phone, and is dark where that is wanted", { skip }, async () => {
  const phone = await browser.newPage({ viewport: { width: 360, height: 640 }, colorScheme: "dark" });
  await phone.goto(address);
  assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 360);
  const ground = await phone.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.ok(
    ground.match(/\d+/g).every((value) => Number(value) < 64),
    ground,
  );
});
