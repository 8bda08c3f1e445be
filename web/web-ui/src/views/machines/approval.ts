// Approving a machine.

import { call, get } from "../../api/client";
import type { Machine } from "../../api/types";

/** Approves the machine that was shown: by its site and the code on its screen, so that no other that says the same of itself is. */
export async function approve(machine: Machine): Promise<Machine> {
  const site = await get("/api/v1/sites/{name}", { path: { name: machine.site } });
  return call("post", "/api/v1/machines/{id}/approve", { path: { id: machine.id }, query: { site: site.id, code: machine.facts.code ?? null } });
}
