//! The table itself: method, path, access, summary, handler.

use axum::http::Method;
use image_format::Manifest;
use image_store::PARCEL_BYTES_MAX;
use trust_format::Document;
use web_api::Right;

use super::{
    OBJECT_BODY_BYTES_MAX, Route, SIGNATURES_BYTES_MAX, delete, get, patch, post, put, route,
};
use crate::{
    access::{Access, Bounds},
    agents, audit, events, health, images, leases, live, machines, names, nodes, objects, openapi,
    orders, page,
    people::{me, setup, sign_in, users},
    reports, roots, rosters,
    sheets::{self, SHEET_BYTES_MAX},
    sites, vouchers, waiting, wan,
};

/// All of them.
pub(crate) fn routes() -> Vec<Route> {
    [
        routes_of_strangers(),
        routes_of_accounts(),
        routes_of_sites(),
        routes_of_images(),
        routes_of_signers(),
        routes_of_nodes(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Of keys, roots, and what waits for a signature.
fn routes_of_signers() -> Vec<Route> {
    let administer = Access::Person(Right::Administer, Bounds::Chain);
    let author = Access::Person(Right::Author, Bounds::Chain);
    vec![
        get(
            "/api/v1/keys",
            administer,
            "The keys that the present root names",
            roots::keys,
        ),
        get(
            "/api/v1/roots",
            administer,
            "Every root, the present one last",
            roots::list,
        ),
        post(
            "/api/v1/roots",
            administer,
            "Take a new root",
            roots::publish,
        ),
        get(
            "/api/v1/waiting",
            administer,
            "What waits for a signature",
            waiting::list,
        ),
        get(
            "/api/v1/waiting/images/{version}",
            author,
            "A version that waits, as an envelope without signatures",
            waiting::image,
        ),
        delete(
            "/api/v1/waiting/images/{version}",
            author,
            "Discard a version that waits",
            waiting::discard_image,
        ),
        get(
            "/api/v1/waiting/sites/{name}",
            administer,
            "What waits of a site, as a parcel",
            waiting::site,
        ),
        post(
            "/api/v1/waiting/sites/{name}",
            administer,
            "Everything of a site, to be signed by another key",
            waiting::site_again,
        ),
        post(
            "/api/v1/signed/images",
            author,
            "A signed version comes back",
            waiting::publish_image,
        )
        .taking(Manifest::PAYLOAD_BYTES_MAX + SIGNATURES_BYTES_MAX),
        post(
            "/api/v1/signed/sites",
            administer,
            "A site's signed documents come back",
            waiting::publish_site,
        )
        .taking(PARCEL_BYTES_MAX),
    ]
}

/// The page, and the way in.
fn routes_of_strangers() -> Vec<Route> {
    use Access::Public;
    vec![
        get("/", Public, "The page", page::index),
        get(
            "/assets/{file}",
            Public,
            "Scripts and styles of the page",
            page::asset,
        ),
        get(
            "/healthz",
            Public,
            "Whether HQ and its database answer",
            health::check,
        ),
        get(
            "/metrics",
            Access::Person(Right::Look, Bounds::Chain),
            "Numbers for Prometheus",
            health::metrics,
        ),
        get(
            "/api/v1/setup",
            Public,
            "Whether the first account is still to be made",
            setup::state,
        ),
        post(
            "/api/v1/setup",
            Public,
            "Make the first account",
            setup::set_up,
        ),
        post("/api/v1/session", Public, "Sign in", sign_in::sign_in),
    ]
}

/// Of one's own account, and of everybody's.
fn routes_of_accounts() -> Vec<Route> {
    let own = Access::Person(Right::Own, Bounds::Sites);
    let administer = Access::Person(Right::Administer, Bounds::Chain);
    vec![
        delete("/api/v1/session", own, "Sign out", sign_in::sign_out),
        get("/api/v1/me", own, "Who asks", me::me),
        get(
            "/api/v1/openapi.json",
            own,
            "This description",
            openapi::show,
        ),
        put(
            "/api/v1/me/password",
            own,
            "Change one's password",
            me::change_password,
        ),
        post(
            "/api/v1/me/authenticator",
            own,
            "Ask for an authenticator",
            me::offer_authenticator,
        ),
        put(
            "/api/v1/me/authenticator",
            own,
            "The authenticator counts from now on",
            me::confirm_authenticator,
        ),
        delete(
            "/api/v1/me/authenticator",
            own,
            "Take one's authenticator away",
            me::remove_authenticator,
        ),
        get("/api/v1/me/sessions", own, "One's sessions", me::sessions),
        delete(
            "/api/v1/me/sessions/{id}",
            own,
            "End one of them",
            me::end_session,
        ),
        get(
            "/api/v1/me/access-tokens",
            own,
            "One's access tokens",
            me::access_tokens,
        ),
        post(
            "/api/v1/me/access-tokens",
            own,
            "Make an access token",
            me::new_access_token,
        ),
        delete(
            "/api/v1/me/access-tokens/{id}",
            own,
            "Take one of them back",
            me::remove_access_token,
        ),
        get("/api/v1/users", administer, "All accounts", users::list),
        post(
            "/api/v1/users",
            administer,
            "Make an account",
            users::create,
        ),
        patch(
            "/api/v1/users/{name}",
            administer,
            "Change an account",
            users::change,
        ),
        delete(
            "/api/v1/users/{name}",
            administer,
            "Remove an account",
            users::remove,
        ),
        get(
            "/api/v1/users/{name}/sessions",
            administer,
            "Sessions of an account",
            users::sessions_of,
        ),
        delete(
            "/api/v1/users/{name}/sessions",
            administer,
            "End all of them",
            users::end_sessions,
        ),
        post(
            "/api/v1/users/{name}/access-tokens",
            administer,
            "Make an access token of an account",
            users::new_token,
        ),
        get(
            "/api/v1/access-tokens",
            administer,
            "Everybody's access tokens",
            users::tokens,
        ),
        delete(
            "/api/v1/access-tokens/{id}",
            administer,
            "Take one of them back",
            users::remove_token,
        ),
        get(
            "/api/v1/audit",
            administer,
            "Rows of the audit log, the newest first",
            audit::page,
        ),
        get(
            "/api/v1/audit/check",
            administer,
            "Follow the audit log's chain",
            audit::check,
        ),
        get(
            "/api/v1/audit/export",
            administer,
            "The whole audit log, a line of JSON each",
            audit::export,
        ),
    ]
}

fn routes_of_sites() -> Vec<Route> {
    let look = Access::Person(Right::Look, Bounds::Sites);
    let attend = Access::Person(Right::Attend, Bounds::Sites);
    let operate = Access::Person(Right::Operate, Bounds::Sites);
    let found = Access::Person(Right::Operate, Bounds::Chain);
    vec![
        get(
            "/api/v1/summary",
            look,
            "What there is, in numbers",
            health::summary,
        ),
        get("/api/v1/sites", look, "Sites", sites::list),
        post(
            "/api/v1/sites",
            found,
            "Make a site, and a token for its first node",
            sites::create,
        ),
        get(
            "/api/v1/export/sites",
            look,
            "Sites as a file for spreadsheets (CSV)",
            sheets::export_sites,
        ),
        get(
            "/api/v1/export/machines",
            look,
            "Machines as a file for spreadsheets (CSV)",
            sheets::export_machines,
        ),
        post(
            "/api/v1/import/sites",
            found,
            "Make and change sites as a file says (CSV)",
            sheets::import_sites,
        )
        .taking(SHEET_BYTES_MAX),
        get("/api/v1/sites/{name}", look, "A site", sites::show),
        patch(
            "/api/v1/sites/{name}",
            operate,
            "Change a site",
            sites::change,
        ),
        get(
            "/api/v1/sites/{name}/wan",
            look,
            "What its WAN may carry",
            wan::show,
        ),
        patch(
            "/api/v1/sites/{name}/wan",
            operate,
            "Change what its WAN may carry, pause and resume",
            wan::change,
        ),
        get(
            "/api/v1/sites/{name}/tokens",
            operate,
            "A site's enrolment tokens",
            sites::list_tokens,
        ),
        post(
            "/api/v1/sites/{name}/tokens",
            operate,
            "Make an enrolment token",
            sites::create_token,
        ),
        delete(
            "/api/v1/tokens/{id}",
            operate,
            "Take an enrolment token back",
            sites::revoke_token,
        ),
        post(
            "/api/v1/sites/{name}/vouchers",
            operate,
            "Make a voucher",
            vouchers::create,
        ),
        get(
            "/api/v1/vouchers",
            operate,
            "Vouchers, and how many machines were seen under each",
            vouchers::list,
        ),
        put(
            "/api/v1/sites/{name}/pin",
            operate,
            "Set a site's PIN",
            rosters::set_pin,
        ),
        delete(
            "/api/v1/sites/{name}/pin",
            operate,
            "Remove a site's PIN",
            rosters::remove_pin,
        ),
        get("/api/v1/machines", look, "Machines", machines::list),
        post(
            "/api/v1/machines/{id}/approve",
            attend,
            "Approve a machine",
            machines::approve,
        ),
        post(
            "/api/v1/machines/{id}/demote",
            operate,
            "A sign of a machine counts for nobody",
            rosters::demote,
        ),
        get("/api/v1/orders", look, "Orders", orders::list),
        post(
            "/api/v1/orders",
            operate,
            "Order a version for a site or a machine",
            orders::create,
        ),
        get("/api/v1/nodes", look, "Nodes", nodes::list),
        post(
            "/api/v1/nodes/{key}/rename",
            operate,
            "Rename a node",
            names::rename,
        ),
        post(
            "/api/v1/nodes/{key}/revoke",
            operate,
            "Revoke a node",
            nodes::revoke,
        ),
        get(
            "/api/v1/live",
            look,
            "Machines and events as they change, as server-sent events",
            live::watch,
        ),
        get(
            "/api/v1/events",
            look,
            "What happened, the newest first",
            events::list,
        ),
        get(
            "/api/v1/ledger",
            look,
            "WAN bytes by site and version",
            objects::ledger,
        ),
    ]
}

fn routes_of_images() -> Vec<Route> {
    let look = Access::Person(Right::Look, Bounds::Sites);
    let author = Access::Person(Right::Author, Bounds::Chain);
    vec![
        get("/api/v1/images", look, "Published versions", images::list),
        get(
            "/api/v1/images/{version}",
            look,
            "A version by digest, its beginning, or its image's name",
            images::show,
        ),
        get("/api/v1/root", look, "The present root", images::root),
        post(
            "/api/v1/objects/missing",
            author,
            "Which objects are to be put",
            objects::missing,
        ),
        put(
            "/api/v1/objects/{hash}",
            author,
            "Put an object",
            objects::put,
        )
        .taking(OBJECT_BODY_BYTES_MAX),
        get("/api/v1/objects/{hash}", author, "An object", objects::get),
        post(
            "/api/v1/manifests",
            author,
            "Publish a version",
            images::publish,
        )
        .taking(Manifest::PAYLOAD_BYTES_MAX),
        get(
            "/api/v1/manifests/{digest}",
            author,
            "A version's manifest",
            images::manifest,
        ),
    ]
}

fn routes_of_nodes() -> Vec<Route> {
    use Access::{Fetcher, Newcomer, Node};
    vec![
        route(Method::POST, "/api/v1/enrol", Newcomer, nodes::enrol),
        route(
            Method::POST,
            "/api/v1/node/confirm",
            Newcomer,
            nodes::confirm,
        ),
        route(
            Method::GET,
            "/api/v1/node/documents",
            Node,
            nodes::my_documents,
        ),
        route(
            Method::GET,
            "/api/v1/node/certificate",
            Node,
            roots::my_certificate,
        ),
        route(Method::POST, "/api/v1/node/certify", Node, nodes::certify),
        route(Method::POST, "/api/v1/agent/admit", Newcomer, agents::admit),
        route(Method::POST, "/api/v1/node/leases", Fetcher, leases::ask),
        route(
            Method::POST,
            "/api/v1/node/leases/end",
            Fetcher,
            leases::end,
        ),
        route(Method::GET, "/api/v1/node/wan", Fetcher, wan::tell),
        route(
            Method::GET,
            "/api/v1/node/manifests/{digest}",
            Fetcher,
            images::my_manifest,
        ),
        route(
            Method::GET,
            "/api/v1/node/objects/{hash}",
            Fetcher,
            objects::get_for_site,
        ),
        route(Method::POST, "/api/v1/node/reports", Node, reports::take),
    ]
}
