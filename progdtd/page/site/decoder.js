/**
 * Decodes streams of the wavelet model, any prefix of them, level after level.
 *
 *     import * as ort from "./engine/ort.wasm.min.mjs";
 *     const model = await Model.open(contentOfTheOnnxFile, ort);
 *     const decoder = new Decoder(model); // of one stream
 *     const { width, height, rgba, level } = await decoder.decode(bytes, { upTo: 4000 });
 *
 * The format is written down in docs/format.md. Digits are the same in every engine, being of
 * integers; the picture may differ by one grey level from that of another engine.
 */

const SCALES = 6;
const COLOURS = 3;
const PLANES = 13;
const STEP = 4;
const GRID = 64;
const LARGEST_PLACE = 1023;
const ZERO = 128;
const GREY = 127.5;
const LIKELY = ZERO - 16;
const USEFUL = ZERO - 32;
const UNIT = 1 << 18;
const MAX_PIXELS = 2 ** 27;
const MAX_SIDE = 2 ** 20;
const KINDS = ["channels", "planes", "wavelet"];
const PARTS = [
  "digits low",
  "digits low message",
  "digits detail",
  "digits detail message",
  "picture low",
  "picture low message",
  "picture detail",
  "picture detail message",
  "pixels",
];

/** What can be wrong with a stream; the message is a sentence that says what to do about it. */
export class StreamError extends Error {
  /**
   * @param {"foreign" | "newer" | "older" | "other model" | "damaged" | "undecodable" | "incomplete"} kind
   * @param {string} message
   * @param {number} level that is damaged, from 1; 0 is the header
   */
  constructor(kind, message, level = 0) {
    super(message);
    this.kind = kind;
    this.level = level;
  }

  /** @param {string} what @param {number} [level] */
  static damaged(what, level = 0) {
    const rest = level > 1 ? " The levels before it are still a picture." : "";
    return new StreamError("damaged", `The stream is damaged: ${what}. Fetch it again.${rest}`, level);
  }
}

// --- The container -------------------------------------------------------------------------------

/**
 * @typedef {object} Header
 * @property {number} width
 * @property {number} height
 * @property {string} fingerprint of the model, in hexadecimal
 * @property {string} kind of the levels
 * @property {Uint8Array} parameters of the levels
 * @property {number} levels of the whole stream
 * @property {number} whole bytes of the whole stream
 */

/** Reads a stream of which more and more is there. */
export class Reader {
  /** @type {Header | null} */
  header = null;
  /** Where each level read so far ends. @type {number[]} */
  ends = [];
  #at = 0;
  #crc = 0;

