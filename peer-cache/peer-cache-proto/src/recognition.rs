//! Which machine of the site an agent runs on, and how sure that is. Whoever is asked believes signatures alone; what a
//! firmware says of itself can be said by anybody.

use trust_format::{KnownMachine, MachineId, PublicKey, Roster, Sign, TpmKey};

use crate::machine::{MachineFacts, console_code};

/// How sure it is that an agent runs on the machine that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognition {
    /// Its TPM, which the site knows, signed for this agent.
    Tpm,
    /// A person looked at this agent's code when he approved the machine.
    Seen,
    /// UUID or serial, and one more sign, are those of the machine.
    Signs,
    /// One sign is the machine's, and no other is known of it: enough to image it, not to erase what is on it.
    OneSign,
    /// The site does not know the machine, which says enough of itself to be known again: UUID or serial, and one more sign.
    Newcomer,
    /// The site does not know the machine, which says little of itself.
    Unknown,
    /// The site knows the machine, and this may be another one.
    Doubtful(Doubt),
}

/// Why it may be another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The machine has a TPM; this one shows none, or another.
    OtherTpm,
    /// Of several known signs one alone is the machine's: a UUID is copied, or a network adapter moved.
    OtherSigns,
}

impl Doubt {
    /// For the person who has to decide.
    pub fn words(self) -> &'static str {
        match self {
            Self::OtherTpm => "it names a machine whose TPM is another",
            Self::OtherSigns => "it names a machine whose other signs are different",
        }
    }
}

impl Recognition {
    /// Whether what is on the machine's disk may be erased on this word.
    pub fn may_erase(self) -> bool {
        matches!(self, Self::Tpm | Self::Seen | Self::Signs | Self::Newcomer)
    }
}

/// An agent, as the site sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// The machine.
    pub machine: MachineId,
    /// How sure that is.
    pub recognition: Recognition,
    /// Whether the roster says that a person approved it.
    pub approved: bool,
}

/// Recognises an agent: by its TPM, else by the strongest sign that is not shared. `tpm` was proved by the agent. Nothing of
/// a machine that says nothing of itself.
pub fn recognise(
    facts: &MachineFacts,
    tpm: Option<&TpmKey>,
    agent: &PublicKey,
    roster: Option<&Roster>,
) -> Option<Recognised> {
    let Some(roster) = roster else {
        return Some(Recognised {
            machine: facts.id()?,
            recognition: newcomer(facts, &[]),
            approved: false,
        });
    };
    let by_tpm = tpm.and_then(|key| roster.machines.iter().find(|m| m.tpm.as_ref() == Some(key)));
    if let Some(known) = by_tpm {
        return Some(Recognised {
            machine: known.id,
            recognition: Recognition::Tpm,
            approved: known.approved,
        });
    }
    let machine = facts.id_beside(&roster.shared)?;
    let known = roster.machine(&machine);
    Some(Recognised {
        machine,
        recognition: match known {
            Some(known) => judge(facts, tpm, agent, known, &roster.shared),
            None => newcomer(facts, &roster.shared),
        },
        approved: known.is_some_and(|known| known.approved),
    })
}

fn newcomer(facts: &MachineFacts, shared: &[Sign]) -> Recognition {
    let own = |signs: Vec<Sign>| signs.iter().filter(|s| !shared.contains(s)).count();
    match (own(facts.strong_signs()), own(facts.mac_signs())) {
        (strong @ 1.., macs) if strong + macs > 1 => Recognition::Newcomer,
        _ => Recognition::Unknown,
    }
}

fn judge(
    facts: &MachineFacts,
    tpm: Option<&TpmKey>,
    agent: &PublicKey,
    known: &KnownMachine,
    shared: &[Sign],
) -> Recognition {
    if known
        .code
        .is_some_and(|code| code[..] == *console_code(agent).as_bytes())
    {
        return Recognition::Seen;
    }
    if known.tpm.is_some() && known.tpm.as_ref() != tpm {
        return Recognition::Doubtful(Doubt::OtherTpm);
    }
    let is_known = |sign: &Sign| known.signs.contains(sign) && !shared.contains(sign);
    let strong = facts.strong_signs().iter().filter(|s| is_known(s)).count();
    let weak = facts.mac_signs().iter().filter(|s| is_known(s)).count();
    let seen_with = known.signs.iter().filter(|s| !shared.contains(s)).count();
    match (strong, weak) {
        (1.., _) if strong + weak > 1 => Recognition::Signs,
        _ if seen_with > 1 => Recognition::Doubtful(Doubt::OtherSigns),
        _ => Recognition::OneSign,
    }
}

#[cfg(test)]
mod tests {
    use trust_format::SiteId;

    use super::*;

    const AGENT: PublicKey = PublicKey([7; 32]);
    const UUID: [u8; 16] = [5; 16];
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn facts(uuid: bool, serial: Option<&str>, mac: [u8; 6]) -> MachineFacts {
        MachineFacts::new(uuid.then_some(UUID), serial, &[mac], "till")
    }

