//! Proves a core before it serves anyone: with the transcripts of its specification and with recorded sessions, against the
//! core that serves, and with moves after every event.
//!
//! What is found is of three kinds. A violation is a session that is lost, or one to which a move makes a difference:
//! it always refuses. A difference is another code, request, message or end than was specified or recorded: it refuses
//! unless it was declared. A text that differs never refuses.

use super::findings::{Texts, finding, keep};
use super::report::{Finding, Report};
use crate::cell::{Cell, Effects, Facts, Fault, Generation};
use mailcell_conformance::check::{self, SESSIONS};
use mailcell_conformance::host::{Effect, Opened, Subject, write_request};
use mailcell_conformance::transcript::Transcript;
use mailcell_core::{Answer, Config, Input, Next, Response, Step};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long the specification may take, and how long recordings. Each call has its own limit; a core that uses all of
/// it each time is stopped here.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Octets that a session may say and ask beyond twice what is expected of it. Several of its courses are held at once.
const COURSE_OCTETS_MAX: usize = 1 << 20;

/// Events of one session before which a move is tried, where sessions can go one way only.
const MOVES_MAX: usize = 16;

/// Runs the specification's sessions and `recorded` ones, name and text, in a core, and compares with what they expect and
/// with what the core that serves, if there is one, makes of them.
pub fn prove(core: &Generation, live: Option<&Generation>, recorded: &[(String, String)]) -> Report {
    let deadline = Instant::now() + TIME_MAX;
    let mut proof = Proof { core, live, deadline, report: Report::default(), texts: Texts::default() };
    (proof.report.digest, proof.report.version) = (core.digest().to_owned(), core.version().to_owned());
    for (name, text) in SESSIONS {
        match Transcript::parse(name, text) {
            Ok(session) => proof.run(&session),
            Err(error) => unreachable!("a test reads each of them: {error}"),
        }
    }
    // A core that uses all of its time in a recording is stopped in it; many recordings are simply not all run.
    let end = Instant::now() + TIME_MAX;
    for (name, text) in recorded {
        proof.deadline = end + TIME_MAX;
        match Transcript::parse(name, text) {
            Ok(session) if Instant::now() < end => proof.run(&session),
            _ => proof.report.left_out += 1,
        }
    }
    proof.finish()
}

struct Proof<'a> {
    core: &'a Generation,
    live: Option<&'a Generation>,
    deadline: Instant,
    report: Report,
    texts: Texts,
}

/// The effects of each event of a session.
type Course = Vec<Vec<Effect>>;

impl Proof<'_> {
    fn run(&mut self, session: &Transcript) {
        self.report.sessions += 1;
        let got = self.effects(session, &[self.core], When::Never);
        let expected = session.effects();
        let folded = check::fold(got.clone(), &expected);
        if has_fault(&got) {
            return self.violation(session, &expected, &folded);
        }
        for when in [When::Never, When::Always] {
            let other = self.effects(session, &[self.core], when);
            if other != got {
                return self.violation(session, &got, &other);
            }
        }
        let lives = match self.live {
            Some(live) => self.effects(session, &[live], When::Never),
            None => expected.clone(),
        };
        if has_fault(&lives) {
            // The core that serves fails here, and this one does not.
            return;
        }
        let moved = self.live.and_then(|live| self.crossing_that_changes(session, live, &got, &lives));
        if let Some(moved) = moved {
            return self.violation(session, &got, &moved);
        }
        // What was specified, or what the core that serves does already: neither needs consent.
        let lives = check::fold(lives, &expected);
        let known = [&expected, &lives];
        if known.contains(&&folded) {
            return;
        }
        match known.into_iter().find(|known| behaviour(known) == behaviour(&folded)) {
            Some(alike) => self.texts.keep(|| finding(session, alike, &folded)),
            None => {
                let known = if behaviour(&lives) == behaviour(&expected) { &expected } else { &lives };
                let is_kept = keep(&mut self.report.differences, || finding(session, known, &folded));
                self.report.unlisted += usize::from(!is_kept);
            }
        }
    }

    /// Sessions come from the core that serves, and go back to it when this one fails. Where both behave alike, so must a
    /// session that changes between them.
    fn crossing_that_changes(
        &self,
        session: &Transcript,
        live: &Generation,
        got: &Course,
        lives: &Course,
    ) -> Option<Course> {
        let (there, back) = (live.schema_to(self.core), self.core.schema_to(live));
        let circle = [live, self.core];
        let moves = match (there, back) {
            (None, _) => Vec::new(),
            (Some(_), Some(_)) => vec![When::Always],
            (Some(_), None) => (0..session.turns.len().min(MOVES_MAX)).map(When::Once).collect(),
        };
        let is_alike = behaviour(got) == behaviour(lives);
        let is_changed = |moved: &Course| has_fault(moved) || (is_alike && behaviour(moved) != behaviour(got));
        moves.into_iter().map(|when| self.effects(session, &circle, when)).find(is_changed)
    }

    fn effects(&self, session: &Transcript, circle: &[&Generation], when: When) -> Course {
        let bounds = (self.deadline, octets_max(&session.effects()));
        check::run(session, &|config| Subjected::open(circle, when, bounds, config))
    }

    fn violation(&mut self, session: &Transcript, expected: &[Vec<Effect>], got: &[Vec<Effect>]) {
        // One alone refuses already.
        keep(&mut self.report.violations, || finding(session, expected, got));
    }

    fn finish(self) -> Report {
        let Proof { core, live, mut report, texts, .. } = self;
        if let Some(live) = live {
            let ways = [(live, core, "open sessions stay where they are"), (core, live, "sessions cannot go back")];
            for (from, to, what) in ways.into_iter().filter(|(from, to, _)| from.schema_to(to).is_none()) {
                let (writes, reads) = (from.writes(), to.reads());
                report.notes.push(format!("{what}: layouts {writes:?} are written, and {reads:?} are read"));
            }
        }
        report.texts = texts.into_findings();
        report
    }
}

