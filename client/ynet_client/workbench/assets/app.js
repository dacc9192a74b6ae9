// The page: take an image, send the query, show the answer.
import { base, bytes, call } from "./call.js";
import { Cases } from "./cases.js";
import { Consults } from "./consults.js";
import { $, count, make, showFault, toast } from "./dom.js";
import { History } from "./history.js";
import { knowLabels, showNothing, showResults, showWaiting } from "./results.js";
import { Viewer } from "./viewer.js";

const MOST_BYTES = 64 << 20;
let source = null; // { file } or { image }: the queried image, to ask again when filters change
let answer = null;
let state = { role: "" };
let asking = null;

const viewer = new Viewer(() => refreshLinks());
const cases = new Cases((image) => ask({ image }), (fault) => showFault($("fault"), fault));
const consults = new Consults(() => state.role);
const history_ = new History((image) => { location.hash = "#search"; ask({ image }); });

async function ask(wanted) {
  const isSame = source === wanted && answer;
  source = wanted;
  asking?.abort();
  const own = (asking = new AbortController());
  const begun = performance.now();
  showFault($("fault"), null);
  $("note").hidden = true;
  $("busy").hidden = false;
  delete $("film").dataset.shown;
  if (!isSame) clearImage();
  answer = null;
  linkFiles(false);
  showWaiting();
  try {
    const asked = new URLSearchParams({ query: JSON.stringify(query()) }), frame = new FormData($("filters")).get("frame");
    if (wanted.image) asked.set("case", wanted.image); else asked.set("name", wanted.file.name);
    if (frame) asked.set("frame", frame);
    const found = await call(`/api/query?${asked}`, { body: wanted.file ?? "", signal: own.signal });
    showResults(found, { openCase: (hit) => cases.open(hit, viewer.plain()), askConsult: (...about) => consults.ask(...about) });
    answer = found;
    notes(found);
    $("film").dataset.took = Math.round(performance.now() - begun);
    const [pixels, mask] = await Promise.all([bytes(`/api/answers/${found.id}/pixels`), bytes(`/api/answers/${found.id}/overlay`)]);
    if (own !== asking) return;
    showImage(found, pixels, mask);
    $("film").dataset.shown = Math.round(performance.now() - begun);
  } catch (fault) {
    if (fault.name === "AbortError") return;
    showNothing();
    clearImage();
    $("drop").hidden = false;
    $("results-sub").textContent = "No answer.";
    showFault($("fault"), fault);
  } finally {
    if (own === asking) $("busy").hidden = true;
  }
}

function clearImage() {
  viewer.clear();
  $("film-head").hidden = $("film-foot").hidden = true;
  $("drop").hidden = true;
}

function linkFiles(isOn) {
  $("get-seg").hidden = !isOn || !answer?.is_dicom;
  for (const id of ["get-mask", "get-report"]) {
    $(id).classList.toggle("off", !isOn);
    if (isOn) $(id).removeAttribute("aria-disabled");
    else { $(id).setAttribute("aria-disabled", "true"); $(id).removeAttribute("href"); }
  }
}

function showImage(found, pixels, mask) {
  $("drop").hidden = true;
  $("film-head").hidden = $("film-foot").hidden = false;
  $("film-name").textContent = found.name || "image";
  const isSmaller = found.full_width !== found.picture.width;
  $("film-size").textContent = `${found.full_width} × ${found.full_height}${isSmaller ? `, shown at ${found.picture.width} × ${found.picture.height}` : ""}`;
  const regions = found.regions.length ? found.regions : [{ name: "lesion", share: found.share }];
  const legend = regions.map((one) => predicted(one.name, 100 * one.share));
  $("film-lesion").replaceChildren(...legend.map((text, place) => make("span", { cls: `region r${place}`, text })));
  $("stage").setAttribute("aria-label", `The image ${found.name}: ${legend.join("; ")}`);
  viewer.load(found.picture, pixels, mask, regions.length);
  linkFiles(true);
  refreshLinks();
}

