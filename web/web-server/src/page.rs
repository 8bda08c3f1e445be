//! One plain page, built into the program: what HQ knows, as it changes.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use web_api::{ImageVersion, LedgerLine, Machine, NodeInfo, OrderInfo, SiteInfo};

use crate::{
    Hq,
    access::By,
    database::{
        events::{self, EventInfo},
        images, leases, machines, nodes, orders, sites, unix_seconds,
    },
    error::Refusal,
};

const MACHINES_SHOWN_MAX: u32 = 500;
const NODES_SHOWN_MAX: u32 = 500;
const ORDERS_SHOWN_MAX: u32 = 50;
const EVENTS_SHOWN_MAX: u32 = 100;
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn file(kind: &'static str, text: &'static str) -> Response {
    let headers: [(HeaderName, HeaderValue); 3] = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
    ];
    (headers, text).into_response()
}

pub(crate) async fn index() -> Response {
    file("text/html; charset=utf-8", include_str!("page/index.html"))
}

pub(crate) async fn script() -> Response {
    file(
        "text/javascript; charset=utf-8",
        include_str!("page/app.js"),
    )
}

pub(crate) async fn style() -> Response {
    file("text/css; charset=utf-8", include_str!("page/app.css"))
}

/// Everything that the page shows; of long lists the newest.
#[derive(Serialize, ToSchema)]
pub(crate) struct Overview {
    unix_seconds: u64,
    images: Vec<ImageVersion>,
    sites: Vec<SiteInfo>,
    machines: Vec<Machine>,
    nodes: Vec<NodeInfo>,
    orders: Vec<OrderInfo>,
    ledger: Vec<LedgerLine>,
    events: Vec<EventInfo>,
}

pub(crate) async fn overview(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<Overview>, Refusal> {
    let mut db = hq.database.read().await?;
    let machines = machines::infos(&mut db, by.reach, None, MACHINES_SHOWN_MAX).await?;
    Ok(Json(Overview {
        unix_seconds: unix_seconds(),
        images: images::all(&mut db).await?,
        sites: sites::infos(&mut db, by.reach, None).await?,
        machines: machines.into_iter().map(|(_, machine)| machine).collect(),
        nodes: nodes::infos(&mut db, by.reach, NODES_SHOWN_MAX).await?,
        orders: orders::infos(&mut db, by.reach, ORDERS_SHOWN_MAX).await?,
        ledger: leases::ledger(&mut db, by.reach).await?,
        events: events::newest(&mut db, by.reach, EVENTS_SHOWN_MAX).await?,
    }))
}
