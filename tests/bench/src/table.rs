//! The table: what was measured, what it is compared with, and whether the goal holds.

/// A row.
pub(crate) struct Row {
    /// What is measured.
    pub(crate) what: String,
    /// The figure, with its unit.
    pub(crate) figure: String,
    /// What it is compared with, and that one's figure.
    pub(crate) against: String,
    /// The figure in relation to that.
    pub(crate) ratio: f64,
    /// What the ratio is to be.
    pub(crate) goal: Goal,
}

/// What a ratio is to be.
#[derive(Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// The row could not be measured.
    Failed,
}

impl Row {
    pub(crate) fn failed(name: &str, error: &str) -> Row {
        Row {
            what: name.to_owned(),
            figure: format!("not measured: {}", error.lines().next().unwrap_or_default()),
            against: String::new(),
            ratio: f64::NAN,
            goal: Goal::Failed,
        }
    }

    fn holds(&self) -> bool {
        match self.goal {
            Goal::AtLeast(least) => self.ratio >= least,
            Goal::AtMost(most) => self.ratio <= most,
            Goal::Failed => false,
        }
    }
}

/// Prints the table; tells whether every goal holds.
pub(crate) fn print(rows: &[Row]) -> bool {
    let cells = rows.iter().map(|row| {
        let goal = match row.goal {
            Goal::AtLeast(least) => format!(">= {least}"),
            Goal::AtMost(most) => format!("<= {most}"),
            Goal::Failed => String::new(),
        };
        let ratio = if row.ratio.is_nan() { String::new() } else { format!("{:.2}", row.ratio) };
        let holds = if row.holds() { "yes" } else { "NO" };
        [row.what.clone(), row.figure.clone(), row.against.clone(), ratio, goal, holds.to_owned()]
    });
    let head = ["what", "figure", "compared with", "ratio", "goal", "holds"].map(str::to_owned);
    let lines: Vec<_> = std::iter::once(head).chain(cells).collect();
    let widths: Vec<_> =
        (0..6).map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or_default()).collect();
    for line in &lines {
        let padded: Vec<_> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", padded.join("  ").trim_end());
    }
    rows.iter().all(Row::holds)
}

/// The value in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
