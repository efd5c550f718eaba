//! Proves a core before it serves anyone: with the transcripts of its specification and with recorded sessions, against the
//! core that serves, and with moves after every event.
//!
//! What is found is of three kinds. A violation is a session that is lost, or one to which a move makes a difference:
//! it always refuses. A difference is another code, request, message or end than was specified or recorded: it refuses
//! unless it was declared. A text that differs never refuses.

use crate::cell::{Cell, Effects, Facts, Fault, Generation, Saved};
use mailcell_conformance::check::{self, SESSIONS};
use mailcell_conformance::host::{Effect, Opened, Subject};
use mailcell_conformance::transcript::{Transcript, TranscriptError};
use mailcell_core::{Answer, Config, Input, Next, Response, Step};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a proof may take. Each call has its own limit; a core that uses all of it each time is stopped here.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Findings of one kind that are kept: a hundred refuse as well as a thousand.
const FINDINGS_MAX: usize = 100;

/// One session in which a core is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The transcript or recording.
    pub session: String,
    /// Further ones with the same lines, of texts only.
    #[serde(default)]
    pub more: usize,
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
            let line = violation.diff.lines().find(|line| line.starts_with("+!:")).unwrap_or(&violation.diff);
            return Err(format!("it is not safe: {}: {}", violation.session, line.trim_start_matches("+!: ").trim()));
        }
        let open: Vec<_> = self.differences.iter().filter(|finding| !accepted.accepts(finding)).collect();
        match open.as_slice() {
            [] => Ok(()),
            open => {
                let names: Vec<_> = open.iter().map(|finding| finding.session.as_str()).take(10).collect();
                Err(format!("it behaves differently, undeclared, in {}: {}", sessions(open.len()), names.join(", ")))
            }
        }
    }
}

fn sessions(count: usize) -> String {
    if count == 1 { "1 session".to_owned() } else { format!("{count} sessions") }
}

/// Differences that are intended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Sessions by name, whatever is different in them.
    #[serde(default)]
    pub sessions: Vec<String>,
    /// Differences word for word, as `mailcell core check` prints them.
    #[serde(default)]
    pub declared: String,
}

impl Accepted {
    fn accepts(&self, finding: &Finding) -> bool {
        self.sessions.contains(&finding.session) || self.declared.contains(finding.diff.trim())
    }
}

/// The sessions that a core is proved with: the specification's, and `recorded` ones.
///
/// # Errors
/// When a recording cannot be read.
pub fn sessions_to_run(recorded: &[(String, String)]) -> Result<Vec<Transcript>, TranscriptError> {
    let specified = SESSIONS.iter().map(|(name, text)| Transcript::parse(name, text));
    specified.chain(recorded.iter().map(|(name, text)| Transcript::parse(name, text))).collect()
}

/// Runs sessions in a core, and compares with what they expect and with what the core that serves makes of them.
pub fn prove(candidate: &Generation, live: &Generation, sessions: &[Transcript]) -> Report {
    let mut report =
        Report { digest: candidate.digest().to_owned(), version: candidate.version().to_owned(), ..Report::default() };
    let start = Instant::now();
    for session in sessions {
        if start.elapsed() > TIME_MAX {
            let diff = format!("the proof takes longer than {TIME_MAX:?}");
            report.violations.push(Finding { session: session.name.clone(), more: 0, diff });
            break;
        }
        report.sessions += 1;
        prove_with(session, candidate, live, &mut report);
    }
    report.texts = join_alike(std::mem::take(&mut report.texts));
    for findings in [&mut report.violations, &mut report.differences, &mut report.texts] {
        findings.truncate(FINDINGS_MAX);
    }
    report
}

/// Another greeting is in every session, and shown once.
fn join_alike(findings: Vec<Finding>) -> Vec<Finding> {
    let mut joined: BTreeMap<Vec<String>, Finding> = BTreeMap::new();
    for finding in findings {
        let is_changed =
            |line: &&str| line.starts_with(['-', '+']) && !line.starts_with("---") && !line.starts_with("+++");
        let changed: Vec<_> = finding.diff.lines().filter(is_changed).map(str::to_owned).collect();
        joined.entry(changed).and_modify(|first| first.more += 1).or_insert(finding);
    }
    joined.into_values().collect()
}

fn prove_with(session: &Transcript, candidate: &Generation, live: &Generation, report: &mut Report) {
    let run = |open: &dyn Fn(&Config) -> Opened| check::run(session, open);
    let got = run(&|config| Still::open(candidate, config));
    let mut add = |kind: fn(&mut Report) -> &mut Vec<Finding>, expected: &[Vec<Effect>], got: &[Vec<Effect>]| {
        let findings = kind(report);
        let diff = check::difference(&session.write(expected), &session.write(got));
        findings.push(Finding { session: session.name.clone(), more: 0, diff: name_sides(&diff, &session.name) });
    };
    let expected = session.effects();
    let folded = check::fold(got.clone(), &expected);
    if has_fault(&got) {
        return add(|report| &mut report.violations, &expected, &folded);
    }
    let again = run(&|config| Still::open(candidate, config));
    let moved = run(&|config| Moving::open(std::slice::from_ref(candidate), config));
    for other in [again, moved] {
        if other != got {
            return add(|report| &mut report.violations, &got, &other);
        }
    }
    // Sessions come from the core that serves, and go back to it when this one fails.
    if live.schema_to(candidate).is_some() && candidate.schema_to(live).is_some() {
        let crossed = run(&|config| Moving::open(&[live.clone(), candidate.clone()], config));
        if has_fault(&crossed) {
            return add(|report| &mut report.violations, &got, &crossed);
        }
    }
    if folded == expected {
        return;
    }
    // What the core that serves does differently already needs nobody's consent again.
    let lives = run(&|config| Still::open(live, config));
    let expected =
        if behaviour(&check::fold(lives.clone(), &expected)) == behaviour(&expected) { expected } else { lives };
    if behaviour(&folded) != behaviour(&expected) {
        add(|report| &mut report.differences, &expected, &folded);
    } else if folded != expected {
        add(|report| &mut report.texts, &expected, &folded);
    }
}

