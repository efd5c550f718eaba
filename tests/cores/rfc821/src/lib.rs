//! SMTP as RFC 821 has it: the usual protocol as in a session greeted by HELO, and commands of extensions are none.

use mailcell_core::{Answer, Config, Core, Input, Position, Schemas, Session, Snapshot, Step};

#[cfg(target_arch = "wasm32")]
mailcell_core::export_core!(Rfc821);

/// Commands that came later.
const LATER: [&[u8]; 5] = [b"EHLO", b"STARTTLS", b"AUTH", b"BDAT", b"XCLIENT"];

/// A line that is a command to nobody.
const NO_COMMAND: &[u8] = b"X";

/// A session.
pub struct Rfc821(Session);

impl Core for Rfc821 {
    fn open(config: &Config) -> (Rfc821, Step) {
        let (session, mut step) = Session::open(config);
        step.responses[0].text = step.responses[0].text.replace("ESMTP", "SMTP").into();
        (Rfc821(session), plain(step))
    }

    fn deliver(&mut self, input: Input<'_>) -> Answer {
        let input = match input {
            Input::Line(line) if is_of_an_extension(&line) => Input::Line(NO_COMMAND.into()),
            other => other,
        };
        let Answer { consumed, step } = Core::deliver(&mut self.0, input);
        Answer { consumed, step: plain(step) }
    }

    fn schemas() -> Schemas {
        Session::schemas()
    }

    fn save(&self, schema: u32) -> Snapshot {
        self.0.save(schema)
    }

    fn restore(config: &Config, schema: u32, state: &[u8]) -> Result<(Rfc821, Position), String> {
        let (session, position) = Session::restore(config, schema, state)?;
        Ok((Rfc821(session), position))
    }
}

fn is_of_an_extension(line: &[u8]) -> bool {
    let verb = line.split(|octet| *octet == b' ').next().unwrap_or_default();
    LATER.iter().any(|later| verb.eq_ignore_ascii_case(later))
}

/// Without enhanced status codes, which are of RFC 2034.
fn plain(mut step: Step) -> Step {
    step.responses.iter_mut().for_each(|response| response.enhanced = None);
    step
}
