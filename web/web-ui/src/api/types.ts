// The API's types under short names. schema.d.ts is made from HQ's own description by ./dev ui.

import type { paths } from "./schema";

export type {
  AccessTokenInfo, AccessTokenMade, AuditCheck, AuditRow, AuthenticatorOffer, EventInfo, ImageVersion, ImportReport,
  InstallReport, KeysInfo, LedgerLine, Machine, MachineState, Me, NamedKey, NodeInfo, OrderInfo, Right, Role,
  SiteInfo, SitePin, SiteScope, SiteUnknown, Summary, TokenInfo, UserInfo, VoucherInfo, Waiting, WanRules, WanWindow,
} from "./schema";

/** A page of a list. */
export interface Page<Row> {
  rows: Row[];
  total?: number;
  next?: string;
}

/** HQ's description has no name for it: it comes in a list only. */
export type SessionInfo = paths["/api/v1/me/sessions"]["get"]["responses"][200]["content"]["application/json"][number];
