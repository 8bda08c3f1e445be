//! How HQ is, for load balancers and for Prometheus; what there is, in numbers, for people.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;
use web_api::Summary;

use crate::{
    Hq,
    access::By,
    database::{counts, unix_seconds},
    error::Refusal,
    live::WATCHERS_MAX,
};

/// A database that takes longer is as good as away.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// A node that was heard of within this time is there: of one that others name it is written every minute.
const THERE_SECONDS: u64 = 120;

/// What HQ counts while it runs; from 0 at each start.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    answers: Family<Answer, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u16,
}

impl Counts {
    /// A request was answered.
    pub(crate) fn answered(&self, status: StatusCode) {
        let status = status.as_u16();
        self.answers.get_or_create(&Answer { status }).inc();
    }
}

/// HQ answers, and its database does.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    healthy: bool,
    version: &'static str,
}

pub(crate) async fn check(State(hq): State<Arc<Hq>>) -> Result<Json<Health>, Refusal> {
    let asked = async { counts::answers(&mut *hq.database.read().await?).await };
    match timeout(ANSWERS_WITHIN, asked).await {
        Ok(answer) => answer?,
        Err(_) => {
            return Err(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!(
                    "HQ's database did not answer within {} s",
                    ANSWERS_WITHIN.as_secs()
                ),
            ));
        }
    }
    Ok(Json(Health {
        healthy: true,
        version: env!("CARGO_PKG_VERSION"),
    }))
}

/// What there is within the caller's scope.
pub(crate) async fn summary(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
) -> Result<Json<Summary>, Refusal> {
    let mut db = hq.database.read().await?;
    let since = unix_seconds().saturating_sub(THERE_SECONDS);
    Ok(Json(counts::within(&mut db, by.reach, since).await?))
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfState {
    state: String,
}

/// OpenMetrics 1.0, which Prometheus reads.
pub(crate) async fn metrics(
    State(hq): State<Arc<Hq>>,
    Extension(_): Extension<By>,
) -> Result<Response, Refusal> {
    let mut db = hq.database.read().await?;
    let seen = unix_seconds().saturating_sub(THERE_SECONDS);
    let counts = counts::all(&mut db, seen).await?;
    drop(db);
    let mut registry = Registry::with_prefix("lamplighter");
    let gauge = |registry: &mut Registry, name: &str, help: &str, value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    };
    gauge(&mut registry, "sites", "Sites", counts.sites);
    let machines = Family::<OfState, Gauge>::default();
    for (state, count) in counts.machines {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        machines.get_or_create(&OfState { state }).set(count);
    }
    registry.register("machines", "Machines by what they need of people", machines);
    gauge(&mut registry, "nodes", "Living nodes", counts.nodes);
    let help = "Living nodes that were heard of within two minutes";
    gauge(&mut registry, "nodes_there", help, counts.nodes_there);
    let wan = Counter::<u64>::default();
    wan.inc_by(counts.wan_bytes);
    let help = "Body bytes that HQ wrote to sockets of sites";
    registry.register_with_unit("wan", help, Unit::Bytes, wan);
    let watching = WATCHERS_MAX.saturating_sub(hq.watchers.available_permits());
    let help = "Pages and scripts that watch for changes";
    gauge(&mut registry, "watchers", help, watching as u64);
    let help = "Requests that were answered, by status";
    registry.register("answers", help, hq.counts.answers.clone());
    let mut text = String::new();
    // a string takes everything
    let _ = encode(&mut text, &registry);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let kind = HeaderValue::from_static(kind);
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
