// Draws the server's state and polls for changes: an unchanged state is an empty answer, and is not drawn again.
"use strict";
const POLL_MS = 2000, SLOW_MS = 10000, AGES_MS = 5000, GONE_S = 900;
const base = document.querySelector('meta[name="base"]').content;
const drawn = {};
let state = JSON.parse(document.getElementById("state").textContent);
let tag = document.getElementById("state").dataset.tag;
let isLive = true;

function h(name, attributes, ...inner) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== undefined) made.setAttribute(key, value);
  made.append(...inner.flat().filter((one) => one !== null && one !== undefined));
  return made;
}
const chip = (kind, text) => h("span", { class: `chip ${kind}` }, text);
const code = (text) => h("code", {}, text);
const now = () => Date.now() / 1000;

function span(seconds) {
  const s = Math.max(0, seconds);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}
// An age that updates every second.
function ago(time) {
  if (!time) return h("span", { class: "quiet" }, "never");
  const at = new Date(time * 1000);
  return h("time", { datetime: at.toISOString(), title: at.toLocaleString(), "data-age": String(time) }, aged(time));
}
function aged(time) { const age = now() - time; return age < 10 ? "just now" : `${span(age)} ago`; }
function date(time) { return new Date(time * 1000).toLocaleDateString(undefined, { year: "numeric", month: "short", day: "numeric" }); }
function small(value) { return value < 0.001 ? value.toExponential().replace("-0", "-") : String(value); }
function count(number, one, many) { return `${number} ${number === 1 ? one : many}`; }

// Draws a part of the page when what it shows has changed.
function draw(id, value, make) {
  const key = JSON.stringify(value === undefined ? null : value);
  if (drawn[id] === key) return;
  drawn[id] = key;
  document.getElementById(id).replaceChildren(...[make(value)].flat().filter((one) => one !== null));
}

function table(heads, rows) {
  const head = heads.map(([text, kind]) => h("th", { scope: "col", class: kind || null }, text));
  return h("table", {}, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows));
}
const cell = (kind, ...inner) => h("td", { class: kind || null }, inner);

// --- the run

const RUN_CHIPS = { running: "info", finished: "good", failed: "bad", cancelled: "warn" };
const PARTS = {
  answered: ["good", "answered"], working: ["info", "working"], failed: ["bad", "gave no result"],
  awaited: ["warn", "waits for a yes"], away: ["bad", "away"], idle: ["", "waiting"],
};
const KINDS = { train: "training", evaluate: "evaluating", "query.initial": "preparing", "query.mask": "masking", "query.keys": "agreeing on keys", "query.open": "opening the sum" };

