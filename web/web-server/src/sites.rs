//! Sites, their channels, and the tokens with which nodes enrol.

use std::sync::Arc;

use axum::{Extension, Json, extract::State, http::StatusCode};
use trust_format::{
    CHANNEL_REVOKED_MAX, Channel, Digest, HqContact, PublicKey, SiteId, UnknownRule, Verified,
};
use web_api::{
    EnrolmentToken, Hex, NewSite, NewToken, Page, SiteChange, SiteCreated, SiteInfo, SiteUnknown,
    TokenInfo, TokenMade,
};
use zeroize::Zeroizing;

use crate::{
    Hq,
    access::By,
    bell::News,
    database::{
        Connection, images, nodes, reach,
        reach::Reach,
        sites,
        sites::{SiteFilter, SiteRecord, SiteSort},
        tokens, unix_seconds,
    },
    error::{Refusal, random},
    input::{Input, InputOrNothing, Named, checked_name, checked_tags},
    listed::Listed,
    rebuilt, rosters, waiting,
};

/// How long an enrolment token holds, by HQ's clock.
const TOKEN_SECONDS: u64 = 72 * 3600;
/// Tags of one site.
pub(crate) const TAGS_MAX: usize = 32;

pub(crate) async fn list(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    asked: Listed<SiteSort, SiteFilter>,
) -> Result<Json<Page<SiteInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let page = sites::page(&mut db, by.reach, &asked.filter, &asked.turn).await?;
    Ok(Json(page))
}

pub(crate) async fn show(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Json<SiteInfo>, Refusal> {
    Ok(Json(
        info(&mut *hq.database.read().await?, by.reach, &name).await?,
    ))
}

async fn info(db: &mut Connection, reach: Reach, name: &str) -> Result<SiteInfo, Refusal> {
    let found = sites::info_of(db, reach, name).await?;
    found.ok_or_else(|| Refusal::missing(format!("site {name:?}")))
}

/// A site by its name, to be changed. One that is out of reach is not known.
pub(crate) async fn named(
    db: &mut Connection,
    reach: Reach,
    name: &str,
) -> Result<SiteRecord, Refusal> {
    let found = sites::by_name(db, reach, name).await?;
    found.ok_or_else(|| Refusal::missing(format!("site {name:?}")))
}

/// A site that another record names.
pub(crate) async fn of(db: &mut Connection, id: SiteId) -> Result<SiteRecord, Refusal> {
    let found = sites::by_id(db, id).await?;
    found.ok_or_else(|| Refusal::missing(format!("site {id}")))
}

pub(crate) async fn create(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Input(new): Input<NewSite>,
) -> Result<Json<SiteCreated>, Refusal> {
    let name = checked_name(&new.name, "a site's name")?;
    let mut change = hq.database.write_by(&by).await?;
    if sites::by_name(&mut change, Reach::ALL, name)
        .await?
        .is_some()
    {
        return Err(Refusal::conflict(format!(
            "there is a site {name:?} already"
        )));
    }
    let id = SiteId(random()?);
    sites::insert(&mut change, id, name, new.unknown).await?;
    let mut site = of(&mut change, id).await?;
    refresh(&mut change, &hq, &mut site).await?;
    let token = new_token(&mut change, &hq, id, None).await?;
    let site = info(&mut change, by.reach, name).await?;
    change.says(format!("site {name:?} made, with a token"));
    change.commit().await?;
    tracing::info!(site = name, "site made");
    Ok(Json(SiteCreated { site, token }))
}

pub(crate) async fn change(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    Input(wish): Input<SiteChange>,
) -> Result<Json<SiteInfo>, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let mut site = named(&mut change, by.reach, &name).await?;
    if let Some(tags) = &wish.tags {
        set_tags(&mut change, &by, site.id, tags).await?;
    }
    site.unknown = wish.unknown.unwrap_or(site.unknown);
    site.provisional = wish.provisional.unwrap_or(site.provisional);
    if let Some(floor) = wish.release_floor {
        if floor < site.release_floor {
            return Err(Refusal::conflict(format!(
                "the site's release floor is {} and only rises",
                site.release_floor
            )));
        }
        if floor > images::highest_release(&mut change).await? {
            return Err(Refusal::bad(format!("no version has release {floor} yet")));
        }
        site.release_floor = floor;
    }
    refresh(&mut change, &hq, &mut site).await?;
    let site = info(&mut change, by.reach, &name).await?;
    change.says(format!("site {name:?} changed{}", said(&wish)));
    change.commit().await?;
    Ok(Json(site))
}

