//! The usual protocol with another greeting and another help. Its layout of saved sessions holds one number more than the
//! usual one, which it reads and writes as well: sessions go there and back.

use mailcell_core::{Answer, Config, Core, Input, Position, Response, Schemas, Session, Snapshot, Step};

#[cfg(target_arch = "wasm32")]
mailcell_core::export_core!(Variant);

/// How the other layout is numbered.
const SCHEMA: u32 = if cfg!(feature = "foreign") { 9 } else { 8 };

/// A session.
pub struct Variant {
    session: Session,
    /// How often it was restored from its own layout.
    moves: u32,
}

impl Core for Variant {
    fn open(config: &Config) -> (Variant, Step) {
        let (session, mut step) = Session::open(config);
        step.responses[0].text = step.responses[0].text.replace("Mailcell", "Mailcell variant").into();
        (Variant { session, moves: 0 }, step)
    }

    fn deliver(&mut self, input: Input<'_>) -> Answer {
        let line = if let Input::Line(line) = &input { line.to_ascii_uppercase() } else { Vec::new() };
        let mut answer = Core::deliver(&mut self.session, input);
        let response = answer.step.responses.first_mut();
        match (response, &line[..]) {
            (Some(response), b"HELP") => response.text = "Commands of a variant:".into(),
            (Some(response), b"NOOP") if cfg!(feature = "different") => response.code = 251,
            _ => {}
        }
        if cfg!(feature = "talkative") {
            talk(&mut answer.step.responses);
        }
        answer
    }

    fn schemas() -> Schemas {
        let all = if cfg!(feature = "foreign") { vec![SCHEMA] } else { vec![SCHEMA, Session::schemas().writes[0]] };
        Schemas { writes: all.clone(), reads: all }
    }

    fn save(&self, schema: u32) -> Snapshot {
        let mut saved = self.session.save(Session::schemas().writes[0]);
        if schema == SCHEMA {
            saved.state.extend(self.moves.to_le_bytes());
        }
        saved
    }

    fn restore(config: &Config, schema: u32, state: &[u8]) -> Result<(Variant, Position), String> {
        let (state, moves) = match (schema == SCHEMA).then(|| state.split_last_chunk()) {
            None => (state, 0),
            Some(Some((state, moves))) => (state, u32::from_le_bytes(*moves)),
            Some(None) => return Err("no number of moves".to_owned()),
        };
        let (session, position) = Session::restore(config, Session::schemas().writes[0], state)?;
        Ok((Variant { session, moves }, position))
    }
}

/// Puts as many long lines in front of a response as there may be, of which no two are alike.
fn talk(responses: &mut Vec<Response>) {
    let Some(code) = responses.first().map(|response| response.code) else { return };
    let text = |number: usize| format!("{} {}", number * number, "ab".repeat(210));
    let line = |number| Response { code, enhanced: None, text: text(number).into(), more: true };
    responses.splice(..0, (responses.len()..256).map(line).collect::<Vec<_>>());
}