    fn roster(machine: KnownMachine, shared: Vec<Sign>) -> Roster {
        Roster {
            site: SiteId([1; 16]),
            number: 1,
            machines: vec![machine],
            shared,
            pin: None,
        }
    }

    fn known(facts: &MachineFacts) -> KnownMachine {
        KnownMachine {
            id: facts.id().unwrap(),
            approved: true,
            signs: [facts.strong_signs(), facts.mac_signs()].concat(),
            tpm: None,
            code: None,
        }
    }

    fn of(who: &MachineFacts, tpm: Option<&TpmKey>, roster: &Roster) -> Recognition {
        recognise(who, tpm, &AGENT, Some(roster))
            .unwrap()
            .recognition
    }

    #[test]
    fn a_copied_uuid_alone_is_doubtful() {
        let till = facts(true, Some("S1"), MAC);
        let roster = roster(known(&till), vec![]);
        assert_eq!(of(&till, None, &roster), Recognition::Signs);
        // a new board has the old serial or the old network adapter
        assert_eq!(
            of(&facts(true, Some("S1"), OTHER_MAC), None, &roster),
            Recognition::Signs
        );
        assert_eq!(
            of(&facts(true, Some("S2"), MAC), None, &roster),
            Recognition::Signs
        );
        let clone = facts(true, Some("S2"), OTHER_MAC);
        assert_eq!(
            of(&clone, None, &roster),
            Recognition::Doubtful(Doubt::OtherSigns)
        );
        assert!(!of(&clone, None, &roster).may_erase());
    }

    #[test]
    fn a_mac_alone_proposes() {
        let only_mac = facts(false, None, MAC);
        let roster = roster(known(&only_mac), vec![]);
        assert_eq!(of(&only_mac, None, &roster), Recognition::OneSign);
        assert!(!Recognition::OneSign.may_erase());
    }

    /// A till's adapter is plugged into another machine, which has no UUID and no serial.
    #[test]
    fn a_dongle_takes_no_identity_along() {
        let till = facts(true, Some("S1"), MAC);
        let roster = roster(known(&till), vec![]);
        let thief = recognise(&facts(false, None, MAC), None, &AGENT, Some(&roster)).unwrap();
        assert_eq!(thief.recognition, Recognition::Unknown);
        assert_ne!(thief.machine, till.id().unwrap());
    }

    #[test]
    fn a_known_tpm_outweighs_all_else() {
        let till = facts(true, Some("S1"), MAC);
        let mut machine = known(&till);
        machine.tpm = Some(TpmKey([9; 32]));
        let roster = roster(machine, vec![]);
        // every sign is copied
        assert_eq!(
            of(&till, None, &roster),
            Recognition::Doubtful(Doubt::OtherTpm)
        );
        assert_eq!(
            of(&till, Some(&TpmKey([8; 32])), &roster),
            Recognition::Doubtful(Doubt::OtherTpm)
        );
        // every sign is new
        let board = MachineFacts::new(Some([6; 16]), Some("S9"), &[OTHER_MAC], "till");
        let found = recognise(&board, Some(&TpmKey([9; 32])), &AGENT, Some(&roster)).unwrap();
        assert_eq!(
            (found.machine, found.recognition),
            (till.id().unwrap(), Recognition::Tpm)
        );
    }

    #[test]
    fn a_sign_of_several_machines_is_nobodys() {
        let till = facts(true, Some("S1"), MAC);
        let shared = vec![Sign::of_uuid(&UUID)];
        let twin = facts(true, Some("S2"), OTHER_MAC);
        let roster = roster(known(&facts(false, Some("S1"), MAC)), shared);
        assert_eq!(of(&till, None, &roster), Recognition::Signs);
        let other = recognise(&twin, None, &AGENT, Some(&roster)).unwrap();
        assert_eq!(other.recognition, Recognition::Newcomer);
        assert_ne!(
            other.machine,
            recognise(&till, None, &AGENT, Some(&roster))
                .unwrap()
                .machine
        );
    }

    #[test]
    fn whom_a_person_looked_at_is_the_machine() {
        let till = facts(true, Some("S1"), MAC);
        let mut machine = known(&till);
        machine.tpm = Some(TpmKey([9; 32]));
        machine.code = console_code(&AGENT).as_bytes().try_into().ok();
        let roster = roster(machine, vec![]);
        let new_board = facts(true, Some("S3"), OTHER_MAC);
        assert_eq!(of(&new_board, None, &roster), Recognition::Seen);
        let other_agent = PublicKey([8; 32]);
        let found = recognise(&new_board, None, &other_agent, Some(&roster)).unwrap();
        assert_eq!(found.recognition, Recognition::Doubtful(Doubt::OtherTpm));
    }
}
