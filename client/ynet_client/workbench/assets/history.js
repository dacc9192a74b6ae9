// The history of this account: ask again, or delete.
import { base, call } from "./call.js";
import { $, count, day, make, toast } from "./dom.js";
import { casePicture, named } from "./results.js";

export class History {
  constructor(again) {
    this.again = again;
    $("history-clear").addEventListener("click", async () => {
      if (!window.confirm("Delete all that you have asked from this list?")) return;
      await this.#delete({});
    });
  }

  async show() {
    try {
      const { entries } = await call("/api/history");
      $("history-clear").disabled = !entries.length;
      $("entries").replaceChildren(...entries.map((one) => this.#row(one)));
      if (!entries.length) $("entries").append(make("p", { cls: "quiet none", text: "Nothing yet. Each question you ask is listed here, for you alone." }));
    } catch (fault) {
      $("entries").replaceChildren(make("p", { cls: "quiet none", text: `${fault.what}: ${fault.why}` }));
    }
  }

  #row(one) {
    const source = one.case ? casePicture(one.case, 96, false) : one.has_thumbnail ? `${base}/api/history/thumbnail?id=${one.id}` : null;
    const picture = make("span", { cls: "square" }, source ? make("img", { src: source, alt: "", width: 96, height: 96, loading: "lazy" }) : null);
    const hits = Object.entries(one.hits).map(([site, number]) => `${site} ${number}`).join(" · ");
    const nearest = one.nearest ? `nearest: ${named(one.nearest.label)}, ${count(one.nearest.distance, "bit")}, site ${one.nearest.site}` : "nothing found";
    return make("article", { cls: "entry" }, picture,
      make("div", { cls: "entry-body" }, make("strong", { text: one.name || "image" }), make("time", { cls: "quiet", text: day(one.time) }),
        make("span", { text: nearest }), make("span", { cls: "quiet", text: `hits: ${hits}${one.filters.length ? ` · filtered by ${one.filters.join(", ")}` : ""}` })),
      make("span", { cls: "row" }, one.case ? make("button", { type: "button", text: "Ask again", on: { click: () => this.again(one.case) } }) : null,
        make("button", { type: "button", cls: "quiet", text: "Delete", "aria-label": `Delete ${one.name}`, on: { click: () => this.#delete({ id: one.id }) } })));
  }

  async #delete(which) {
    try {
      const { deleted } = await call("/api/history/delete", { json: which });
      toast(`${count(deleted, "entry", "entries")} deleted.`);
    } catch (fault) {
      toast(`${fault.what}: ${fault.why}`);
    }
    await this.show();
  }
}
