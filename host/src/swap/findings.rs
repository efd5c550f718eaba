//! What a proof shows of sessions that are not as expected, within bounds: whoever asked for it reads it whole.

use super::report::Finding;
use mailcell_conformance::check;
use mailcell_conformance::host::Effect;
use mailcell_conformance::transcript::Transcript;
use std::collections::BTreeMap;

/// Findings of one kind that are kept.
const FINDINGS_MAX: usize = 1_000;

/// Octets of diffs of one kind beyond which no more are kept. As JSON they are a few times as many.
const FINDINGS_OCTETS_MAX: usize = 2 << 20;

/// Octets of one diff; what is longer is cut.
pub const DIFF_OCTETS_MAX: usize = 64 << 10;

/// Lines of a session that are compared: where they are all different, that takes the square of their number.
pub const LINES_MAX: usize = 10_000;

/// Keeps a finding, if there is room, and says whether.
pub(super) fn keep(findings: &mut Vec<Finding>, finding: impl FnOnce() -> Finding) -> bool {
    let has_room = has_room(findings.iter());
    if has_room {
        findings.push(finding());
    }
    has_room
}

fn has_room<'a>(findings: impl ExactSizeIterator<Item = &'a Finding>) -> bool {
    findings.len() < FINDINGS_MAX && findings.map(|finding| finding.diff.len()).sum::<usize>() < FINDINGS_OCTETS_MAX
}

/// Other texts by the lines that are different: another greeting is in every session, and shown once.
#[derive(Default)]
pub(super) struct Texts(BTreeMap<Vec<String>, Finding>);

impl Texts {
    /// As [`keep`].
    pub(super) fn keep(&mut self, finding: impl FnOnce() -> Finding) {
        if !has_room(self.0.values()) {
            return;
        }
        let finding = finding();
        let is_changed =
            |line: &&str| line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++");
        let changed: Vec<_> = finding.diff.lines().filter(is_changed).map(str::to_owned).collect();
        self.0.entry(changed).and_modify(|first| first.more += 1).or_insert(finding);
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        self.0.into_values().collect()
    }
}

/// What a session does otherwise.
pub(super) fn finding(session: &Transcript, expected: &[Vec<Effect>], got: &[Vec<Effect>]) -> Finding {
    let fault = got.iter().flatten().find_map(|effect| match effect {
        Effect::Fault(fault) => Some(fault.clone()),
        _ => None,
    });
    let mut is_cut = false;
    let [expected, got] = [expected, got].map(|effects| {
        let mut text = session.write(effects);
        let end = text.match_indices('\n').nth(LINES_MAX - 1).map(|(at, _)| at + 1);
        is_cut |= cut(&mut text, end);
        text
    });
    let mut diff = check::difference(&expected, &got);
    let last_line = diff[..diff.floor_char_boundary(DIFF_OCTETS_MAX)].rfind('\n');
    let is_long = diff.len() > DIFF_OCTETS_MAX;
    is_cut |= cut(&mut diff, last_line.filter(|_| is_long).map(|at| at + 1));
    let name = &session.name;
    let diff = diff.replacen("--- expected", &format!("--- {name}"), 1).replacen("+++ got", &format!("+++ {name}"), 1);
    Finding { session: name.clone(), more: 0, is_cut, fault, diff }
}

/// Cuts a text behind so many octets, and says whether anything is missing then.
fn cut(text: &mut String, octets: Option<usize>) -> bool {
    let is_cut = octets.is_some_and(|octets| octets < text.len());
    if let Some(octets) = octets {
        text.truncate(octets);
    }
    is_cut
}