function predicted(name, percent) {
  return percent ? `predicted ${name}, ${percent < 1 ? percent.toPrecision(1) : percent.toFixed(percent < 10 ? 1 : 0)} % of the image` : `no ${name} predicted`;
}

function refreshLinks() {
  if (!answer) return;
  $("get-mask").href = `${base}/api/answers/${answer.id}/mask.png`;
  $("get-report").href = `${base}/api/answers/${answer.id}/report.html?low=${viewer.low.toFixed(4)}&high=${viewer.high.toFixed(4)}`;
}

// The file is sent again: the site's process keeps no file that names a patient.
async function getSeg() {
  const { file } = source, { id, name } = answer;
  $("get-seg").disabled = true;
  showFault($("fault"), null);
  try {
    const made = await bytes(`/api/answers/${id}/seg.dcm`, file);
    const href = URL.createObjectURL(new Blob([made], { type: "application/dicom" }));
    make("a", { href, download: `${name.replace(/\.[^.]*$/, "") || "image"}-seg.dcm` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  } catch (fault) {
    showFault($("fault"), fault);
  } finally {
    $("get-seg").disabled = false;
  }
}
$("get-seg").addEventListener("click", getSeg);

function notes(found) {
  const said = [];
  if (found.note) said.push(`The other sites were not asked: ${found.note}.`);
  if (found.noise) said.push(`Asked with noise, epsilon ${found.noise.epsilon}: the others' cases are like a class's centre, not like this image. Ours are by its own code.`);
  $("note").hidden = !said.length;
  $("note").textContent = said.join(" ");
}

// --- the query

// As ynet_client/retrieval/query.py reads it. Numbers are sent as typed; the site's process refuses what is not a number.
function query() {
  const form = new FormData($("filters"));
  const sites = form.getAll("site"), all = $("filter-sites").querySelectorAll("input").length;
  return {
    k: form.get("k") || 10,
    radius: form.get("radius") || null,
    epsilon: form.get("epsilon") || null,
    one_per_patient: Boolean(form.get("one_per_patient")),
    sites: sites.length < all ? sites : [],
    filters: {
      labels: form.getAll("label"),
      split: form.get("split") ?? "",
      attributes: form.get("attribute_name") ? [[form.get("attribute_name"), form.get("attribute_value") ?? ""]] : [],
      since: form.get("since") ?? "",
      until: form.get("until") ?? "",
    },
  };
}

function countFilters() {
  const { k, filters, ...more } = query(), frame = new FormData($("filters")).get("frame");
  const values = [...Object.values(more), ...Object.values(filters), frame, k === 10 || k === "10" ? null : k];
  const number = values.filter((value) => (Array.isArray(value) ? value.length : value)).length;
  $("filter-count").hidden = !number;
  $("filter-count").textContent = number;
}

function checks(box, name, values) {
  const known = new Set([...box.querySelectorAll("input")].map((one) => one.value));
  for (const value of values) if (!known.has(value)) box.append(make("label", { cls: "check" }, make("input", { type: "checkbox", name, value }), make("span", { text: value })));
  box.parentElement.hidden = !box.children.length;
}

function toggleFilters() {
  const isOpen = $("filters").hidden;
  $("filters").hidden = !isOpen;
  $("filter-button").setAttribute("aria-expanded", isOpen);
}

$("filter-button").addEventListener("click", toggleFilters);
$("filters").addEventListener("input", countFilters);
$("filters").addEventListener("reset", () => setTimeout(countFilters));
$("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  countFilters();
  if (source) ask(source);
});

// --- images that come in

function take(file) {
  if (!file) return;
  location.hash = "#search";
  if (file.size > MOST_BYTES) {
    showFault($("fault"), { what: "The image is too large", why: `it has ${Math.round(file.size / (1 << 20))} MiB, more than 64`, todo: "scale it down" });
    return;
  }
  ask({ file });
}

const isFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
document.addEventListener("dragover", (event) => { if (isFiles(event)) { event.preventDefault(); $("catch").hidden = false; } });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("catch").hidden = true; });
document.addEventListener("drop", (event) => {
  if (!isFiles(event)) return;
  event.preventDefault();
  $("catch").hidden = true;
  if (event.dataTransfer.files.length > 1) toast("Several files: the first is asked about.");
  take(event.dataTransfer.files[0]);
});
$("file").addEventListener("change", () => { take($("file").files[0]); $("file").value = ""; });
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => (button.dataset.do === "open" ? $("file").click() : cases.pick()));