  /**
   * The payloads of the levels after those read before.
   * @param {Uint8Array} bytes the stream's beginning, no shorter than before
   * @returns {Generator<Uint8Array>}
   */
  *read(bytes) {
    if (!this.header) {
      const read = readHeader(bytes);
      if (!read) return;
      [this.header, this.#at] = read;
      this.#crc = crcAt(bytes, this.#at - 4);
    }
    while (this.ends.length < this.header.levels) {
      const level = this.ends.length + 1;
      const checked = level < this.header.levels ? 2 : 4;
      const [words, after] = varint(bytes, this.#at, `level ${level}`);
      const start = after + checked;
      const end = start + 4 * words;
      if (words < 0) return;
      if (end > this.header.whole)
        throw StreamError.damaged(`level ${level} claims ${4 * words} bytes, more than there can be`, level);
      if (end > bytes.length) return;
      const crc = crc32(bytes.subarray(start, end), this.#crc);
      for (let i = 0; i < checked; i++)
        if (bytes[after + i] !== ((crc >>> (8 * i)) & 255))
          throw StreamError.damaged(`level ${level} does not match its checksum`, level);
      [this.#crc, this.#at] = [crc, end];
      this.ends.push(end);
      yield bytes.subarray(start, end);
    }
  }

  /** @param {Uint8Array} bytes that hold no level */
  incomplete({ length }) {
    const what = this.header ? "level 1" : "the header";
    return new StreamError(
      "incomplete",
      `No level is complete yet: ${what} is not complete in ${length} bytes. More bytes are needed.`,
    );
  }
}

/**
 * @param {Uint8Array} bytes
 * @returns {[Header, number] | null} the header and where it ends; null if it is not complete
 */
function readHeader(bytes) {
  if ([0x89, 0x44, 0x54, 0x44].some((byte, i) => i < bytes.length && bytes[i] !== byte))
    throw new StreamError("foreign", "This is not a ProgDTD stream: it begins with other bytes.");
  if (bytes.length < 6) return null;
  const [version, number] = bytes.subarray(4, 6);
  if (version > 2)
    throw new StreamError(
      "newer",
      `The stream has format version ${version}; this page knows up to 2. Update progdtd.`,
    );
  if (version === 1)
    throw new StreamError(
      "older",
      "The stream has format version 1, which is no longer read. Encode the image again.",
    );
  const [width, afterWidth] = varint(bytes, 6);
  const [height, name] = varint(bytes, afterWidth);
  const [levels, afterLevels] = varint(bytes, name + 8);
  const [total, afterTotal] = varint(bytes, afterLevels);
  const [size, parameters] = varint(bytes, afterTotal);
  const end = parameters + size + 4;
  const wrong = StreamError.damaged("the header does not match its checksum");
  if (size > 0xffff) throw wrong;
  if (size < 0 || end > bytes.length) return null;
  const padded = Math.ceil(width / GRID) * Math.ceil(height / GRID) * GRID ** 2;
  if (
    version !== 2 ||
    !(0 < width && width <= MAX_SIDE && 0 < height && height <= MAX_SIDE) ||
    !(0 < levels && levels <= 0xffff && total <= 16 * padded + 64 * levels) ||
    crc32(bytes.subarray(0, end - 4)) !== crcAt(bytes, end - 4)
  )
    throw wrong;
  if (!KINDS[number - 1])
    throw new StreamError(
      "newer",
      `The stream's levels are of kind ${number}; this page knows up to 3. Update progdtd.`,
    );
  const fingerprint = [...bytes.subarray(name, name + 8)]
    .map((b) => b.toString(16).padStart(2, "0"))
    .join("");
  const kind = KINDS[number - 1];
  const header = { width, height, fingerprint, kind, levels, whole: end + total };
  return [{ ...header, parameters: bytes.slice(parameters, end - 4) }, end];
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {string} [where] the number is
 * @returns {[number, number]} the number and where it ends; -1 if it is not complete
 */
function varint(bytes, at, where = "the header") {
  for (let value = 0, i = 0; i < 7; i++) {
    if (at + i >= bytes.length) return [-1, Infinity];
    value += (bytes[at + i] & 127) * 2 ** (7 * i);
    if (bytes[at + i] < 128) return [value, at + i + 1];
  }
  throw StreamError.damaged(`${where} holds a number that is too long`, Number(where.split(" ")[1]) || 0);
}

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let i = 0; i < 8; i++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/** @param {Uint8Array} bytes @param {number} [before] the checksum of what came before */
function crc32(bytes, before = 0) {
  let crc = ~before;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC[(crc ^ byte) & 255];
  return ~crc >>> 0;
}

/** @param {Uint8Array} bytes @param {number} at */
function crcAt(bytes, at) {
  return (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)) >>> 0;
}

// --- The code ------------------------------------------------------------------------------------

/** By logit: where the interval of digit 0 ends, of 2^24. */
const EDGES = byLogit((one) => {
  const zero = 1 - Math.min(Math.max(Math.round(2 ** 20 * one), 1), 2 ** 20 - 1) / 2 ** 20;
  return 1 + Math.floor(Math.fround(zero * (2 ** 24 - 2)));
});

/** What a digit and the sign that may follow are expected to take, in 1/256 bits. */
const EXPECTED = byLogit((one) =>
  Math.round(256 * (one - one * Math.log2(one) - (1 - one) * Math.log2(1 - one))),
);

/** @param {(one: number) => number} of the probability of a one */
function byLogit(of) {
  return Uint32Array.from({ length: 256 }, (_, logit) => of(1 / (1 + Math.exp((ZERO - logit) / 8))));
}

/** The ANS decoder: a state of 64 bits, as two halves, and the words that have arrived. */
class Code {
  words = new Uint32Array(0);
  at = 0;
  high = 0;
  low = 0;

  /** @param {Uint8Array} payload of the next level */
  append(payload) {
    const view = new DataView(payload.buffer, payload.byteOffset, payload.length);
    const more = Uint32Array.from({ length: payload.length / 4 }, (_, i) => view.getUint32(4 * i, true));
    this.words = Uint32Array.from([...this.words.subarray(this.at), ...more]);
    this.at = 0;
  }

  /** Take the state to begin with. */
  begin() {
    this.high = this.words[this.at++];
    this.low = this.words[this.at++];
  }

  /**
   * The next digit, of a logit.
   * @param {number} logit
   */
  digit(logit) {
    const edge = EDGES[logit];
    const part = this.low & 0xffffff;
    const digit = part < edge ? 0 : 1;
    const left = digit ? edge : 0;
    const width = digit ? 0x1000000 - edge : edge;
    // (state >> 24) * width + part - left, in pieces that doubles hold exactly
    const upper = (this.high >>> 16) * width;
    const lower =
      ((this.high & 0xffff) * 256 + (this.low >>> 24)) * width + part - left + (upper % 256) * 0x1000000;
    this.high = Math.floor(upper / 256) + Math.floor(lower / 0x100000000);
    this.low = lower >>> 0;
    if (this.high === 0) {
      this.high = this.low;
      this.low = this.words[this.at++]; // undefined, as 0, where there is none: see `lacks`
    }
    return digit;
  }

  /** Whether what was taken needed more words than there are. */
  get lacks() {
    return this.at > this.words.length;
  }

  mark() {
    return [this.at, this.high, this.low];
  }

  /** @param {number[]} mark */
  backTo(mark) {
    [this.at, this.high, this.low] = mark;
  }
}

// --- The model -----------------------------------------------------------------------------------

/** What the networks see of a place's size. */
const SEEN = Uint8Array.from({ length: LARGEST_PLACE + 1 }, (_, size) => Math.round(20 * Math.asinh(size / 4)));

/**
 * Some rows of a scale, two channels for each of its own: with its sign, and its size alone.
 * @param {Band} band
 * @param {number} first
 * @param {number} last after these rows
 * @returns {Array4}
 */
function seen({ places, channels, rows, columns }, first, last) {
  const size = (last - first) * columns;
  const data = new Uint8Array(2 * channels * size);
  for (let channel = 0; channel < channels; channel++)
    for (let i = 0; i < size; i++) {
      const place = places[(channel * rows + first) * columns + i];
      const value = SEEN[Math.min(Math.abs(place), LARGEST_PLACE)];
      const one = place === 1 || place === -1;
      data[channel * size + i] = ZERO + (one ? 0 : place < 0 ? -value : value);
      data[(channels + channel) * size + i] = ZERO + (one ? -10 : value);
    }
  return { data, shape: [1, 2 * channels, last - first, columns] };
}

/** @typedef {{ data: Float32Array | Uint8Array, shape: readonly number[] }} Array4 (1, C, H, W) */

/** The inputs of the graph, and of what they are made. */
const INPUTS = /** @type {const} */ ({ seen: Uint8Array, integers: Uint8Array, pixels: Float32Array });

/**
 * Some rows of an array.
 * @param {Array4} array
 * @param {number} first
 * @param {number} last after these rows
 * @returns {Array4}
 */
function rowsOf({ data, shape: [, channels, rows, columns] }, first, last) {
  const part = new (kindOf(data))(channels * (last - first) * columns);
  for (let channel = 0; channel < channels; channel++) {
    const from = channel * rows * columns;
    part.set(
      data.subarray(from + first * columns, from + last * columns),
      channel * (last - first) * columns,
    );
  }
  return { data: part, shape: [1, channels, last - first, columns] };
}

/** @param {Float32Array | Uint8Array} data */
const kindOf = (data) => (data instanceof Uint8Array ? Uint8Array : Float32Array);

/** A model's file, ready to run by onnxruntime-web. */
export class Model {
  /** Larger grids are computed in bands of rows, to bound the memory. */
  positions = 2 ** 17;

  /**
   * @param {any} session
   * @param {any} ort onnxruntime-web, or what has its `Tensor`
   * @param {{fingerprint: string, width: number, halo: number}} card
   */
  constructor(session, ort, { fingerprint, width, halo }) {
    this.session = session;
    this.ort = ort;
    this.fingerprint = fingerprint;
    this.width = width;
    /** How far around two by two pixels their correction looks, and even. */
    this.halo = halo + (halo % 2);
  }

  /**
   * @param {Uint8Array} content of the `.onnx` file
   * @param {any} ort onnxruntime-web
   * @param {object} [options] of its session
   */
  static async open(content, ort, options = {}) {
    const session = await ort.InferenceSession.create(content, options);
    return new Model(session, ort, cardIn(content));
  }

  /**
   * Features, all channels of a position beside each other, (1, 1, H, W width), and the numbers
   * that a part gives.
   * @param {string} part of PARTS
   * @param {number} row
   * @param {{ seen?: Array4, integers?: Array4 | null, pixels?: Array4 }} given
   * @returns {Promise<[Array4, Array4]>}
   */
  async run(part, row, given) {
    const int64 = (/** @type {number} */ number, /** @type {number[]} */ shape) =>
      new this.ort.Tensor("int64", BigInt64Array.of(BigInt(number)), shape);
    const feeds = { part: int64(PARTS.indexOf(part), []), row: int64(row, [1]) };
    for (const [name, kind] of Object.entries(INPUTS)) {
      const { data, shape } = given[name] ?? { data: new kind(1), shape: [1, 1, 1, 1] };
      const last = name === "integers" && given[name] ? [1, shape[2], shape[3] / this.width, this.width] : shape;
      Object.assign(feeds, { [name]: new this.ort.Tensor(kind === Uint8Array ? "uint8" : "float32", data, last) });
    }
    const found = await this.session.run(feeds);
    const [h, out] = this.session.outputNames.map((/** @type {string} */ name) => found[name]);
    const [, rows, columns, width] = h.dims;
    return [
      { data: h.data, shape: [1, 1, rows, columns * width] },
      { data: out.data, shape: out.dims },
    ];
  }

  /**
   * What a network makes of one scale, given the features of the scale before.
   * @param {"digits" | "picture"} network
   * @param {number} scale
   * @param {Band[]} bands
   * @param {Array4 | null} coarser
   * @param {number} row
   */
  async trunk(network, scale, bands, coarser, row) {
    const [band, before, times] = [bands[scale], bands[scale - 1], scale > 1 ? 2 : 1];
    const part = `${network} ${scale ? "detail" : "low"}`;
    const offset = Math.max(scale - 1, 0) * (network === "digits" ? 24 : 12);
    return this.#inBands(band.rows, band.columns, 4, 1, async (first, last) => {
      let message = null;
      if (coarser) {
        const above = /** @type {const} */ ([first / times, last / times]);
        const given = { seen: seen(before, ...above), integers: rowsOf(coarser, ...above) };
        const [told] = await this.run(`${network} ${times === 2 ? "detail" : "low"} message`, 0, given);
        message = spread(told, last - first);
      }
      return this.run(part, row + offset, { seen: seen(band, first, last), integers: message });
    });
  }

  /**
   * Pixels, corrected by the finest features.
   * @param {Array4} pixels
   * @param {Array4} features
   * @param {number} row
   */
  async corrected(pixels, features, row) {
    const [rows, columns] = pixels.shape.slice(2).map((side) => side / 2);
    const [found] = await this.#inBands(rows, columns, this.halo, 2, async (first, last) => {
      const given = {
        pixels: rowsOf(pixels, 2 * first, 2 * last),
        integers: rowsOf(features, first, last),
      };
      return (await this.run("pixels", row, given)).slice(1);
    });
    return found;
  }

