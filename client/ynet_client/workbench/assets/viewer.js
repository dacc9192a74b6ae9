// Draw the image in its window and the predicted mask over it; move, zoom and window by mouse and keys.
import { $ } from "./dom.js";

// One for each region, in the plan's order; overlay.py has the same ones.
const REGIONS = [[255, 196, 61], [92, 178, 255], [240, 116, 160], [128, 214, 112], [186, 148, 250], [255, 140, 84], [96, 216, 210], [224, 228, 234]];
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

export class Viewer {
  #picture = null; #values = null; #plain = null; #layers = []; #x = 0; #y = 0; #scale = 1; #fit = 1; #frame = 0;

  constructor(changed) {
    this.changed = changed;
    this.stage = $("stage");
    this.canvas = $("canvas");
    this.controls = ["mask", "opacity", "window", "level", "zoom-in", "zoom-out", "zoom-fit"].map($);
    new ResizeObserver(() => this.#resize()).observe(this.stage);
    for (const id of ["mask", "opacity"]) $(id).addEventListener("input", () => this.#showValues());
    for (const id of ["window", "level"]) $(id).addEventListener("input", () => this.#windowed());
    $("zoom-in").addEventListener("click", () => this.zoom(1.4));
    $("zoom-out").addEventListener("click", () => this.zoom(1 / 1.4));
    $("zoom-fit").addEventListener("click", () => this.reset());
    this.#hands();
  }

  get isLoaded() { return this.#picture !== null; }
  get low() { return (Number($("level").value) - Number($("window").value) / 2) / 100; }
  get high() { return (Number($("level").value) + Number($("window").value) / 2) / 100; }

  load(picture, pixels, mask, regions) {
    this.#picture = picture;
    this.#values = picture.channels === 1 ? new Uint16Array(pixels) : new Uint8Array(pixels);
    this.#plain = surface(picture.width, picture.height);
    const bits = new Uint8Array(mask);
    this.#layers = Array.from({ length: Math.max(1, regions) }, (_, place) => this.#layer(bits.map((value) => (value >> place) & 1), REGIONS[place]));
    for (const control of this.controls) control.disabled = false;
    this.stage.hidden = false;
    this.reset();
  }

  // The image in its current window, without the mask, for a comparison.
  plain() { return this.#plain?.toDataURL("image/jpeg", 0.9); }

  // Show nothing: an image must never appear next to the answer about another.
  clear() {
    this.#picture = null;
    this.stage.hidden = true;
    for (const control of this.controls) control.disabled = true;
  }

  reset() {
    if (!this.#picture) return;
    const { low, high } = this.#picture;
    $("window").value = Math.round((high - low) * 100);
    $("level").value = Math.round((high + low) * 50);
    this.#windowed();
    this.#resize(true);
  }

  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (!this.#picture) return;
    const scale = clamp(this.#scale * factor, this.#fit * 0.5, Math.max(this.#fit * 40, 8));
    this.#x = x - ((x - this.#x) * scale) / this.#scale;
    this.#y = y - ((y - this.#y) * scale) / this.#scale;
    this.#scale = scale;
    this.#draw();
  }

  move(x, y) { this.#x += x; this.#y += y; this.#draw(); }

  step(id, amount) {
    const control = $(id);
    if (control.disabled) return;
    control.value = Number(control.value) + amount;
    control.dispatchEvent(new Event("input"));
  }

  toggleMask() { if (!$("mask").disabled) { $("mask").checked = !$("mask").checked; this.#showValues(); } }

  #showValues() {
    $("opacity-out").value = `${$("opacity").value} %`;
    $("window-out").value = `${$("window").value} %`;
    $("level-out").value = `${$("level").value} %`;
    this.#draw();
    this.changed?.();
  }

  #windowed() {
    if (!this.#picture) return;
    const { width, height, channels } = this.#picture, values = this.#values;
    const top = channels === 1 ? 65535 : 255, low = this.low * top, span = Math.max((this.high - this.low) * top, 1e-3 * top);
    const table = new Uint8ClampedArray(top + 1);
    for (let value = 0; value <= top; value++) table[value] = (255 * (value - low)) / span;
    const made = new ImageData(width, height), data = made.data;
    for (let pixel = 0, from = 0, to = 0; pixel < width * height; pixel++, to += 4) {
      if (channels === 1) data[to] = data[to + 1] = data[to + 2] = table[values[pixel]];
      else { data[to] = table[values[from++]]; data[to + 1] = table[values[from++]]; data[to + 2] = table[values[from++]]; }
      data[to + 3] = 255;
    }
    this.#plain.getContext("2d").putImageData(made, 0, 0);
    this.#showValues();
  }

  // What is filled, and the line around it: of the mask smoothed over one cell of the network's own, coarser grid.
  #layer(mask, colour) {
    const { width, height } = this.#picture, made = new ImageData(width, height);
    const soft = smoothed(mask, width, height, Math.max(1, Math.round(Math.max(width, height) / 110)));
    for (let pixel = 0; pixel < soft.length; pixel++) if (soft[pixel] > 0) made.data.set([...colour, 255 * clamp(2 * soft[pixel] - 0.5, 0, 1)], 4 * pixel);
    const fill = surface(width, height);
    fill.getContext("2d").putImageData(made, 0, 0);
    return { fill, outline: contour(soft, width, height), colour: `rgb(${colour.join(" ")})` };
  }

  #resize(isAnew = false) {
    if (!this.#picture) return;
    const ratio = window.devicePixelRatio || 1, width = this.stage.clientWidth, height = this.stage.clientHeight;
    if (!width || !height) return;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const fit = Math.min((width - 1.7 * rem()) / this.#picture.width, (height - 5.7 * rem()) / this.#picture.height);
    const factor = isAnew ? 1 : this.#scale / this.#fit;
    this.#fit = fit;
    if (isAnew || Math.abs(factor - 1) < 1e-6) {
      this.#scale = fit;
      this.#x = (width - this.#picture.width * fit) / 2;
      this.#y = (height - this.#picture.height * fit) / 2;
    }
    this.#draw();
  }

  #draw() {
    if (!this.#picture) return;
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    if (!this.#picture) return;
    const ratio = window.devicePixelRatio || 1, pen = this.canvas.getContext("2d"), scale = this.#scale * ratio, line = rem() / 7;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.setTransform(scale, 0, 0, scale, this.#x * ratio, this.#y * ratio);
    pen.imageSmoothingEnabled = scale < 12;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(this.#plain, 0, 0);
    const opacity = $("mask").checked ? Number($("opacity").value) / 100 : 0;
    for (const { fill, outline, colour } of opacity > 0 ? this.#layers : []) {
      pen.globalAlpha = 0.3 * opacity;
      pen.drawImage(fill, 0, 0);
      pen.globalAlpha = Math.min(1, 0.35 + opacity);
      pen.lineJoin = pen.lineCap = "round";
      pen.strokeStyle = "rgb(0 0 0 / 55%)";
      pen.lineWidth = (2 * line * ratio) / scale;
      pen.stroke(outline);
      pen.strokeStyle = colour;
      pen.lineWidth = (line * ratio) / scale;
      pen.stroke(outline);
      pen.globalAlpha = 1;
    }
    $("film-zoom").textContent = `${Math.round(this.#scale * ratio * 100)} %`;
  }

  #hands() {
    let from = null;
    this.stage.addEventListener("pointerdown", (event) => {
      if (!this.#picture) return;
      from = { x: event.clientX, y: event.clientY, isWindow: event.button === 2 || event.shiftKey };
      this.stage.setPointerCapture(event.pointerId);
      this.stage.classList.toggle("moved", !from.isWindow);
    });
    this.stage.addEventListener("pointermove", (event) => {
      if (!from) return;
      const x = event.clientX - from.x, y = event.clientY - from.y;
      if (from.isWindow) { this.step("window", Math.round(x / 2)); this.step("level", Math.round(-y / 2)); }
      else this.move(x, y);
      if (!from.isWindow || Math.abs(x) > 1 || Math.abs(y) > 1) Object.assign(from, { x: event.clientX, y: event.clientY });
    });
    const end = () => { from = null; this.stage.classList.remove("moved"); };
    this.stage.addEventListener("pointerup", end);
    this.stage.addEventListener("pointercancel", end);
    this.stage.addEventListener("contextmenu", (event) => event.preventDefault());
    this.stage.addEventListener("dblclick", () => this.reset());
    this.stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = this.stage.getBoundingClientRect();
      this.zoom(Math.exp(-event.deltaY / 400), event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
  }
}

const rem = () => parseFloat(getComputedStyle(document.documentElement).fontSize);

function surface(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

// A box blur of some radius, done twice, and made so high again that a lesion smaller than the box is still seen.
function smoothed(mask, width, height, radius) {
  let from = Float32Array.from(mask);
  for (let pass = 0; pass < 2; pass++) {
    from = blurred(from, width, height, radius, 1, width);
    from = blurred(from, height, width, radius, width, 1);
  }
  const top = from.reduce((most, value) => Math.max(most, value), 0);
  return top > 0 && top < 0.9 ? from.map((value) => value / top) : from;
}

function blurred(from, length, lines, radius, step, stride) {
  const to = new Float32Array(from.length), share = 1 / (2 * radius + 1);
  for (let line = 0; line < lines; line++) {
    const start = line * stride;
    let sum = 0;
    for (let at = 0; at < Math.min(radius, length); at++) sum += from[start + at * step];
    for (let at = 0; at < length; at++) {
      if (at + radius < length) sum += from[start + (at + radius) * step];
      if (at - radius > 0) sum -= from[start + (at - radius - 1) * step];
      to[start + at * step] = sum * share;
    }
  }
  return to;
}

// Where a field of values passes a half, as short lines between the middles of pixels: marching squares.
function contour(field, width, height) {
  const path = new Path2D(), cut = (a, b) => (0.5 - a) / (b - a);
  const at = (x, y) => (x < 0 || y < 0 || x >= width || y >= height ? 0 : field[y * width + x]);
  for (let y = -1; y < height; y++)
    for (let x = -1; x < width; x++) {
      const a = at(x, y), b = at(x + 1, y), c = at(x + 1, y + 1), d = at(x, y + 1), ends = [];
      if (a > 0.5 === b > 0.5 && b > 0.5 === c > 0.5 && c > 0.5 === d > 0.5) continue;
      if (a > 0.5 !== b > 0.5) ends.push([x + cut(a, b), y]);
      if (b > 0.5 !== c > 0.5) ends.push([x + 1, y + cut(b, c)]);
      if (d > 0.5 !== c > 0.5) ends.push([x + cut(d, c), y + 1]);
      if (a > 0.5 !== d > 0.5) ends.push([x, y + cut(a, d)]);
      for (let end = 0; end + 1 < ends.length; end += 2) {
        path.moveTo(ends[end][0] + 0.5, ends[end][1] + 0.5);
        path.lineTo(ends[end + 1][0] + 0.5, ends[end + 1][1] + 0.5);
      }
    }
  return path;
}
