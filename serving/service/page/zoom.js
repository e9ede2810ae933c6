// Where the photo lies on the stage: fitted into it, or at one pixel of the photo for each pixel of the screen.
//
// An empty scroller lies over the pictures. So panning by wheel, keys, fingers and scroll bars is the browser's own.

export class Zoom {
  isActual = false;
  #size = { width: 1, height: 1 };

  // onMove: called when the photo has to be placed again.
  constructor({ scroller, spacer, onMove }) {
    this.scroller = scroller;
    this.spacer = spacer;
    this.onMove = onMove;
    scroller.addEventListener("scroll", onMove, { passive: true });
    new ResizeObserver(() => this.#layOut()).observe(scroller);
  }

  set size(size) {
    this.#size = size;
    this.#layOut();
  }

  // point: of the stage, stays where it is; its centre if left out.
  toggle(point) {
    const { clientWidth, clientHeight } = this.scroller;
    const at = point ?? { x: clientWidth / 2, y: clientHeight / 2 };
    const before = this.place();
    const across = (at.x - before.x) / before.width;
    const down = (at.y - before.y) / before.height;
    this.isActual = !this.isActual;
    this.#layOut();
    const { width, height } = this.place();
    this.scroller.scrollTo(across * width - at.x, down * height - at.y);
    this.onMove();
  }

  pan(x, y) {
    this.scroller.scrollBy(x, y);
  }

  // The photo's rectangle on the stage.
  place() {
    const { clientWidth, clientHeight, scrollLeft, scrollTop } = this.scroller;
    const scale = this.#scale();
    const width = this.#size.width * scale;
    const height = this.#size.height * scale;
    const x = width > clientWidth ? -scrollLeft : (clientWidth - width) / 2;
    const y = height > clientHeight ? -scrollTop : (clientHeight - height) / 2;
    // Between two pixels of the screen, the photo would be blurred.
    const snap = (offset) => Math.floor(offset * devicePixelRatio) / devicePixelRatio;
    return { x: snap(x), y: snap(y), width, height, isMagnified: this.isActual };
  }

  // The part of that rectangle that the stage shows.
  visible() {
    const { clientWidth, clientHeight } = this.scroller;
    const { x, y, width, height } = this.place();
    const left = Math.max(0, x);
    const top = Math.max(0, y);
    return { left, top, right: Math.min(clientWidth, x + width), bottom: Math.min(clientHeight, y + height) };
  }

  #scale() {
    if (this.isActual) return 1 / devicePixelRatio;
    const { clientWidth, clientHeight } = this.scroller;
    return Math.min(clientWidth / this.#size.width, clientHeight / this.#size.height);
  }

  #layOut() {
    const scale = this.#scale();
    this.spacer.style.width = this.isActual ? `${this.#size.width * scale}px` : "0";
    this.spacer.style.height = this.isActual ? `${this.#size.height * scale}px` : "0";
    this.onMove();
  }
}
