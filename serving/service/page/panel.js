// What the page says about the selected photo, and what can be done with it.

import { CHALLENGER, MODEL } from "./photo.js";
import { canCopy } from "./save.js";
import { bytesText, explain, stageText, stateText, timeText } from "./words.js";

const $ = (id) => document.getElementById(id);

// actions: what the buttons do; each is called with the selected photo.
export class Panel {
  #photo = null;

  constructor(actions) {
    for (const [id, action] of [
      ["cancel", actions.cancel],
      ["again", actions.again],
      ["remove", actions.remove],
      ["trouble-key", actions.enterKey],
      ["download", actions.download],
      ["copy", actions.copy],
      ["save-all", actions.saveAll],
      ["strength-all", actions.useStrengthForAll],
    ]) {
      $(id).addEventListener("click", () => action(this.#photo));
    }
    const setStrength = (strength) => {
      this.#photo.strength = strength;
      this.showStrength();
      actions.strengthChanged(this.#photo);
    };
    $("strength").addEventListener("input", () => setStrength($("strength").valueAsNumber));
    $("strength-reset").addEventListener("click", () => {
      setStrength(1);
      $("strength").focus();
    });
    $("which").addEventListener("change", () => {
      this.#photo.which = $("which").value;
      this.show(this.#photo);
    });
    $("copy").hidden = !canCopy;
  }

  // numPhotos, numDone: of the whole queue.
  show(photo, { numPhotos, numDone } = this.#counts) {
    this.#photo = photo;
    this.#counts = { numPhotos, numDone };
    $("name").textContent = $("name").title = photo.file.name;
    $("facts").textContent = factsOf(photo);
    this.#showProgress();
    this.#showTrouble();
    $("result").hidden = !photo.isDone;
    $("strength-all").hidden = numPhotos < 2;
    $("save-all").hidden = numDone < 2;
    $("save-all").textContent = `Download all ${numDone}`;
    if (!photo.isDone) return;
    this.#showModels();
    this.#showAnswer();
    this.showStrength();
  }

  showStrength() {
    const { strength } = this.#photo;
    $("strength").value = strength;
    $("strength").setAttribute("aria-valuetext", strengthText(strength));
    $("strength-value").textContent = strength.toFixed(2);
    $("strength-reset").disabled = strength === 1;
  }

  #counts = { numPhotos: 1, numDone: 0 };

  #showProgress() {
    const { isBusy, state } = this.#photo;
    $("progress").hidden = !isBusy;
    $("progress-text").textContent = stateText(state);
    // Without a value, the bar only says that something happens.
    if (state.kind === "sending") $("progress-bar").value = state.part;
    else $("progress-bar").removeAttribute("value");
  }

  #showTrouble() {
    const { error, state } = this.#photo;
    const isCancelled = state.kind === "cancelled";
    $("trouble").hidden = !isCancelled && !error;
    $("trouble").classList.toggle("calm", isCancelled);
    if ($("trouble").hidden) return;
    const { title, remedy } = isCancelled ? { title: "Cancelled", remedy: "This photo was not enhanced." } : explain(error);
    $("trouble-title").textContent = title;
    $("trouble-remedy").textContent = remedy;
    $("trouble-detail").textContent = error?.detail ? `The service says: ${error.detail}` : "";
    $("trouble-id").textContent = error?.requestId ? `Request ${error.requestId}` : "";
    $("trouble-key").hidden = error?.reason !== "unauthorized";
  }

  #showModels() {
    const { answers, which } = this.#photo;
    $("which-field").hidden = !answers[CHALLENGER];
    if (!answers[CHALLENGER]) return;
    const option = (value, name) => new Option(`${name} ${answers[value].version}`, value, false, value === which);
    $("which").replaceChildren(option(MODEL, "Champion"), option(CHALLENGER, "Challenger"));
  }

  #showAnswer() {
    const { answers, which } = this.#photo;
    const { version, timing, requestId } = answers[which] ?? answers[MODEL];
    $("answer").replaceChildren(...pair("Model", version));
    const total = timing.find(([name]) => name === "total");
    $("timing").hidden = !total;
    if (!total) return;
    $("timing").querySelector("summary").textContent = `Took ${timeText(total[1])}`;
    const parts = timing.filter(([name]) => name !== "total");
    const rows = parts.flatMap(([name, time]) => pair(stageText(name), timeText(time)));
    $("timing").querySelector("dl").replaceChildren(...rows, ...pair("Request", requestId));
  }
}

function factsOf({ size, file }) {
  const bytes = bytesText(file.size);
  return size ? `${size.width} × ${size.height} · ${bytes}` : bytes;
}

function strengthText(strength) {
  const meaning = { 0: ", the original", 1: ", the full result" }[strength] ?? (strength > 1 ? ", more than the full result" : "");
  return strength.toFixed(2) + meaning;
}

function pair(term, description) {
  if (!description) return [];
  const dt = document.createElement("dt");
  const dd = document.createElement("dd");
  dt.textContent = term;
  dd.textContent = description;
  return [dt, dd];
}
