// One answer in the conversation: the thinking, live and then folded, the text, and a line of
// figures.
import { element, showText } from "./text.js";

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

export class Turn {
  thinking = "";
  content = "";
  usage = null;

  #start = performance.now();
  #first = 0;      // when the first token came
  #last = 0;       // and the newest
  #answered = 0;   // and the first one of the answer
  #numChunks = 0;  // stand in for tokens where the server counts none
  #frame = 0;
  #shown = [];
  #summary = element("summary", {}, "Thinking");
  #thought = element("div", { class: "thought" });
  #details = element("details", { hidden: "", class: "thinking" }, this.#summary, this.#thought);
  #body = element("div", { class: "body" });
  #figures = element("p", { class: "figures", "aria-live": "off" }, "Waiting for the first token");
  node = element("article", { class: "answer", "aria-busy": "true", "aria-label": "Answer" },
                 this.#details, this.#body, this.#figures);

  constructor(onChange) {
    this.onChange = onChange;  // called after what is shown grew
  }

  add({ thinking = "", content = "", usage = null }) {
    if (usage) this.usage = usage;
    if (!thinking && !content) return;
    this.#last = performance.now();
    this.#first ||= this.#last;
    this.#numChunks += 1;
    this.thinking += thinking;
    this.content += content;
    if (this.content.trim() && !this.#answered) this.#answered = this.#last;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  // `note`: why it ended, where that is worth saying; `error`: a line that says what went wrong.
  finish({ note = "", error = "" } = {}) {
    cancelAnimationFrame(this.#frame);
    this.#show();
    this.node.setAttribute("aria-busy", "false");
    if (this.thinking && !this.#answered) this.#summary.textContent = "Thinking, not finished";
    this.#figures.textContent = [note, this.#first ? this.#figuresText() : ""]
      .filter(Boolean).join(" · ");
    this.#figures.hidden = !this.#figures.textContent;
    if (error) this.node.append(element("p", { class: "error", role: "alert" }, error));
    this.onChange();
  }

  #show() {
    this.#frame = 0;
    if (this.thinking) this.#showThinking();
    this.#shown = showText(this.#body, this.content, this.#shown);
    if (this.#first) this.#figures.textContent = this.#figuresText();
    this.onChange();
  }

  #showThinking() {
    if (this.#details.hidden) {
      this.#details.hidden = false;
      this.#details.open = true;
    }
    this.#thought.textContent = this.thinking.trim();
    if (!this.#answered) {
      this.#summary.textContent = `Thinking, ${seconds(this.#last - this.#first)}`;
      this.#thought.scrollTop = this.#thought.scrollHeight;
    } else if (!this.#details.dataset.folded) {
      this.#details.dataset.folded = "1";  // once: later it is the reader's to open
      this.#details.open = false;
      this.#thought.scrollTop = 0;
      this.#summary.textContent = `Thought for ${seconds(this.#answered - this.#start)}`;
    }
  }

  #figuresText() {
    const tokens = this.usage?.completion_tokens ?? this.#numChunks;
    const parts = [`first token ${seconds(this.#first - this.#start)}`];
    const spent = this.#last - this.#first;
    if (tokens > 1 && spent > 0) {
      const rate = ((tokens - 1) / spent) * 1000;
      parts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
    }
    const reasoning = this.usage?.completion_tokens_details?.reasoning_tokens;
    parts.push(`${tokens} tokens` + (reasoning ? `, ${reasoning} of them thinking` : ""));
    const details = this.usage?.completion_tokens_details;
    const accepted = details?.accepted_prediction_tokens;
    if (accepted !== undefined) {
      const drafted = accepted + details.rejected_prediction_tokens;
      if (drafted > 0) parts.push(`${Math.round((100 * accepted) / drafted)} % of drafts accepted`);
    }
    if (this.usage) {
      const cached = this.usage.prompt_tokens_details?.cached_tokens;
      parts.push(`prompt ${this.usage.prompt_tokens}` + (cached ? `, ${cached} from cache` : ""));
    }
    return parts.join(" · ");
  }
}
