//! An HQ on loopback, people and nodes that talk to it over TLS, and documents that nodes sign.

use std::{path::Path, sync::Arc, time::Duration};

use image_format::{
    Architecture, ChunkHash, ChunkId, ChunkRecord, Customisation, EncodedObject, Manifest,
    ManifestKind, Needs, ObjectHash, Placement,
};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SigningKey};
use reqwest::{Client, Method, Response, StatusCode};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use tempfile::TempDir;
use trust_format::{
    Channel, Digest, Document, MachineId, NodeCertificate, PublicKey, Roster, Signature, SiteId,
    TrustedKeys, Verified, codec::Writer,
};
use web_api::*;
use web_server::{HqConfig, RunningHq};

use crate::{backing::Backing, pinned::tls};

/// A key that a node, an agent or a stranger has.
pub(crate) struct Key {
    pub(crate) pair: KeyPair,
    pub(crate) public: PublicKey,
}

impl Key {
    pub(crate) fn new() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let public = PublicKey(pair.der_bytes().try_into().unwrap());
        Self { pair, public }
    }

    pub(crate) fn sign<T: Document>(&self, document: &T) -> Vec<u8> {
        let bytes = document.to_signed_bytes();
        let signature = self.pair.sign(bytes.as_message()).unwrap();
        let signature = Signature(signature.try_into().unwrap());
        bytes
            .into_envelope(vec![(self.public, signature)])
            .to_bytes()
    }
}

/// An answer: status and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        Self {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap().to_vec(),
        }
    }

    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        let text = String::from_utf8_lossy(&self.body);
        assert!(self.status.is_success(), "{}: {text}", self.status);
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The rows of a list that has one page.
    pub(crate) fn rows<T: DeserializeOwned>(&self) -> Vec<T> {
        let page: Page<T> = self.json();
        assert!(page.next.is_none(), "there are further pages");
        page.rows
    }

    /// The sentence of a refusal.
    pub(crate) fn refused(&self, status: u16) -> String {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status.as_u16(), status, "{text}");
        serde_json::from_slice::<ApiError>(&self.body)
            .unwrap()
            .error
    }
}

/// Somebody who talks to HQ: with a token, with a session, with a key, or with nothing.
#[derive(Clone)]
pub(crate) struct Caller {
    base: String,
    client: Client,
    token: Option<String>,
    cookie: Option<String>,
}

impl Caller {
    /// The same browser, which comes to another HQ.
    pub(crate) fn at(&self, world: &World) -> Self {
        Self {
            base: world.admin.base.clone(),
            client: world.admin.client.clone(),
            ..self.clone()
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        // as a browser does
        let request = match &self.cookie {
            Some(cookie) => request
                .header("cookie", cookie)
                .header("origin", &self.base),
            None => request,
        };
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// The same way to HQ with what an answer put into a browser.
    pub(crate) fn with_session(&self, answer: &Answer) -> Self {
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self {
            cookie: Some(cookie),
            ..self.clone()
        }
    }

    /// The same way with a token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self {
            token: Some(token.to_owned()),
            ..self.clone()
        }
    }

    pub(crate) fn cookie(&self) -> &str {
        self.cookie.as_deref().unwrap()
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::DELETE, path).send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn send(&self, method: Method, path: &str, body: &impl Serialize) -> Answer {
        Answer::of(self.request(method, path).json(body).send().await.unwrap()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl Serialize) -> Answer {
        self.send(Method::POST, path, body).await
    }

    pub(crate) async fn raw(&self, method: Method, path: &str, body: Vec<u8>) -> Answer {
        Answer::of(self.request(method, path).body(body).send().await.unwrap()).await
    }
}

/// Of every account.
pub(crate) const PASSWORD: &str = "lamps at dusk";

/// An HQ with its folder, and what stands behind it.
pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) hq: RunningHq,
    pub(crate) admin: Caller,
    pub(crate) admin_token: String,
    pub(crate) backing: Arc<Backing>,
}

/// How an HQ is run in a folder.
pub(crate) fn config(folder: &Path, backing: &Backing) -> HqConfig {
    HqConfig {
        folder: folder.join("hq"),
        listen: "127.0.0.1:0".parse().unwrap(),
        urls: vec!["https://hq.example:8443".into()],
        database: backing.database(),
        objects: backing.objects(),
        page: None,
    }
}

