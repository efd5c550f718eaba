//! What was found of a core, and whether it may serve: of differences those that are declared or named.

use crate::config::is_near;
use anyhow::bail;
use mailcell_conformance::check::SESSIONS;
use serde::{Deserialize, Serialize};

/// Sessions that an error names.
const NAMES_MAX: usize = 10;

/// One session in which a core is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The transcript or recording.
    pub session: String,
    /// Further ones with the same lines, of texts only.
    #[serde(default)]
    pub more: usize,
    /// Whether the diff is too long to be shown whole.
    #[serde(default)]
    pub is_cut: bool,
    /// Why the session was lost, if it was.
    #[serde(default)]
    pub fault: Option<String>,
    /// What is different, for people: expected `-`, got `+`.
    pub diff: String,
}

/// What was found of a core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// SHA-256 of the component.
    pub digest: String,
    /// What the component calls its version.
    pub version: String,
    /// How many sessions were run.
    pub sessions: usize,
    /// Recordings that could not be read, or for which there was no time.
    #[serde(default)]
    pub left_out: usize,
    /// Differences beyond those that are listed.
    #[serde(default)]
    pub unlisted: usize,
    /// What is worth knowing before a swap.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What can never be accepted.
    pub violations: Vec<Finding>,
    /// What must be accepted.
    pub differences: Vec<Finding>,
    /// What is shown.
    pub texts: Vec<Finding>,
}

impl Report {
    /// Why the core may not serve.
    ///
    /// # Errors
    /// The violation, or the sessions whose differences are neither named nor declared.
    pub fn verdict(&self, accepted: &Accepted) -> Result<(), String> {
        if let Some(violation) = self.violations.first() {
            let fault = violation.fault.as_deref().unwrap_or("it is not the same again, or after a move");
            return Err(format!("it is not safe: {}: {fault}", violation.session));
        }
        let open: Vec<_> = self.differences.iter().filter(|finding| !accepted.accepts(finding)).collect();
        match open.as_slice() {
            [] if self.unlisted > 0 => Err(format!("it behaves differently in {} more", sessions(self.unlisted))),
            [] => Ok(()),
            open => {
                let names: Vec<_> = open.iter().map(|finding| finding.session.as_str()).take(NAMES_MAX).collect();
                let count = open.len() + self.unlisted;
                let more =
                    if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
                Err(format!("it behaves differently, undeclared, in {}: {}{more}", sessions(count), names.join(", ")))
            }
        }
    }
}

fn sessions(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// Differences that are intended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Accepted {
    /// Sessions by name, whatever is different in them.
    pub sessions: Vec<String>,
    /// Differences word for word, as `mailcell core check` prints them.
    pub declared: String,
}

impl Accepted {
    /// Adds the differences of a text, which an error calls `shown`.
    ///
    /// # Errors
    /// The first line that is none of a difference.
    pub fn declare(&mut self, text: &str, shown: &str) -> anyhow::Result<()> {
        if let Err(line) = diffs(text) {
            bail!("{shown}:{line}: expected differences as `mailcell core check` prints them");
        }
        self.declared += text;
        // What is added behind it begins a line.
        self.declared += "\n";
        Ok(())
    }

    /// Sees that what is declared are differences, and what is named are sessions: those of the specification, or
    /// recordings.
    ///
    /// # Errors
    /// What is none.
    pub fn check(&self, is_recording: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        Accepted::default().declare(&self.declared, "declared")?;
        let is_specified = |name: &str| SESSIONS.iter().any(|(session, _)| *session == name);
        let is_none = |name: &&String| !is_specified(name) && !is_recording(name);
        let Some(name) = self.sessions.iter().find(is_none) else { return Ok(()) };
        let near = SESSIONS.iter().find(|(session, _)| is_near(session, name));
        let hint = near.map(|(session, _)| format!("; is it `{session}`?")).unwrap_or_default();
        bail!("there is no session `{name}` whose differences could be accepted{hint}")
    }

    fn accepts(&self, finding: &Finding) -> bool {
        let is_declared =
            |finding: &Finding| diffs(&self.declared).is_ok_and(|declared| declared.contains(&lines(&finding.diff)));
        // What is not shown is not declared.
        !finding.is_cut && is_declared(finding) || self.sessions.contains(&finding.session)
    }
}