fn name_sides(diff: &str, name: &str) -> String {
    diff.replacen("--- expected", &format!("--- {name}"), 1).replacen("+++ got", &format!("+++ {name}"), 1)
}

fn has_fault(effects: &[Vec<Effect>]) -> bool {
    effects.iter().flatten().any(|effect| matches!(effect, Effect::Fault(_)))
}

/// Effects without the texts of responses: of each response, its code.
fn behaviour(effects: &[Vec<Effect>]) -> Vec<Vec<Effect>> {
    let plain = |effects: &Vec<Effect>| {
        let mut plain = Vec::new();
        for effect in effects {
            match effect {
                Effect::Line(line) if line.get(3) == Some(&b'-') => {}
                Effect::Line(line) => {
                    let code =
                        str::from_utf8(line.get(..3).unwrap_or_default()).ok().and_then(|code| code.parse().ok());
                    plain.push(Effect::AnyResponse(code.unwrap_or_default()));
                }
                other => plain.push(other.clone()),
            }
        }
        plain
    };
    effects.iter().map(plain).collect()
}

/// A session that stays in one cell.
pub struct Still(Cell);

impl Still {
    /// Opens a session in a cell of its own.
    ///
    /// # Errors
    /// When the core fails.
    pub fn open(generation: &Generation, config: &Config) -> Opened {
        let (cell, effects) = Cell::open(generation, &facts(config)).map_err(|fault| fault.to_string())?;
        Ok((Box::new(Still(cell)), to_step(effects)))
    }
}

impl Subject for Still {
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String> {
        let answer = self.0.deliver(&input).map_err(|fault| fault.to_string())?;
        Ok(Answer { consumed: answer.consumed, step: to_step(answer.effects) })
    }
}

/// A session that moves after each event, around a circle of generations.
struct Moving {
    cell: Cell,
    at: usize,
    circle: Vec<Generation>,
    facts: Facts,
}

impl Moving {
    fn open(circle: &[Generation], config: &Config) -> Opened {
        let facts = facts(config);
        let (cell, effects) = Cell::open(&circle[0], &facts).map_err(|fault| fault.to_string())?;
        let mut session = Moving { cell, at: 0, circle: circle.to_vec(), facts };
        session.go_on(&effects.next)?;
        Ok((Box::new(session), to_step(effects)))
    }

    fn go_on(&mut self, next: &Next) -> Result<(), String> {
        if *next == Next::Close {
            return Ok(());
        }
        let from = self.circle[self.at].clone();
        self.at = (self.at + 1) % self.circle.len();
        let to = &self.circle[self.at];
        let Some(schema) = from.schema_to(to) else {
            return Err(format!("it writes layouts {:?}, and {:?} are read", from.writes(), to.reads()));
        };
        self.go_to(schema).map_err(|fault| format!("in a move: {fault}"))
    }

    fn go_to(&mut self, schema: u32) -> Result<(), Fault> {
        let to = &self.circle[self.at];
        let saved = self.cell.save(schema)?;
        let mut cell = Cell::restore(to, &self.facts, &saved)?;
        if to.writes().contains(&schema) && self.circle.len() == 1 {
            let again: Saved = cell.save(schema)?;
            if again.state() != saved.state() {
                return Err(Fault::Unread("what it read it writes otherwise".to_owned()));
            }
        }
        self.cell = cell;
        Ok(())
    }
}

impl Subject for Moving {
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String> {
        let answer = self.cell.deliver(&input).map_err(|fault| fault.to_string())?;
        self.go_on(&answer.effects.next)?;
        Ok(Answer { consumed: answer.consumed, step: to_step(answer.effects) })
    }
}

fn facts(config: &Config) -> Facts {
    Facts { config: Arc::from(config), address: "127.0.0.1".to_owned() }
}

/// A step as the scripted host takes it; an enhanced status code stays in the text, where the wire has it.
fn to_step(effects: Effects) -> Step {
    let output = String::from_utf8_lossy(&effects.output).into_owned();
    let line = |line: &str| Response {
        code: line.get(..3).and_then(|code| code.parse().ok()).unwrap_or_default(),
        enhanced: None,
        text: Cow::Owned(line.get(4..).unwrap_or_default().to_owned()),
        more: line.as_bytes().get(3) == Some(&b'-'),
    };
    Step { responses: output.split_terminator("\r\n").map(line).collect(), orders: effects.orders, next: effects.next }
}