/// Tags decide whose scope reaches the site: whoever reaches some sites only may not give them to others.
async fn set_tags(
    db: &mut Connection,
    by: &By,
    site: SiteId,
    tags: &[String],
) -> Result<(), Refusal> {
    if !by.reach.is_all() {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "tags decide who reaches a site: whoever gives them reaches all sites",
        ));
    }
    let tags = checked_tags(tags)?;
    if tags.len() > TAGS_MAX {
        return Err(Refusal::bad(format!("a site has at most {TAGS_MAX} tags")));
    }
    Ok(reach::set_tags(db, site, &tags).await?)
}

/// A wish in words.
fn said(wish: &SiteChange) -> String {
    let mut said = String::new();
    if let Some(unknown) = wish.unknown {
        said += &format!(", unknown machines: {unknown:?}").to_lowercase();
    }
    if let Some(provisional) = wish.provisional {
        said += &format!(", provisional nodes: {provisional}");
    }
    if let Some(floor) = wish.release_floor {
        said += &format!(", release floor {floor}");
    }
    if let Some(tags) = &wish.tags {
        said += &format!(", tags {}", tags.join(" "));
    }
    said
}

/// Writes the site, with a channel or a roster of the next number when anything in it changed, and wakes its nodes when the
/// transaction is committed.
pub(crate) async fn refresh(
    db: &mut Connection,
    hq: &Hq,
    site: &mut SiteRecord,
) -> Result<(), Refusal> {
    db.tell(News::Documents(site.id));
    let channel = Channel {
        site: site.id,
        site_name: site.name.clone(),
        number: site.channel_number,
        image: site.image.map(|i| Digest(i.0)),
        bundle: images::bundle(db).await?,
        release_floor: site.release_floor,
        revocation: site.revocation,
        revoked: sites::revoked(db, site.id).await?,
        unknown: match site.unknown {
            SiteUnknown::Wait => UnknownRule::Wait,
            SiteUnknown::Admit => UnknownRule::Admit,
            SiteUnknown::Pin => UnknownRule::Pin,
            SiteUnknown::Refuse => UnknownRule::Refuse,
        },
        provisional: site.provisional,
        hq: HqContact {
            urls: hq.urls.clone(),
            fingerprint: hq.fingerprint,
        },
    };
    // one that today's keys did not sign counts as changed
    let signed = Verified::<Channel>::check(&site.channel, &hq.signer.trusted());
    let holds = signed.is_ok_and(|old| *old == channel);
    waiting::sign_channel(db, hq, site, channel, holds).await?;
    rosters::refresh(db, hq, site).await?;
    sites::update(db, site).await?;
    Ok(())
}

/// Signs anew the channels whose content differs.
pub(crate) async fn refresh_all(hq: &Arc<Hq>) -> Result<(), Refusal> {
    let mut change = hq.database.write().await?;
    refresh_all_in(&mut change, hq).await?;
    change.commit().await?;
    Ok(())
}

/// The same inside a transaction.
pub(crate) async fn refresh_all_in(db: &mut Connection, hq: &Hq) -> Result<(), Refusal> {
    for id in sites::ids(db).await? {
        let mut site = of(db, id).await?;
        refresh(db, hq, &mut site).await?;
    }
    Ok(())
}

