//! What single events cost: in the core as plain Rust, and across the boundary, in a cell of the component.

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use mailcell::cell::{Answer, Cell, DEFAULT_CORE, Engine, Facts, Generation};
use mailcell_core::{Input, Reply};
use std::sync::{Arc, LazyLock};

fn main() {
    divan::main();
}

/// Which side of the boundary.
#[derive(Clone, Copy, Debug)]
enum Side {
    Native,
    Component,
}

const SIDES: [Side; 2] = [Side::Native, Side::Component];

static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(1_024).expect("there is room for cells"));
static COMPONENT: LazyLock<Generation> =
    LazyLock::new(|| Generation::from_bytes(&ENGINE, DEFAULT_CORE).expect("the core is good"));
static NATIVE: LazyLock<Generation> = LazyLock::new(|| Generation::native(&ENGINE).expect("the core is good"));

fn generation(side: Side) -> &'static Generation {
    match side {
        Side::Native => &NATIVE,
        Side::Component => &COMPONENT,
    }
}

fn facts() -> Facts {
    Facts { config: Arc::new([]), address: "127.0.0.1".to_owned() }
}

fn cell(side: Side, lines: &[&str]) -> Cell {
    let (mut cell, _) = Cell::open(generation(side), &facts()).expect("a session opens");
    for line in lines {
        cell.deliver(&Input::Line(line.as_bytes().into())).expect("a line is answered");
    }
    cell
}

const GREETED: [&str; 1] = ["EHLO client.test"];
const RECIPIENTS: [&str; 3] = ["EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>"];
const DATA: [&str; 4] = ["EHLO client.test", "MAIL FROM:<ann@client.test>", "RCPT TO:<bob@mx.test>", "DATA"];

/// Message data of so many octets, as text is.
fn text(octets: usize) -> Vec<u8> {
    let line = [&[b'x'; 76][..], b"\r\n"].concat();
    let header = b"From: ann@client.test\r\nSubject: A subject\r\nDate: Fri, 21 Nov 1997 09:55:06 -0600\r\n\r\n";
    header.iter().chain(line.iter().cycle()).copied().take(octets).collect()
}

#[divan::bench(args = SIDES)]
fn open_and_drop(bencher: Bencher<'_, '_>, side: Side) {
    bencher.bench_local(|| cell(side, &[]));
}

#[divan::bench(args = SIDES)]
fn on_line_noop(bencher: Bencher<'_, '_>, side: Side) {
    let mut cell = cell(side, &GREETED);
    bencher.bench_local(|| cell.deliver(black_box(&Input::Line(b"NOOP".into()))));
}

#[divan::bench(args = SIDES)]
fn on_line_mail_and_rset(bencher: Bencher<'_, '_>, side: Side) {
    let mut cell = cell(side, &GREETED);
    bencher.bench_local(|| {
        cell.deliver(black_box(&Input::Line(b"MAIL FROM:<ann@client.test>".into()))).expect("it is answered");
        cell.deliver(black_box(&Input::Line(b"RSET".into()))).expect("it is answered");
    });
}

fn on_data<const OCTETS: usize>(bencher: Bencher<'_, '_>, side: Side, greeting: &str) {
    let open = || cell(side, &[greeting, DATA[1], DATA[2], DATA[3]]);
    let mut cell = open();
    cell.deliver(&Input::Data(text(4096).into())).expect("data is read");
    let block = text(OCTETS + 4096).split_off(4096);
    let mut octets = 0;
    bencher.counter(BytesCount::new(OCTETS)).bench_local(|| {
        octets += OCTETS;
        if octets > 20 << 20 {
            // The message is about to be too large.
            cell = open();
            octets = OCTETS;
        }
        cell.deliver(black_box(&Input::Data(block.as_slice().into())))
    });
}

#[divan::bench(args = SIDES)]
fn on_data_4_kib(bencher: Bencher<'_, '_>, side: Side) {
    on_data::<4096>(bencher, side, DATA[0]);
}

/// After HELO, as a generator of load says.
#[divan::bench(args = SIDES)]
fn on_data_4_kib_of_7_bits(bencher: Bencher<'_, '_>, side: Side) {
    on_data::<4096>(bencher, side, "HELO client.test");
}

#[divan::bench(args = SIDES)]
fn on_data_64_kib(bencher: Bencher<'_, '_>, side: Side) {
    on_data::<65536>(bencher, side, DATA[0]);
}

/// A message of 4 KiB from MAIL to its 250, in as many events.
const EVENTS: usize = 5;

/// Delivers one of them.
fn deliver(cell: &mut Cell, event: usize, message: &[u8]) -> Answer {
    let answer = match event {
        0..3 => cell.deliver(black_box(&Input::Line(DATA[1 + event].as_bytes().into()))),
        3 => cell.deliver(black_box(&Input::Data(message.into()))),
        _ => {
            let id = Reply::Stored("019e2f6a-30f4-7d11-9a51-5b1f0b6c2a0e".to_owned());
            cell.deliver(&Input::Reply(std::borrow::Cow::Owned(id)))
        }
    };
    answer.expect("it is answered")
}

/// So many cells, and the octets of a message.
fn cells_and_message(side: Side, cells: usize) -> (Vec<Cell>, Vec<u8>) {
    let cells = (0..cells).map(|_| cell(side, &GREETED)).collect();
    (cells, [&text(4096)[..], b"\r\n.\r\n"].concat())
}

/// A whole message, in one of these cells after the other.
fn whole_message(bencher: Bencher<'_, '_>, side: Side, cells: usize) {
    let (mut cells, message) = cells_and_message(side, cells);
    let mut at = 0;
    bencher.bench_local(|| {
        at = (at + 1) % cells.len();
        (0..EVENTS).for_each(|event| drop(black_box(deliver(&mut cells[at], event, &message))));
    });
}

#[divan::bench(args = SIDES)]
fn whole_message_of_4_kib(bencher: Bencher<'_, '_>, side: Side) {
    whole_message(bencher, side, 1);
}

#[divan::bench(args = SIDES, sample_count = 2_000)]
fn whole_message_of_4_kib_among_1000_cells(bencher: Bencher<'_, '_>, side: Side) {
    whole_message(bencher, side, 1_000);
}

/// The events of such messages, each in another of a thousand cells than the one before.
#[divan::bench(args = SIDES, sample_count = 20_000)]
fn event_among_1000_cells(bencher: Bencher<'_, '_>, side: Side) {
    let (mut cells, message) = cells_and_message(side, 1_000);
    let mut turn = 0;
    bencher.bench_local(|| {
        let (event, at) = (turn / cells.len() % EVENTS, turn % cells.len());
        turn += 1;
        deliver(&mut cells[at], event, &message)
    });
}

#[divan::bench(args = SIDES)]
fn save(bencher: Bencher<'_, '_>, side: Side) {
    let mut cell = cell(side, &RECIPIENTS);
    let schema = generation(side).writes()[0];
    bencher.bench_local(|| cell.save(schema));
}

#[divan::bench(args = SIDES)]
fn restore_and_drop(bencher: Bencher<'_, '_>, side: Side) {
    let saved = cell(side, &RECIPIENTS).save(generation(side).writes()[0]).expect("it is saved");
    bencher.bench_local(|| Cell::restore(generation(side), &facts(), &saved));
}
