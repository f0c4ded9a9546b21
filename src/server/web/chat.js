// The conversation: sends it with each question, shows the answer as it streams.
import { ApiError, events, oneLine, request } from "./api.js";
import { element } from "./text.js";
import { Turn } from "./turn.js";

const get = (id) => document.getElementById(id);
const log = get("log");
const input = get("input");

const kNotes = {
  length: "stopped at the token limit",
  abort: "ended by the server",
};

export class Chat {
  model = "";
  #messages = [];  // questions that were answered, and the answers
  #abort = null;   // of the answer that is being written

  // `onRefused`: called when the server wants a key, or another one.
  constructor(onRefused) {
    this.onRefused = onRefused;
    get("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.send();
    });
    input.addEventListener("input", fitInput);
    get("stop").addEventListener("click", () => this.stop());
    get("new-chat").addEventListener("click", () => this.clear());
    for (const example of document.querySelectorAll(".examples button")) {
      example.addEventListener("click", () => {
        input.value = example.textContent;
        this.send();
      });
    }
  }

  stop() {
    this.#abort?.abort();
  }

  clear() {
    this.stop();
    this.#messages = [];
    log.querySelectorAll("article").forEach((article) => article.remove());
    get("welcome").hidden = false;
    input.focus();
  }

  async send() {
    const question = input.value.trim();
    if (!question || this.#abort || !get("composer").reportValidity()) return;
    const abort = new AbortController();
    this.#abort = abort;
    setInput("");
    this.#showBusy(true);
    get("welcome").hidden = true;
    const asked = element("article", { class: "question", "aria-label": "Question" }, question);
    const turn = new Turn(followEnd);
    log.append(asked, turn.node);
    log.scrollTop = log.scrollHeight;

    const messages = this.#messages;
    const outcome = await this.#answer([...messages, { role: "user", content: question }], turn,
                                       abort.signal);
    turn.finish(outcome);
    if (turn.content.trim()) {
      messages.push({ role: "user", content: question },
                    { role: "assistant", content: turn.content.trim() });
    } else if (outcome.error && !turn.thinking && !input.value) {
      setInput(question);  // to be sent again
    }
    this.#abort = null;
    this.#showBusy(false);
    if (outcome.status === 401) this.onRefused();
  }

  // Streams an answer into `turn`. Returns how it ended, for Turn.finish().
  async #answer(messages, turn, signal) {
    const body = {
      messages,
      stream: true,
      stream_options: { include_usage: true, continuous_usage_stats: true },
    };
    if (this.model) body.model = this.model;
    if (get("temperature").value) body.temperature = Number(get("temperature").value);
    if (get("max-tokens").value) body.max_tokens = Number(get("max-tokens").value);
    let reason = null;
    try {
      const response = await request("v1/chat/completions", { body, signal });
      for await (const data of events(response)) {
        if (data === "[DONE]") break;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ApiError(oneLine(chunk.error.message));
        const choice = chunk.choices?.[0];
        turn.add({
          thinking: choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "",
          content: choice?.delta?.content ?? "",
          usage: chunk.usage,
        });
        reason = choice?.finish_reason ?? reason;
      }
    } catch (error) {
      if (signal.aborted) return { note: "stopped" };
      if (error instanceof ApiError) return { error: error.message, status: error.status };
      return { error: "The connection was cut before the answer ended." };
    }
    if (!reason) return { error: "The connection was cut before the answer ended." };
    return { note: kNotes[reason] ?? "" };
  }

  #showBusy(busy) {
    get("send").hidden = busy;
    get("stop").hidden = !busy;
    if (!busy && document.activeElement === document.body) input.focus();
  }
}

function setInput(text) {
  input.value = text;
  fitInput();
}

function fitInput() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, 200)}px`;
}

// Keeps the end in view, unless the reader has scrolled away from it.
function followEnd() {
  const distance = log.scrollHeight - log.scrollTop - log.clientHeight;
  if (distance < 160) log.scrollTop = log.scrollHeight;
}
