// One photo of the queue: its file, what the page shows of it, its results, and the state of its requests.

import { ApiError, enhance } from "./api.js";
import { inTurn } from "./queue.js";
import * as key from "./key.js";

export const MODEL = "model";
export const CHALLENGER = "challenger";

const THUMBNAIL_PIXELS = 144;
let lastThumbnail = Promise.resolve();

// Emits "change" when anything that the page shows has changed.
export class Photo extends EventTarget {
  state = { kind: "queued" };
  error = null;
  strength = 1;
  which = MODEL;
  size = null; // {width, height} of the photo, upright
  thumbnail = document.createElement("canvas");
  beforeUrl = "";
  afterUrls = { [MODEL]: "", [CHALLENGER]: "" };
  answers = { [MODEL]: null, [CHALLENGER]: null }; // at strength 1, as the page shows them
  #saved = { query: "", answer: null }; // the last answer at another strength
  #controller = new AbortController();
  #hasCancelledChallenger = false;

  // maxBytes: returns the most bytes that the service takes.
  constructor(file, { maxBytes }) {
    super();
    this.file = file;
    this.maxBytes = maxBytes;
  }

  get isBusy() {
    return ["queued", "sending", "enhancing", "waiting"].includes(this.state.kind);
  }

  get isDone() {
    return this.answers[MODEL] !== null;
  }

  // Enhance the photo at strength 1, for the page.
  async start() {
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    this.error = null;
    this.#setState({ kind: "queued" });
    try {
      if (this.file.size > this.maxBytes()) throw new ApiError({ reason: "too_many_bytes" });
      this.isShown ??= await this.#showItself();
      signal.throwIfAborted();
      if (!this.isShown && !this.beforeUrl) {
        const before = await this.#askForPicture({ strength: 0 }, { signal });
        this.beforeUrl = URL.createObjectURL(before.blob);
        await this.#drawThumbnail(before.blob);
      }
      await this.#fetchAfter(MODEL, signal);
      this.#setState({ kind: "done" });
    } catch (error) {
      this.#fail(error, signal);
    }
  }

  // Do not send the photo, for this reason.
  refuse(reason) {
    this.error = new ApiError({ reason });
    this.#setState({ kind: "failed" });
  }

  // Ask the challenger too. The first model's result stays, whatever happens. isWanted: the user asks for it again.
  async startChallenger({ isWanted = false } = {}) {
    if (isWanted) this.#hasCancelledChallenger = false;
    if (this.afterUrls[CHALLENGER] || this.isBusy || this.#hasCancelledChallenger) return;
    this.#controller = new AbortController();
    const { signal } = this.#controller;
    this.error = null;
    try {
      await this.#fetchAfter(CHALLENGER, signal, true);
      this.#setState({ kind: "done" });
    } catch (error) {
      this.#fail(error, signal);
    }
  }

  cancel() {
    this.#controller.abort(new DOMException("cancelled", "AbortError"));
  }

  // The service's answer at the chosen strength, in the photo's own format.
  async answerToSave(job) {
    if (this.strength === 1 && this.isShown && this.answers[this.which]) return this.answers[this.which];
    return this.#answerFor({ strength: this.strength }, job);
  }

  // The same as something that the browser can turn into PNG, or as PNG.
  async answerToCopy(job) {
    if (this.isShown) return this.answerToSave(job);
    return this.#answerFor({ strength: this.strength, format: "png" }, job);
  }


  // Free everything that the browser holds for this photo.
  close() {
    this.cancel();
    for (const url of [this.beforeUrl, ...Object.values(this.afterUrls)]) if (url) URL.revokeObjectURL(url);
    this.beforeUrl = "";
    this.afterUrls = { [MODEL]: "", [CHALLENGER]: "" };
    this.answers = { [MODEL]: null, [CHALLENGER]: null };
    this.#saved = { query: "", answer: null };
    this.thumbnail.width = this.thumbnail.height = 0;
  }

  async #answerFor(parameters, { signal, onState }) {
    const query = this.#query(parameters, this.which);
    const name = JSON.stringify(query);
    if (this.#saved.query !== name) {
      this.#saved = { query: name, answer: await this.#send(query, { signal, onState, isUrgent: true }) };
    }
    return this.#saved.answer;
  }

  async #fetchAfter(which, signal, isUrgent = false) {
    const how = { which, signal, isUrgent };
    const answer = await (this.isShown ? this.#ask({}, how) : this.#askForPicture({}, how));
    this.answers[which] = answer;
    this.afterUrls[which] = URL.createObjectURL(answer.blob);
  }

  // Ask in a format that the browser can show: WebP may be transparent, JPEG may be larger than 16,383 pixels a side.
  async #askForPicture(query, how) {
    try {
      return await this.#ask({ ...query, format: "webp" }, how);
    } catch (error) {
      if (error.reason !== "unwritable") throw error;
      return await this.#ask({ ...query, format: "jpeg" }, how);
    }
  }

  #ask(query, { which = MODEL, signal, isUrgent }) {
    const onState = (state) => this.#setState(state);
    return this.#send(this.#query(query, which), { signal, onState, isUrgent });
  }

  #query(query, which) {
    return which === CHALLENGER ? { ...query, model: CHALLENGER } : query;
  }

  #send(query, { signal, onState, isUrgent }) {
    const onSent = (part) => onState(part < 1 ? { kind: "sending", part } : { kind: "enhancing" });
    const work = () => {
      onState({ kind: "sending", part: 0 });
      return enhance(this.file, { query, key: key.current(), signal, onSent });
    };
    return inTurn(work, { signal, onState, isUrgent });
  }

  // Whether the browser can show the file. If not, the service makes pictures of it for the page.
  async #showItself() {
    // One after the other: each decodes a whole photo.
    const turn = lastThumbnail.then(() => this.#drawThumbnail(this.file));
    lastThumbnail = turn.catch(() => {});
    const isShown = await turn;
    if (isShown && !this.beforeUrl) this.beforeUrl = URL.createObjectURL(this.file);
    return isShown;
  }

  async #drawThumbnail(blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      return false;
    }
    const { width, height } = bitmap;
    const scale = Math.min(1, THUMBNAIL_PIXELS / Math.min(width, height));
    this.size = { width, height };
    this.thumbnail.width = Math.max(1, Math.round(width * scale));
    this.thumbnail.height = Math.max(1, Math.round(height * scale));
    const context = this.thumbnail.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, this.thumbnail.width, this.thumbnail.height);
    bitmap.close();
    return true;
  }

  #fail(error, signal) {
    if (signal.aborted) {
      this.#hasCancelledChallenger = this.isDone;
      return this.#setState({ kind: this.isDone ? "done" : "cancelled" });
    }
    this.error = error instanceof ApiError ? error : new ApiError({ reason: "page_bug", detail: String(error) });
    this.#setState({ kind: "failed" });
  }

  #setState(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
