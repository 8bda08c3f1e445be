// A site as a swarm: who fed whom, and how much. Positions are worked out here, drawing is somebody else's.

import type { Machine, NodeInfo } from "../api/types";
import { machineKey, machineName } from "./install";

export interface SwarmPoint {
  key: string;
  label: string;
  kind: "hq" | "node" | "machine" | "other";
  state: string;
  x: number;
  y: number;
}

export interface SwarmLine {
  key: string;
  from: SwarmPoint;
  to: SwarmPoint;
  /** Of what its receiver was given, 0 to 1. */
  share: number;
  parts: number;
  /** Over the site's WAN line. */
  isWan: boolean;
  /** Its receiver is being imaged now. */
  isMoving: boolean;
}

export interface Swarm {
  points: SwarmPoint[];
  lines: SwarmLine[];
  width: number;
  height: number;
  /** Machines that do not fit the picture. */
  left: number;
}

/** More would be a hedgehog; the table has all of them. */
export const SHOWN_MAX = 24;
const COLUMN = 132;
const ROW = 74;
const EDGE = 58;

/** How an agent names who sent it something: the beginning of a key, and where that was. */
export function sender(text: string): { key: string; address: string } {
  const [key = text, address = ""] = text.split(" at ");
  return { key, address };
}

function urgency(machine: Machine): number {
  return { imaging: 0, failed: 1, waiting: 2, ready: 3, done: 4 }[machine.state];
}

/** Rows of at most so many points, each row in the middle. */
function placed<Point extends SwarmPoint>(points: Point[], top: number, width: number): number {
  const columns = Math.max(1, Math.floor((width - EDGE) / COLUMN));
  points.forEach((point, at) => {
    const row = Math.floor(at / columns);
    const inRow = Math.min(columns, points.length - row * columns);
    point.x = width / 2 + (at % columns - (inRow - 1) / 2) * COLUMN;
    point.y = top + row * ROW;
  });
  return top + Math.ceil(points.length / columns) * ROW;
}

/** The picture of a site, so many pixels wide. */
export function swarm(nodes: readonly NodeInfo[], machines: readonly Machine[], wanBytes: number, width: number): Swarm {
  const shown = [...machines].sort((a, b) => urgency(a) - urgency(b) || machineKey(a).localeCompare(machineKey(b))).slice(0, SHOWN_MAX);
  const point = (key: string, label: string, kind: SwarmPoint["kind"], state: string): SwarmPoint => ({ key, label, kind, state, x: 0, y: 0 });
  const ofMachine = new Map(shown.map((machine) => [machine.id, point(machine.id, machineName(machine), "machine", machine.state)]));
  const living = nodes.filter((node) => !node.revoked && !node.replaced_by && node.origin !== "voucher");
  // the node of a machine is that machine
  const apart = living.filter((node) => !ofMachine.has(node.machine)).slice(0, SHOWN_MAX);
  const ofNode = new Map(apart.map((node) => [node.key, point(node.key, node.name, "node", "node")]));
  const others = new Map<string, SwarmPoint>();

  function source(text: string): SwarmPoint {
    const { key, address } = sender(text);
    // an agent has a fresh key each time, which its own reports name
    const agent = machines.find((known) => key !== "" && known.install?.peer?.startsWith(key));
    const node = living.find((known) => key !== "" && known.key.startsWith(key));
    const known = agent !== undefined ? ofMachine.get(agent.id) : node === undefined ? undefined : ofNode.get(node.key) ?? ofMachine.get(node.machine);
    if (known !== undefined) return known;
    const label = address === "" ? key : address;
    const other = others.get(text) ?? point(text, label, "other", "other");
    others.set(text, other);
    return other;
  }

  const lines: SwarmLine[] = [];
  for (const machine of shown) {
    const to = ofMachine.get(machine.id);
    const from = machine.install?.from ?? [];
    const all = from.reduce((sum, [, parts]) => sum + parts, 0);
    for (const [at, [text, parts]] of from.entries()) {
      const giver = source(text);
      if (to === undefined || giver === to || parts === 0) continue;
      lines.push({ key: `${at} ${machine.id}`, from: giver, to, share: parts / all, parts, isWan: false, isMoving: machine.state === "imaging" });
    }
  }
  const hq = point("HQ", "HQ", "hq", "hq");
  const upper = [...ofNode.values(), ...others.values()];
  hq.x = width / 2;
  hq.y = EDGE - 18;
  let bottom = placed(upper, hq.y + ROW + 18, width);
  bottom = placed([...ofMachine.values()], bottom + 26, width);
  const fetchers = [...ofNode.values()].length > 0 ? [...ofNode.values()] : [...ofMachine.values()].slice(0, 1);
  if (wanBytes > 0) {
    for (const to of fetchers) lines.push({ key: `WAN ${to.kind} ${to.key}`, from: hq, to, share: 1 / fetchers.length, parts: 0, isWan: true, isMoving: false });
  }
  return { points: [hq, ...upper, ...ofMachine.values()], lines, width, height: bottom, left: machines.length - shown.length };
}

/** The same in sentences, for whoever does not see the picture. */
export function described(picture: Swarm): string[] {
  return picture.lines.filter((line) => !line.isWan).map((line) => `${line.to.label} had ${Math.round(line.share * 100)} % from ${line.from.label}`);
}
