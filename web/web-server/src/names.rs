//! Nodes by the beginning of their keys, and their names.

use std::sync::Arc;

use axum::{Extension, Json, extract::State};
use trust_format::{NodeCertificate, peek};
use web_api::{NodeInfo, NodeRename};

use crate::{
    Hq,
    access::By,
    bell::News,
    database::{
        Connection,
        events::{self, EventKind},
        nodes,
        nodes::NodeRecord,
        reach::Reach,
        replaced,
    },
    error::Refusal,
    input::{Input, Named, checked_name},
};

/// Digits of a key that people have to give. Fewer fit one node today and another one tomorrow.
const KEY_DIGITS_MIN: usize = 8;
const KEY_DIGITS: usize = 64;

/// The one node whose key begins so.
pub(crate) async fn by_beginning(
    db: &mut Connection,
    reach: Reach,
    text: &str,
) -> Result<NodeRecord, Refusal> {
    let fits = (KEY_DIGITS_MIN..=KEY_DIGITS).contains(&text.len());
    if !fits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let shown: String = text.chars().take(KEY_DIGITS).collect();
        return Err(Refusal::bad(format!(
            "{shown:?} is no node's key: {KEY_DIGITS_MIN} to {KEY_DIGITS} hexadecimal digits from its beginning"
        )));
    }
    let digits = text.to_ascii_lowercase();
    let mut found = replaced::by_beginning(db, reach, &digits).await?;
    match found.len() {
        0 => Err(Refusal::missing(format!(
            "a node whose key begins with {digits}"
        ))),
        1 => Ok(found.remove(0)),
        _ => Err(Refusal::conflict(format!(
            "the keys of several nodes begin with {digits}: give more digits"
        ))),
    }
}

/// Gives a node another name. It is in the node's certificate, which HQ signs anew, and which the node takes when it calls.
pub(crate) async fn rename(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(text): Named,
    Input(wish): Input<NodeRename>,
) -> Result<Json<NodeInfo>, Refusal> {
    let name = checked_name(&wish.name, "a node's name")?;
    let mut change = hq.database.write_by(&by).await?;
    let node = by_beginning(&mut change, by.reach, &text).await?;
    check_living(&node)?;
    if let Some(other) = replaced::namesake(&mut change, &node, name).await? {
        return Err(Refusal::conflict(format!(
            "node {} of this site is called {name:?} already",
            other.short()
        )));
    }
    if node.name != name {
        let certificate = NodeCertificate {
            name: name.to_owned(),
            ..peek(&node.certificate)?
        };
        let signed = hq.signer.certify(&certificate)?;
        replaced::rename(&mut change, &node.key, name, signed.as_bytes()).await?;
        let message = format!(
            "node {} is called {name:?} now, not {:?}",
            node.key.short(),
            node.name
        );
        events::add(&mut change, node.site, "HQ", EventKind::Node, &message).await?;
    }
    let info = nodes::info_of(&mut change, &node.key).await?;
    change.says(format!(
        "node {} renamed from {:?} to {name:?}",
        node.key.short(),
        node.name
    ));
    change.tell(News::Documents(node.site));
    change.commit().await?;
    info.map(Json)
        .ok_or_else(|| Refusal::missing(format!("node {}", node.key.short())))
}

/// A name is for a node that lives.
fn check_living(node: &NodeRecord) -> Result<(), Refusal> {
    let key = node.key.short();
    match node.life.replaced {
        _ if node.revoked => Err(Refusal::conflict(format!("node {key} is revoked"))),
        Some(replaced) if replaced.heard_again == 0 => Err(Refusal::conflict(format!(
            "node {key} was replaced by node {}: rename that one",
            replaced.by.short()
        ))),
        _ => Ok(()),
    }
}
