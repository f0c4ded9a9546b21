// A small line over the last two minutes, in SVG. Gaps (a hidden tab, a lost server) stay gaps.

const kSvg = "http://www.w3.org/2000/svg";
const kWidth = 240;
const kHeight = 48;
const kSpanMs = 120_000;
const kGapMs = 5_000;

function path(svg, name) {
  const node = document.createElementNS(kSvg, "path");
  node.setAttribute("class", name);
  svg.append(node);
  return node;
}

export class Sparkline {
  #points = [];  // {time, value}
  node = document.createElementNS(kSvg, "svg");
  #area = path(this.node, "area");
  #line = path(this.node, "line");

  // `top`: the scale's end at least.
  constructor(top) {
    this.top = top;
    this.node.setAttribute("viewBox", `0 0 ${kWidth} ${kHeight}`);
    this.node.setAttribute("preserveAspectRatio", "none");
    this.node.setAttribute("role", "img");
  }

  get max() {
    return Math.max(0, ...this.#points.map((point) => point.value));
  }

  add(time, value) {
    if (value !== null) this.#points.push({ time, value });
    while (this.#points.length > 0 && this.#points[0].time < time - kSpanMs) this.#points.shift();
    this.#draw(time);
  }

  #draw(now) {
    const top = Math.max(this.top, this.max);
    const x = (time) => (kWidth * (1 - (now - time) / kSpanMs)).toFixed(1);
    const y = (value) => (kHeight - 1 - (kHeight - 3) * (value / top)).toFixed(1);
    let line = "";
    let area = "";
    let before = null;
    for (const point of this.#points) {
      const joined = before && point.time - before.time < kGapMs;
      if (!joined) {
        if (before) area += `L${x(before.time)} ${kHeight}Z`;
        area += `M${x(point.time)} ${kHeight}`;
      }
      line += `${joined ? "L" : "M"}${x(point.time)} ${y(point.value)}`;
      area += `L${x(point.time)} ${y(point.value)}`;
      before = point;
    }
    if (before) area += `L${x(before.time)} ${kHeight}Z`;
    this.#line.setAttribute("d", line);
    this.#area.setAttribute("d", area);
  }
}
