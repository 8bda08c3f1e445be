//! The router. It is built from one table, so there is no route without a rule of access.

mod table;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    handler::Handler,
    http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, Version, header},
    middleware,
    response::Response,
    routing::{MethodFilter, MethodRouter, on},
};
use image_format::OBJECT_BYTES_MAX;
use tower_http::{
    CompressionLevel,
    compression::{
        CompressionLayer,
        predicate::{Predicate, SizeAbove},
    },
};

use crate::{
    Hq,
    access::{Access, Gate, fetcher_only, newcomer_only, node_only, person_only, strangers_wait},
    error::Refusal,
    openapi::{Described, Shape},
    page,
};

pub(crate) use table::routes;

const BODY_BYTES_MAX: usize = 1 << 20;
/// Of somebody who is not known yet: a few documents of a kilobyte, what a computer says of itself, a name and a password.
const STRANGERS_BODY_BYTES_MAX: usize = 16 << 10;
/// A little more than an object, so that one too large is refused in words.
const OBJECT_BODY_BYTES_MAX: usize = OBJECT_BYTES_MAX + 4096;

/// A shorter answer gains nothing.
const PACKED_FROM_BYTES: u16 = 1024;

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

/// One that is no part of the description: nodes and agents call it.
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
        .fallback(page::elsewhere)
        .method_not_allowed_fallback(async || {
            Refusal::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path does not take this method",
            )
        })
        .layer(packing())
        .layer(middleware::map_response_with_state(hq.clone(), guarded))
        .layer(middleware::from_fn(strangers_wait))
        .with_state(hq)
}

/// Long answers in JSON are sent packed to those who take it. Nothing else is: objects are packed already, and their bytes are counted as
/// they are; what is watched has to leave at once.
fn packing() -> CompressionLayer<impl Predicate> {
    let is_json = |_: StatusCode, _: Version, headers: &HeaderMap, _: &Extensions| {
        let kind = headers.get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind == "application/json")
    };
    CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(SizeAbove::new(PACKED_FROM_BYTES).and(is_json))
}

/// Nothing is guessed about content, nothing is kept that may change, and every answer is counted.
async fn guarded(State(hq): State<Arc<Hq>>, mut response: Response) -> Response {
    hq.counts.answered(response.status());
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
