//! HQ's web server: API, database, ledger, and one plain page.
//! Holds no secret keys of the chain: `image-store`'s signer does, and signs what is decided here.
//! Called by the appliance.

mod access;
mod agents;
mod audit;
mod backup;
mod bell;
mod beside;
mod database;
mod door;
mod error;
mod events;
mod health;
mod images;
mod input;
mod leases;
mod listed;
mod live;
mod machines;
mod names;
mod nodes;
mod objects;
mod openapi;
mod orders;
mod page;
mod people;
mod progress;
mod rebuilt;
mod reports;
mod roots;
mod rosters;
mod routes;
mod sheets;
mod signs_of_life;
mod sites;
mod tls;
mod vouchers;
mod waiting;
mod wan;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use image_store::{Bucket, ParseBucketError};
use image_store::{OpenSignerError, Signer, Store, StoreError};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};

pub use access::{Access, AdminToken, Bounds};
pub use backup::{BackupError, Copied, back_up, restore};
use bell::Bells;
use database::Database;
pub use database::{DatabasePlace, OpenDatabaseError, ParseDatabasePlaceError};
use people::{passwords::Passwords, setup::SetupCode, tries::Tries};
pub use roots::FollowRootsError;
pub use routes::route_table;
pub use tls::{CONNECTIONS_MAX, ServerIdentity, TlsError};

/// Where HQ keeps everything and where it listens.
#[derive(Debug, Clone)]
pub struct HqConfig {
    /// Its folder.
    pub folder: PathBuf,
    /// Its address; loopback unless told otherwise.
    pub listen: SocketAddr,
    /// Addresses under which nodes and people reach it, such as `https://hq.example:8443`.
    pub urls: Vec<String>,
    /// Its database; the file `hq.sqlite` in its folder unless told otherwise.
    pub database: Option<DatabasePlace>,
    /// Its objects; the folder `store` in its folder unless told otherwise.
    pub objects: Option<Bucket>,
    /// A second way in for people's browsers.
    pub page: Option<PageDoor>,
}

