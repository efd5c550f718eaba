//! Messages of 25 MiB: octets a second in all, and what they cost the server in memory.

use crate::table::{Goal, Row, median};
use crate::tools::{Load, Tools};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

const ROUNDS: usize = 5;

/// A little less than 25 MiB, as the generator sends header fields too.
const LOAD: Load = Load { sessions: 8, octets: (25 << 20) - 4096, messages: 40 };

pub(crate) fn measure(tools: &Tools) -> Result<Vec<Row>, String> {
    let mailcell = tools.mailcell(&["--database", "discard:"])?;
    // What the first messages leave behind in pools and heaps belongs to the server.
    tools.rate(mailcell.address, Load { sessions: 1, messages: 2, ..LOAD })?;
    let before = mailcell.resident_octets()?;
    let mut rates = Vec::new();
    let done = AtomicBool::new(false);
    let peak = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = before;
            while !done.load(Relaxed) {
                peak = mailcell.resident_octets().unwrap_or(peak).max(peak);
                std::thread::sleep(Duration::from_millis(20));
            }
            peak
        });
        for _ in 0..ROUNDS {
            rates.push(tools.rate(mailcell.address, LOAD));
        }
        done.store(true, Relaxed);
        watch.join().unwrap_or(f64::NAN)
    });
    let rates = rates.into_iter().collect::<Result<Vec<_>, _>>()?;
    let megabytes = median(rates) * LOAD.octets as f64 / 1e6;
    let growth = (peak - before) / LOAD.sessions as f64;
    Ok(vec![
        Row {
            what: "messages of 25 MiB, nothing kept".to_owned(),
            figure: format!("{megabytes:.0} MB/s"),
            against: "300 MB/s".to_owned(),
            ratio: megabytes / 300.0,
            goal: Goal::AtLeast(1.0),
        },
        Row {
            what: "their memory, a connection".to_owned(),
            figure: format!("{:.0} KiB more at the peak", growth / 1024.0),
            against: "1 MiB".to_owned(),
            ratio: growth / f64::from(1 << 20),
            goal: Goal::AtMost(1.0),
        },
    ])
}
