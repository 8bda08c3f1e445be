//! Orders: which version machines of a site are given.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use trust_format::{Digest, MachineId, Order};
use web_api::{ImageKind, NewOrder, OrderInfo, Page};

use crate::{
    Hq,
    access::By,
    database::{
        orders,
        orders::{OrderFilter, OrderSort},
    },
    error::Refusal,
    images,
    input::Input,
    listed::Listed,
    sites, waiting,
};

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<OrderSort, OrderFilter>,
) -> Result<Json<Page<OrderInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = orders::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}

pub(crate) async fn create(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(wish): Input<NewOrder>,
) -> Result<Json<OrderInfo>, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let mut site = sites::named(&mut change, by.reach, &wish.site).await?;
    let image = images::resolve(&mut change, &wish.version).await?;
    if image.kind != ImageKind::Image {
        return Err(Refusal::bad(format!(
            "{:?} is a boot bundle, not an image of a disk",
            image.name
        )));
    }
    if image.release < site.release_floor {
        return Err(Refusal::conflict(format!(
            "release {} of {:?} is below the site's floor {}",
            image.release, image.name, site.release_floor
        )));
    }
    images::check_signature(&hq, &image).await?;
    let order = Order {
        site: site.id,
        number: waiting::highest_order(&mut change, site.id).await? + 1,
        image: Digest(image.version.0),
        machine: wish.machine.map(|m| MachineId(m.0)),
        erase: wish.erase,
    };
    let waiting = waiting::sign_order(&mut change, &hq, &order).await?;
    site.image = Some(image.version);
    sites::refresh(&mut change, &hq, &mut site).await?;
    let which = match wish.machine {
        Some(machine) => format!("machine {machine}"),
        None => "all machines".into(),
    };
    change.says(format!(
        "order {} of site {:?}: version {} of {:?} for {which}{}",
        order.number,
        site.name,
        order.image,
        image.name,
        if order.erase { ", erasing" } else { "" }
    ));
    change.commit().await?;
    tracing::info!(site = site.name, order = order.number, version = %order.image, "ordered");
    Ok(Json(OrderInfo {
        site: site.name,
        number: order.number,
        version: image.version,
        name: image.name,
        machine: wish.machine,
        erase: order.erase,
        completed: 0,
        waiting,
    }))
}
