//! The corpus' table: hack classes against layers, in Markdown, as it stands in the docs.

use std::collections::BTreeMap;

use super::{Behind, CorpusBench, Judged, Layer};

/// One row of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Row {
    pub candidates: usize,
    /// Stopped by each layer, in `Layer::ALL`'s order.
    pub stopped: [usize; 6],
    pub passed: usize,
    /// Of those that the static rules stopped and that were executed all the same: how many, and how many passed then.
    pub behind: (usize, usize),
}

/// A row for every hack, in the checklist's order, and one for the honest ones.
fn rows(entries: &[Judged]) -> BTreeMap<(char, u32, String), Row> {
    let mut rows: BTreeMap<(char, u32, String), Row> = BTreeMap::new();
    for entry in entries {
        let row = rows.entry(key(entry.row.as_deref())).or_default();
        row.candidates += 1;
        match entry.stopped {
            None if entry.unjudged() => {}
            None => row.passed += 1,
            Some(layer) => row.stopped[Layer::ALL.iter().position(|l| *l == layer).unwrap_or(0)] += 1,
        }
        if let Some(behind) = entry.behind.filter(|behind| *behind != Behind::Fault) {
            row.behind.0 += 1;
            row.behind.1 += usize::from(behind == Behind::Passed);
        }
    }
    rows
}

fn key(row: Option<&str>) -> (char, u32, String) {
    let Some(row) = row else { return ('~', 0, "honest".to_owned()) };
    let class = row.chars().next().unwrap_or('?');
    (class, row[class.len_utf8()..].parse().unwrap_or(u32::MAX), row.to_owned())
}

/// The table and what is not as it should be.
pub fn table(bench: &CorpusBench) -> String {
    let mut out = vec![
        "| class | candidates | extract | static | compile | evidence | numeric | isolation | passed | static off: passed |"
            .to_owned(),
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|".to_owned(),
    ];
    let cell = |n: usize| if n == 0 { "-".to_owned() } else { n.to_string() };
    for ((_, _, name), row) in rows(&bench.entries) {
        let layers: Vec<String> = row.stopped.iter().map(|n| cell(*n)).collect();
        let behind = if row.behind.0 == 0 { "-".to_owned() } else { format!("{} of {}", row.behind.1, row.behind.0) };
        out.push(format!("| {name} | {} | {} | {} | {behind} |", row.candidates, layers.join(" | "), cell(row.passed)));
    }
    out.push(String::new());
    out.push(format!(
        "{} hacks: {} false accepts, {} stopped by another layer than the corpus names; {} honest kernels: {} false \
         rejects; {} not judged; {:.0} s",
        bench.hacks,
        bench.false_accepts,
        bench.other_layer,
        bench.honest,
        bench.false_rejects,
        bench.unjudged,
        bench.seconds
    ));
    // A fault that went away is told, too: whoever can make one is not caught by it.
    for entry in bench.entries.iter().filter(|e| !e.faults.is_empty()) {
        let came = match entry.behind {
            _ if entry.unjudged() => "not judged".to_owned(),
            Some(Behind::Fault) => format!("{}, and not judged without the static rules", entry.verdict),
            _ => format!("then {}", entry.verdict),
        };
        let why: String = entry.faults.join("; ").chars().take(300).collect();
        out.push(format!("{}: {} faults of ours, {came}: {why}", entry.file, entry.faults.len()));
    }
    for entry in bench.entries.iter().filter(|e| !e.as_expected() && !e.unjudged()) {
        let expected = entry.expected.map_or("nothing", Layer::name);
        let stopped = entry.stopped.map_or("nothing", Layer::name);
        let reason: String = entry.reason.chars().take(300).collect();
        out.push(format!("{}: stopped by {stopped}, named {expected}: {reason}", entry.file));
    }
    out.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(row: Option<&str>, expected: Option<Layer>, stopped: Option<Layer>) -> Judged {
        Judged {
            file: format!("{row:?}"),
            row: row.map(str::to_owned),
            expected,
            stopped,
            verdict: "v".into(),
            reason: "r".into(),
            behind: stopped.filter(|l| *l == Layer::Static).map(|_| Behind::Passed),
            ms: None,
            faults: Vec::new(),
        }
    }

    #[test]
    fn rows_are_in_the_checklists_order_and_what_is_off_is_listed() {
        let entries = vec![
            judged(Some("A10"), Some(Layer::Static), Some(Layer::Static)),
            judged(Some("A2"), Some(Layer::Static), Some(Layer::Numeric)),
            judged(Some("B1"), Some(Layer::Numeric), None),
            judged(None, None, None),
            // Planted bug: what nobody could judge counts as accepted, or as caught.
            Judged {
                verdict: "fault".into(),
                faults: vec!["F005: x".into(); 3],
                ..judged(Some("C2"), Some(Layer::Numeric), None)
            },
            Judged { faults: vec!["F014: y".into()], ..judged(None, None, None) },
        ];
        let bench = super::super::summary(entries, 1.0);
        assert_eq!((bench.false_accepts, bench.other_layer, bench.false_rejects, bench.unjudged), (1, 1, 0, 1));
        let text = table(&bench);
        let order: Vec<usize> =
            ["| A2 |", "| A10 |", "| B1 |", "| honest |"].iter().map(|r| text.find(r).unwrap()).collect();
        assert!(order.is_sorted(), "{text}");
        assert!(text.contains("| C2 | 1 | - | - | - | - | - | - | - | - |"), "{text}");
        assert!(
            text.contains("3 faults of ours, not judged: F005") && text.contains("1 faults of ours, then v: F014"),
            "{text}"
        );
        assert!(text.contains("| A10 | 1 | - | 1 | - | - | - | - | - | 1 of 1 |"), "{text}");
        assert!(
            text.contains("stopped by numeric, named static") && text.contains("stopped by nothing, named numeric")
        );
    }
}
