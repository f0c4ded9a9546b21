// What the engine does, once a second from /metrics: tiles with a value and two minutes of history.
import { request } from "./api.js";
import { History, readMetrics } from "./metrics.js";
import { Sparkline } from "./sparkline.js";
import { element } from "./text.js";

const kPollMs = 1000;
const kAnswerMs = 3000;  // that a poll may take
const kRateMs = 2000;    // that rates are means over
const kRecentMs = 10_000;  // that latencies and hit rates are means over

const round = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const whole = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const percent = (value) => `${round(value * 100)} %`;
const duration = (s) => (s < 1 ? `${round(s * 1000)} ms` : `${round(s)} s`);
const over = (a, b) => (a === null || !b ? null : a / b);
const inAll = (value, format) => (value === null ? "" : `${format(value)} since the start`);

// value: what is shown and drawn, null if unknown; from: the metric without which it never is; note:
// a line below it; top: of the scale, at least.
const kTiles = [
  {
    title: "Running", kind: "load", from: "running", top: 4, format: whole,
    value: (h) => h.last.running,
    note: () => "sequences",
  },
  {
    title: "Waiting", kind: "load", from: "waiting", top: 4, format: whole,
    value: (h) => h.last.waiting,
    note: () => "sequences",
  },
  {
    title: "KV cache used", kind: "memory", from: "kvUsage", top: 0.01, format: percent,
    value: (h) => h.last.kvUsage,
    note: ({ last }) =>
      (last.kvPages === null ? "of its pages"
        : `${whole(last.kvPagesUsed)} of ${whole(last.kvPages)} pages`),
  },
  {
    title: "Prefix hits", kind: "memory", from: "prefixHits", top: 1, format: percent,
    value: (h) => h.ratio("prefixHits", "prefixQueries", kRecentMs),
    note: ({ last }) => inAll(over(last.prefixHits, last.prefixQueries), percent),
  },
  {
    title: "Prompt tokens/s", kind: "rate", from: "promptTokens", top: 10, format: round,
    value: (h) => h.perSecond("promptTokens", kRateMs),
    note: ({ last }) => inAll(last.promptTokens, whole),
  },
  {
    title: "Output tokens/s", kind: "rate", from: "outputTokens", top: 10, format: round,
    value: (h) => h.perSecond("outputTokens", kRateMs),
    note: ({ last }) => inAll(last.outputTokens, whole),
  },
  {
    title: "Tokens a step", kind: "rate", from: "draftRows", top: 2, format: round,
    value: (h) => {
      const accepted = h.ratio("acceptedDrafts", "draftRows", kRecentMs);
      return accepted === null ? null : 1 + accepted;
    },
    note: ({ last }) => {
      const share = over(last.acceptedDrafts, last.drafts);
      return share === null ? "no drafts" : `${percent(share)} of drafts accepted`;
    },
  },
  {
    title: "Time to first token", kind: "latency", from: "ttftSum", top: 0.001,
    format: duration,
    value: (h) => h.ratio("ttftSum", "ttftCount", kRecentMs),
    note: ({ last }) => inAll(over(last.ttftSum, last.ttftCount), duration),
  },
  {
    title: "Time per token", kind: "latency", from: "itlSum", top: 0.001,
    format: duration,
    value: (h) => h.ratio("itlSum", "itlCount", kRecentMs),
    note: ({ last }) => inAll(over(last.itlSum, last.itlCount), duration),
  },
];

const kTotals = [
  ["Requests in flight", "inFlight"],
  ["Prompt tokens", "promptTokens"],
  ["Output tokens", "outputTokens"],
  ["Steps", "steps"],
  ["Draft tokens accepted", "acceptedDrafts"],
  ["Preemptions", "preemptions"],
  ["Pages kept as prefix cache", "kvPagesCached"],
];

class Tile {
  #value = element("p", { class: "value" }, "–");
  #note = element("p", { class: "note" }, "");
  #most = element("span", { class: "most" }, "");

  constructor(spec) {
    this.spec = spec;
    this.line = new Sparkline(spec.top);
    this.node = element("section", { class: `tile ${spec.kind}`, "data-title": spec.title },
                        element("h3", {}, spec.title), this.#most, this.#value, this.line.node,
                        this.#note);
  }

  update(history) {
    const { title, from, value, note, format } = this.spec;
    const now = value(history);
    this.line.add(history.last.time, now);
    const most = this.line.max;
    this.#value.textContent = now === null ? "–" : format(now);
    this.#most.textContent = most > 0 ? `max ${format(most)}` : "";
    const reported = history.last[from] !== null;
    this.#note.textContent =
      reported ? note(history) || "nothing measured yet" : "not reported";
    const label = `${title}, last two minutes: now ${this.#value.textContent}, at most `;
    this.line.node.setAttribute("aria-label", label + format(most));
  }
}

export class EngineView {
  #history = new History();
  #tiles = kTiles.map((spec) => new Tile(spec));
  #state = document.getElementById("engine-state");
  #totals = document.getElementById("totals");
  #timer = 0;
  #polling = false;

  constructor() {
    document.getElementById("tiles").append(...this.#tiles.map((tile) => tile.node));
    document.addEventListener("visibilitychange", () => this.#runIfVisible());
    this.#runIfVisible();
  }

  // Nobody looks at a hidden tab: it asks for nothing.
  #runIfVisible() {
    clearInterval(this.#timer);
    if (document.hidden) return;
    this.#timer = setInterval(() => this.#poll(), kPollMs);
    this.#poll();
  }

  async #poll() {
    if (this.#polling) return;
    this.#polling = true;
    let text = null;
    try {
      const response = await request("metrics", { signal: AbortSignal.timeout(kAnswerMs) });
      text = await response.text();
      this.#say("");
    } catch (error) {
      this.#say(error.status ? error.message : "The server is not reachable. Trying again.");
    }
    this.#polling = false;
    if (text !== null) this.#show(readMetrics(text));
  }

  #show(values) {
    this.#history.add({ time: performance.now(), ...values });
    for (const tile of this.#tiles) tile.update(this.#history);
    this.#totals.replaceChildren(...kTotals
      .filter(([, key]) => values[key] !== null)
      .flatMap(([name, key]) => [element("dt", {}, name), element("dd", {}, whole(values[key]))]));
  }

  // Written only when it changes, so that a screen reader says it once.
  #say(text) {
    if (this.#state.textContent !== text) this.#state.textContent = text;
    this.#state.hidden = !text;
    document.getElementById("engine").classList.toggle("stale", Boolean(text));
  }
}
