//! The table of all routes. The router is built from it, so there is no route without a rule of access.

use std::sync::Arc;

use axum::{
    Router,
    extract::DefaultBodyLimit,
    handler::Handler,
    http::{HeaderValue, Method, StatusCode, header},
    middleware,
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use image_format::{Manifest, OBJECT_BYTES_MAX};
use image_store::PARCEL_BYTES_MAX;
use trust_format::Document;
use web_api::Right;

use crate::{
    Hq,
    access::{
        Access, Bounds, Gate, fetcher_only, newcomer_only, node_only, person_only, strangers_wait,
    },
    agents, audit,
    error::Refusal,
    images, leases, machines, names, nodes, objects, orders, page,
    people::{me, setup, sign_in, users},
    reports, roots, rosters, sites, vouchers, waiting, wan,
};

const BODY_BYTES_MAX: usize = 1 << 20;
/// Of somebody who is not known yet: a few documents of a kilobyte, what a computer says of itself, a name and a password.
const STRANGERS_BODY_BYTES_MAX: usize = 16 << 10;
/// A little more than an object, so that one too large is refused in words.
const OBJECT_BODY_BYTES_MAX: usize = OBJECT_BYTES_MAX + 4096;

/// Of an envelope beside the payload in it.
const SIGNATURES_BYTES_MAX: usize = 4096;

/// A route: nothing else is served.
pub(crate) struct Route {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    body_bytes_max: usize,
    handler: MethodRouter<Arc<Hq>>,
}

impl Route {
    fn taking(mut self, body_bytes_max: usize) -> Self {
        self.body_bytes_max = body_bytes_max;
        self
    }
}

fn route<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, Arc<Hq>>,
    T: 'static,
{
    let filter = match method {
        Method::POST => MethodFilter::POST,
        Method::PUT => MethodFilter::PUT,
        Method::PATCH => MethodFilter::PATCH,
        Method::DELETE => MethodFilter::DELETE,
        _ => MethodFilter::GET,
    };
    let body_bytes_max = match access {
        Access::Public | Access::Newcomer => STRANGERS_BODY_BYTES_MAX,
        Access::Person(..) | Access::Node | Access::Fetcher => BODY_BYTES_MAX,
    };
    Route {
        method,
        path,
        access,
        body_bytes_max,
        handler: on(filter, handler),
    }
}

/// One function for each method.
macro_rules! by_method {
    ($($name:ident $method:ident),*) => {$(
        fn $name<H, T>(path: &'static str, access: Access, handler: H) -> Route
        where
            H: Handler<T, Arc<Hq>>,
            T: 'static,
        {
            route(Method::$method, path, access, handler)
        }
    )*};
}

by_method!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

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
        get("/api/v1/keys", administer, roots::keys),
        get("/api/v1/roots", administer, roots::list),
        post("/api/v1/roots", administer, roots::publish),
        get("/api/v1/waiting", administer, waiting::list),
        get("/api/v1/waiting/images/{version}", author, waiting::image),
        delete(
            "/api/v1/waiting/images/{version}",
            author,
            waiting::discard_image,
        ),
        get("/api/v1/waiting/sites/{name}", administer, waiting::site),
        post(
            "/api/v1/waiting/sites/{name}",
            administer,
            waiting::site_again,
        ),
        post("/api/v1/signed/images", author, waiting::publish_image)
            .taking(Manifest::PAYLOAD_BYTES_MAX + SIGNATURES_BYTES_MAX),
        post("/api/v1/signed/sites", administer, waiting::publish_site).taking(PARCEL_BYTES_MAX),
    ]
}

/// The page, and the way in.
fn routes_of_strangers() -> Vec<Route> {
    use Access::Public;
    vec![
        get("/", Public, page::index),
        get("/app.js", Public, page::script),
        get("/app.css", Public, page::style),
        get("/api/v1/setup", Public, setup::state),
        post("/api/v1/setup", Public, setup::set_up),
        post("/api/v1/session", Public, sign_in::sign_in),
    ]
}

/// Of one's own account, and of everybody's.
fn routes_of_accounts() -> Vec<Route> {
    let own = Access::Person(Right::Own, Bounds::Sites);
    let administer = Access::Person(Right::Administer, Bounds::Chain);
    vec![
        delete("/api/v1/session", own, sign_in::sign_out),
        get("/api/v1/me", own, me::me),
        put("/api/v1/me/password", own, me::change_password),
        post("/api/v1/me/authenticator", own, me::offer_authenticator),
        put("/api/v1/me/authenticator", own, me::confirm_authenticator),
        delete("/api/v1/me/authenticator", own, me::remove_authenticator),
        get("/api/v1/me/sessions", own, me::sessions),
        delete("/api/v1/me/sessions/{id}", own, me::end_session),
        get("/api/v1/me/access-tokens", own, me::access_tokens),
        post("/api/v1/me/access-tokens", own, me::new_access_token),
        delete(
            "/api/v1/me/access-tokens/{id}",
            own,
            me::remove_access_token,
        ),
        get("/api/v1/users", administer, users::list),
        post("/api/v1/users", administer, users::create),
        patch("/api/v1/users/{name}", administer, users::change),
        delete("/api/v1/users/{name}", administer, users::remove),
        get(
            "/api/v1/users/{name}/sessions",
            administer,
            users::sessions_of,
        ),
        delete(
            "/api/v1/users/{name}/sessions",
            administer,
            users::end_sessions,
        ),
        post(
            "/api/v1/users/{name}/access-tokens",
            administer,
            users::new_token,
        ),
        get("/api/v1/access-tokens", administer, users::tokens),
        delete(
            "/api/v1/access-tokens/{id}",
            administer,
            users::remove_token,
        ),
        get("/api/v1/audit", administer, audit::page),
        get("/api/v1/audit/check", administer, audit::check),
        get("/api/v1/audit/export", administer, audit::export),
    ]
}

