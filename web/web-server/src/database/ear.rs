//! What other processes on the same PostgreSQL database tell, by one connection that listens, and what this one tells of itself every second.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    DatabasePlace, Result,
    server::{CHANNEL, notify},
};
use crate::bell::{Bells, News};

/// Others are told so often under which leases bytes went out: well within the shortest deadline of a lease, 3 s.
const MOVED_EVERY: Duration = Duration::from_secs(1);
/// Silence after which the line is tried.
const SILENCE: Duration = Duration::from_secs(10);
/// How long an answer may take then.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Before the next attempt to listen. One connection of each process: no herd.
const PAUSE: Duration = Duration::from_secs(1);

/// Listens until it is dropped.
#[derive(Debug)]
pub(super) struct Ear([JoinHandle<()>; 2]);

impl Ear {
    /// Begins to listen.
    pub(super) fn open(
        place: &DatabasePlace,
        options: &PgConnectOptions,
        readers: PgPool,
        bells: Arc<Bells>,
    ) -> Self {
        let listening = listen(place.clone(), options.clone(), bells.clone());
        Self([
            tokio::spawn(listening),
            tokio::spawn(tell_moved(readers, bells)),
        ])
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(place: DatabasePlace, options: PgConnectOptions, bells: Arc<Bells>) {
    let mut was_told = false;
    loop {
        let mut heard = false;
        if let Err(error) = hear(&options, &bells, &mut heard).await {
            // once for each time that the line goes down
            if heard || !was_told {
                was_told = true;
                tracing::warn!(%place, %error, "HQ does not hear what other processes tell; held requests wait until their end");
            }
        }
        sleep(PAUSE).await;
    }
}

/// Rings bells until the line is down.
async fn hear(options: &PgConnectOptions, bells: &Bells, heard: &mut bool) -> Result<()> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(ANSWER_WITHIN)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    *heard = true;
    // what was told before is not told again
    bells.hear_again();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(line))) => {
                if let Some(news) = News::from_line(line.payload()) {
                    bells.hear(&news);
                }
            }
            Ok(Ok(None)) => {
                return Err(sqlx::Error::Io(std::io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let asked = sqlx::query("SELECT 1").execute(&mut listener);
                let answer = timeout(ANSWER_WITHIN, asked).await;
                answer.map_err(|_| sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))??;
            }
        }
    }
}

async fn tell_moved(readers: PgPool, bells: Arc<Bells>) {
    let mut beat = interval(MOVED_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let news: Vec<_> = News::of_moved(&bells.activities.take_moved()).collect();
        if news.is_empty() {
            continue;
        }
        let told = async { notify(&mut *readers.acquire().await?, news.iter()).await };
        if let Err(error) = told.await {
            tracing::debug!(%error, "other processes do not hear that bytes go out");
        }
    }
}
