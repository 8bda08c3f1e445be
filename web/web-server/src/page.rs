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
use web_api::{EventInfo, ImageVersion, LedgerLine, Machine, NodeInfo, OrderInfo, Page, SiteInfo};

use crate::{
    Hq,
    access::By,
    database::{
        events,
        events::{EventFilter, EventSort},
        images,
        images::{ImageFilter, ImageSort},
        leases,
        leases::{LedgerFilter, LedgerSort},
        listing::Turn,
        machines,
        machines::{MachineFilter, MachineSort},
        nodes,
        nodes::{NodeFilter, NodeSort},
        orders,
        orders::{OrderFilter, OrderSort},
        sites,
        sites::{SiteFilter, SiteSort},
        unix_seconds,
    },
    error::Refusal,
    listed::{Listed, Sort},
};

const SHOWN_MAX: u32 = 100;
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
    let db = &mut *db;
    let reach = by.reach;
    let filter = MachineFilter::default();
    let machines = machines::page(db, reach, &filter, &first(MachineSort::default())).await?;
    let machines = machines.rows.into_iter();
    let filter = NodeFilter::default();
    let nodes = nodes::page(db, reach, &filter, &first(NodeSort::default())).await?;
    let filter = OrderFilter::default();
    let orders = orders::page(db, reach, &filter, &first(OrderSort::default())).await?;
    let filter = LedgerFilter::default();
    let ledger = leases::ledger(db, reach, &filter, &first(LedgerSort::default())).await?;
    let filter = EventFilter::default();
    let events = events::page(db, reach, &filter, &first(EventSort::default())).await?;
    let filter = SiteFilter::default();
    let sites = sites::page(db, reach, &filter, &first(SiteSort::default())).await?;
    let filter = ImageFilter::default();
    let images = images::page(db, &filter, &first(ImageSort::default())).await?;
    Ok(Json(Overview {
        unix_seconds: unix_seconds(),
        images: images.rows,
        sites: sites.rows,
        machines: machines.map(|(_, machine)| machine).collect(),
        nodes: nodes.rows,
        orders: orders.rows,
        ledger: ledger.rows,
        events: events.rows,
    }))
}

fn first(sort: impl Sort) -> Turn {
    Turn::first(sort.order(), SHOWN_MAX)
}

pub(crate) async fn events(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<EventSort, EventFilter>,
) -> Result<Json<Page<EventInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = events::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}
