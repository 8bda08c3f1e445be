//! The sockets against real clients: on loopback for TFTP and HTTP, in network namespaces for DHCP.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../../../boot-proto/tests/it/captures.rs"]
#[allow(dead_code, reason = "shared with boot-proto, which uses all of it")]
mod captures;
mod http;
mod namespaces;
mod shelf;
mod tftp_clients;
mod tftp_rules;
