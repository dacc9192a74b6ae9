// The answer: a row for each site, own cases with their pictures, others' as cards.
import { base } from "./call.js";
import { $, count, make } from "./dom.js";

export const casePicture = (image, side, isOutlined = true) =>
  `${base}/api/cases/picture?side=${side}&outline=${isOutlined ? 1 : 0}&image=${encodeURIComponent(image)}`;

let labels = [];
export const knowLabels = (all) => { labels = [...all]; };
const colour = (label) => {
  if (!label) return "none";
  if (!labels.includes(label)) labels.push(label);
  return `c${labels.indexOf(label) % 8}`;
};
const bits = (hit) => count(hit.distance, "bit");
const near = (hit) => make("span", { cls: "near" }, make("span", { text: bits(hit) }),
  make("small", { text: hit.ties > 1 ? `${hit.ties.toLocaleString("en")} tied` : "", title: `${count(hit.ties, "case")} of site ${hit.site} at this distance` }));
// A case that nobody has labelled differs from a label that its site does not share.
export const named = (label, hidden = "label not shared") => (label ?? null) === null ? hidden : label || "no label";
const labelOf = (label) => make("span", { cls: "label" }, make("span", { cls: `swatch ${colour(label)}` }), make("span", { text: named(label) }));

export function showResults(answer, { openCase, askConsult }) {
  $("found").hidden = false;
  $("empty").hidden = true;
  const sites = new Set(answer.others.map((hit) => hit.site)).size;
  $("results-sub").textContent =
    `${answer.own.length} of ours, ${answer.others.length} at ${count(sites, "other site")} · distances in bits of ${answer.bits} · ` +
    `${(answer.took_ms / 1000).toFixed(2)} s`;
  showSites(answer);
  $("own-sub").textContent = answer.own.some((hit) => hit.has_mask) ? "lesions outlined as annotated" : "";
  $("own").replaceChildren(...answer.own.map((hit) => ownCard(hit, openCase)));
  if (!answer.own.length) $("own").append(make("p", { cls: "quiet none", text: "None of our cases fits." }));
  $("others").replaceChildren(...answer.others.map((hit) => otherCard(hit, answer, askConsult)));
  if (!answer.others.length) $("others").append(make("p", { cls: "quiet none", text: answer.note ? "The others were not asked." : "No case at a site that answered." }));
}

export function showWaiting() {
  $("found").hidden = false;
  $("empty").hidden = true;
  $("results-sub").textContent = "Asking all sites …";
  const ghosts = (cls, number) => Array.from({ length: number }, () => make("div", { cls: `${cls} ghost`, "aria-hidden": "true" }));
  $("sites").replaceChildren(...ghosts("site-row", 3));
  $("own").replaceChildren(...ghosts("own-card", 5));
  $("others").replaceChildren(...ghosts("other-card", 6));
}

export function showNothing() {
  $("found").hidden = true;
}

// A row for each site: its name, its hits by label as a bar and in words, or the reason for none.
function showSites(answer) {
  const spread = new Map(answer.spread.map((one) => [one.site, one]));
  const most = Math.max(1, ...answer.spread.map((one) => one.total));
  const own = [{ site: answer.site, kind: "own", words: "" }];
  const rows = [...own, ...answer.outcomes].map(({ site, kind, words }) => {
    const found = spread.get(site), isOwn = kind === "own";
    const name = make("span", { cls: "site-name", role: "cell" }, make("strong", { text: site, title: site }), isOwn ? make("small", { text: "ours" }) : null);
    if (!found || !found.total) {
      return make("div", { cls: "site-row silent", role: "row" }, name, make("span", { cls: `why ${kind}`, role: "cell", text: words || "Nothing found: no case of ours fits." }));
    }
    const bar = make("span", { cls: "bar", role: "cell" });
    bar.setAttribute("aria-label", found.labels.map(([label, number]) => `${named(label)}: ${number}`).join(", "));
    const track = make("span", { cls: "track" });
    track.style.width = `${(100 * found.total) / most}%`;
    for (const [label, number] of found.labels) {
      const part = make("span", { cls: colour(label), title: `${named(label)}: ${number}` });
      part.style.flexGrow = number;
      track.append(part);
    }
    bar.append(track);
    const said = make("span", { cls: "said-labels", role: "cell" },
      ...found.labels.map(([label, number]) => make("span", { cls: "label" }, make("span", { cls: `swatch ${colour(label)}` }), make("span", { text: `${number} ${named(label, "not shared")}` }))));
    return make("div", { cls: "site-row", role: "row" }, name, bar, said);
  });
  $("sites").replaceChildren(...rows);
}

function rank(hit) {
  return hit.rank ? make("span", { cls: "rank", title: `Rank ${hit.rank} of all sites' cases`, text: hit.rank }) : null;
}

function ownCard(hit, openCase) {
  const picture = make("img", { src: casePicture(hit.image, 192), alt: "", width: 192, height: 192, loading: "lazy", decoding: "async" });
  const label = `Our case ${hit.image}, ${named(hit.label)}, ${bits(hit)}${hit.rank ? `, rank ${hit.rank}` : ""}`;
  return make("button", { type: "button", cls: "own-card", "aria-label": label, title: hit.image, on: { click: () => openCase(hit) } },
    make("span", { cls: "square" }, picture, rank(hit)),
    labelOf(hit.label),
    near(hit));
}

function otherCard(hit, answer, askConsult) {
  const ask = make("button", { type: "button", cls: "ask", text: "Consult", "aria-label": `Ask site ${hit.site} for a consult about case ${hit.token.slice(0, 8)}`, on: { click: () => askConsult(hit, answer, ask) } });
  return make("article", { cls: "other-card", "aria-label": `A case of site ${hit.site}` },
    make("div", { cls: "card-head" }, make("strong", { text: hit.site }), rank(hit)),
    labelOf(hit.label),
    near(hit),
    make("div", { cls: "card-foot" }, make("code", { title: hit.token, text: hit.token.slice(0, 8) }), ask));
}
