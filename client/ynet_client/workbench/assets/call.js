// Calls to the site's process: JSON in and out, the session's token with each, and faults as three lines.
const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;
export const base = meta("base");
const csrf = meta("csrf");

export class Fault extends Error {
  constructor({ what, why, do: todo }) {
    super(what);
    Object.assign(this, { what, why, todo });
  }
}

export async function call(path, { body, json, background, signal } = {}) {
  const headers = { accept: "application/json" };
  if (background) headers["x-background"] = "1";
  if (json !== undefined) {
    body = JSON.stringify(json);
    headers["content-type"] = "application/json";
  }
  const method = body === undefined ? "GET" : "POST";
  if (method === "POST") headers["x-csrf"] = csrf;
  const answer = await fetched(base + path, { method, headers, body, signal });
  return answer.json();
}

export async function bytes(path, body) {
  const options = body === undefined ? {} : { method: "POST", headers: { accept: "application/json", "x-csrf": csrf }, body };
  return (await fetched(base + path, options)).arrayBuffer();
}

async function fetched(url, options) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault({ what: "The workbench does not answer", why: "the site's client is not running, or the connection is lost", do: "try again; if that does not help, ask the site's admin" });
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("ended"));
  let said;
  try { said = (await answer.json()).error; } catch { said = null; }
  throw new Fault(said ?? { what: "A fault of ynet", why: `it answered ${answer.status}`, do: "ask the site's admin" });
}