/// Octets that a session may say and ask of which that is expected.
fn octets_max(expected: &[Vec<Effect>]) -> usize {
    COURSE_OCTETS_MAX + 2 * octets(expected)
}

/// Octets that are said and asked.
fn octets(effects: &[Vec<Effect>]) -> usize {
    let octets = |effect: &Effect| match effect {
        Effect::Line(line) => line.len() + 2,
        Effect::Request(request) => request.len(),
        _ => 0,
    };
    effects.iter().flatten().map(octets).sum()
}

fn has_fault(effects: &[Vec<Effect>]) -> bool {
    effects.iter().flatten().any(|effect| matches!(effect, Effect::Fault(_)))
}

/// Effects without the texts of responses: of each response, its code.
fn behaviour(effects: &[Vec<Effect>]) -> Course {
    let plain = |effect: &Effect| match effect {
        Effect::Line(line) if line.get(3) == Some(&b'-') => None,
        Effect::Line(line) => {
            let code = str::from_utf8(line.get(..3).unwrap_or_default()).ok().and_then(|code| code.parse().ok());
            Some(Effect::AnyResponse(code.unwrap_or_default()))
        }
        other => Some(other.clone()),
    };
    effects.iter().map(|effects| effects.iter().filter_map(plain).collect()).collect()
}

/// When a session moves to the next generation of its circle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    /// Behind each event.
    Always,
    /// Behind so many events.
    Once(usize),
}

/// A session in cells.
struct Subjected {
    cell: Cell,
    at: usize,
    circle: Vec<Generation>,
    when: When,
    events: usize,
    deadline: Instant,
    /// Octets that it may say and ask yet, and in all.
    octets_left: usize,
    octets_max: usize,
    facts: Facts,
}

/// Until when a session runs, and how many octets it may say and ask.
type Bounds = (Instant, usize);

impl Subjected {
    fn open(circle: &[&Generation], when: When, bounds: Bounds, config: &Config) -> Opened {
        let facts = Facts { config: Arc::from(config), address: "127.0.0.1".to_owned() };
        let (cell, effects) = Cell::open(circle[0], &facts).map_err(|fault| fault.to_string())?;
        let circle = circle.iter().map(|generation| (*generation).clone()).collect();
        let (deadline, octets_max) = bounds;
        let octets_left = octets_max;
        let mut session = Subjected { cell, at: 0, circle, when, events: 0, deadline, octets_left, octets_max, facts };
        session.count(&effects)?;
        session.move_on(&effects.next)?;
        Ok((Box::new(session), to_step(effects)))
    }

    /// What it appends is no more than it was told.
    fn count(&mut self, effects: &Effects) -> Result<(), String> {
        let asked = if let Next::AwaitReply(request) = &effects.next { write_request(request).len() } else { 0 };
        let left = self.octets_left.checked_sub(effects.output.len() + asked);
        self.octets_left = left.ok_or_else(|| {
            format!("it says more than {} octets in one session, which is far beyond what is expected", self.octets_max)
        })?;
        Ok(())
    }

    fn move_on(&mut self, next: &Next) -> Result<(), String> {
        let is_due = match self.when {
            When::Never => false,
            When::Always => true,
            When::Once(events) => self.events == events,
        };
        self.events += 1;
        if *next == Next::Close || !is_due {
            return Ok(());
        }
        let from = self.circle[self.at].clone();
        self.at = (self.at + 1) % self.circle.len();
        let to = &self.circle[self.at];
        let Some(schema) = from.schema_to(to) else {
            return Err(format!("it writes layouts {:?}, and reads {:?}", from.writes(), to.reads()));
        };
        self.move_to(schema).map_err(|fault| format!("in a move: {fault}"))
    }

    fn move_to(&mut self, schema: u32) -> Result<(), Fault> {
        let to = &self.circle[self.at];
        let saved = self.cell.save(schema)?;
        let mut cell = Cell::restore(to, &self.facts, &saved)?;
        if self.circle.len() == 1 && cell.save(schema)?.state() != saved.state() {
            return Err(Fault::Unread("what it read it writes otherwise".to_owned()));
        }
        self.cell = cell;
        Ok(())
    }
}

impl Subject for Subjected {
    fn deliver(&mut self, input: Input<'_>) -> Result<Answer, String> {
        if Instant::now() > self.deadline {
            return Err("it takes too long".to_owned());
        }
        let answer = self.cell.deliver(&input).map_err(|fault| fault.to_string())?;
        self.count(&answer.effects)?;
        self.move_on(&answer.effects.next)?;
        Ok(Answer { consumed: answer.consumed, step: to_step(answer.effects) })
    }
}

/// Runs a session in a core, and finds what is not as it expects.
pub fn replay(core: &Generation, session: &Transcript) -> Option<Finding> {
    let expected = session.effects();
    let bounds = (Instant::now() + TIME_MAX, octets_max(&expected));
    let got = check::run(session, &|config| Subjected::open(&[core], When::Never, bounds, config));
    let got = check::fold(got, &expected);
    (got != expected).then(|| finding(session, &expected, &got))
}

/// Opens a session in a cell of its own.
///
/// # Errors
/// When the core fails.
pub fn in_a_cell(generation: &Generation, config: &Config) -> Opened {
    Subjected::open(&[generation], When::Never, (Instant::now() + TIME_MAX, usize::MAX), config)
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