fn caller(hq: &RunningHq, key: Option<&KeyPair>, token: Option<String>) -> Caller {
    let client = Client::builder()
        .tls_backend_preconfigured(tls(hq.fingerprint, key))
        .no_proxy()
        .build()
        .unwrap();
    Caller {
        base: format!("https://{}", hq.address),
        client,
        token,
        cookie: None,
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        let backing = Backing::new().await;
        Self::start(TempDir::new().unwrap(), backing).await
    }

    pub(crate) async fn start(folder: TempDir, backing: Arc<Backing>) -> Self {
        let hq = RunningHq::start(config(folder.path(), &backing)).await;
        Self::around(folder, hq.unwrap(), backing)
    }

    pub(crate) fn around(folder: TempDir, hq: RunningHq, backing: Arc<Backing>) -> Self {
        let text = std::fs::read_to_string(&hq.admin_token_file).unwrap();
        let token = text.lines().next().unwrap().to_owned();
        Self {
            folder,
            admin: caller(&hq, None, Some(token.clone())),
            admin_token: token,
            hq,
            backing,
        }
    }

    pub(crate) async fn restart(self) -> Self {
        self.hq.stop();
        Self::start(self.folder, self.backing).await
    }

    pub(crate) fn nobody(&self) -> Caller {
        caller(&self.hq, None, None)
    }

    /// A new account, and a browser in which it is signed in.
    pub(crate) async fn user(&self, name: &str, role: Role, scope: &SiteScope) -> Caller {
        let new = json!({"name": name, "role": role, "scope": scope, "password": PASSWORD});
        let made: UserInfo = self.admin.post("/api/v1/users", &new).await.json();
        assert_eq!((made.role, &made.scope), (role, scope));
        self.sign_in(name).await
    }

    /// A browser in which an account is signed in.
    pub(crate) async fn sign_in(&self, name: &str) -> Caller {
        let wish = json!({"name": name, "password": PASSWORD});
        let nobody = self.nobody();
        let answer = nobody.post("/api/v1/session", &wish).await;
        assert_eq!(answer.status, 204, "{answer:?}");
        nobody.with_session(&answer)
    }

    /// The number of the audit log's last row.
    pub(crate) async fn audit_rows(&self) -> u64 {
        let page: AuditPage = self.admin.get("/api/v1/audit").await.json();
        page.rows.first().map_or(0, |row| row.number)
    }

    pub(crate) fn with_key(&self, key: &Key) -> Caller {
        caller(&self.hq, Some(&key.pair), None)
    }

    /// Changes the database behind HQ's back: for clocks.
    pub(crate) async fn sql(&self, statement: &'static str) {
        let file = self.folder.path().join("hq/hq.sqlite");
        self.backing.sql(&file, statement).await;
    }

    /// Takes away what came since schema 9.
    pub(crate) async fn forget_lists(&self) {
        for statement in [
            "DROP TABLE roll_calls",
            "DROP TABLE machine_words",
            "DROP TABLE node_words",
            "DROP INDEX machines_by_state",
            "DROP INDEX machines_of_site_by_state",
            "DROP INDEX machines_by_seen",
            "CREATE INDEX machines_by_seen ON machines (seen)",
            "ALTER TABLE machines DROP COLUMN state",
            "DROP INDEX machines_by_change",
            "ALTER TABLE machines DROP COLUMN changed",
            "DROP TABLE change_numbers",
            "DROP TABLE given",
            "ALTER TABLE sites DROP COLUMN order_given",
            "ALTER TABLE sites DROP COLUMN words",
            "DROP INDEX nodes_by_seen",
            "DROP INDEX nodes_by_name",
            "DROP INDEX completions_of_machine",
            "DROP INDEX completions_of_order",
            "DROP INDEX ledger_by_bytes",
            "DROP INDEX orders_by_made",
            "DROP INDEX events_of_site",
            "DROP INDEX events_of_kind",
        ] {
            self.sql(statement).await;
        }
    }

    /// Takes away what came since schema 9.
    pub(crate) async fn forget_people(&self) {
        self.forget_lists().await;
        for statement in [
            "DROP VIEW reach",
            "DROP TABLE audit",
            "DROP TABLE access_tokens",
            "DROP TABLE sessions",
            "DROP TABLE grants",
            "DROP TABLE site_tags",
            "DROP TABLE users",
        ] {
            self.sql(statement).await;
        }
    }

    pub(crate) async fn site(&self, name: &str, unknown: SiteUnknown) -> SiteCreated {
        let wish = json!({"name": name, "unknown": unknown});
        self.admin.post("/api/v1/sites", &wish).await.json()
    }

    pub(crate) async fn token(&self, site: &str) -> EnrolmentToken {
        let path = format!("/api/v1/sites/{site}/tokens");
        let answer: serde_json::Value = self.admin.raw(Method::POST, &path, vec![]).await.json();
        answer["token"].as_str().unwrap().parse().unwrap()
    }

    /// A new node of a site.
    pub(crate) async fn node(&self, site: &str, name: &str) -> Node {
        let (key, token) = (Key::new(), self.token(site).await);
        let caller = self.with_key(&key);
        let enrolled: Enrolled = caller
            .post("/api/v1/enrol", &enrol(&token, name))
            .await
            .json();
        Node {
            key,
            caller,
            enrolled,
        }
    }

    pub(crate) async fn keys(&self) -> TrustedKeys {
        TrustedKeys::pin(&self.admin.get("/api/v1/root").await.body).unwrap()
    }

    /// Puts objects and publishes a version made of them.
    pub(crate) async fn publish(
        &self,
        name: &str,
        kind: ManifestKind,
        objects: &[Vec<u8>],
    ) -> ImageVersion {
        for object in objects {
            let path = format!("/api/v1/objects/{}", ObjectHash::of(object));
            let answer = self.admin.raw(Method::PUT, &path, object.clone()).await;
            assert_eq!(answer.status, 204);
        }
        let body = payload(&manifest(name, kind, objects));
        self.admin
            .raw(Method::POST, "/api/v1/manifests", body)
            .await
            .json()
    }

    pub(crate) async fn order(&self, site: &str, version: &str) -> OrderInfo {
        let wish = json!({"site": site, "version": version});
        self.admin.post("/api/v1/orders", &wish).await.json()
    }

    pub(crate) async fn ledger_bytes(&self) -> u64 {
        let lines: Vec<LedgerLine> = self.admin.get("/api/v1/ledger").await.rows();
        lines.iter().map(|l| l.wan_bytes).sum()
    }

    /// Waits until the ledger says a number: it is written when a body ends, a moment after its last byte arrived.
    pub(crate) async fn ledger_becomes(&self, fits: impl Fn(u64) -> bool) -> u64 {
        for _ in 0..100 {
            let bytes = self.ledger_bytes().await;
            if fits(bytes) {
                return bytes;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the ledger stays at {}", self.ledger_bytes().await);
    }
}

pub(crate) fn enrol(token: &EnrolmentToken, name: &str) -> EnrolRequest {
    EnrolRequest {
        secret: Hex(token.secret),
        name: name.into(),
        is_named: false,
        machine: Hex([9; 16]),
        facts: facts("enrolled"),
    }
}

pub(crate) fn facts(model: &str) -> Facts {
    Facts {
        code: None,
        tpm: None,
        uuid: Some(Hex([1; 16])),
        serial: Some("S1".into()),
        macs: vec![Hex([2, 0, 0, 0, 0, 1])],
        model: model.into(),
    }
}

/// A node that HQ knows.
pub(crate) struct Node {
    pub(crate) key: Key,
    pub(crate) caller: Caller,
    pub(crate) enrolled: Enrolled,
}

impl Node {
    pub(crate) async fn documents(&self) -> NodeDocuments {
        self.caller.get("/api/v1/node/documents").await.json()
    }

    pub(crate) async fn channel(&self, keys: &TrustedKeys) -> Verified<Channel> {
        Verified::check(&self.documents().await.channel.0, keys).unwrap()
    }

    pub(crate) async fn roster(&self, keys: &TrustedKeys) -> Verified<Roster> {
        Verified::check(&self.documents().await.roster.0, keys).unwrap()
    }

    pub(crate) async fn ask_lease(&self, manifest: Hex<32>) -> Answer {
        self.ask_lease_seeing(manifest, &[]).await
    }

    /// The same by one who was refused for others: each with whether it is there.
    pub(crate) async fn ask_lease_seeing(
        &self,
        manifest: Hex<32>,
        holders: &[(&Node, bool)],
    ) -> Answer {
        let view = |(node, live): &(&Node, bool)| HolderView {
            key: Hex(node.key.public.0),
            live: *live,
        };
        let request = LeaseRequest {
            manifest,
            holders: holders.iter().map(view).collect(),
        };
        self.caller.post("/api/v1/node/leases", &request).await
    }

    pub(crate) async fn end_lease(&self, token: &str, finished: bool) {
        let end = LeaseEnd {
            token: token.to_owned(),
            finished,
        };
        let answer = self.caller.post("/api/v1/node/leases/end", &end).await;
        assert_eq!(answer.status, 204);
    }

    pub(crate) async fn fetch(&self, object: &[u8], lease: &str, range: Option<&str>) -> Answer {
        let path = format!("/api/v1/node/objects/{}", ObjectHash::of(object));
        let mut request = self
            .caller
            .request(Method::GET, &path)
            .header(LEASE_HEADER, lease);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        Answer::of(request.send().await.unwrap()).await
    }

    /// Reports numbered from `first` on.
    pub(crate) async fn report(&self, first: u64, reports: Vec<NodeReport>) -> ReportsAnswer {
        let reports = (first..)
            .zip(reports)
            .map(|(number, report)| NumberedReport {
                number,
                unix_seconds: 1,
                report,
            })
            .collect();
        let request = ReportsRequest {
            peer_port: 4433,
            reports,
            known: None,
            beside: vec![],
        };
        self.caller
            .post("/api/v1/node/reports", &request)
            .await
            .json()
    }

    /// A certificate that this node signs while HQ is away.
    pub(crate) fn provisional(
        &self,
        site: SiteId,
        node: &Key,
        machine: MachineId,
        order: u64,
    ) -> Vec<u8> {
        self.key.sign(&NodeCertificate {
            node: node.public,
            site,
            machine,
            name: "till-2".into(),
            grade: trust_format::Grade::Provisional {
                issuer: self.key.public,
                order,
            },
        })
    }
}

/// Bytes that nothing compresses.
pub(crate) fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let mut stream = blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof();
    stream.fill(&mut out);
    out
}

/// A manifest whose chunks travel as these objects.
pub(crate) fn manifest(name: &str, kind: ManifestKind, objects: &[Vec<u8>]) -> Manifest {
    const CHUNK: u64 = 1 << 20;
    let count = u32::try_from(objects.len()).unwrap();
    let chunk = |object: &Vec<u8>| ChunkRecord {
        hash: match object.len() as u64 == CHUNK {
            // as long as its chunk: the plain bytes themselves
            true => ChunkHash::of(object),
            false => ChunkHash::of(&[b"plain", object.as_slice()].concat()),
        },
        bytes: 1 << 20,
        ..ChunkRecord::of(b"", &EncodedObject::of(object.clone().into()))
    };
    Manifest {
        kind,
        name: name.into(),
        release: 77,
        follows: None,
        disk_bytes: u64::from(count) * CHUNK,
        sector_bytes: 512,
        used_bytes: u64::from(count) * CHUNK,
        needs: Needs {
            uefi: true,
            bios: true,
            architecture: Architecture::X86_64,
            ram_bytes_min: 1 << 30,
        },
        customisation: Customisation::None,
        partitions: vec![],
        files: vec![],
        chunks: objects.iter().map(chunk).collect(),
        layout: (0..count)
            .map(|index| Placement {
                index,
                chunk: ChunkId(index),
            })
            .collect(),
    }
}

pub(crate) fn payload(manifest: &Manifest) -> Vec<u8> {
    let mut out = Writer::new();
    manifest.encode(&mut out);
    out.finish()
}

pub(crate) fn digest(version: Hex<32>) -> Digest {
    Digest(version.0)
}
