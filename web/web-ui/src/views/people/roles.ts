// Roles, the mightiest first, and what each may do.

import type { Role } from "../../api/types";

export const ROLES: readonly Role[] = ["administrator", "image-author", "operator", "technician", "viewer"];

export const ROLE_WORDS: Readonly<Record<Role, string>> = {
  administrator: "everything, people and keys among it", "image-author": "makes and publishes images", operator: "runs stores: sites, nodes, orders, vouchers",
  technician: "stands in a store: looks, and approves machines", viewer: "looks",
};

/** These have all sites. */
export function hasAllSites(role: Role): boolean {
  return role === "administrator" || role === "image-author";
}
