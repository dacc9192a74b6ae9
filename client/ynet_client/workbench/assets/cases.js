// The list of own cases to pick from, and one of them next to the query.
import { call } from "./call.js";
import { $, count, make } from "./dom.js";
import { casePicture, named } from "./results.js";

export class Cases {
  #asked = 0; #shown = 0; #total = 0; #timer; #hit = null;

  constructor(chosen, failed) {
    Object.assign(this, { chosen, failed });
    $("case-text").addEventListener("input", () => { clearTimeout(this.#timer); this.#timer = setTimeout(() => this.#list(), 200); });
    $("case-label").addEventListener("change", () => this.#list());
    $("case-grid").addEventListener("scroll", (event) => {
      const grid = event.target;
      if (grid.scrollTop + grid.clientHeight > grid.scrollHeight - 300) this.#more();
    });
    $("case-outline").addEventListener("change", () => this.#picture());
    $("case-ask").addEventListener("click", () => { $("case").close(); this.chosen(this.#hit.image); });
  }

  pick() {
    $("cases").showModal();
    $("case-text").focus();
    this.#list();
  }

  // An own hit next to the query.
  open(hit, query) {
    this.#hit = hit;
    $("h-case").textContent = hit.image.split("/").pop();
    $("case-query").src = query;
    $("case-caption").textContent = `${named(hit.label)} · ${count(hit.distance, "bit")}`;
    $("case-picture").alt = `Our case ${hit.image}`;
    $("case-facts").textContent = Object.entries(hit.attributes).map(([name, value]) => `${name} ${value}`).join(" · ");
    $("case-outline").parentElement.hidden = !hit.has_mask;
    this.#picture();
    $("case").showModal();
  }

  #picture() { $("case-picture").src = casePicture(this.#hit.image, 768, $("case-outline").checked); }

  async #list() {
    this.#shown = 0;
    await this.#fetch(true);
  }

  async #more() { if (this.#shown < this.#total && !this.isBusy) await this.#fetch(false); }

  async #fetch(isAnew) {
    const asked = ++this.#asked;
    const words = new URLSearchParams({ text: $("case-text").value, label: $("case-label").value, offset: this.#shown });
    this.isBusy = true;
    try {
      const found = await call(`/api/cases?${words}`);
      if (asked !== this.#asked) return;
      this.#total = found.total;
      this.#shown += found.cases.length;
      this.#known(found);
      const made = found.cases.map((one) => this.#card(one));
      if (isAnew) $("case-grid").replaceChildren(...made); else $("case-grid").append(...made);
      if (!found.total) $("case-grid").replaceChildren(make("p", { cls: "quiet none", text: "No case of ours fits." }));
      $("case-total").textContent = count(found.total, "case");
    } catch (fault) {
      $("cases").close();
      this.failed(fault);
    } finally {
      this.isBusy = false;
    }
  }

  #known(found) {
    const chosen = $("case-label").value;
    if ($("case-label").options.length === 1) for (const label of found.labels) $("case-label").append(make("option", { text: label }));
    $("case-label").value = chosen;
    if (!$("attributes").children.length) $("attributes").append(...found.attributes.map((name) => make("option", { value: name })));
  }

  #card(one) {
    const picture = make("img", { src: casePicture(one.image, 192, false), alt: "", width: 192, height: 192, loading: "lazy", decoding: "async" });
    const name = one.image.split("/").pop();
    return make("button", { type: "button", cls: "own-card", title: one.image, "aria-label": `Ask about ${name}, ${named(one.label)}`, on: { click: () => { $("cases").close(); this.chosen(one.image); } } },
      make("span", { cls: "square" }, picture), make("span", { cls: "label" }, make("span", { text: named(one.label) })), make("span", { cls: "file", text: name }));
  }
}