function runPart(run) {
  if (!run) {
    return [h("div", { class: "head" }, h("h2", { id: "run-title" }, "Training")),
      h("div", { class: "empty" },
        h("p", {}, "No run yet. When the sites have joined, check a plan and train it:"),
        h("p", {}, code("ynet-server plan check PLAN.yaml")), h("p", {}, code("ynet-server train --plan PLAN.yaml")),
        h("p", { class: "quiet" }, "Each site's admin must accept the plan before the site trains."))];
  }
  const terms = run.terms || { rounds: run.round, privacy: { mode: "off" } };
  const isOpen = terms.is_auto && !run.cooldown && !run.stopped;
  const isRunning = run.status === "running", names = Object.keys(run.parts);
  const places = Object.fromEntries([...new Set([...names, ...Object.keys(run.curves.loss)])].sort().map((name, place) => [name, place]));
  const answered = names.filter((name) => run.parts[name].state === "answered").length;
  const word = isRunning && run.stalled ? chip("bad", "stands still") : chip(RUN_CHIPS[run.status], run.status);
  const parts = names.map((name) => {
    const part = run.parts[name], [kind, text] = PARTS[part.state] || ["", part.state];
    const shown = part.state === "working" && KINDS[part.kind] ? KINDS[part.kind] : text;
    return h("li", {}, swatch(places[name]), h("span", { class: "name", title: name }, name), isRunning ? chip(kind, shown) : null);
  });
  return [
    h("div", { class: "head" }, h("h2", { id: "run-title" }, `Run ${run.id}: ${run.name}`), word,
      h("span", { class: "when push" }, isRunning ? "started " : "ended ", ago(isRunning ? run.started : run.ended))),
    h("div", { class: "facts" }, facts(run, terms)),
    h("div", { class: "progress" },
      h("strong", {}, `${run.round} of ${isOpen ? "at most " : ""}${terms.rounds} rounds`), bar(run.round / terms.rounds, isRunning && names.length ? answered / names.length / terms.rounds : 0),
      h("span", { class: "quiet nowrap" }, isRunning && run.round ? `${span(run.seconds)} a round, ${isOpen ? "at most " : ""}${span(run.seconds * (terms.rounds - run.round))} to go` : "")),
    notes(run),
    h("p", { class: "now" }, isRunning ? `Round ${Math.min(run.round + 1, terms.rounds)}: ${answered} of ${names.length} sites have answered` : "Sites that took part"),
    h("ul", { class: "parts", "aria-label": "Sites in this run" }, parts),
    h("div", { class: "charts" },
      chart("Loss", run.curves.loss, places, terms.rounds, null),
      chart("Macro mAP@10", run.curves.macro_map10, places, terms.rounds, [0, 1]),
      chart("Case@10", run.curves.case_hit10, places, terms.rounds, [0, 1]),
      chart("Median tie", run.curves.median_tie10, places, terms.rounds, null),
      chart("Dice", run.curves.dice, places, terms.rounds, [0, 1])),
  ];
}
function facts(run, terms) {
  const privacy = terms.privacy.mode === "off" ? "off" : `ε ${terms.privacy.epsilon}, δ ${small(terms.privacy.delta)}, by ${terms.privacy.mode}`;
  const shown = [["plan", run.plan.slice(0, 12)], ["strategy", terms.strategy], ["aggregation", terms.aggregation],
    ["differential privacy", privacy], ["quorum", terms.quorum], ["deadline of a round", terms.deadline_s ? span(terms.deadline_s) : null]];
  return shown.filter(([, value]) => value).map(([name, value]) => h("span", {}, `${name} `, h("b", {}, String(value))));
}
function bar(done, part) {
  const rects = [svg("rect", { class: "part", x: 0, y: 0, height: 10, width: `${Math.min(1, done + part) * 100}%` }),
    svg("rect", { class: "done", x: 0, y: 0, height: 10, width: `${done * 100}%` })];
  return svg("svg", { role: "img", "aria-label": `${Math.round(done * 100)} % of the rounds`, preserveAspectRatio: "none" }, ...rects);
}
function notes(run) {
  const said = [];
  if (run.stalled) said.push(["bad", run.stalled]);
  if (run.status === "failed") said.push(["bad", `${run.reason}. ${run.do}`]);
  if (run.status === "running" && run.waiting) said.push(["", `Waiting for sites: ${run.waiting.connected} of ${run.waiting.needed} are there.${run.missing.length ? ` Missing: ${run.missing.join(", ")}.` : ""}`]);
  if (run.status === "running" && run.held_again) said.push(["", `The round was under its quorum and is held again (${run.held_again}).`]);
  if (run.stopped) said.push(["", `Stopped after round ${run.stopped.round}: ${run.stopped.reason}.${run.stopped.best ? ` The weights of round ${run.stopped.best} have the best score.` : ""}`]);
  else if (run.cooldown) said.push(["", `Cool-down of ${run.cooldown.rounds} rounds after round ${run.cooldown.round}: ${run.cooldown.reason}.`]);
  return said.length ? h("div", {}, said.map(([kind, text]) => h("p", { class: `note ${kind}` }, text))) : null;
}

// --- sites

