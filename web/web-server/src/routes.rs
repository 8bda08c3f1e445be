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

use crate::{
    Hq,
    access::{Access, admin_only, fetcher_only, newcomer_only, node_only, strangers_wait},
    agents,
    error::Refusal,
    images, leases, machines, names, nodes, objects, orders, page, reports, roots, rosters, sites,
    vouchers, waiting, wan,
};

const BODY_BYTES_MAX: usize = 1 << 20;
/// Of somebody who is not known yet: a few documents of a kilobyte, and what a computer says of itself.
const NEWCOMER_BODY_BYTES_MAX: usize = 16 << 10;
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
        Access::Newcomer => NEWCOMER_BODY_BYTES_MAX,
        Access::Admin | Access::Node | Access::Fetcher => BODY_BYTES_MAX,
    };
    Route {
        method,
        path,
        access,
        body_bytes_max,
        handler: on(filter, handler),
    }
}

/// All of them.
pub(crate) fn routes() -> Vec<Route> {
    let mut routes = routes_of_people();
    routes.extend(routes_of_signers());
    routes.extend(routes_of_nodes());
    routes
}

/// Of keys, roots, and what waits for a signature.
fn routes_of_signers() -> Vec<Route> {
    use Access::Admin;
    let get = Method::GET;
    let post = Method::POST;
    vec![
        route(get.clone(), "/api/v1/keys", Admin, roots::keys),
        route(get.clone(), "/api/v1/roots", Admin, roots::list),
        route(post.clone(), "/api/v1/roots", Admin, roots::publish),
        route(get.clone(), "/api/v1/waiting", Admin, waiting::list),
        route(
            get.clone(),
            "/api/v1/waiting/images/{version}",
            Admin,
            waiting::image,
        ),
        route(
            Method::DELETE,
            "/api/v1/waiting/images/{version}",
            Admin,
            waiting::discard_image,
        ),
        route(get, "/api/v1/waiting/sites/{name}", Admin, waiting::site),
        route(
            post.clone(),
            "/api/v1/waiting/sites/{name}",
            Admin,
            waiting::site_again,
        ),
        route(
            post.clone(),
            "/api/v1/signed/images",
            Admin,
            waiting::publish_image,
        )
        .taking(Manifest::PAYLOAD_BYTES_MAX + SIGNATURES_BYTES_MAX),
        route(post, "/api/v1/signed/sites", Admin, waiting::publish_site).taking(PARCEL_BYTES_MAX),
    ]
}

fn routes_of_people() -> Vec<Route> {
    use Access::Admin;
    let get = Method::GET;
    let post = Method::POST;
    vec![
        route(get.clone(), "/", Admin, page::index),
        route(get.clone(), "/app.js", Admin, page::script),
        route(get.clone(), "/app.css", Admin, page::style),
        route(get.clone(), "/api/v1/overview", Admin, page::overview),
        route(get.clone(), "/api/v1/sites", Admin, sites::list),
        route(post.clone(), "/api/v1/sites", Admin, sites::create),
        route(get.clone(), "/api/v1/sites/{name}", Admin, sites::show),
        route(Method::PATCH, "/api/v1/sites/{name}", Admin, sites::change),
        route(get.clone(), "/api/v1/sites/{name}/wan", Admin, wan::show),
        route(
            Method::PATCH,
            "/api/v1/sites/{name}/wan",
            Admin,
            wan::change,
        ),
        route(
            get.clone(),
            "/api/v1/sites/{name}/tokens",
            Admin,
            sites::list_tokens,
        ),
        route(
            post.clone(),
            "/api/v1/sites/{name}/tokens",
            Admin,
            sites::create_token,
        ),
        route(
            post.clone(),
            "/api/v1/sites/{name}/vouchers",
            Admin,
            vouchers::create,
        ),
        route(get.clone(), "/api/v1/vouchers", Admin, vouchers::list),
        route(
            Method::PUT,
            "/api/v1/sites/{name}/pin",
            Admin,
            rosters::set_pin,
        ),
        route(
            Method::DELETE,
            "/api/v1/sites/{name}/pin",
            Admin,
            rosters::remove_pin,
        ),
        route(
            post.clone(),
            "/api/v1/machines/{id}/demote",
            Admin,
            rosters::demote,
        ),
        route(
            Method::DELETE,
            "/api/v1/tokens/{id}",
            Admin,
            sites::revoke_token,
        ),
        route(get.clone(), "/api/v1/images", Admin, images::list),
        route(get.clone(), "/api/v1/images/{version}", Admin, images::show),
        route(
            post.clone(),
            "/api/v1/objects/missing",
            Admin,
            objects::missing,
        ),
        route(Method::PUT, "/api/v1/objects/{hash}", Admin, objects::put)
            .taking(OBJECT_BODY_BYTES_MAX),
        route(get.clone(), "/api/v1/objects/{hash}", Admin, objects::get),
        route(post.clone(), "/api/v1/manifests", Admin, images::publish)
            .taking(Manifest::PAYLOAD_BYTES_MAX),
        route(
            get.clone(),
            "/api/v1/manifests/{digest}",
            Admin,
            images::manifest,
        ),
        route(get.clone(), "/api/v1/orders", Admin, orders::list),
        route(post.clone(), "/api/v1/orders", Admin, orders::create),
        route(get.clone(), "/api/v1/machines", Admin, machines::list),
        route(
            post.clone(),
            "/api/v1/machines/{id}/approve",
            Admin,
            machines::approve,
        ),
        route(get.clone(), "/api/v1/nodes", Admin, nodes::list),
        route(
            post.clone(),
            "/api/v1/nodes/{key}/rename",
            Admin,
            names::rename,
        ),
        route(post, "/api/v1/nodes/{key}/revoke", Admin, nodes::revoke),
        route(get.clone(), "/api/v1/ledger", Admin, objects::ledger),
        route(get, "/api/v1/root", Admin, images::root),
    ]
}

fn routes_of_nodes() -> Vec<Route> {
    use Access::{Fetcher, Newcomer, Node};
    let get = Method::GET;
    let post = Method::POST;
    vec![
        route(post.clone(), "/api/v1/enrol", Newcomer, nodes::enrol),
        route(
            post.clone(),
            "/api/v1/node/confirm",
            Newcomer,
            nodes::confirm,
        ),
        route(
            get.clone(),
            "/api/v1/node/documents",
            Node,
            nodes::my_documents,
        ),
        route(
            get.clone(),
            "/api/v1/node/certificate",
            Node,
            roots::my_certificate,
        ),
        route(post.clone(), "/api/v1/node/certify", Node, nodes::certify),
        route(post.clone(), "/api/v1/agent/admit", Newcomer, agents::admit),
        route(post.clone(), "/api/v1/node/leases", Fetcher, leases::ask),
        route(
            post.clone(),
            "/api/v1/node/leases/end",
            Fetcher,
            leases::end,
        ),
        route(get.clone(), "/api/v1/node/wan", Fetcher, wan::tell),
        route(
            get.clone(),
            "/api/v1/node/manifests/{digest}",
            Fetcher,
            images::my_manifest,
        ),
        route(
            get,
            "/api/v1/node/objects/{hash}",
            Fetcher,
            objects::get_for_site,
        ),
        route(post, "/api/v1/node/reports", Node, reports::take),
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
            Access::Admin => handler.layer(middleware::from_fn_with_state(hq.clone(), admin_only)),
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
