// Signs people in, shows /api/v1/overview and asks for it again as soon as /api/v1/live tells of a change, or after a while.
// Whatever comes from machines is text, never markup.
"use strict";

const EVERY_MS = 2000;
// many changes at once are one look
const SOON_MS = 150;
const RETRY_MS = 5000;

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function bytes(count) {
  const units = ["B", "KB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (count >= 1000 && at < units.length - 1) { count /= 1000; at += 1; }
  return (at === 0 ? count : count.toFixed(count < 10 ? 2 : count < 100 ? 1 : 0)) + " " + units[at];
}

function ago(now, then) {
  if (!then) return "never";
  const seconds = Math.max(0, now - then);
  if (seconds < 90) return seconds + " s ago";
  if (seconds < 5400) return Math.round(seconds / 60) + " min ago";
  if (seconds < 129600) return Math.round(seconds / 3600) + " h ago";
  return Math.round(seconds / 86400) + " days ago";
}

const short = (hex) => hex.slice(0, 12);

// columns: [heading, class of the cell, row => text or element]
function table(id, rows, none, columns) {
  const place = document.getElementById(id);
  if (rows.length === 0) {
    place.replaceChildren(element("p", "none", none));
    return;
  }
  const made = element("table");
  const head = element("tr");
  for (const [heading, className] of columns) {
    const cell = element("th", className === "number" ? "number" : "", heading);
    cell.scope = "col";
    head.append(cell);
  }
  made.append(element("thead"), element("tbody"));
  made.tHead.append(head);
  for (const row of rows) {
    const line = element("tr");
    for (const [, className, show] of columns) {
      const shown = show(row);
      const cell = element("td", className);
      if (shown instanceof Node) cell.append(shown); else cell.textContent = shown;
      line.append(cell);
    }
    made.tBodies[0].append(line);
  }
  place.replaceChildren(made);
}

function install(machine) {
  const report = machine.install;
  if (!report) {
    const waits = machine.admission === "waiting";
    return element("span", waits ? "lamp" : "quiet", waits ? "waits for approval" : "admitted");
  }
  const out = element("span");
  const className = { done: "good", failed: "bad" }[report.state] || "lamp";
  out.append(element("span", className, report.state));
  if (report.total_bytes > 0 && report.state !== "done" && report.state !== "failed") {
    const bar = element("progress");
    bar.max = report.total_bytes;
    bar.value = report.done_bytes;
    bar.setAttribute("aria-label", "done");
    const percent = Math.floor(100 * report.done_bytes / report.total_bytes);
    out.append(" ", bar, " " + percent + " % of " + bytes(report.total_bytes));
  }
  return out;
}

function show(all) {
  const now = all.unix_seconds;
  const names = new Map(all.images.map((image) => [image.version, image.name + " " + image.release]));
  const named = (version) => version ? names.get(version) || short(version) : "none";
  table("machines", all.machines, "No machine was seen yet.", [
    ["Machine", "code", (m) => short(m.id)],
    ["Site", "text", (m) => m.site],
    ["Model", "text", (m) => m.facts.model],
    ["On its screen", "code", (m) => m.admission === "waiting" ? m.facts.code || "" : ""],
    ["Install", "", install],
    ["Version", "text", (m) => m.install ? named(m.install.version) : ""],
    ["From", "text quiet", (m) => m.install ? m.install.from.map(([who, chunks]) => who + " " + chunks).join(", ") : ""],
    ["Message", "text", (m) => m.install ? m.install.message : ""],
    ["Heard of", "number quiet", (m) => ago(now, m.seen_unix_seconds)],
  ]);
  table("sites", all.sites, "No site yet: lamplighter site add NAME.", [
    ["Site", "text", (s) => s.name],
    ["Unknown machines", "", (s) => ({ admit: "are imaged", refuse: "are sent away" })[s.unknown] || "wait"],
    ["Image", "text", (s) => named(s.image)],
    ["Nodes", "number", (s) => s.nodes],
    ["Machines", "number", (s) => s.machines],
    ["WAN bytes", "number", (s) => bytes(s.wan_bytes)],
  ]);
  table("images", all.images, "Nothing is published yet.", [
    ["Name", "text", (i) => i.name],
    ["Kind", "", (i) => i.kind === "image" ? "image" : "boot bundle"],
    ["Release", "number", (i) => i.release],
    ["Version", "code", (i) => short(i.version)],
    ["Disk", "number", (i) => bytes(i.disk_bytes)],
    ["Used", "number", (i) => bytes(i.used_bytes)],
    ["To send", "number", (i) => bytes(i.object_bytes)],
    ["Published", "number quiet", (i) => ago(now, i.unix_seconds)],
  ]);
  table("orders", all.orders, "Nothing is ordered yet.", [
    ["Site", "text", (o) => o.site],
    ["Order", "number", (o) => o.number],
    ["Version", "text", (o) => named(o.version)],
    ["For", "code", (o) => o.machine ? short(o.machine) : "all machines"],
    ["Erases", "", (o) => o.erase ? "yes" : "no"],
    ["Finished", "number", (o) => o.completed],
  ]);
  table("ledger", all.ledger, "No byte was fetched over the WAN yet.", [
    ["Site", "text", (l) => l.site],
    ["Version", "text", (l) => named(l.version)],
    ["For", "", (l) => l.kind === "island" ? "islands" : "the site"],
    ["WAN bytes", "number", (l) => bytes(l.wan_bytes)],
    ["Times the version", "number", (l) => l.object_bytes ? (l.wan_bytes / l.object_bytes).toFixed(3) : ""],
  ]);
  const gone = (n) => n.replaced_by && !n.heard_again_unix_seconds;
  table("nodes", all.nodes.filter((n) => !gone(n)), "No node yet.", [
    ["Node", "text", (n) => n.name],
    ["Site", "text", (n) => n.site],
    ["Key", "code", (n) => short(n.key)],
    ["Came", "", (n) => n.origin],
    ["State", "", (n) => {
      const wrong = n.revoked ? "revoked" : n.replaced_by ? "replaced, but heard" : "";
      return element("span", wrong ? "bad" : "good", wrong || "trusted");
    }],
    ["Address", "code", (n) => n.address || ""],
    ["Heard of", "number quiet", (n) => ago(now, n.seen_unix_seconds)],
  ]);
  const hidden = all.nodes.filter(gone).length;
  if (hidden) document.getElementById("nodes").append(element("p", "none", hidden + " replaced, not shown"));
  table("events", all.events, "Nothing happened yet.", [
    ["When", "number quiet", (e) => ago(now, e.unix_seconds)],
    ["Site", "text", (e) => e.site],
    ["From", "text", (e) => e.source],
    ["What", "", (e) => element("span", e.kind === "trouble" || e.kind === "accused" ? "bad" : "", e.kind)],
    ["Message", "text", (e) => e.message],
  ]);
}

const part = (id) => document.getElementById(id);

async function call(method, path, body) {
  const request = { method, cache: "no-store" };
  if (body) request.body = JSON.stringify(body);
  return fetch(location.origin + "/api/v1" + path, request);
}

// the sentence of a refusal, and whether a code would help
async function refusal(answer) {
  try {
    return await answer.json();
  } catch {
    return { error: "HQ answered " + answer.status };
  }
}

function present(signedIn) {
  part("all").hidden = !signedIn;
  part("who").hidden = !signedIn;
  part("enter").hidden = signedIn;
}

async function entrance() {
  clearTimeout(next);
  if (live) live.close();
  live = null;
  const answer = await call("GET", "/setup");
  const needed = answer.ok && (await answer.json()).needed;
  part("setup-part").hidden = !needed;
  part("setup").required = needed;
  part("enter-title").textContent = needed ? "Make the first account" : "Sign in";
  part("enter-words").textContent = needed
    ? "An administrator of the whole chain. A password has at least 10 characters." : "";
  part("enter").querySelector("button").textContent = needed ? "Make it" : "Sign in";
  part("password").autocomplete = needed ? "new-password" : "current-password";
  if (needed && location.hash.startsWith("#setup=")) {
    part("setup").value = location.hash.slice("#setup=".length);
    history.replaceState(null, "", location.pathname);
  }
  part("state").textContent = "";
  part("state").className = "";
  present(false);
  (part("setup").value || !needed ? part("user") : part("setup")).focus();
}

async function enter(event) {
  event.preventDefault();
  const [name, password] = [part("user").value, part("password").value];
  const answer = part("setup").required
    ? await call("POST", "/setup", { code: part("setup").value, name, password })
    : await call("POST", "/session", { name, password, code: part("code").value || null });
  if (answer.ok) {
    for (const id of ["password", "code", "setup"]) part(id).value = "";
    part("code-part").hidden = true;
    part("refused").textContent = "";
    await begin();
    return;
  }
  const { error, needs_code } = await refusal(answer);
  part("refused").textContent = needs_code ? "" : error;
  if (needs_code) part("code-part").hidden = false;
  part(needs_code ? "code" : "password").focus();
}

async function leave() {
  await call("DELETE", "/session");
  await entrance();
}

async function begin() {
  const answer = await call("GET", "/me");
  if (answer.status === 401) return entrance();
  if (!answer.ok) throw new Error((await refusal(answer)).error);
  const me = await answer.json();
  part("name").textContent = me.name + ", " + me.role;
  present(true);
  clearTimeout(next);
  await poll();
}

let next = 0;
let live = null;
let isSoon = false;

// a stream that HQ ended is begun again by the browser, one that was refused is not
function watch() {
  if (live && live.readyState !== EventSource.CLOSED) return;
  live = new EventSource("/api/v1/live");
  for (const kind of ["machine", "event", "behind"]) live.addEventListener(kind, soon);
}

// one look waits at a time
function later(ms) {
  clearTimeout(next);
  next = setTimeout(poll, ms);
}

function soon() {
  if (isSoon) return;
  isSoon = true;
  later(SOON_MS);
}

async function poll() {
  isSoon = false;
  const state = part("state");
  try {
    const answer = await call("GET", "/overview");
    if (answer.status === 401) return entrance();
    if (!answer.ok) throw new Error((await refusal(answer)).error);
    show(await answer.json());
    watch();
    state.textContent = "As of " + new Date().toLocaleTimeString();
    state.className = "";
    if (!isSoon) later(EVERY_MS);
  } catch (error) {
    state.textContent = "HQ cannot be reached, what you see is old: " + error.message;
    state.className = "lost";
    isSoon = false;
    later(RETRY_MS);
  }
}

async function start() {
  try {
    await begin();
  } catch (error) {
    part("state").textContent = "HQ cannot be reached: " + error.message;
    part("state").className = "lost";
    setTimeout(start, RETRY_MS);
  }
}

part("enter").addEventListener("submit", (event) => enter(event).catch((error) => {
  part("refused").textContent = "HQ cannot be reached: " + error.message;
}));
part("leave").addEventListener("click", () => leave().catch(() => location.reload()));
start();