const WARN_KINDS = { 30: "info", 7: "warn", 1: "bad", 0: "bad" };
function certificate(one) {
  if (!one) return "";
  const days = (one.ends - now()) / 86400, text = now() < one.begins ? "not in force yet" : days < 0 ? "ended" : count(Math.floor(days), "day", "days");
  return one.warning === null ? h("span", { title: date(one.ends) }, text) : h("span", { class: `chip ${WARN_KINDS[one.warning]}`, title: date(one.ends) }, text);
}
function siteRows(sites) {
  if (!sites.length) {
    return h("div", { class: "empty" }, h("p", {}, "No site has joined yet. Invite the first, and hand its invitation over on a channel that you trust:"), h("p", {}, code("ynet-server invite NAME")));
  }
  const rows = sites.map((site) => h("tr", {},
    h("th", { scope: "row" }, site.name),
    cell("nowrap", site.revoked ? chip("bad", "revoked") : site.connected ? chip("good", "connected") : chip("warn", "away")),
    cell("nowrap", site.connected ? h("span", {}, "since ", stamp(site.since)) : ago(site.last_seen)),
    cell("nowrap", certificate(site.certificate)),
    cell("number", site.cases === null ? "" : site.cases.toLocaleString()),
    cell("nowrap", site.version || ""),
    cell("number", site.epsilon === null ? h("span", { class: "quiet" }, "none") : `≤ ${site.epsilon}`),
    cell("nowrap", site.doing && site.doing.state === "working" ? KINDS[site.doing.kind] || site.doing.kind : "")));
  return table([["Site"], ["State"], ["Last seen"], ["Certificate"], ["Training cases", "number"], ["ynet"], ["ε spent", "number"], ["Doing"]], rows);
}
function stamp(time) {
  const at = new Date(time * 1000), isToday = at.toDateString() === new Date().toDateString();
  const text = isToday ? at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" }) : date(time);
  return h("time", { datetime: at.toISOString(), title: at.toLocaleString() }, text);
}

// --- models

