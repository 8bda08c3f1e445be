//! When an agent goes to HQ itself: while it is connected to no node, after a deadline.
//!
//! A node outranks every agent, so an agent does not stand for election beside one. Only a store whose nodes are all gone
//! is left with agents, and they would wait for ever.

use std::time::Duration;

/// How long an agent waits for a node before it goes to HQ itself. Longer than a node takes to be dialled again after it
/// restarted, and than two fetchers' deaths in a row cost a site.
pub const NO_NODE_DEADLINE: Duration = Duration::from_secs(20);

/// Whether an agent stands where only nodes do otherwise.
#[derive(Debug)]
pub struct Fallback {
    /// When a node was in view last, or the program's start.
    node_seen: Duration,
}

impl Fallback {
    /// No node was in view yet.
    pub fn new(now: Duration) -> Self {
        Self { node_seen: now }
    }

    /// Whether there is a live authenticated connection to any node now. To be said more often than the deadline.
    pub fn handle_view(&mut self, now: Duration, is_node_in_view: bool) {
        if is_node_in_view {
            self.node_seen = now;
        }
    }

    /// Whether the deadline has passed without a node.
    pub fn is_without_node(&self, now: Duration) -> bool {
        now.saturating_sub(self.node_seen) >= NO_NODE_DEADLINE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_passes_before_an_agent_goes_to_hq() {
        let mut fallback = Fallback::new(5 * SECOND);
        assert!(!fallback.is_without_node(5 * SECOND));
        fallback.handle_view(6 * SECOND, false);
        assert!(!fallback.is_without_node(24 * SECOND));
        assert!(fallback.is_without_node(25 * SECOND));
        assert!(fallback.is_without_node(1000 * SECOND));
    }

    #[test]
    fn any_node_in_view_starts_the_deadline_anew() {
        let mut fallback = Fallback::new(Duration::ZERO);
        for second in 0..100 {
            // it comes and goes
            fallback.handle_view(second * SECOND, second % 19 == 0);
            assert!(!fallback.is_without_node(second * SECOND), "{second}");
        }
        // the last one was seen at 95
        fallback.handle_view(115 * SECOND, false);
        assert!(fallback.is_without_node(115 * SECOND));
        fallback.handle_view(116 * SECOND, true);
        assert!(!fallback.is_without_node(116 * SECOND));
        assert!(!fallback.is_without_node(135 * SECOND));
        assert!(fallback.is_without_node(136 * SECOND));
    }
}
