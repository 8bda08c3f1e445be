// The one way to HQ. Paths, parameters, bodies and answers are typed by HQ's own description.

import { isKnownTime } from "../core/time";
import type { paths } from "./schema";

export type Method = "get" | "post" | "put" | "patch" | "delete";
type Operation<M extends Method, P extends keyof paths> = paths[P] extends Record<M, infer O> ? O : never;
/** Paths that take a method. */
export type PathOf<M extends Method> = { [P in keyof paths]: Operation<M, P> extends never ? never : P }[keyof paths];

type Parameters<O> = O extends { parameters: { path: infer V } } ? { path: V } : { path?: undefined };
type Query<O> = O extends { parameters: { query?: infer Q } } ? ([Q] extends [never] ? { query?: undefined } : { query?: Q }) : { query?: undefined };
type Json<O> = O extends { requestBody: { content: { "application/json": infer B } } }
  ? { body: B }
  : O extends { requestBody?: { content: { "application/json": infer B } } } ? { body?: B } : { body?: undefined };
export type Wish<M extends Method, P extends keyof paths> = Parameters<Operation<M, P>> & Query<Operation<M, P>> & Json<Operation<M, P>>;
export type Answer<M extends Method, P extends keyof paths> =
  Operation<M, P> extends { responses: { 200: { content: { "application/json": infer A } } } } ? A : undefined;

/** HQ is waited for no longer than this. */
const ANSWERS_WITHIN_MS = 30_000;

/** Why HQ did not do what it was asked, in its own sentence. Status 0: it was not reached. */
export class Refusal extends Error {
  constructor(readonly status: number, sentence: string, readonly needsCode = false) {
    super(sentence);
  }
}

/** HQ was not reached, or its database is away: it may be back in a moment. */
export function isAway(error: unknown): boolean {
  return error instanceof Refusal && (error.status === 0 || error.status === 503);
}

/** Any failure in one sentence. */
export function sentence(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

let whenEnded: () => void = () => undefined;
/** Who is told when the session is over. */
export function onEnded(told: () => void): void {
  whenEnded = told;
}

/** HQ's clock minus this computer's, in milliseconds: times are said by HQ's clock. */
let clockOffset = 0;
export function hqNow(): number {
  return Date.now() + clockOffset;
}

function address(path: string, variables: object | undefined, query: object | undefined): string {
  const known = new Map(Object.entries(variables ?? {}));
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(String(known.get(name))));
  const asked = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== "") asked.set(name, String(value));
  }
  return asked.size > 0 ? `${filled}?${asked}` : filled;
}

async function refusal(answer: Response): Promise<Refusal> {
  const said: unknown = await answer.json().catch(() => null);
  const body = (typeof said === "object" && said !== null ? said : {}) as { error?: unknown; needs_code?: unknown };
  const words = typeof body.error === "string" ? body.error : `HQ answered with status ${answer.status} and no sentence`;
  return new Refusal(answer.status, words, body.needs_code === true);
}

/** Sends anything; throws a Refusal unless HQ did what it was asked. */
async function send(method: Method, url: string, body: BodyInit | null): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(url, {
      method: method.toUpperCase(), body, credentials: "same-origin", signal: AbortSignal.timeout(ANSWERS_WITHIN_MS),
      headers: body === null ? {} : { "content-type": typeof body === "string" ? "application/json" : "application/octet-stream" },
    });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Refusal(0, late ? `HQ did not answer within ${ANSWERS_WITHIN_MS / 1000} s. Try it again.` : "HQ cannot be reached. Try it again.");
  }
  const theirs = Date.parse(answer.headers.get("date") ?? "");
  if (isKnownTime(theirs)) {
    const offset = theirs - Date.now();
    // the header has whole seconds: a smaller difference is none
    clockOffset = Math.abs(offset) > 2000 ? offset : 0;
  }
  if (answer.ok) return answer;
  const why = await refusal(answer);
  if (answer.status === 401 && !why.needsCode && !url.startsWith("/api/v1/session")) whenEnded();
  throw why;
}

/** Asks HQ for something, or to do something. */
export async function call<M extends Method, P extends PathOf<M>>(method: M, path: P, wish: Wish<M, P>): Promise<Answer<M, P>> {
  const { path: variables, query, body } = wish as { path?: object; query?: object; body?: unknown };
  const answer = await send(method, address(path, variables, query), body === undefined ? null : JSON.stringify(body));
  const said: unknown = answer.status === 204 ? undefined : await answer.json();
  return said as Answer<M, P>;
}

/** Reads. */
export function get<P extends PathOf<"get">>(path: P, wish: Wish<"get", P>): Promise<Answer<"get", P>> {
  return call("get", path, wish);
}

/** Sends a file, and reads what became of it. */
export async function sendFile<P extends PathOf<"post">>(path: P, query: object, file: Blob): Promise<Answer<"post", P>> {
  const answer = await send("post", address(path, undefined, query), file);
  return (await answer.json()) as Answer<"post", P>;
}