function privacyWords(privacy) {
  if (!privacy.mode) return "no statement";
  const sum = privacy.aggregation === "secure" ? ", summed in secret" : "";
  if (privacy.mode === "off") return `no differential privacy${sum}`;
  return `each ${(privacy.unit || "patient").split(",")[0].replace(/^an? /, "")} (ε ${privacy.epsilon}, δ ${small(privacy.delta)})-private${sum}`;
}
function modelList(models) {
  if (!models.length) return h("p", { class: "empty" }, "No model yet. The first run publishes one when it ends, and the sites install it.");
  return models.map((model) => {
    const sites = Object.keys(model.scores);
    const score = (site, name, digits = 3) => (model.scores[site][name] === undefined ? "" : model.scores[site][name] === null ? "none" : model.scores[site][name].toFixed(digits));
    const most = (n) => (n ? `≤ ${n}` : String(n));
    const masks = (site) => (typeof model.scores[site].masks === "number" ? most(model.scores[site].masks) : "not told");
    const tested = (site) => Object.entries(model.scores[site].queries_per_class || {}).map(([name, n]) => `${name} ${most(n)}`).join(", ") || "not told";
    const regions = [...new Set(sites.flatMap((site) => Object.keys(model.scores[site].dice_per_region || {})))];
    const dice = (site, region) => { const found = (model.scores[site].dice_per_region || {})[region]; return typeof found === "number" ? found.toFixed(3) : "none"; };
    const rows = sites.map((site) => h("tr", {}, h("th", { scope: "row" }, site), cell("number", (model.cases[site] || "").toLocaleString()),
      cell("number", score(site, "macro_map10")), cell("number", score(site, "case_hit10")), cell("number", score(site, "median_tie10", 1)), cell("number", score(site, "dice")), ...regions.map((region) => cell("number", dice(site, region))), cell("number", score(site, "balanced_accuracy")),
      cell("", tested(site)), cell("number", masks(site))));
    return h("div", { class: "model" },
      h("div", { class: "line head" }, h("h3", {}, code(model.id.slice(0, 16))), model.in_use ? chip("good", "in use") : null,
        h("span", { class: "quiet" }, `run ${model.run}, ${model.plan}, ${count(model.rounds, "round", "rounds")}`), h("span", { class: "when push" }, ago(model.published))),
      h("p", {}, h("span", { class: "quiet" }, "Privacy: "), privacyWords(model.privacy)),
      model.in_use && rows.length ? h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Scores by site" }, table([["Site"], ["Cases", "number"], ["Macro mAP@10", "number"], ["Case@10", "number"], ["Median tie", "number"], ["Dice", "number"], ...regions.map((region) => [`Dice: ${region}`, "number"]), ["Balanced accuracy", "number"], ["Test cases by class"], ["With a mask", "number"]], rows)) : null);
  });
}

// --- what needs the coordinator

function todos(state) {
  const found = [], run = state.run, add = (kind, word, text, does) => found.push({ kind, word, text, does });
  if (state.audit.verified.fault) add("bad", "audit", `The audit log cannot be trusted: ${state.audit.verified.fault}.`, "ynet-server audit verify");
  if (run && run.stalled) add("bad", "run", "The run is stalled: the server's disk is full.", "");
  if (run && run.status === "failed") add("bad", "run", `Run ${run.id} failed: ${run.reason}.`, `ynet-server resume ${run.id}`);
  if (run && run.status === "running") {
    const awaited = Object.keys(run.parts).filter((name) => run.parts[name].state === "awaited");
    for (const name of awaited) add("warn", "consent", `The admin of ${name} has not accepted the plan yet.`, `ynet-client plan accept ${run.plan.slice(0, 12)}`);
  }
  for (const site of state.sites) {
    if (site.revoked) continue;
    const silent = site.last_seen === null ? Infinity : now() - site.last_seen;
    if (!site.connected && silent > GONE_S) add("warn", "site", `${site.name} is not connected${site.last_seen ? ` for ${span(silent)}` : ""}. Have its admin run`, "ynet-client doctor");
    if (site.certificate && site.certificate.warning !== null) {
      const left = (site.certificate.ends - now()) / 86400, ended = left < 0;
      add(WARN_KINDS[site.certificate.warning], "certificate", now() < site.certificate.begins ? `The certificate of ${site.name} is not in force before ${date(site.certificate.begins)}: a clock was ahead.` : ended ? `The certificate of ${site.name} has ended.` : `The certificate of ${site.name} ends in ${count(Math.floor(left), "day", "days")}; it renews when the site connects. If it cannot:`, `ynet-server invite ${site.name} --replace`);
    }
  }
  for (const [name, one] of [["authority", state.authority], ["hub", state.hub]]) {
    if (one.warning !== null) add(WARN_KINDS[one.warning], "certificate", now() < one.begins ? `The ${name}'s certificate is not in force before ${date(one.begins)}: no site can connect. A clock was ahead.` : `The ${name}'s certificate ends on ${date(one.ends)}.`, now() < one.begins && name === "authority" ? "ynet-server authority rotate --now" : "");
  }
  const refused = {};
  for (const one of state.refusals) if (one.action === "update-refused" && now() - one.time < 86400) refused[one.site] = (refused[one.site] || 0) + 1;
  for (const [site, times] of Object.entries(refused)) add("warn", "update", `${count(times, "update", "updates")} of ${site} refused within a day: ask its admin.`, "");
  for (const one of state.invitations) add("info", "invited", `${one.site} has not joined yet; its invitation ends ${date(one.expires)}.`, "");
  return found;
}
function todoList(found) {
  if (!found.length) return h("p", { class: "empty" }, chip("good", "all well"), " Nothing needs you.");
  const order = { bad: 0, warn: 1, info: 2 };
  found.sort((one, other) => order[one.kind] - order[other.kind]);
  return h("ul", { class: "items" }, found.map((one) => h("li", {}, h("div", { class: "line" }, chip(one.kind, one.word)), h("p", {}, one.text), one.does ? h("p", { class: "do" }, code(one.does)) : null)));
}

// --- the side

const ACTIONS = { "update-refused": ["bad", "update refused"], "site-failed": ["warn", "no result"], "enrolment-refused": ["warn", "enrolment refused"], "audit-refused": ["bad", "audit log refused"], "copy-refused": ["warn", "a copy was refused"], revoked: ["bad", "revoked"] };
function refusalList(refusals) {
  if (!refusals.length) return h("p", { class: "empty" }, "Nothing was refused, and no site has failed.");
  return h("ul", { class: "items" }, refusals.map((one) => {
    const [kind, word] = ACTIONS[one.action] || ["", one.action];
    return h("li", {}, h("div", { class: "line" }, chip(kind, word), h("b", {}, one.site), h("span", { class: "when" }, ago(one.time))), one.about ? h("p", { class: "quiet" }, one.about) : null);
  }));
}
function privacyList(sites) {
  const spent = sites.filter((site) => site.epsilon !== null);
  if (!spent.length) return h("p", { class: "empty" }, "No private plan was trained. ", h("span", { class: "quiet" }, "A plan with privacy.mode: patient bounds what its weights reveal about any patient."));
  return [table([["Site"], ["ε at most", "number"]], spent.map((site) => h("tr", {}, h("th", { scope: "row" }, site.name), cell("number", String(site.epsilon))))),
    h("p", { class: "quiet" }, "The sum over the private plans that a site has trained. The site's own ledger has a tighter bound: ", code("ynet-client ledger"))];
}
function runList(runs) {
  if (!runs.length) return h("p", { class: "empty" }, "None yet.");
  const rows = runs.map((run) => h("tr", {}, h("th", { scope: "row" }, `Run ${run.id}`), cell("", run.name),
    cell("nowrap", chip(RUN_CHIPS[run.status], run.status)), cell("nowrap", ago(run.started)),
    cell("nowrap", run.ended ? span(run.ended - run.started) : ""), cell("", run.model ? code(run.model.slice(0, 16)) : run.reason)));
  return table([["Run"], ["Plan"], ["State"], ["Started"], ["Took"], ["Model, or why not"]], rows);
}
function auditPart(audit) {
  const { verified } = audit, names = Object.keys(audit.sites).sort();
  const word = verified.at === null ? chip("", "being checked") : verified.fault ? chip("bad", "not whole") : chip("good", "whole");
  return [
    h("p", {}, word, ` ${audit.entries.toLocaleString()} entries, the last `, code(audit.head.slice(0, 16))),
    verified.fault ? h("p", { class: "note bad" }, verified.fault) : null,
    h("p", { class: "quiet" }, verified.at === null ? "" : ["Checked ", ago(verified.at), `: ${verified.entries.toLocaleString()} entries, ${count(verified.signed, "head", "heads")} signed by sites.`]),
    names.length ? table([["Site's own log", ""], ["Signed to entry", "number"]], names.map((name) => h("tr", {}, h("th", { scope: "row" }, name), cell("number", audit.sites[name].toLocaleString())))) : null,
  ];
}

// --- all of it

function show() {
  const connected = state.sites.filter((site) => site.connected).length;
  document.getElementById("federation").textContent = state.federation;
  document.getElementById("sites-count").textContent = state.sites.length ? `${connected} of ${state.sites.length} connected` : "";
  document.title = state.run && state.run.status === "running" ? `${state.run.round}/${state.run.terms ? state.run.terms.rounds : "?"} · ${state.federation}` : `${state.federation} · ynet`;
  draw("run", state.run, runPart);
  draw("sites", state.sites, siteRows);
  draw("models", state.models, modelList);
  draw("todo", todos(state), todoList);
  draw("refusals", state.refusals, refusalList);
  draw("privacy", state.sites.map(({ name, epsilon }) => ({ name, epsilon })), privacyList);
  draw("runs", state.runs, runList);
  draw("audit", state.audit, auditPart);
}
function age() {
  for (const one of document.querySelectorAll("time[data-age]")) one.textContent = aged(Number(one.dataset.age));
  draw("todo", todos(state), todoList);
}
function live(is, word) {
  if (isLive === is && document.getElementById("live-word").textContent === word) return;
  isLive = is;
  document.getElementById("live").className = `chip ${is ? "good" : "bad"}`;
  document.getElementById("live-word").textContent = word;
}
async function ask() {
  let wait = POLL_MS;
  try {
    if (!document.hidden) {
      const answer = await fetch(`${base}/state`, { headers: { "if-none-match": tag, "x-background": "1", accept: "application/json" }, cache: "no-store" });
      if (answer.status === 401) { location.assign(`${base}/login`); return; }
      if (answer.status === 200) { tag = answer.headers.get("etag"); state = await answer.json(); show(); }
      if (answer.status !== 200 && answer.status !== 304) throw new Error(String(answer.status));
      live(true, "live");
    }
  } catch {
    live(false, "no connection");
    wait = SLOW_MS;
  }
  setTimeout(ask, wait);
}
show();
live(true, "live");
document.getElementById("live").classList.add("good");
setTimeout(ask, POLL_MS);
setInterval(age, AGES_MS);
document.addEventListener("visibilitychange", () => { if (!document.hidden) age(); });
