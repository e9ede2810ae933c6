// Before and after on the stage: the line between them, zoom, and the original while a button is held.

import { Blend } from "./blend.js";
import { Zoom } from "./zoom.js";
import { CHALLENGER, MODEL } from "./photo.js";

const $ = (id) => document.getElementById(id);
const STEP = 0.02;
const LARGE_STEP = 0.1;

export class View {
  #photo = null;
  #isComparing = false;
  #isHeld = false;
  #part = 0.5; // of the visible photo, left of the line
  #left = new Blend($("left"));
  #right = new Blend($("right"));
  #zoom = new Zoom({ scroller: $("scroller"), spacer: $("spacer"), onMove: () => this.#place() });

  constructor() {
    this.#listenToPointer();
    this.#listenToKeys();
    this.#listenToHold();
    $("zoom").addEventListener("click", () => this.#toggleZoom());
    $("scroller").addEventListener("dblclick", (event) => this.#toggleZoom(pointOf(event)));
  }

  // isComparing: left the model's result, right the challenger's. Otherwise left the original, right the result.
  show(photo, { isComparing }) {
    const isNew = photo !== this.#photo;
    this.#photo = photo;
    const { beforeUrl: before, afterUrls, file } = photo;
    this.#isComparing = isComparing && Boolean(afterUrls[CHALLENGER]);
    const shown = this.#isComparing ? CHALLENGER : MODEL;
    this.#left.show({ before, after: this.#isComparing ? afterUrls[MODEL] : "", name: `${file.name}, left of the line` });
    this.#right.show({ before, after: afterUrls[shown], name: `${file.name}, right of the line` });
    $("stage").classList.toggle("single", !photo.isDone);
    $("hold").hidden = !photo.isDone;
    $("zoom").hidden = !photo.size;
    if (photo.size) this.#zoom.size = photo.size;
    if (isNew) {
      this.#part = 0.5;
      $("scroller").scrollTo(0, 0);
    }
    this.#showStrength();
    this.#place();
  }

  updateStrength() {
    this.#showStrength();
  }

  #showStrength() {
    const { strength, answers } = this.#photo;
    this.#left.strength = this.#isHeld || !this.#isComparing ? 0 : strength;
    this.#right.strength = this.#isHeld ? 0 : strength;
    const version = (which) => answers[which]?.version ?? "";
    const left = this.#isComparing ? `Champion\n${version(MODEL)}` : "Original";
    const right = this.#isComparing ? `Challenger\n${version(CHALLENGER)}` : "Enhanced";
    $("left-tag").textContent = this.#isHeld ? "Original" : left;
    $("right-tag").textContent = this.#isHeld ? "Original" : right;
    $("hold").setAttribute("aria-pressed", String(this.#isHeld));
    $("handle").setAttribute("aria-label", this.#isComparing ? "Line between champion and challenger" : "Line between before and after");
  }

  #place() {
    if (!this.#photo) return;
    const place = this.#zoom.place();
    const { left, right, top, bottom } = this.#zoom.visible();
    const line = left + this.#part * (right - left);
    this.#left.place(place);
    this.#right.place(place);
    $("left").style.clipPath = `inset(0 calc(100% - ${line}px) 0 0)`;
    $("right").style.clipPath = this.#photo.isDone ? `inset(0 0 0 ${line}px)` : "none";
    const handle = $("handle");
    handle.style.left = `${line}px`;
    handle.style.top = `${top}px`;
    handle.style.height = `${Math.max(0, bottom - top)}px`;
    handle.setAttribute("aria-valuenow", String(Math.round(100 * this.#part)));
    handle.setAttribute("aria-valuetext", `${Math.round(100 * this.#part)} % ${$("left-tag").textContent}`);
    for (const tag of [$("left-tag"), $("right-tag")]) tag.style.top = `${top}px`;
    $("left-tag").style.left = `${left}px`;
    $("right-tag").style.right = `${$("stage").clientWidth - right}px`;
    for (const tag of [$("left-tag"), $("right-tag")]) tag.style.maxWidth = `${Math.max(0, (right - left) / 2 - 24)}px`;
  }

  #slideTo(part) {
    this.#part = Math.min(1, Math.max(0, part));
    this.#place();
  }

  #slideToPointer(event) {
    const { left, right } = this.#zoom.visible();
    this.#slideTo((pointOf(event).x - left) / (right - left));
  }

  #toggleZoom(point) {
    this.#zoom.toggle(point);
    $("stage").classList.toggle("actual", this.#zoom.isActual);
    $("zoom").setAttribute("aria-pressed", String(this.#zoom.isActual));
  }

  #listenToPointer() {
    const drag = (element, onMove) => {
      element.addEventListener("pointerdown", (event) => {
        if (event.button !== 0 || !onMove(event)) return;
        const move = (moved) => onMove(moved);
        element.setPointerCapture(event.pointerId);
        element.addEventListener("pointermove", move);
        element.addEventListener("lostpointercapture", () => element.removeEventListener("pointermove", move), { once: true });
      });
    };
    drag($("handle"), (event) => {
      this.#slideToPointer(event);
      return true;
    });
    // On the photo itself, a drag moves the line, or the photo if it is zoomed in. A press of the mouse alone moves nothing: it
    // may be the first of a double click. Fingers scroll a zoomed photo natively.
    drag($("scroller"), (event) => {
      const isFinger = event.pointerType === "touch";
      const isMove = event.type === "pointermove";
      if (!this.#zoom.isActual && (isMove || isFinger)) this.#slideToPointer(event);
      if (this.#zoom.isActual && isMove) this.#zoom.pan(-event.movementX, -event.movementY);
      return !this.#zoom.isActual || !isFinger;
    });
  }

  #listenToKeys() {
    $("handle").addEventListener("keydown", (event) => {
      const part = {
        ArrowLeft: this.#part - STEP,
        ArrowDown: this.#part - STEP,
        ArrowRight: this.#part + STEP,
        ArrowUp: this.#part + STEP,
        PageDown: this.#part - LARGE_STEP,
        PageUp: this.#part + LARGE_STEP,
        Home: 0,
        End: 1,
      }[event.key];
      if (part === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      this.#slideTo(part);
    });
  }

  #listenToHold() {
    const button = $("hold");
    const hold = (isHeld) => {
      if (this.#isHeld === isHeld) return;
      this.#isHeld = isHeld;
      this.#showStrength();
    };
    let isFromPointer = false;
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      isFromPointer = true;
      button.setPointerCapture(event.pointerId);
      hold(true);
    });
    button.addEventListener("lostpointercapture", () => hold(false));
    button.addEventListener("blur", () => hold(false));
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press of a finger
    button.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      hold(true);
    });
    button.addEventListener("keyup", (event) => {
      if (event.key === " " || event.key === "Enter") hold(false);
    });
    // Screen readers press without pointer and keys, so for them the button switches.
    button.addEventListener("click", () => {
      if (!isFromPointer) hold(!this.#isHeld);
      isFromPointer = false;
    });
  }
}

function pointOf(event) {
  const box = $("stage").getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