fn routes_of_sites() -> Vec<Route> {
    let look = Access::Person(Right::Look, Bounds::Sites);
    let attend = Access::Person(Right::Attend, Bounds::Sites);
    let operate = Access::Person(Right::Operate, Bounds::Sites);
    let found = Access::Person(Right::Operate, Bounds::Chain);
    vec![
        get("/api/v1/overview", look, page::overview),
        get("/api/v1/sites", look, sites::list),
        post("/api/v1/sites", found, sites::create),
        get("/api/v1/sites/{name}", look, sites::show),
        patch("/api/v1/sites/{name}", operate, sites::change),
        get("/api/v1/sites/{name}/wan", look, wan::show),
        patch("/api/v1/sites/{name}/wan", operate, wan::change),
        get("/api/v1/sites/{name}/tokens", operate, sites::list_tokens),
        post("/api/v1/sites/{name}/tokens", operate, sites::create_token),
        delete("/api/v1/tokens/{id}", operate, sites::revoke_token),
        post("/api/v1/sites/{name}/vouchers", operate, vouchers::create),
        get("/api/v1/vouchers", operate, vouchers::list),
        put("/api/v1/sites/{name}/pin", operate, rosters::set_pin),
        delete("/api/v1/sites/{name}/pin", operate, rosters::remove_pin),
        get("/api/v1/machines", look, machines::list),
        post("/api/v1/machines/{id}/approve", attend, machines::approve),
        post("/api/v1/machines/{id}/demote", operate, rosters::demote),
        get("/api/v1/orders", look, orders::list),
        post("/api/v1/orders", operate, orders::create),
        get("/api/v1/nodes", look, nodes::list),
        post("/api/v1/nodes/{key}/rename", operate, names::rename),
        post("/api/v1/nodes/{key}/revoke", operate, nodes::revoke),
        get("/api/v1/ledger", look, objects::ledger),
    ]
}

fn routes_of_images() -> Vec<Route> {
    let look = Access::Person(Right::Look, Bounds::Sites);
    let author = Access::Person(Right::Author, Bounds::Chain);
    vec![
        get("/api/v1/images", look, images::list),
        get("/api/v1/images/{version}", look, images::show),
        get("/api/v1/root", look, images::root),
        post("/api/v1/objects/missing", author, objects::missing),
        put("/api/v1/objects/{hash}", author, objects::put).taking(OBJECT_BODY_BYTES_MAX),
        get("/api/v1/objects/{hash}", author, objects::get),
        post("/api/v1/manifests", author, images::publish).taking(Manifest::PAYLOAD_BYTES_MAX),
        get("/api/v1/manifests/{digest}", author, images::manifest),
    ]
}

fn routes_of_nodes() -> Vec<Route> {
    use Access::{Fetcher, Newcomer, Node};
    vec![
        post("/api/v1/enrol", Newcomer, nodes::enrol),
        post("/api/v1/node/confirm", Newcomer, nodes::confirm),
        get("/api/v1/node/documents", Node, nodes::my_documents),
        get("/api/v1/node/certificate", Node, roots::my_certificate),
        post("/api/v1/node/certify", Node, nodes::certify),
        post("/api/v1/agent/admit", Newcomer, agents::admit),
        post("/api/v1/node/leases", Fetcher, leases::ask),
        post("/api/v1/node/leases/end", Fetcher, leases::end),
        get("/api/v1/node/wan", Fetcher, wan::tell),
        get(
            "/api/v1/node/manifests/{digest}",
            Fetcher,
            images::my_manifest,
        ),
        get(
            "/api/v1/node/objects/{hash}",
            Fetcher,
            objects::get_for_site,
        ),
        post("/api/v1/node/reports", Node, reports::take),
    ]
}

/// Method, path and access of every route, for documentation and tests.
pub fn route_table() -> Vec<(String, &'static str, Access)> {
    let line = |r: Route| (r.method.to_string(), r.path, r.access);
    routes().into_iter().map(line).collect()
}

/// What serves them.
pub(crate) fn router(hq: Arc<Hq>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        // the rule comes before the body is read
        let handler = route
            .handler
            .layer(DefaultBodyLimit::max(route.body_bytes_max));
        let handler = match route.access {
            Access::Public => handler,
            Access::Person(right, bounds) => {
                let gate = Gate {
                    hq: hq.clone(),
                    operation: format!("{} {}", route.method, route.path).into(),
                    right,
                    bounds,
                };
                handler.layer(middleware::from_fn_with_state(gate, person_only))
            }
            Access::Node => handler.layer(middleware::from_fn_with_state(hq.clone(), node_only)),
            Access::Fetcher => {
                handler.layer(middleware::from_fn_with_state(hq.clone(), fetcher_only))
            }
            Access::Newcomer => handler.layer(middleware::from_fn(newcomer_only)),
        };
        router = router.route(route.path, handler);
    }
    router
        .fallback(async || Refusal::missing("this path"))
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method",
            )
        })
        .layer(middleware::map_response(guarded))
        .layer(middleware::from_fn(strangers_wait))
        .with_state(hq)
}

/// Nothing is guessed about content, and nothing is kept that may change.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
