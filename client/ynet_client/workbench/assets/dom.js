// Elements made from data: text stays text, so that no text of another site or of a file becomes markup.
export const $ = (id) => document.getElementById(id);

export function make(tag, { text, on, data, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    element.setAttribute(name === "cls" ? "class" : name, value === true ? "" : value);
  }
  Object.assign(element.dataset, data ?? {});
  for (const [event, act] of Object.entries(on ?? {})) element.addEventListener(event, act);
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export const count = (number, one, many) => `${number.toLocaleString("en")} ${number === 1 ? one : many ?? one + "s"}`;

export const day = (seconds) => new Date(seconds * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

let timer;
export function toast(words) {
  const box = $("toast");
  box.textContent = words;
  box.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => box.classList.remove("shown"), 5000);
}

export function showFault(box, fault) {
  box.hidden = !fault;
  box.replaceChildren();
  if (!fault) return;
  const sentence = (words) => (words ? words[0].toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".") : "");
  box.append(make("strong", { text: sentence(fault.what ?? String(fault)) }));
  if (fault.why) box.append(make("span", { text: sentence(fault.why) }));
  if (fault.todo) box.append(make("span", { text: sentence(fault.todo) }));
}
