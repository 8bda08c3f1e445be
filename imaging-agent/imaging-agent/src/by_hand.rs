//! `lamplighter-agent image`: a target that somebody names.

use std::{io::IsTerminal, net::SocketAddr, path::Path};

use anyhow::{Context, Result};
use peer_cache_node::Site;
use peer_cache_proto::{machine::MachineFacts, wire::PEER_PORT};
use trust_format::TrustedKeys;

use crate::{
    ImageArguments,
    install::{InstallOptions, TargetChoice, install},
    pins::PinSource,
    screen::say,
};

/// `lamplighter-agent image`.
pub(crate) async fn by_hand(arguments: ImageArguments) -> Result<()> {
    let node = resolve(&arguments.node).await?;
    let site = match &arguments.root {
        None => Site::trusting_the_first_root(),
        Some(path) => {
            let bytes =
                std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
            Site::new(TrustedKeys::pin(&bytes).with_context(|| format!("root {}", path.display()))?)
        }
    };
    let options = InstallOptions {
        facts: facts_by_hand(&arguments.to),
        target: TargetChoice::Path(arguments.to),
        slab: arguments.slab,
        nodes: vec![node],
        discover: false,
        site,
        version: arguments.version,
        with_node: false,
        uefi: None,
        ram_bytes: None,
        wait: !arguments.no_wait,
        with_tpm: false,
        tpm: None,
        pins: match (arguments.pin_file, std::io::stdin().is_terminal()) {
            (Some(file), _) => PinSource::File(file),
            (None, true) => PinSource::Consoles(vec!["/dev/tty".into()]),
            (None, false) => PinSource::Nobody,
        },
    };
    let (cache, outcome) = Box::pin(install(options)).await?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_vec_pretty(&outcome)?;
        std::fs::write(path, json).with_context(|| format!("writing {}", path.display()))?;
    }
    if arguments.stay {
        say("stays and serves; end it with Ctrl-C");
        wait_for_the_end().await?;
    }
    cache.close().await;
    Ok(())
}

async fn wait_for_the_end() -> Result<()> {
    let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result?,
        _ = term.recv() => {}
    }
    Ok(())
}

/// An address with or without port. Names are resolved by the peer cache's caller, in Rust: a static program has no
/// name service.
pub(crate) async fn resolve(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<std::net::IpAddr>() {
        return Ok(SocketAddr::new(ip, PEER_PORT));
    }
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) => (
            name,
            port.parse()
                .with_context(|| format!("the port of {text}"))?,
        ),
        None => (text, PEER_PORT),
    };
    let resolver = hickory_resolver::TokioResolver::builder_tokio()
        .and_then(hickory_resolver::ResolverBuilder::build)
        .context("starting the resolver")?;
    let found = resolver
        .lookup_ip(name)
        .await
        .with_context(|| format!("resolving {name}"))?;
    let ip = found
        .iter()
        .next()
        .with_context(|| format!("{name} has no address"))?;
    Ok(SocketAddr::new(ip, port))
}

/// A target that somebody names is a machine of its own: the computer's identity and the target's path make it one. With a
/// second sign, because who starts the program stands before it.
fn facts_by_hand(target: &Path) -> MachineFacts {
    let computer = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let path = std::path::absolute(target).unwrap_or_else(|_| target.to_owned());
    let name = blake3::hash(format!("{}\0{}", computer.trim(), path.display()).as_bytes());
    let [a, b, c, d, e, ..] = *name.as_bytes();
    MachineFacts::new(
        None,
        Some(&format!("by-hand-{}", &name.to_hex()[..24])),
        // locally administered
        &[[0x02, a, b, c, d, e]],
        &format!("by hand: {}", path.display()),
    )
}