  /**
   * What `run` gives for all rows, of which it takes some at a time, with a halo around them.
   * @param {number} rows
   * @param {number} columns
   * @param {number} halo even, at least as far as `run` looks
   * @param {number} times as many rows come out
   * @param {(first: number, last: number) => Promise<Array4[]>} run
   */
  async #inBands(rows, columns, halo, times, run) {
    const each = Math.max(2, 2 * Math.floor(this.positions / columns / 2));
    if (rows <= each + 2 * halo) return run(0, rows);
    const whole = /** @type {Array4[]} */ ([]);
    for (let start = 0; start < rows; start += each) {
      const stop = Math.min(start + each, rows);
      const [first, last] = [Math.max(0, start - halo), Math.min(rows, stop + halo)];
      for (const [i, part] of (await run(first, last)).entries()) {
        const [, channels, , wide] = part.shape;
        const kept = rowsOf(part, times * (start - first), times * (stop - first)).data;
        whole[i] ??= {
          data: new (kindOf(part.data))(channels * times * rows * wide),
          shape: [1, channels, times * rows, wide],
        };
        const size = times * (stop - start) * wide;
        for (let channel = 0; channel < channels; channel++)
          whole[i].data.set(
            kept.subarray(channel * size, (channel + 1) * size),
            (channel * rows + start) * times * wide,
          );
      }
    }
    return whole;
  }
}