// --- views, keys, dialogs

function showView() {
  const name = ["#search", "#consults", "#history"].includes(location.hash) ? location.hash.slice(1) : "search";
  for (const view of document.querySelectorAll(".view")) view.hidden = view.id !== name;
  for (const tab of document.querySelectorAll(".tabs a")) {
    if (tab.hash === `#${name}`) tab.setAttribute("aria-current", "page"); else tab.removeAttribute("aria-current");
  }
  if (name === "consults") consults.show(true);
  if (name === "history") history_.show();
}
window.addEventListener("hashchange", showView);

const KEYS = {
  o: () => $("file").click(), c: () => cases.pick(), f: toggleFilters, r: () => answer && $("get-report").click(),
  1: () => { location.hash = "#search"; }, 2: () => { location.hash = "#consults"; }, 3: () => { location.hash = "#history"; },
  "?": () => $("help").showModal(), m: () => viewer.toggleMask(), "[": () => viewer.step("opacity", -10), "]": () => viewer.step("opacity", 10),
  w: () => viewer.step("window", -2), W: () => viewer.step("window", 2), l: () => viewer.step("level", -2), L: () => viewer.step("level", 2),
  "+": () => viewer.zoom(1.4), "=": () => viewer.zoom(1.4), "-": () => viewer.zoom(1 / 1.4), 0: () => viewer.reset(),
  ArrowLeft: () => viewer.move(40, 0), ArrowRight: () => viewer.move(-40, 0), ArrowUp: () => viewer.move(0, 40), ArrowDown: () => viewer.move(0, -40),
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, select, textarea")) return;
  const act = KEYS[event.key];
  if (!act || (event.key.startsWith("Arrow") && !event.target.closest("#stage"))) return;
  event.preventDefault();
  act();
});
$("help-button").addEventListener("click", () => $("help").showModal());
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const dialog of document.querySelectorAll("dialog")) dialog.addEventListener("click", (event) => { if (event.target === dialog && dialog.id !== "ended") dialog.close(); });
document.addEventListener("ended", () => { if (!$("ended").open) $("ended").showModal(); });
document.addEventListener("changed", () => refresh());

// --- the state of the site

async function refresh() {
  try {
    state = await call("/api/state", { background: true });
  } catch (fault) {
    link("bad", "no answer", fault.what);
    return;
  }
  link(state.connected ? (state.model ? "good" : "warn") : "bad", state.connected ? (state.model ? "connected" : "no model yet") : "not connected",
    `Site ${state.site}: ${count(state.indexed, "case")} indexed of ${state.cases}; model ${(state.model ?? "none yet").slice(0, 16)}; ${state.doing}`);
  knowLabels(state.classes);
  const facts = { "Our archive": `${count(state.indexed, "case")} can be found`, "Other sites": state.sites.join(", ") || "asked when you ask", Labels: state.classes.join(", ") || "as the plan has them", Model: state.model ? state.model.slice(0, 16) : "none yet" };
  $("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  checks($("filter-labels"), "label", state.classes);
  checks($("filter-sites"), "site", state.sites);
  $("waiting").hidden = !state.waiting;
  $("waiting").textContent = state.waiting;
  $("waiting").title = `${count(state.waiting, "request")} wait for an answer`;
  if (!state.model && !answer) showFault($("fault"), { what: "There is no model yet", why: "the sites have not finished their first training run", todo: "come back when the coordinator says that it is done" });
}

function link(tone, words, title) {
  $("link").className = `chip ${tone}`;
  $("link").title = title;
  $("link").lastElementChild.textContent = words;
}

showView();
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 15_000);
