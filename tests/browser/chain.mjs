// A chain that looks like one: sites, machines in all states, orders, people, trouble.

import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { digits, playedNode } from "./played.mjs";

const TOWNS = ["Graz", "Lienz", "Linz", "Wels", "Steyr", "Villach", "Bregenz", "Krems", "Leoben", "Baden", "Enns", "Hallein"];
const MODELS = ["Dell Inc. OptiPlex 7090", "LENOVO ThinkCentre M70q", "HP ProDesk 400 G7", "FUJITSU ESPRIMO Q558", "NCR 7772 till"];
const CODES = ["K7Q-2MX", "P4D-9RT", "W3H-6LC", "T9B-4QF"];
const GB = 1_000_000_000;
/** Names that would do something if anybody took them for more than text. */
export const HOSTILE = "<img src=x onerror=alert(1)> & sons";

function facts(name, at) {
  return {
    uuid: digits(name + "uuid", 32), serial: name, macs: ["b04f13" + digits(name, 6)], model: MODELS[at % MODELS.length],
  };
}

export function install(state, version, done, from, message = "") {
  return {
    state, version, order: 1, done_bytes: Math.round(done * 20 * GB), total_bytes: 20 * GB, received_bytes: Math.round(done * 7.8 * GB), from, message,
  };
}

/** Site names: number and town, as chains have them. */
export function siteName(at) {
  return `${String(at * 37 + 42).padStart(4, "0")} ${TOWNS[at % TOWNS.length]}`;
}

/** A disk image that is quick to import. */
export function diskImage(folder, name, mib = 6) {
  const file = join(folder, name + ".raw");
  const bytes = Buffer.alloc(mib << 20);
  for (let at = 0; at < bytes.length / 2; at += 4) bytes.writeUInt32LE((at * 2654435761 + mib) >>> 0, at);
  writeFileSync(file, bytes);
  return file;
}

/** Fills HQ. Some sites have a node that tells of machines; those are told of to whoever wants to go on. */
export async function fillChain(hq, sites = 36) {
  const { api, command, folder } = hq;
  const image = (name, mib) => JSON.parse(command("image", "import", diskImage(folder, `${name}-${mib}`, mib), "--name", name, "--json"));
  image("till", 5);
  image("back-office", 9);
  const version = image("till", 7).version;
  const rows = Array.from({ length: sites }, (_, at) => {
    const rule = ["wait", "wait", "wait", "pin", "admit", "refuse"][at % 6];
    const wan = at % 3 === 0 ? "08:00-20:00=2Mbit 20:00-08:00=unlimited" : "";
    return `${siteName(at)},${rule},${at % 2 ? "north" : "south"}${at % 9 === 0 ? " pilot" : ""},01:00,${wan}`;
  });
  const file = join(folder, "sites.csv");
  writeFileSync(file, ["name,unknown,tags,utc_offset,wan", ...rows].join("\n") + "\n");
  command("site", "import", file);
  const nodes = [];
  for (const at of [0, 1, 2, 3, 5]) {
    const site = siteName(at);
    await api("POST", "/orders", { site, version });
    const { token } = await api("POST", `/sites/${encodeURIComponent(site)}/tokens`);
    const node = await playedNode(hq, token, "back-office PC");
    const { key } = (await api("GET", `/nodes?site=${encodeURIComponent(site)}`)).rows[0];
    nodes.push({ site, node, key: key.slice(0, 8) });
    await node.report(...reportsOf(site, at, version, key.slice(0, 8)));
  }
  await people(hq);
  let steps = 0;
  /** The machines of the first site that are imaged go on a little. */
  const goOn = () => {
    steps += 1;
    const { site, node } = nodes[0];
    return node.report(...BUSY.map((n) => {
      const machine = digits(`${site}-${n}`, 32);
      return { kind: "install", machine, report: busy(n, version, steps, sourcesOf(site, 0, nodes[0].key)) };
    }));
  };
  return { version, nodes, goOn };
}

/** Machines of the first site that are imaged. */
const BUSY = [3, 4, 5, 6, 7];

function busy(n, version, steps, from) {
  return install(n === 6 ? "verifying" : "writing", version, 0.12 * n + steps * 0.0004 * (7 + n), from.slice(0, 1 + (n % 3)));
}

function sourcesOf(site, at, key) {
  const source = (n) => `${digits(site + n, 8)} at 10.${at + 4}.2.${n}`;
  return [[`${key} at 10.${at + 4}.2.1`, 5200], [source(11), 2900], [source(14), 1400]];
}

function reportsOf(site, at, version, key) {
  const from = sourcesOf(site, at, key);
  const reports = [];
  const machine = (n) => digits(`${site}-${n}`, 32);
  for (let n = 1; n <= 14 - at; n += 1) {
    const name = `SN-${digits(site + n, 6).toUpperCase()}`;
    const told = { machine: machine(n), facts: facts(name, n) };
    if (n <= 2 && at < 2) {
      reports.push({ kind: "waiting", machine: told.machine, facts: { ...told.facts, code: CODES[n + 2 * at - 1] } });
      continue;
    }
    reports.push({ kind: "admitted", ...told, order: 1 });
    const is = (state, done, message) => reports.push({ kind: "install", machine: told.machine, report: install(state, version, done, from, message) });
    if (at === 0 && BUSY.includes(n)) reports.push({ kind: "install", machine: told.machine, report: busy(n, version, 0, from) });
    else if (n === 8 && at < 3) is("failed", 0, "preflight: the disk has 16.0 GB and the image needs 20.0 GB; nothing was touched. Put in a larger disk, or order a smaller image.");
    else if (n === 9) continue;
    else if (n <= 12) is("done", 1, "the disk is whole");
  }
  for (const n of [3, 4, 5]) {
    const { macs: [mac], uuid } = facts(`SN-${digits(site + n, 6).toUpperCase()}`, n);
    reports.push({ kind: "boot", mac, uuid: null, message: "DISCOVER heard, proxy offer sent" }, { kind: "boot", mac, uuid, message: "asked for a boot file, got it, agent starting" });
  }
  if (at === 1) reports.push({ kind: "trouble", message: "port 67 is held by another program (dnsmasq): machines get no boot file from here; end it, or start the node with --boot off" });
  return reports;
}

async function people({ api }) {
  const account = (name, role, scope = { all: true }) => api("POST", "/users", { name, role, scope, password: "lamps at dusk" });
  await account("operations", "operator");
  await account("technician-north", "technician", { tags: ["north"] });
  await account("auditor", "viewer");
  await api("POST", "/users", { name: "night-build", role: "image-author" });
  await api("POST", "/users/night-build/access-tokens", { name: "imports", days: 90 });
}
