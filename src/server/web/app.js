// The page's frame: tabs, the model's name, the key.
import { apiKey, request, setApiKey } from "./api.js";
import { Chat } from "./chat.js";
import { EngineView } from "./engine.js";

const get = (id) => document.getElementById(id);
const tabs = [get("tab-chat"), get("tab-engine")];
const panelOf = (tab) => get(tab.getAttribute("aria-controls"));

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    panelOf(other).hidden = !chosen;
  }
  history.replaceState(null, "", `#${panelOf(tab).id}`);
}

for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const next = tabs[(tabs.indexOf(tab) + 1) % tabs.length];
    select(next);
    next.focus();
  });
}

function askForKey(hint) {
  get("key-button").hidden = false;
  get("key-hint").textContent = hint;
  get("key-input").value = "";
  get("key-dialog").returnValue = "";
  if (!get("key-dialog").open) get("key-dialog").showModal();
}

const kHint = "It stays in this browser tab and is gone when you close it.";
const onRefused = () => askForKey(apiKey() ? "The server does not accept the key it got." : kHint);

const chat = new Chat(onRefused);
get("key-button").addEventListener("click", () => askForKey(kHint));
get("key-cancel").addEventListener("click", () => get("key-dialog").close(""));
get("key-dialog").addEventListener("close", () => {
  if (get("key-dialog").returnValue !== "use" || !get("key-input").value) return;
  setApiKey(get("key-input").value);
  get("key-input").value = "";
  showModel();
});

async function showModel() {
  try {
    const models = await (await request("v1/models")).json();
    chat.model = models.data[0].id;
    get("model").textContent = chat.model;
    document.title = `${chat.model} · Deepflight`;
  } catch (error) {
    if (error.status === 401) onRefused();
    else setTimeout(showModel, 3000);
  }
}

get("key-button").hidden = !apiKey();
if (location.hash === "#engine") select(tabs[1]);
else get("input").focus();
new EngineView();
showModel();