/**
 * The same numbers in so many rows.
 * @param {Array4} array (1, 1, H, W)
 * @param {number} rows
 * @returns {Array4}
 */
const spread = ({ data }, rows) => ({ data, shape: [1, 1, rows, data.length / rows] });

/**
 * What a model's file says of itself: the metadata of its Protocol Buffers message.
 * @param {Uint8Array} content
 */
function cardIn(content) {
  for (let at = 0; at < content.length;) {
    const [key, start] = varint(content, at);
    const [value, end] = varint(content, start);
    at = key & 7 ? end + value : end;
    if (key !== ((14 << 3) | 2)) continue;
    const text = new TextDecoder().decode(content.subarray(end, at));
    if (text.slice(0, 16).includes("card")) return JSON.parse(text.slice(text.indexOf("{")));
  }
  throw new Error("The model has no card: it is no wavelet model.");
}

// --- The walk ------------------------------------------------------------------------------------

/**
 * @typedef {object} Band a scale's grid
 * @property {number} channels
 * @property {number} rows
 * @property {number} columns
 * @property {Int16Array} places
 */

/** @param {number} height @param {number} width @returns {Band[]} */
function bandsOf(height, width) {
  return Array.from({ length: SCALES + 1 }, (_, scale) => {
    const times = 2 ** Math.max(scale - 1, 0);
    const [rows, columns] = [height, width].map((side) => Math.ceil(side / GRID) * times);
    const channels = scale ? 3 * COLOURS : COLOURS;
    return { channels, rows, columns, places: new Int16Array(channels * rows * columns) };
  });
}

