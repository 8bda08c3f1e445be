//! Watches how busy this machine is, so that its uploads give way to its own work.

use std::{fs, path::Path, time::Duration};

use peer_cache_proto::upload::{Change, LOOK_EVERY};

use crate::serve::Uploads;

/// The kernel's count of waiting, since Linux 4.20 (Documentation/accounting/psi.rst); some kernels are built without it.
const PRESSURE: &str = "/proc/pressure/cpu";

/// Looks at the machine as long as the program runs.
pub(crate) async fn follow(uploads: std::sync::Arc<Uploads>) {
    loop {
        let Some(stalled) = stalled(Path::new(PRESSURE)) else {
            tracing::info!(
                path = PRESSURE,
                "uploads do not give way: the kernel does not say how busy it is"
            );
            return;
        };
        match uploads.handle_pressure(stalled) {
            Some(Change::Busy(bytes_per_second)) => {
                tracing::info!(bytes_per_second, "this machine is busy, uploads give way");
            }
            Some(Change::Free) => tracing::info!("this machine is not busy any more"),
            None => {}
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// For how long some task waited for a core, since the kernel started.
fn stalled(path: &Path) -> Option<Duration> {
    total(&fs::read_to_string(path).ok()?)
}

/// `total` of the line `some`, in microseconds.
fn total(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some
        .split(' ')
        .find_map(|field| field.strip_prefix("total="))?;
    total.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_figure_is_read() {
        let text = "some avg10=41.42 avg60=31.58 avg300=23.15 total=5798166041\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(total(text), Some(Duration::from_micros(5_798_166_041)));
        for none in [
            "",
            "full avg10=0.00 total=5",
            "some avg10=1.0",
            "some total=x",
        ] {
            assert_eq!(total(none), None, "{none}");
        }
    }
}
