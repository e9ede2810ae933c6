// Shows a photo at any strength by two stacked pictures: original + s · (enhanced − original), without a request.
//
// Up to 1, the enhanced picture lies over the original with the opacity s. CSS cannot subtract, so beyond 1 the lower picture
// is inverted: with c = 2s − 1, the stack gives (s · enhanced + (s − 1) · (1 − original)) / c, and the filter contrast(c)
// makes s · enhanced − (s − 1) · original of it. The service computes the same on the whole photo.

export class Blend {
  #base = new Image();
  #top = new Image();
  #group = document.createElement("div");

  constructor(side) {
    this.side = side;
    this.#group.className = "blend";
    for (const image of [this.#base, this.#top]) {
      image.draggable = false;
      image.alt = "";
    }
    this.#group.append(this.#base, this.#top);
    side.append(this.#group);
  }

  // Addresses of pictures. after: "" if there is none yet. name: for screen readers.
  show({ before, after, name }) {
    replace(this.#base, before);
    replace(this.#top, after);
    this.#base.alt = name;
  }

  set strength(strength) {
    const isShown = strength > 0 && this.#top.hasAttribute("src");
    const isBeyond = isShown && strength > 1;
    const contrast = 2 * strength - 1;
    this.#top.style.visibility = isShown ? "visible" : "hidden";
    this.#top.style.opacity = String(isBeyond ? strength / contrast : strength);
    this.#base.style.filter = isBeyond ? "invert(1)" : "none";
    this.#group.style.filter = isBeyond ? `contrast(${contrast})` : "none";
  }

  // Pixels of CSS, relative to the side.
  place({ x, y, width, height, isMagnified }) {
    for (const { style } of [this.#base, this.#top]) {
      style.width = `${width}px`;
      style.height = `${height}px`;
      style.transform = `translate(${x}px, ${y}px)`;
      style.imageRendering = isMagnified ? "pixelated" : "auto";
    }
  }
}

function replace(image, address) {
  if (!address) image.removeAttribute("src");
  else if (image.getAttribute("src") !== address) image.src = address;
  image.hidden = !address;
}
