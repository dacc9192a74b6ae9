// Requests for a consult: send one about a hit, show its answer, answer those of other sites.
import { call } from "./call.js";
import { $, count, day, make, showFault, toast } from "./dom.js";
import { casePicture } from "./results.js";

const DECISIONS = { open: ["waiting", ""], yes: ["yes", "good"], no: ["no", "bad"], unknown: ["gone there", "warn"] };

export class Consults {
  #about = null; #drafts = new Map(); #shown = "";

  constructor(role) {
    this.role = role;
    $("consults-refresh").addEventListener("click", () => this.show(true));
    $("ask-note").addEventListener("input", () => { $("ask-left").textContent = `${count(2000 - $("ask-note").value.length, "character")} left`; });
    $("ask-form").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
  }

  ask(hit, answer, button) {
    this.#about = { hit, answer, button };
    showFault($("ask-fault"), null);
    $("ask-about").replaceChildren("To the people of ", make("strong", { text: `site ${hit.site}` }),
      `, about their case ${hit.token.slice(0, 8)}${hit.label ? ` (${hit.label})` : ""}. They see which of their cases is meant.`);
    $("ask").showModal();
    $("ask-note").focus();
  }

  async #send() {
    const { hit, answer, button } = this.#about;
    $("ask-send").disabled = true;
    try {
      await call("/api/consult", { json: { answer: answer.id, site: hit.site, token: hit.token, note: $("ask-note").value } });
      $("ask").close();
      $("ask-note").value = "";
      $("ask-left").textContent = "2000 characters left";
      button.textContent = "Asked";
      button.classList.add("done");
      toast(`Sent to site ${hit.site}. The answer will be under Consults.`);
    } catch (fault) {
      showFault($("ask-fault"), fault);
    } finally {
      $("ask-send").disabled = false;
    }
  }

  async show(isAsked) {
    $("consults-refresh").disabled = true;
    showFault($("consults-note"), null);
    try {
      this.#fill(await call("/api/consults"));
      if (isAsked) {
        const found = await call("/api/consults?refresh=1");
        this.#fill(found);
        if (found.note) showFault($("consults-note"), { what: "Not all answers could be fetched", why: found.note, todo: "they are asked again when you refresh" });
      }
    } catch (fault) {
      showFault($("consults-note"), fault);
    } finally {
      $("consults-refresh").disabled = false;
    }
  }

  #fill({ consults }) {
    const state = JSON.stringify([this.role(), consults]);
    if (state === this.#shown) return;
    this.#shown = state;
    const { id = "", selectionStart, selectionEnd } = document.activeElement ?? {}; // somebody may be typing an answer
    const of = (direction) => consults.filter((one) => one.direction === direction);
    const first = (one) => (one.decision === "open" ? 0 : 1);
    const received = of("received").sort((a, b) => first(a) - first(b) || b.time - a.time);
    $("received").replaceChildren(...received.map((one) => this.#received(one)));
    $("sent").replaceChildren(...of("sent").map((one) => this.#sent(one)));
    if (!received.length) $("received").append(make("p", { cls: "quiet none", text: "Nobody has asked yet. Requests of other sites about our cases come here." }));
    if (!of("sent").length) $("sent").append(make("p", { cls: "quiet none", text: "Nothing asked yet. On a card of another hospital, choose Consult." }));
    const text = id.startsWith("text-") && $(id);
    if (text) { text.focus(); text.setSelectionRange(selectionStart, selectionEnd); }
  }

  #head(one, words) {
    const [text, tone] = DECISIONS[one.decision];
    return make("div", { cls: "consult-head" }, make("strong", { text: words }), make("time", { cls: "quiet", text: day(one.time) }), make("span", { cls: `chip ${tone}`, text }));
  }

  #sent(one) {
    return make("article", { cls: "card consult" },
      make("div", { cls: "consult-body" }, this.#head(one, `Site ${one.site}${one.is_mine ? "" : " · a colleague asked"}`),
        make("p", { cls: "note-text", text: one.note }), make("p", { cls: "quiet" }, "case ", make("code", { text: one.token.slice(0, 8) })), this.#said(one)));
  }

  #received(one) {
    const body = make("div", { cls: "consult-body" }, this.#head(one, `Site ${one.site} asks`), make("p", { cls: "note-text", text: one.note }), make("p", { cls: "quiet" }, make("code", { text: one.image })));
    if (one.decision !== "open") body.append(this.#said(one) ?? "");
    else if (this.role() === "radiologist") body.append(this.#form(one));
    else body.append(make("p", { cls: "quiet", text: "A radiologist of this site answers." }));
    const picture = make("img", { src: casePicture(one.image, 192), alt: `Our case ${one.image}`, width: 192, height: 192, loading: "lazy" });
    return make("article", { cls: "card consult" }, make("span", { cls: "square" }, picture), body);
  }

  #said(one) {
    if (one.decision === "unknown") return make("p", { cls: "answer", text: "The other site no longer has the request." });
    if (one.decision === "open") return null;
    return make("p", { cls: "answer", text: one.text || "(no text)" });
  }

  #form(one) {
    const text = make("textarea", { maxlength: 2000, rows: 2, id: `text-${one.id}`, placeholder: "How to reach you, or why not" });
    text.value = this.#drafts.get(one.id) ?? "";
    text.addEventListener("input", () => this.#drafts.set(one.id, text.value));
    const box = make("div", { cls: "fault-box", role: "alert", hidden: true });
    const buttons = ["yes", "no"].map((decision) => make("button", { type: "button", cls: decision === "yes" ? "main" : "", text: decision === "yes" ? "Yes, ask me" : "No", on: { click: () => answer(decision) } }));
    const answer = async (decision) => {
      for (const button of buttons) button.disabled = true;
      try {
        await call("/api/consult-answer", { json: { id: one.id, decision, text: text.value } });
        this.#drafts.delete(one.id);
        toast(`Answered ${decision}. Site ${one.site} fetches the answer.`);
        await this.show(false);
        document.dispatchEvent(new CustomEvent("changed"));
      } catch (fault) {
        showFault(box, fault);
        for (const button of buttons) button.disabled = false;
      }
    };
    return make("div", { cls: "answer-form" }, make("label", { for: text.id, text: "Your answer; it cannot be taken back" }), text, box, make("div", { cls: "row" }, ...buttons));
  }
}