/** Rows and columns that are there of a side in a half of the wavelet. */
const low = (/** @type {number} */ side) => Math.ceil(side / 2);
const high = (/** @type {number} */ side) => Math.floor(side / 2);

/** A unit's digits, kept so that the places at any level can be made again: of each coefficient
 * 4 times its position, and 1 for a digit 1, and 2 for a positive sign.
 * @typedef {{ level: number, plane: number, scale: number, digits: Uint32Array }} Unit */

/** @param {Int16Array} places @param {Uint32Array} digits */
function apply(places, digits) {
  for (const digit of digits) {
    const i = digit >>> 2;
    const place = places[i];
    if (place) places[i] = place + (place > 0 === ((digit & 1) === 1) ? 1 : -1);
    else places[i] = digit & 1 ? (digit & 2 ? 3 : -3) : 1;
  }
}

/** @param {Band[]} bands */
function nextPlane(bands) {
  for (const { places } of bands)
    for (let i = 0; i < places.length; i++) places[i] = places[i] * places[i] === 1 ? 0 : 2 * places[i];
}

/** Decodes one stream as more and more of it is there. Nothing is decoded twice. */
export class Decoder {
  /** How many levels are decoded. */
  level = 0;
  #reader = new Reader();
  #code = new Code();
  /** @type {Band[]} */
  #bands = [];
  /** @type {Unit[]} */
  #units = [];
  /** The plane at each level. @type {number[]} */
  #planes = [];
  /** @type {AsyncGenerator<void> | null} */
  #walk = null;
  /** @type {StreamError | null} */
  #error = null;
  #plane = -1;
  #spent = 0;

  /** @param {Model} model */
  constructor(model) {
    this.model = model;
  }

  /** What the stream says of itself, once it is there. */
  get header() {
    return this.#reader.header;
  }

  /** Where each level decoded so far ends, in bytes. */
  get ends() {
    return this.#reader.ends.slice(0, this.level);
  }

  /**
   * The picture of a prefix.
   * @param {Uint8Array} bytes the stream's beginning, no shorter than before
   * @param {{ upTo?: number }} [options] how many of the bytes
   * @returns {Promise<{ width: number, height: number, rgba: Uint8ClampedArray, level: number }>}
   * @throws {StreamError}
   */
  async decode(bytes, { upTo = bytes.length } = {}) {
    const there = bytes.subarray(0, upTo);
    if (there.length > (this.ends.at(-1) ?? 0)) await this.feed(there);
    const level = this.ends.filter((end) => end <= there.length).length;
    if (!level) throw this.#reader.incomplete(there);
    return this.picture(level);
  }

