// Requests to the server that the page came from. Paths are relative to the page.

const kKeySlot = "deepflight-api-key";  // in sessionStorage: this tab's, gone with it

export const apiKey = () => sessionStorage.getItem(kKeySlot) ?? "";
export const setApiKey = (key) => sessionStorage.setItem(kKeySlot, key);

// One line that can be shown as it is. `status` is 0 where there was no answer.
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

// The answer, if it is a good one; throws ApiError, or AbortError when `signal` says so.
export async function request(path, { body, signal } = {}) {
  const headers = {};
  if (apiKey()) headers.Authorization = `Bearer ${apiKey()}`;
  if (body) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server is not reachable.");
  }
  if (!response.ok) throw new ApiError(await errorLine(response), response.status);
  return response;
}

async function errorLine(response) {
  const text = await response.text().catch(() => "");
  try {
    return oneLine(JSON.parse(text).error.message);
  } catch {
    return `The server answered ${response.status} ${response.statusText}`.trim() + ".";
  }
}

export const oneLine = (text) => String(text).replace(/\s+/g, " ").trim().slice(0, 400);

// The data of each server-sent event of an answer, as it arrives.
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (pending + value).split("\n");
      pending = lines.pop();
      for (const line of lines.map((line) => line.replace(/\r$/, ""))) {
        if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        } else if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
