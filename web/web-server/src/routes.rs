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
    images, leases, machines, names, nodes, objects,
    openapi::{self, Described, Shape},
    orders, page,
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
    /// What it does, its handler's name, and what it takes and gives, for the description of the API.
    pub(crate) summary: &'static str,
    pub(crate) name: &'static str,
    pub(crate) shape: Option<fn() -> Shape>,
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
        summary: "",
        name: "",
        shape: None,
    }
}

/// One that nodes and agents call: no part of the description.
fn plain<H, T>(method: Method, path: &'static str, access: Access, handler: H) -> Route
where
    H: Handler<T, Arc<Hq>>,
    T: 'static,
{
    route(method, path, access, handler)
}

/// One function for each method, of routes of people.
macro_rules! by_method {
    ($($name:ident $method:ident),*) => {$(
        fn $name<H, T, A>(
            path: &'static str,
            access: Access,
            summary: &'static str,
            handler: H,
        ) -> Route
        where
            H: Handler<T, Arc<Hq>> + Described<A>,
            T: 'static,
        {
            Route {
                summary,
                name: name_of::<H>(),
                shape: Some(<H as Described<A>>::shape),
                ..route(Method::$method, path, access, handler)
            }
        }
    )*};
}

by_method!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

/// A handler's module and name.
fn name_of<H>() -> &'static str {
    let whole = std::any::type_name::<H>();
    let module = whole.rmatch_indices("::").nth(1);
    module.map_or(whole, |(at, colons)| &whole[at + colons.len()..])
}

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
        get("/app.js", Public, "Its script", page::script),
        get("/app.css", Public, "Its style", page::style),
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
            "/api/v1/overview",
            look,
            "Everything that the page shows",
            page::overview,
        ),
        get("/api/v1/sites", look, "Sites by name", sites::list),
        post(
            "/api/v1/sites",
            found,
            "Make a site, and a token for its first node",
            sites::create,
        ),
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
        get(
            "/api/v1/machines",
            look,
            "Machines, last heard of first",
            machines::list,
        ),
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
        get(
            "/api/v1/orders",
            look,
            "Orders, the newest first",
            orders::list,
        ),
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
        plain(Method::POST, "/api/v1/enrol", Newcomer, nodes::enrol),
        plain(
            Method::POST,
            "/api/v1/node/confirm",
            Newcomer,
            nodes::confirm,
        ),
        plain(
            Method::GET,
            "/api/v1/node/documents",
            Node,
            nodes::my_documents,
        ),
        plain(
            Method::GET,
            "/api/v1/node/certificate",
            Node,
            roots::my_certificate,
        ),
        plain(Method::POST, "/api/v1/node/certify", Node, nodes::certify),
        plain(Method::POST, "/api/v1/agent/admit", Newcomer, agents::admit),
        plain(Method::POST, "/api/v1/node/leases", Fetcher, leases::ask),
        plain(
            Method::POST,
            "/api/v1/node/leases/end",
            Fetcher,
            leases::end,
        ),
        plain(Method::GET, "/api/v1/node/wan", Fetcher, wan::tell),
        plain(
            Method::GET,
            "/api/v1/node/manifests/{digest}",
            Fetcher,
            images::my_manifest,
        ),
        plain(
            Method::GET,
            "/api/v1/node/objects/{hash}",
            Fetcher,
            objects::get_for_site,
        ),
        plain(Method::POST, "/api/v1/node/reports", Node, reports::take),
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
