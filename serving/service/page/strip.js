// The row of photos: a thumbnail, the state and a button to cancel or remove for each.

import { stateText } from "./words.js";

// onSelect, onRemove: called with the photo.
export class Strip {
  #list = document.querySelector("#strip ul");
  #rows = new Map();

  constructor({ onSelect, onRemove }) {
    this.onSelect = onSelect;
    this.onRemove = onRemove;
  }

  add(photo) {
    const { name } = photo.file;
    const row = { item: make("li"), select: make("button", "thumb"), state: make("span", "state"), meter: make("span", "meter"), remove: make("button", "remove") };
    const label = make("span", "label");
    label.textContent = name;
    row.select.type = row.remove.type = "button";
    row.select.title = name;
    photo.thumbnail.setAttribute("aria-hidden", "true");
    row.select.append(photo.thumbnail, row.meter, label, row.state);
    row.item.append(row.select, row.remove);
    row.select.addEventListener("click", () => this.onSelect(photo));
    row.remove.addEventListener("click", () => this.onRemove(photo));
    row.select.addEventListener("keydown", (event) => {
      if (event.key === "Delete" && !photo.isBusy) this.onRemove(photo);
    });
    this.#rows.set(photo, row);
    this.#list.append(row.item);
    this.update(photo);
  }

  update(photo) {
    const row = this.#rows.get(photo);
    if (!row) return;
    const { kind, part } = photo.state;
    row.item.dataset.state = kind;
    row.state.textContent = stateText(photo.state);
    row.meter.style.transform = `scaleX(${kind === "sending" ? part : kind === "enhancing" ? 1 : 0})`;
    row.remove.textContent = "×";
    row.remove.title = photo.isBusy ? "Cancel" : "Remove";
    row.remove.setAttribute("aria-label", `${row.remove.title} ${photo.file.name}`);
  }

  select(photo) {
    for (const [each, row] of this.#rows) {
      if (each === photo) row.select.setAttribute("aria-current", "true");
      else row.select.removeAttribute("aria-current");
    }
    this.#rows.get(photo)?.item.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  focus(photo) {
    this.#rows.get(photo)?.select.focus();
  }

  remove(photo) {
    this.#rows.get(photo)?.item.remove();
    this.#rows.delete(photo);
  }
}

function make(tag, className = "") {
  const element = document.createElement(tag);
  element.className = className;
  return element;
}