/// The diffs of a text as `mailcell core check` prints it: each from its `---` line to an empty line or a comment. If there is
/// anything else, the number of its line.
fn diffs(text: &str) -> Result<Vec<Vec<&str>>, usize> {
    let mut diffs: Vec<Vec<&str>> = Vec::new();
    let mut is_inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("--- ") {
            is_inside = true;
            diffs.push(Vec::new());
        } else if line.is_empty() || line.starts_with('#') {
            is_inside = false;
        } else if !(is_inside && line.starts_with([' ', '-', '+', '@', '\\'])) {
            return Err(number);
        }
        if let (true, Some(diff)) = (is_inside, diffs.last_mut()) {
            diff.push(line.trim_end());
        }
    }
    Ok(diffs)
}

fn lines(diff: &str) -> Vec<&str> {
    diff.trim_end().lines().map(str::trim_end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_difference_is_taken_word_for_word() {
        let finding = |diff: &str| Finding {
            session: "s".to_owned(),
            more: 0,
            is_cut: false,
            fault: None,
            diff: diff.to_owned(),
        };
        let declared = "# s: behaves differently\n--- s\n+++ s\n@@ -1,2 +1,2 @@\n C: VRFY bob\n \n-S: 250 a\n+Q: find-user bobby\n\n# t: x\n--- t\n+++ t\n+S: 1\n# 2 sessions";
        let accepted = Accepted { sessions: vec!["named".to_owned()], declared: declared.to_owned() };
        assert!(
            accepted
                .accepts(&finding("--- s\n+++ s\n@@ -1,2 +1,2 @@\n C: VRFY bob\n \n-S: 250 a\n+Q: find-user bobby\n"))
        );
        let whole = finding("--- t\n+++ t\n+S: 1\n");
        assert!(accepted.accepts(&whole));
        assert!(!accepted.accepts(&Finding { is_cut: true, ..whole }), "the rest of it may be anything");
        for other in
            ["", "--- s\n+++ s\n@@ -1,2 +1,2 @@\n C: VRFY bob\n \n-S: 250 a\n+Q: find-user bob\n", "--- s\n+++ s\n"]
        {
            assert!(!accepted.accepts(&finding(other)), "{other}");
        }
        assert!(accepted.accepts(&Finding { session: "named".to_owned(), ..finding("x") }));
        let report = Report { unlisted: 1, ..Report::default() };
        assert!(report.verdict(&accepted).is_err(), "what is not shown is not accepted");
    }

    #[test]
    fn what_could_not_be_accepted_is_said() {
        let declared = "# a core\n\n# s: behaves differently\n--- s\n+++ s\n@@ -1 +1 @@\n C: NOOP\n \n-S: 250\n+S: 251";
        let mut accepted = Accepted::default();
        accepted.declare(declared, "FILE").unwrap();
        accepted.declare("--- t\n+++ t\n", "FILE").unwrap();
        assert_eq!(diffs(&accepted.declared).unwrap().len(), 2);
        accepted.declare("", "FILE").unwrap();
        let refused = |text: &str| Accepted::default().declare(text, "FILE").unwrap_err().to_string();
        let expected = "expected differences as `mailcell core check` prints them";
        assert_eq!(refused("\0asm"), format!("FILE:1: {expected}"));
        assert_eq!(refused("--- s\n+++ s\nC: NOOP"), format!("FILE:3: {expected}"));
        assert_eq!(refused("--- s\n+++ s\n\n-S: 250"), format!("FILE:4: {expected}"));

        let check = |name: &str| {
            let accepted = Accepted { sessions: vec!["greeting".to_owned(), name.to_owned()], ..Accepted::default() };
            accepted.check(|name| name == "recorded").map_err(|error| error.to_string())
        };
        assert_eq!((check("help-in-every-state"), check("recorded")), (Ok(()), Ok(())));
        let refusal = |name: &str| format!("there is no session `{name}` whose differences could be accepted");
        assert_eq!(check("all"), Err(refusal("all")));
        assert_eq!(check("greting"), Err(refusal("greting") + "; is it `greeting`?"));
        let raw = Accepted { declared: "all".to_owned(), ..Accepted::default() };
        assert_eq!(raw.check(|_| true).unwrap_err().to_string(), format!("declared:1: {expected}"));
    }
}