  /**
   * Decode the levels that are there and not decoded yet.
   * @param {Uint8Array} bytes the stream's beginning, no shorter than before
   * @param {() => boolean} [enough] whether to stop after a level
   * @throws {StreamError}
   */
  async feed(bytes, enough = () => false) {
    if (this.#error) throw this.#error;
    try {
      // what is read is decoded before more is read, so that a level that fails is the last one
      for (const payload of this.#reader.read(bytes)) {
        this.#check();
        await this.#feed(payload);
        if (enough()) return;
      }
      this.#check();
    } catch (error) {
      if (error instanceof StreamError) this.#error = error;
      throw error;
    }
  }

  /** Refuse a stream of another model, as soon as its header is there. */
  #check() {
    const { header } = this;
    if (!header || this.#walk) return;
    const { fingerprint } = this.model;
    if (header.fingerprint !== fingerprint)
      throw new StreamError(
        "other model",
        `The stream was made by the model ${header.fingerprint}; this one is ${fingerprint}. Decode it with the model that made it.`,
      );
    if (header.width * header.height > MAX_PIXELS)
      throw StreamError.damaged(`${header.width}x${header.height} pixels are more than can be`);
    if (header.kind !== "wavelet") throw StreamError.damaged(`its model has no levels of ${header.kind}`);
    const halves = [...header.parameters].flatMap((byte) => [byte & 15, byte >> 4]);
    if (halves.length !== 22 || halves[21] || Math.max(...halves) > PLANES)
      throw StreamError.damaged("the planes in the header cannot be");
    const first = Array.from({ length: SCALES + 1 }, (_, scale) =>
      halves.slice(3 * scale, 3 * scale + 3).map((half) => half - 1),
    );
    this.#bands = bandsOf(header.height, header.width);
    this.#walk = this.#walked(header, first);
  }

  /** @param {Uint8Array} payload */
  async #feed(payload) {
    const level = this.level + 1;
    const code = this.#code;
    const wrong = new StreamError(
      "undecodable",
      `Level ${level} does not decode to what was encoded, though its checksum matches: it was not written by this encoder with this model. Encode the image again.`,
      level,
    );
    code.append(payload);
    if (level === 1) {
      if (!code.words[0] || code.words.length < 2) throw wrong;
      code.begin();
    }
    const { done } = await /** @type {AsyncGenerator<void>} */ (this.#walk).next();
    if (code.at !== code.words.length || (done && (code.high !== 1 || code.low !== 0))) throw wrong;
    this.level = level;
    this.#planes.push(Math.max(this.#plane, 0));
  }

  /**
   * Plane after plane; waits wherever the next unit needs a word that is not there yet.
   * @param {Header} header
   * @param {number[][]} first
   * @returns {AsyncGenerator<void>}
   */
  async *#walked(header, first) {
    for (this.#plane = Math.max(...first.flat()); this.#plane >= 0; this.#plane--) {
      /** @type {Uint8Array[]} */
      const kept = [];
      for (const second of [0, 1]) {
        let h = null;
        const finest = first.findLastIndex((row) => Math.max(...row) > this.#plane - second);
        for (let scale = 0; scale <= finest; scale++) {
          const row = 2 * Math.min(this.#plane, PLANES - 2) + second;
          const [features, out] = await this.model.trunk("digits", scale, this.#bands, h, row);
          h = features;
          if (second) kept.push(out.data);
          const least = second ? USEFUL : LIKELY;
          yield* this.#round(header, first, scale, out.data, least, !!second);
        }
      }
      for (const [scale, logits] of kept.entries())
        yield* this.#round(header, first, scale, logits, -Infinity, true);
      if (this.#plane === 0) return;
      nextPlane(this.#bands);
    }
  }

  /**
   * The digits of one scale in units.
   * @param {Header} header
   * @param {number[][]} first
   * @param {number} scale
   * @param {Uint8Array} logits
   * @param {number} least logit above which places 0 are taken
   * @param {boolean} others whether places that are not 0 are taken
   */
  *#round({ height, width }, first, scale, logits, least, others) {
    const { places, channels, rows, columns } = this.#bands[scale];
    const [tall, wide] = [height, width].map((side) => Math.ceil(side / 2 ** (SCALES - Math.max(scale, 1))));
    let unit = /** @type {number[]} */ ([]);
    let bits = 0;
    for (let channel = 0; channel < channels; channel++) {
      if (first[scale][Math.floor(channel / (channels / COLOURS))] < this.#plane) continue;
      const thereRows = scale && channel % 3 !== 1 ? high(tall) : low(tall);
      const thereColumns = scale && channel % 3 !== 0 ? high(wide) : low(wide);
      for (let row = 0; row < thereRows; row++) {
        let i = (channel * rows + row) * columns;
        for (const end = i + thereColumns; i < end; i++) {
          const place = places[i];
          if (place & 1 || !(place ? others : logits[i] > least)) continue;
          unit.push(i);
          bits += EXPECTED[logits[i]];
          if (bits < this.#enough() && unit.length < UNIT) continue;
          yield* this.#unit(scale, unit, logits, bits);
          [unit, bits] = [[], 0];
        }
      }
    }
    if (unit.length) yield* this.#unit(scale, unit, logits, bits);
  }

  #enough() {
    return 256 * Math.max(512, Math.floor(this.#spent / (256 * 128)));
  }

  /**
   * @param {number} scale
   * @param {number[]} where
   * @param {Uint8Array} logits
   * @param {number} bits that are expected
   */
  *#unit(scale, where, logits, bits) {
    const { places } = this.#bands[scale];
    const digits = new Uint32Array(where.length);
    const mark = this.#code.mark();
    for (;;) {
      for (let i = 0; i < where.length; i++) digits[i] = 4 * where[i] + this.#code.digit(logits[where[i]]);
      for (let i = 0; i < where.length; i++)
        if (digits[i] & 1 && !places[where[i]])
          digits[i] += 2 * this.#code.digit(logits[places.length + where[i]]);
      if (!this.#code.lacks) break;
      this.#code.backTo(mark);
      yield;
      mark[0] = this.#code.at;
    }
    this.#spent += bits;
    apply(places, digits);
    this.#units.push({ level: this.level + 1, plane: this.#plane, scale, digits });
  }

  /**
   * What is known at a level.
   * @param {number} level
   */
  known(level = this.level) {
    const plane = this.#planes[level - 1];
    if (level === this.level || !this.header) return { bands: this.#bands, plane };
    const bands = bandsOf(this.header.height, this.header.width);
    let at = this.#units[0]?.plane ?? plane;
    const goTo = (/** @type {number} */ next) => {
      for (; at > next; at--) nextPlane(bands);
    };
    for (const unit of this.#units) {
      if (unit.level > level) break;
      goTo(unit.plane);
      apply(bands[unit.scale].places, unit.digits);
    }
    goTo(plane);
    return { bands, plane };
  }

  /**
   * The picture of a level that is decoded.
   * @param {number} level
   */
  async picture(level = this.level) {
    const { bands, plane } = this.known(level);
    const { width, height } = /** @type {Header} */ (this.header);
    const rgba = await show(this.model, bands, plane, height, width);
    return { width, height, rgba, level };
  }
}

// --- The picture ---------------------------------------------------------------------------------

/**
 * The picture of what is known. While nothing is significant at the finest scales, a smaller picture
 * is made and enlarged.
 * @param {Model} model
 * @param {Band[]} bands
 * @param {number} plane
 * @param {number} height
 * @param {number} width
 */
async function show(model, bands, plane, height, width) {
  const row = Math.min(plane, PLANES - 2);
  const step = STEP * 2 ** plane;
  const finest = Math.max(1, bands.findLastIndex(({ places }) => places.some((place) => place > 1 || place < -1)));
  const values = /** @type {Float32Array[]} */ ([]);
  let features = null;
  for (let scale = 0; scale <= finest; scale++) {
    const [h, out] = await model.trunk("picture", scale, bands, features, row);
    const { places } = bands[scale];
    const value = new Float32Array(places.length);
    for (let i = 0; i < places.length; i++) {
      const size = Math.abs(places[i]);
      const centre = size > 1 ? places[i] / 2 : 0;
      const half = size > 1 ? 1 - (size & 1) / 2 : 2 - size;
      value[i] = (centre + (half * (out.data[i] - ZERO)) / 128) * step;
    }
    values.push(value);
    features = h;
  }
  const [tall, wide] = [height, width].map((side) => Math.ceil(side / 2 ** (SCALES - finest)));
  const colours = [0, 1, 2].map((colour) => inverse(bands, values, colour, height, width));
  const [rows, columns] = [2 * bands[finest].rows, 2 * bands[finest].columns];
  const data = new Float32Array(3 * rows * columns);
  const [a, b, c] = [3, 2, 6].map((n) => n ** -0.5 / 2 ** (SCALES - finest));
  for (let r = 0; r < rows; r++)
    for (let col = 0; col < columns; col++) {
      const from = Math.min(r, tall - 1) * wide + Math.min(col, wide - 1);
      const to = r * columns + col;
      const [luma, red, green] = [a * colours[0][from] + GREY, b * colours[1][from], c * colours[2][from]];
      data[to] = luma + red - green;
      data[to + rows * columns] = luma + 2 * green;
      data[to + 2 * rows * columns] = luma - red - green;
    }
  const shown = await model.corrected(
    { data, shape: [1, 3, rows, columns] },
    /** @type {Array4} */ (features),
    row,
  );
  const rgba = new Uint8ClampedArray(4 * height * width).fill(255);
  for (let colour = 0; colour < 3; colour++) {
    let x = shown.data.subarray(colour * rows * columns, (colour + 1) * rows * columns);
    let across = columns;
    for (let scale = finest + 1; scale <= SCALES; scale++) {
      [x, across] = enlarged(x, across, scale, height, width);
    }
    for (let r = 0; r < height; r++)
      for (let col = 0; col < width; col++) rgba[4 * (r * width + col) + colour] = x[r * across + col];
  }
  return rgba;
}

/**
 * The inverse wavelet CDF 9/7 of one colour, as far as there are values.
 * @param {Band[]} bands
 * @param {Float32Array[]} values
 * @param {number} colour
 * @param {number} height
 * @param {number} width
 */
function inverse(bands, values, colour, height, width) {
  const { rows, columns } = bands[0];
  const size = rows * columns;
  let x = values[0].subarray(colour * size, (colour + 1) * size);
  let across = columns; // from row to row
  for (let scale = 1; scale < values.length; scale++) {
    const band = bands[scale];
    const count = band.rows * band.columns;
    const low = x;
    const lowAcross = across;
    [x, across] = joined(scale, height, width, (kind, r, c) =>
      kind ? values[scale][(3 * colour + kind - 1) * count + r * band.columns + c] : low[r * lowAcross + c],
    );
  }
  return x;
}

/**
 * A colour of the pixels of a smaller picture, without further details.
 * @param {Float32Array | Uint8Array} x
 * @param {number} across from row to row
 * @param {number} scale of the details that there are not
 * @param {number} height
 * @param {number} width
 */
function enlarged(x, across, scale, height, width) {
  const [large, wide] = joined(scale, height, width, (kind, r, c) => (kind ? 0 : 2 * (x[r * across + c] - GREY)));
  for (let i = 0; i < large.length; i++) large[i] += GREY;
  return /** @type {const} */ ([large, wide]);
}

/**
 * One level of the inverse wavelet; with the length of its rows.
 * @param {number} scale of its details
 * @param {number} height of the whole picture
 * @param {number} width
 * @param {(kind: number, row: number, column: number) => number} coefficient of kind 0 low, 1 high
 *   between rows, 2 along rows, 3 both
 * @returns {[Float32Array, number]}
 */
function joined(scale, height, width, coefficient) {
  const [tall, wide] = [height, width].map((side) => Math.ceil(side / 2 ** (SCALES - scale)));
  const x = new Float32Array(tall * wide);
  for (let row = 0; row < tall; row++)
    for (let column = 0; column < wide; column++)
      x[row * wide + column] = coefficient((row & 1) + 2 * (column & 1), row >> 1, column >> 1);
  lift(x, 0, tall, wide, wide);
  for (let row = 0; row < tall; row++) lift(x, row * wide, wide, 1, 1);
  return [x, wide];
}

/** The lifting steps backwards: which samples take their neighbours, and how often. */
const LIFTING = [
  [0, -0.443506852043971],
  [1, -0.882911075530934],
  [0, 0.052980118572961],
  [1, 1.586134342059924],
];

/**
 * Join samples, of which the even ones are low and the odd ones high, in lines side by side.
 * @param {Float32Array} x
 * @param {number} at where the first line begins
 * @param {number} count of the samples of a line
 * @param {number} step from one sample to the next
 * @param {number} lines
 */
function lift(x, at, count, step, lines) {
  const scale = (/** @type {number} */ k) =>
    count === 1 ? 2 ** -0.5 : k & 1 ? 1 / 0.8698644516247808 : 1 / 1.149604398860098;
  for (let k = 0; k < count; k++) {
    const times = scale(k);
    for (let i = at + k * step, end = i + lines; i < end; i++) x[i] *= times;
  }
  if (count === 1) return;
  for (const [parity, times] of LIFTING)
    for (let k = parity; k < count; k += 2) {
      const before = ((k ? k - 1 : 1) - k) * step;
      const after = ((k < count - 1 ? k + 1 : count - 2) - k) * step;
      for (let i = at + k * step, end = i + lines; i < end; i++)
        x[i] += times * (x[i + before] + x[i + after]);
    }
}
