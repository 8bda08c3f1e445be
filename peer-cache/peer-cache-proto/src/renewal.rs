//! When an agent asks for its ticket to be renewed, and whom: in good time, and one node after the other, so that neither a
//! slow download nor the death of a node ends an install.

use std::time::Duration;

use trust_format::PublicKey;

/// A node that was asked and has not answered gets this long before the next one is asked.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A ticket is renewed when this part of its life is over: time enough for each node to be asked many times.
const RENEW_AT: u32 = 3;

/// The ticket of one agent, as it counts itself.
#[derive(Debug, Default)]
pub struct Renewal {
    ticket: Option<(Duration, Duration)>,
    asked: Option<(Duration, PublicKey)>,
    is_void: bool,
}

impl Renewal {
    /// A node gave a ticket with so much life.
    pub fn handle_ticket(&mut self, now: Duration, life: Duration) {
        *self = Self {
            ticket: Some((now, life)),
            asked: None,
            is_void: false,
        };
    }

    /// A node says that the ticket does not hold.
    pub fn handle_void(&mut self) {
        self.is_void = true;
    }

    /// When to look again; nothing while there is no ticket.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let (given, life) = self.ticket?;
        let due = match self.is_void {
            true => given,
            false => given + life / RENEW_AT,
        };
        Some(
            self.asked
                .map_or(due, |(at, _)| due.max(at + ASK_AGAIN_AFTER)),
        )
    }

    /// The node to ask now, of those that are connected: the one after that which was asked last.
    pub fn handle_timeout(&mut self, now: Duration, nodes: &[PublicKey]) -> Option<PublicKey> {
        if self.poll_timeout().is_none_or(|due| now < due) {
            return None;
        }
        let last = self.asked.map(|(_, node)| node);
        let mut sorted = nodes.to_vec();
        sorted.sort_unstable();
        let next = sorted.iter().find(|node| last.is_none_or(|l| **node > l));
        let chosen = *next.or(sorted.first())?;
        self.asked = Some((now, chosen));
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use trust_format::ticket_life;

    use super::*;

    const A: PublicKey = PublicKey([1; 32]);
    const B: PublicKey = PublicKey([2; 32]);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_ticket_is_renewed_long_before_its_end() {
        let mut renewal = Renewal::default();
        assert_eq!(renewal.poll_timeout(), None);
        renewal.handle_ticket(100 * SECOND, ticket_life::GIVEN);
        assert_eq!(renewal.handle_timeout(101 * SECOND, &[A]), None);
        let due = renewal.poll_timeout().unwrap();
        assert!(due <= 100 * SECOND + ticket_life::GIVEN / 2);
        assert_eq!(renewal.handle_timeout(due, &[A]), Some(A));
        renewal.handle_ticket(due, ticket_life::GIVEN);
        assert_eq!(renewal.handle_timeout(due + SECOND, &[A]), None);
    }

    #[test]
    fn a_node_that_does_not_answer_is_followed_by_the_next() {
        let mut renewal = Renewal::default();
        renewal.handle_ticket(Duration::ZERO, 30 * SECOND);
        let mut now = 10 * SECOND;
        for asked in [A, B, A] {
            assert_eq!(renewal.handle_timeout(now, &[B, A]), Some(asked));
            assert_eq!(renewal.handle_timeout(now + SECOND, &[B, A]), None);
            now += ASK_AGAIN_AFTER;
        }
        assert_eq!(renewal.handle_timeout(now, &[]), None);
        // as soon as one is there
        assert_eq!(renewal.handle_timeout(now, &[B]), Some(B));
    }

    #[test]
    fn a_void_ticket_is_replaced_at_once() {
        let mut renewal = Renewal::default();
        renewal.handle_ticket(Duration::ZERO, ticket_life::GIVEN);
        renewal.handle_void();
        assert_eq!(renewal.handle_timeout(SECOND, &[A]), Some(A));
        assert_eq!(renewal.handle_timeout(2 * SECOND, &[A]), None);
    }
}
