//! What happened, for people.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use web_api::{EventInfo, Page};

use crate::{
    Hq,
    access::By,
    database::{
        events,
        events::{EventFilter, EventSort},
    },
    error::Refusal,
    listed::Listed,
};

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<EventSort, EventFilter>,
) -> Result<Json<Page<EventInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = events::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}
