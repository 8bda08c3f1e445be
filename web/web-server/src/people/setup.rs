//! The first account. There is no default password: who made HQ start reads a code where it started.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use subtle::ConstantTimeEq;
use web_api::{Role, Setup, SetupState};
use zeroize::Zeroizing;

use super::{passwords, secret_text, sign_in};
use crate::{
    Hq,
    database::{Database, audit::Act, reach, unix_seconds, users},
    error::Refusal,
    input::{Input, checked_name},
    tls::ClientAddress,
};

/// The code, while nobody has an account.
#[derive(Debug)]
pub(crate) struct SetupCode(Mutex<Option<Zeroizing<String>>>);

impl SetupCode {
    /// A new one when nobody has an account yet.
    pub(crate) async fn new(database: &Database) -> Result<Self, Refusal> {
        let nobody = users::count(&mut *database.read().await?).await? == 0;
        let code = match nobody {
            true => Some(secret_text("")?),
            false => None,
        };
        Ok(Self(Mutex::new(code)))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Zeroizing<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be shown to whoever started HQ.
    pub(crate) fn text(&self) -> Option<String> {
        self.lock().as_ref().map(|code| code.to_string())
    }

    fn is(&self, shown: &str) -> bool {
        let code = self.lock();
        code.as_ref()
            .is_some_and(|code| code.as_bytes().ct_eq(shown.trim().as_bytes()).into())
    }
}

pub(crate) async fn state(State(hq): State<Arc<Hq>>) -> Result<Json<SetupState>, Refusal> {
    let needed = users::count(&mut *hq.database.read().await?).await? == 0;
    Ok(Json(SetupState { needed }))
}

pub(crate) async fn set_up(
    State(hq): State<Arc<Hq>>,
    Extension(ClientAddress(client)): Extension<ClientAddress>,
    headers: HeaderMap,
    Input(wish): Input<Setup>,
) -> Result<sign_in::Cookie, Refusal> {
    let password = Zeroizing::new(wish.password);
    if !hq.setup.is(&wish.code) {
        return Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "this is not the code that HQ printed at its last start, or somebody has an account already",
        ));
    }
    let name = checked_name(&wish.name, "an account's name")?;
    passwords::check_form(&password, name)?;
    let hash = hq.passwords.hash(password).await?;
    let act = Act {
        who: name.to_owned(),
        means: "setup-code",
        address: client.ip().to_string(),
        operation: "POST /api/v1/setup".into(),
        target: "/api/v1/setup".into(),
        what: format!("account {name:?} made: the first, an administrator of all sites"),
    };
    let mut change = hq.database.write_act(act).await?;
    // another HQ on this database may have been quicker
    if users::count(&mut change).await? > 0 {
        return Err(Refusal::conflict("somebody has an account already"));
    }
    let now = unix_seconds();
    let id = users::insert(&mut change, name, Role::Administrator, Some(&hash), now).await?;
    reach::grant(&mut change, id, true, &[], &[]).await?;
    let secret = sign_in::begin_session(&mut change, id, client, &headers).await?;
    change.commit().await?;
    *hq.setup.lock() = None;
    tracing::info!("the first account was made");
    sign_in::with_cookie(&secret)
}