/// Revokes a node: its site's channel says so under the next revocation number.
pub(crate) async fn revoke_node(
    db: &mut Connection,
    hq: &Hq,
    node: &PublicKey,
) -> Result<(), Refusal> {
    let found = nodes::find(db, node).await?;
    let found = found.ok_or_else(|| Refusal::missing(format!("node {}", node.short())))?;
    if found.revoked {
        return Ok(());
    }
    let mut site = of(db, found.site).await?;
    if sites::revoked(db, site.id).await?.len() >= CHANNEL_REVOKED_MAX {
        return Err(Refusal::conflict(format!(
            "the site's list of revoked nodes is full: {CHANNEL_REVOKED_MAX}"
        )));
    }
    nodes::revoke(db, node).await?;
    site.revocation += 1;
    refresh(db, hq, &mut site).await?;
    tracing::warn!(site = site.name, node = node.short(), "node revoked");
    Ok(())
}

/// A new token's text. Its secret is stored as a hash, and nowhere else.
async fn new_token(
    db: &mut Connection,
    hq: &Hq,
    site: SiteId,
    replaces: Option<&PublicKey>,
) -> Result<String, Refusal> {
    let secret = Zeroizing::new(random::<16>()?);
    let expires = unix_seconds() + TOKEN_SECONDS;
    tokens::insert(db, site, &secret_hash(&secret), expires, replaces).await?;
    let token = EnrolmentToken {
        url: hq.urls.first().cloned().unwrap_or_default(),
        fingerprint: hq.fingerprint,
        secret: *secret,
    };
    Ok(token.to_string())
}

/// What is stored of a token's secret: 128 random bits need no slow hash.
pub(crate) fn secret_hash(secret: &[u8; 16]) -> Hex<32> {
    Hex(*blake3::hash(secret).as_bytes())
}

pub(crate) async fn list_tokens(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
) -> Result<Json<Vec<TokenInfo>>, Refusal> {
    let mut db = hq.database.read().await?;
    let site = named(&mut db, by.reach, &name).await?;
    Ok(Json(tokens::of_site(&mut db, site.id).await?))
}

pub(crate) async fn create_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    Named(name): Named,
    InputOrNothing(wish): InputOrNothing<NewToken>,
) -> Result<Json<TokenMade>, Refusal> {
    let mut change = hq.database.write_by(&by).await?;
    let site = named(&mut change, by.reach, &name).await?;
    let old = match &wish.replaces {
        Some(text) => Some(
            rebuilt::wished(&mut change, by.reach, site.id, text)
                .await?
                .key,
        ),
        None => None,
    };
    let token = new_token(&mut change, &hq, site.id, old.as_ref()).await?;
    let instead = old.map_or_else(String::new, |key| {
        format!(", in place of node {}", key.short())
    });
    change.says(format!("enrolment token of site {name:?} made{instead}"));
    change.commit().await?;
    Ok(Json(TokenMade { token }))
}

pub(crate) async fn revoke_token(
    State(hq): State<Arc<Hq>>,
    Extension(by): Extension<By>,
    id: Named,
) -> Result<Json<TokenInfo>, Refusal> {
    let id: u64 = id.parse("token's number")?;
    let missing = || Refusal::missing(format!("token {id}"));
    let mut change = hq.database.write_by(&by).await?;
    let token = tokens::by_id(&mut change, id).await?.ok_or_else(missing)?;
    if sites::by_name(&mut change, by.reach, &token.site)
        .await?
        .is_none()
    {
        return Err(missing());
    }
    if matches!(token.state.as_str(), "used" | "frozen") {
        return Err(Refusal::conflict(format!(
            "token {id} is used: revoke the node that used it"
        )));
    }
    tokens::revoke(&mut change, id).await?;
    change.says(format!(
        "enrolment token {id} of site {:?} taken back",
        token.site
    ));
    let token: Option<TokenInfo> = tokens::by_id(&mut change, id).await?;
    change.commit().await?;
    token.map(Json).ok_or_else(missing)
}
