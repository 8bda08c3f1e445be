//! A [`Booter`] with files in memory, and a server on loopback around it.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use boot_server::{
    BootAnswer, BootClient, BootEvent, BootFile, BootServer, BootServerConfig, Booter, Mode, Ports,
    RunningBootServer,
};

/// The size of the file that every client fetches; more than 65535 blocks of 512 bytes.
pub(crate) const FILE_BYTES: usize = 40 * 1024 * 1024;

/// The same 40 MiB of noise for all tests, in a length that is no multiple of any block size.
pub(crate) fn large_file() -> Arc<Vec<u8>> {
    static FILE: OnceLock<Arc<Vec<u8>>> = OnceLock::new();
    Arc::clone(FILE.get_or_init(|| {
        let mut state = 1u64;
        let noise = (0..FILE_BYTES + 77).map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        Arc::new(noise.collect())
    }))
}

struct MemoryFile {
    bytes: Arc<Vec<u8>>,
    /// Reading from here on fails.
    broken_from: Option<u64>,
}

impl BootFile for MemoryFile {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self
            .broken_from
            .is_some_and(|from| offset + buf.len() as u64 > from)
        {
            return Err(io::Error::other("chunk 7 is not here"));
        }
        let from = usize::try_from(offset).unwrap().min(self.bytes.len());
        // Short reads, as a chunk cache gives them.
        let len = buf.len().min(100_000).min(self.bytes.len() - from);
        buf[..len].copy_from_slice(&self.bytes[from..from + len]);
        Ok(len)
    }
}

/// Files and answers by name, and all events so far.
pub(crate) struct Shelf {
    files: BTreeMap<String, Arc<Vec<u8>>>,
    answer: BootAnswer,
    events: Mutex<Vec<BootEvent>>,
}

impl Shelf {
    pub(crate) fn new(answer: BootAnswer) -> Arc<Self> {
        let small = Arc::new(b"MZ this returns an error".to_vec());
        let files = [
            ("lamplighter.efi", large_file()),
            ("broken.efi", large_file()),
            ("local.efi", small),
        ];
        Arc::new(Self {
            files: files
                .into_iter()
                .map(|(name, bytes)| (name.to_owned(), bytes))
                .collect(),
            answer,
            events: Mutex::default(),
        })
    }

    pub(crate) fn events(&self) -> Vec<BootEvent> {
        self.events.lock().unwrap().clone()
    }

    /// Waits for an event of this kind; all tests may be slow, none waits for ever.
    pub(crate) fn wait_for(&self, what: &str, wanted: impl Fn(&BootEvent) -> bool) -> BootEvent {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Some(event) = self.events().into_iter().find(|event| wanted(event)) {
                return event;
            }
            assert!(
                Instant::now() < deadline,
                "no event: {what}; events so far: {:#?}",
                self.events()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Booter for Shelf {
    fn answer(&self, _client: &BootClient) -> BootAnswer {
        self.answer.clone()
    }

    fn open(&self, name: &str) -> Option<Arc<dyn BootFile>> {
        let bytes = Arc::clone(self.files.get(name)?);
        let broken_from = (name == "broken.efi").then_some(3_000_000);
        Some(Arc::new(MemoryFile { bytes, broken_from }))
    }

    fn event(&self, event: BootEvent) {
        self.events.lock().unwrap().push(event);
    }
}

/// A server of files on loopback, with ports chosen by the system.
pub(crate) struct Loopback {
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) server: RunningBootServer,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Loopback {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let shelf = Shelf::new(BootAnswer::Agent);
        let mut config = BootServerConfig::new(Some("lo".into()), Mode::Off);
        config.http_port = 0;
        config.ports = Ports {
            tftp: 0,
            ..Ports::default()
        };
        let guard = runtime.enter();
        let server = BootServer::start(config, Arc::clone(&shelf) as Arc<dyn Booter>).unwrap();
        drop(guard);
        Self {
            shelf,
            server,
            runtime,
        }
    }

    pub(crate) fn tftp(&self) -> SocketAddr {
        let served = &self.server.interfaces()[0];
        SocketAddr::new(served.address.into(), served.ports.tftp)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let served = &self.server.interfaces()[0];
        format!("http://{}:{}{path}", served.address, served.http_port)
    }
}

/// Runs a program to its end and fails with what it said if it failed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new("timeout")
        .arg("120")
        .arg(program)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

pub(crate) fn assert_is_the_large_file(path: &Path) {
    let fetched = std::fs::read(path).unwrap();
    let expect = large_file();
    assert_eq!(fetched.len(), expect.len(), "{}", path.display());
    let differs = fetched
        .iter()
        .zip(expect.iter())
        .position(|(got, expect)| got != expect);
    assert_eq!(differs, None, "first wrong byte of {}", path.display());
}