/// Why HQ does not start.
#[derive(Debug, Error)]
pub enum StartHqError {
    /// The folder cannot be used.
    #[error("folder {path}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The signing keys cannot be used.
    #[error(transparent)]
    Signer(#[from] OpenSignerError),
    /// The objects cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenDatabaseError),
    /// The database is another chain's.
    #[error(transparent)]
    Roots(#[from] FollowRootsError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("listening on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// A second way in, for people's browsers: with a certificate that they believe. Nodes pin HQ's own, which stays the same for years, and
/// come by [`HqConfig::listen`].
#[derive(Debug, Clone)]
pub struct PageDoor {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The certificate and those that it leans on, in PEM. It may be renewed while HQ runs.
    pub certificate: PathBuf,
    /// Its key, in PEM.
    pub key: PathBuf,
}

impl PageDoor {
    /// Where it listens, and what has to go on for it.
    fn open(
        &self,
        router: axum::Router,
    ) -> Result<(SocketAddr, [tokio::task::JoinHandle<()>; 2]), StartHqError> {
        let certificate = tls::GivenCertificate::open(&self.certificate, &self.key)?;
        let acceptor = certificate.acceptor()?;
        let failed = |source| StartHqError::Listen {
            address: self.listen,
            source,
        };
        let listener = listen(self.listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let server = tokio::spawn(tls::serve(listener, acceptor, router));
        Ok((address, [server, tokio::spawn(certificate.keep_fresh())]))
    }
}

/// Connections that wait to be taken; who calls a full queue comes a second later.
const BACKLOG: u32 = 4096;

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// What the handlers share.
pub(crate) struct Hq {
    pub(crate) database: Database,
    pub(crate) signer: Signer,
    pub(crate) store: Store,
    pub(crate) admin: AdminToken,
    pub(crate) urls: Vec<String>,
    pub(crate) fingerprint: [u8; 32],
    pub(crate) object_lists: objects::ObjectLists,
    pub(crate) bells: Arc<Bells>,
    pub(crate) setup: SetupCode,
    pub(crate) passwords: Passwords,
    pub(crate) tries: Tries,
    pub(crate) watchers: Arc<Semaphore>,
    pub(crate) counts: health::Counts,
    pub(crate) signs_of_life: signs_of_life::SignsOfLife,
    pub(crate) progress: progress::Progress,
    pub(crate) settled: beside::Settled,
}

/// A running HQ.
#[derive(Debug)]
pub struct RunningHq {
    /// Where it listens.
    pub address: SocketAddr,
    /// BLAKE3 of its certificate.
    pub fingerprint: [u8; 32],
    /// Under which it is reached first.
    pub url: String,
    /// Where people's browsers have a way in of their own.
    pub page_address: Option<SocketAddr>,
    /// The file with the administrator's token.
    pub admin_token_file: PathBuf,
    /// With which the first account is made; none once somebody has one.
    pub setup_code: Option<String>,
    server: tokio::task::JoinHandle<()>,
    /// What goes on beside it, until HQ ends.
    beside: Vec<tokio::task::JoinHandle<()>>,
}

impl RunningHq {
    /// Starts HQ. The first start makes keys, certificate, database and the administrator's token.
    ///
    /// # Errors
    /// [`StartHqError`].
    pub async fn start(config: HqConfig) -> Result<Self, StartHqError> {
        let folder = &config.folder;
        let private = |path: &Path| {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
        };
        private(folder).map_err(|source| StartHqError::Folder {
            path: folder.clone(),
            source,
        })?;
        let signer = Signer::open_or_create(&folder.join("keys"))?;
        let store = match &config.objects {
            None => Store::in_folder(&folder.join("store"))?,
            Some(bucket) => Store::in_bucket(bucket).await?,
        };
        let identity = ServerIdentity::open_or_create(folder, &config.urls)?;
        let bells = Arc::new(Bells::default());
        let place = config
            .database
            .unwrap_or_else(|| DatabasePlace::file(folder.join("hq.sqlite")));
        let database = Database::open(&place, bells.clone()).await?;
        let listener = listen(config.listen).map_err(|source| StartHqError::Listen {
            address: config.listen,
            source,
        })?;
        let address = listener
            .local_addr()
            .map_err(|source| StartHqError::Listen {
                address: config.listen,
                source,
            })?;
        let mut urls = config.urls;
        if urls.is_empty() {
            urls.push(format!("https://{address}"));
        }
        let admin_token_file = folder.join("admin-token");
        let fingerprint = identity.fingerprint();
        let admin = AdminToken::open_or_create(&admin_token_file, &urls[0], &fingerprint).map_err(
            |source| StartHqError::Folder {
                path: admin_token_file.clone(),
                source,
            },
        )?;
        let url = urls[0].clone();
        let failed = |refusal: error::Refusal| StartHqError::Folder {
            path: folder.clone(),
            source: std::io::Error::other(refusal.to_string()),
        };
        let setup = SetupCode::new(&database).await.map_err(failed)?;
        let setup_code = setup.text();
        let hq = Arc::new(Hq {
            database,
            signer,
            store,
            admin,
            urls,
            fingerprint,
            object_lists: objects::ObjectLists::default(),
            bells,
            setup,
            passwords: Passwords::default(),
            tries: Tries::default(),
            watchers: Arc::new(Semaphore::new(live::WATCHERS_MAX)),
            counts: health::Counts::default(),
            signs_of_life: signs_of_life::SignsOfLife::default(),
            progress: progress::Progress::default(),
            settled: beside::Settled::default(),
        });
        roots::join(&hq).await?;
        roots::log_keys(&hq.signer);
        // addresses may have changed since the last start: every channel names them. So may the keys that are here
        waiting::catch_up_alone(&hq).await.map_err(failed)?;
        let acceptor = identity.acceptor()?;
        let mut beside = vec![
            tokio::spawn(roots::keep_following(hq.clone())),
            tokio::spawn(signs_of_life::keep_writing(hq.clone())),
            tokio::spawn(progress::keep_writing(hq.clone())),
        ];
        let router = routes::router(hq);
        let page_address = match config.page {
            Some(door) => {
                let (address, tasks) = door.open(router.clone())?;
                beside.extend(tasks);
                Some(address)
            }
            None => None,
        };
        let server = tokio::spawn(tls::serve(listener, acceptor, router));
        Ok(Self {
            address,
            fingerprint,
            url,
            admin_token_file,
            setup_code,
            page_address,
            server,
            beside,
        })
    }

    /// Runs until the task ends, which it does not by itself.
    pub async fn wait(self) {
        // a panic in the accept loop ends HQ; systemd starts it again
        let _ = self.server.await;
    }

    /// Ends it.
    pub fn stop(self) {
        self.server.abort();
        self.beside.iter().for_each(tokio::task::JoinHandle::abort);
    }
}
