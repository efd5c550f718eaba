//! The usual protocol, until a client says `XTRAP`, or `XHARM` and what to do. Some harm is done at once, other when the export of that
//! name is called next. The server's name `harm.test` makes `open` do harm.

use mailcell_core::{
    Answer, Config, Core, Due, Input, Next, Order, Position, Request, Schemas, Session, Snapshot, Step,
};

#[cfg(target_arch = "wasm32")]
mailcell_core::export_core!(Hostile);

/// A session.
pub struct Hostile {
    session: Session,
    /// What was asked for and not done yet.
    harm: String,
}

impl Hostile {
    /// Whether this harm was asked for.
    fn does(&self, harm: &str) -> bool {
        self.harm == harm
    }

    /// Harm that is done in the place of an answer.
    fn answer_with_harm(&mut self) -> Answer {
        let mut answer = Core::deliver(&mut self.session, Input::Line(b"NOOP".into()));
        match self.harm.as_str() {
            "loop" => spin(),
            "grow" => grow(),
            "recurse" => drop(recurse(1)),
            "trap" => panic!("as asked"),
            "million" => answer.step.responses = vec![answer.step.responses[0].clone(); 1_000_000],
            "long" => answer.step.responses[0].text = "x".repeat(4 << 20).into(),
            "crlf" => answer.step.responses[0].text = "Ok\r\n250 Injected".into(),
            "code" => answer.step.responses[0].code = 999,
            "two" => answer.step.responses.push(answer.step.responses[0].clone()),
            "ask" => ask_out_of_turn(),
            "append" => append_without_data(),
            _ => {}
        }
        answer
    }
}

impl Core for Hostile {
    fn open(config: &Config) -> (Hostile, Step) {
        if config.iter().any(|(key, value)| key == "name" && value == "harm.test") {
            spin();
        }
        let (session, step) = Session::open(config);
        (Hostile { session, harm: String::new() }, step)
    }

    fn deliver(&mut self, input: Input<'_>) -> Answer {
        let export = match &input {
            Input::Line(_) => "on-line",
            Input::Data(_) => "on-data",
            Input::Reply(_) => "on-reply",
            Input::Event(_) => "on-event",
        };
        if self.does(export) {
            spin();
        }
        if line(&input).is_some_and(|line| line.starts_with("XTRAP")) {
            panic!("as asked");
        }
        if let Some(harm) = line(&input).and_then(|line| line.strip_prefix("XHARM ")) {
            self.harm = harm.to_owned();
            return self.answer_with_harm();
        }
        match input {
            Input::Data(block) if self.does("again") => append_and_ask(&block),
            Input::Reply(_) if self.does("again") => {
                Step { responses: Vec::new(), orders: Vec::new(), next: Next::ReadData }.into()
            }
            input => Core::deliver(&mut self.session, input),
        }
    }

    fn schemas() -> Schemas {
        Session::schemas()
    }

    fn save(&self, schema: u32) -> Snapshot {
        match self.harm.as_str() {
            "save" => spin(),
            "trap-in-save" => panic!("as asked"),
            _ => {}
        }
        let mut saved = self.session.save(schema);
        match self.harm.as_str() {
            "save-lies" => saved.position.octets += 1,
            "save-asks" => ask_out_of_turn(),
            "save-long" => saved.state = vec![0; 512 << 10],
            _ => {}
        }
        saved
    }

    fn restore(config: &Config, schema: u32, state: &[u8]) -> Result<(Hostile, Position), String> {
        // Who has said this name is restored with harm.
        let has = |name: &str| state.windows(name.len()).any(|window| window == name.as_bytes());
        if has("spin-in-restore.test") {
            spin();
        }
        let (session, mut position) = Session::restore(config, schema, state)?;
        if has("lie-in-restore.test") {
            position.due = Due::Data;
        }
        let harm = if has("trap-after-move.test") { "on-line" } else { "" };
        Ok((Hostile { session, harm: harm.to_owned() }, position))
    }
}

fn line<'a>(input: &'a Input<'_>) -> Option<&'a str> {
    if let Input::Line(line) = input { str::from_utf8(line).ok() } else { None }
}

/// Of what it appends it has read nothing, so it is given it again behind the reply.
fn append_and_ask(block: &[u8]) -> Answer {
    let next = Next::AwaitReply(Request::ExpandGroup { name: "staff".to_owned() });
    Step { responses: Vec::new(), orders: vec![Order::Append(block.to_vec())], next }.into()
}

#[allow(clippy::empty_loop, reason = "that is the harm")]
fn spin() {
    loop {}
}

fn grow() {
    let mut all = Vec::new();
    loop {
        all.push(vec![1_u8; 64 << 10]);
        std::hint::black_box(&all);
    }
}

#[allow(unconditional_recursion, reason = "that is the harm")]
fn recurse(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 32]);
    recurse(depth + 1) + here[7]
}

#[cfg(target_arch = "wasm32")]
fn ask_out_of_turn() {
    mailcell_core::component::mailcell::smtp::mail_store::expand_group("staff");
}

#[cfg(target_arch = "wasm32")]
fn append_without_data() {
    mailcell_core::component::mailcell::smtp::mail_store::append(&[b'x'; 1000]);
}

#[cfg(not(target_arch = "wasm32"))]
fn ask_out_of_turn() {}

#[cfg(not(target_arch = "wasm32"))]
fn append_without_data() {}
